//! What a member, a stranger or a gateway can have a node write to its log.

use std::net::SocketAddr;
use std::time::Instant;

use laneway::net;
use laneway::sys::state::StateDir;
use laneway::trust::certificate::Role;

use super::{GET, Victim, streams, until_taken};
use crate::lab::join;
use crate::peer::within;
use crate::raw::{END_STREAM, HEADERS, RawGateway, connect, request};

/// How many lines of one kind about one member are written at once. One more comes each minute.
const AT_ONCE: usize = 10;
/// How many lines about failed connections of one member are written at once, with more than can be added until the end
/// of a test.
const FAILED_AT_ONCE: usize = 1_000 + 2_000;

/// How many of the lines contain this.
fn count(lines: &[String], what: &str) -> usize {
    lines.iter().filter(|line| line.contains(what)).count()
}

#[tokio::test]
async fn a_member_that_links_again_and_again_does_not_fill_the_gateways_log() {
    let victim = Victim::start("127.0.0.79", &[]).await;
    for _ in 0..100 {
        drop(victim.raw(0).await.ping().await);
    }
    // More links than a member may have, so that each one ends an older one.
    let mut links = Vec::new();
    for _ in 0..50 {
        links.push(victim.raw(0).await);
    }
    victim.serves_others().await;
    let lines = victim.end();
    for what in ["link accepted", "link ended", "link closed: "] {
        let written = count(&lines, what);
        // The links of the other member are counted separately.
        assert!((1..=AT_ONCE + 4).contains(&written), "{what}: {written} lines");
    }
}

#[tokio::test]
async fn a_member_whose_requests_are_refused_does_not_fill_the_gateways_log() {
    let victim = Victim::start("127.0.0.80", &[]).await;
    let forbidden = SocketAddr::from(([192, 0, 2, 1], 9));
    for _ in 0..2 {
        let mut raw = victim.raw(0).await;
        for part in streams(8_000).collect::<Vec<_>>().chunks(1000) {
            let refused = part.iter().map(|stream| match stream % 4 {
                1 => connect(*stream, forbidden),
                _ => request(*stream, END_STREAM, GET, "/nothing"),
            });
            raw.output.try_say(refused.collect::<Vec<_>>().concat()).await;
        }
        drop(until_taken(raw).await);
    }
    victim.serves_others().await;
    let written = count(&victim.end(), "connection ");
    assert!((1..FAILED_AT_ONCE).contains(&written), "{written} lines");
}

#[tokio::test]
async fn a_gateway_that_ends_each_link_at_once_does_not_fill_its_clients_log() {
    let listener = net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // The client has the group's key, so it accepts links to admit machines: not on the usual port, which another
    // program may have.
    let options = ["--role", "client", "--gateway", &address, "--link", "127.0.0.81:0"].map(str::to_owned);
    let victim = Victim::node("127.0.0.81", &options, |_| {}).await;
    let state = StateDir::open(victim.directory.path().join("state")).unwrap();
    let gateway = RawGateway::at(listener, &join(&state, Role::Gateway).await);
    let begun = Instant::now();
    for _ in 0..16 {
        let mut link = within(gateway.accept()).await;
        // The client asks for group updates once the link is up: an earlier end would be one of the handshake.
        within(link.next(HEADERS)).await;
    }
    // The client waits longer each time, so some minutes' lines are among them.
    let later = usize::try_from(begun.elapsed().as_secs() / 60 + 2).unwrap();
    let lines = victim.end();
    for what in ["gateway chosen", "link up", "link down"] {
        let written = count(&lines, what);
        assert!((1..=AT_ONCE + later).contains(&written), "{what}: {written} lines");
    }
}
