//! A real link: TCP, TLS with both certificates, HTTP/2.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use laneway::failure::{Kind, Side};
use laneway::link::client::{DialError, Link, LinkTunnel};
use laneway::link::tls;
use laneway::net;
use laneway::trust::membership::Membership;
use laneway::wire::target::Target;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::lab::Lab;
use crate::peer::{Origin, Peer, within};

async fn open(link: &Link, origin: &Origin) -> LinkTunnel {
    within(link.open(&Target::from(origin.address), 1, Bytes::new())).await.unwrap()
}

/// A tunnel, and its other end at the origin.
async fn through(link: &Link, origin: &Origin) -> (LinkTunnel, Peer) {
    let tunnel = open(link, origin).await;
    (tunnel, origin.accept().await)
}

async fn say(tunnel: &mut LinkTunnel, bytes: impl Into<Bytes>) {
    within(tunnel.stream.outbox.send(bytes.into())).await.unwrap();
}

#[tokio::test]
async fn a_link_that_is_retired_takes_nothing_new_and_its_tunnels_know() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let link = lab.link().await;
    let (mut tunnel, mut server) = through(&link, &origin).await;
    let end_of_use = link.end_of_use();
    link.retire();
    drop(link);
    within(end_of_use.cancelled()).await;
    say(&mut tunnel, "still").await;
    server.hear("still").await;
}

async fn hear(tunnel: &mut LinkTunnel, count: usize) -> Vec<u8> {
    let mut heard = Vec::new();
    while heard.len() < count {
        let next = within(tunnel.stream.inbox.next()).await.unwrap();
        heard.extend(next.unwrap_or_else(|| panic!("the end after {} of {count} bytes", heard.len())));
    }
    assert_eq!(heard.len(), count, "no more than was sent");
    heard
}

async fn hear_end(tunnel: &mut LinkTunnel) {
    let end = within(tunnel.stream.inbox.next()).await;
    assert!(matches!(end, Ok(None)), "{end:?}");
}

/// Checks that the link still carries tunnels.
async fn assert_alive(link: &Link, origin: &Origin) {
    assert!(link.is_usable());
    let (mut tunnel, server) = through(link, origin).await;
    tokio::spawn(server.echo());
    say(&mut tunnel, "are you there?").await;
    assert_eq!(hear(&mut tunnel, 14).await, b"are you there?");
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_unchanged() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let link = lab.link().await;
    assert_eq!(link.gateway.id, lab.gateway.node.id);
    let (tunnel, server) = through(&link, &origin).await;
    tokio::spawn(server.echo());
    // More than every window and buffer on the way.
    let sent: Vec<u8> = (0..24_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    let LinkTunnel { stream: tunnel, gateway: _gateway, .. } = tunnel;
    let (mut outbox, mut inbox) = (tunnel.outbox, tunnel.inbox);
    let sending = async {
        within(outbox.send(Bytes::from(sent.clone()))).await.unwrap();
        outbox.finish().unwrap();
    };
    let receiving = async {
        let mut heard = Vec::new();
        while let Some(bytes) = within(inbox.next()).await.unwrap() {
            heard.extend(bytes);
        }
        heard
    };
    let ((), heard) = tokio::join!(sending, receiving);
    assert!(heard == sent, "{} of {} bytes, or other ones", heard.len(), sent.len());
}

#[tokio::test]
async fn early_bytes_travel_with_the_question() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let link = lab.link().await;
    let target = Target::from(origin.address);
    let (tunnel, mut server) =
        tokio::join!(link.open(&target, 1, Bytes::from_static(b"hello")), origin.accept());
    server.hear("hello").await;
    drop(tunnel.unwrap());
}

#[tokio::test]
async fn the_client_may_end_first() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let (mut tunnel, mut server) = through(&lab.link().await, &origin).await;
    say(&mut tunnel, "question").await;
    tunnel.stream.outbox.finish().unwrap();
    assert_eq!(server.rest().await, "question");
    server.say("answer").await;
    assert_eq!(hear(&mut tunnel, 6).await, b"answer");
    server.end();
    hear_end(&mut tunnel).await;
}

#[tokio::test]
async fn the_server_may_end_first() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let (mut tunnel, mut server) = through(&lab.link().await, &origin).await;
    server.say("banner").await;
    server.end();
    assert_eq!(hear(&mut tunnel, 6).await, b"banner");
    hear_end(&mut tunnel).await;
    say(&mut tunnel, "late").await;
    server.hear("late").await;
    tunnel.stream.outbox.finish().unwrap();
    assert_eq!(server.rest().await, "");
}

#[tokio::test]
async fn a_reset_of_the_server_is_never_a_clean_end() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let link = lab.link().await;
    let (mut tunnel, mut server) = through(&link, &origin).await;
    server.say("some").await;
    hear(&mut tunnel, 4).await;
    server.reset();
    let end = within(tunnel.stream.inbox.next()).await;
    assert!(!end.unwrap_err().is_of_connection());
    assert_alive(&link, &origin).await;
}

#[tokio::test]
async fn a_tunnel_that_the_client_gives_up_is_a_reset_for_the_server() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let link = lab.link().await;
    let (mut tunnel, mut server) = through(&link, &origin).await;
    say(&mut tunnel, "some").await;
    server.hear("some").await;
    drop(tunnel);
    assert_eq!(server.rest_before_reset().await, "");
    assert_alive(&link, &origin).await;
}

#[tokio::test]
async fn tunnels_that_rest_after_a_burst_keep_nobody_elses_turn() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let link = lab.link().await;
    let burst = vec![7; 1 << 20];
    let mut resting = Vec::new();
    for _ in 0..6 {
        let (mut tunnel, server) = through(&link, &origin).await;
        within(async {
            tokio::join!(net::write_all(&server.stream, &burst), hear(&mut tunnel, burst.len()))
        })
        .await
        .0
        .unwrap();
        resting.push((tunnel, server));
    }
}

#[tokio::test]
async fn a_link_that_breaks_is_a_reset_for_its_servers() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let config = tls::link_client(&lab.client).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (address, target) = (lab.link_address, Target::from(origin.address));
    let membership = Membership::new(lab.client.clone());
    let dialled = runtime.spawn(async move {
        let tasks = TaskTracker::new();
        let link = Link::dial(address, None, config, membership, &tasks).await.unwrap();
        let tunnel = link.open(&target, 1, Bytes::from_static(b"some")).await.unwrap();
        (link, tunnel)
    });
    let (mut server, kept) = tokio::join!(origin.accept(), dialled);
    server.hear("some").await;
    // The client's process is gone, and with it the connection.
    runtime.shutdown_background();
    assert_eq!(server.rest_before_reset().await, "");
    drop(kept);
}

#[tokio::test]
async fn a_gateway_that_dies_in_the_handshake_is_not_taken_for_a_stranger() {
    let lab = Lab::new().await;
    let config = tls::link_client(&lab.client).unwrap();
    let dying = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, tasks) = (dying.local_addr().unwrap(), TaskTracker::new());
    let dialled = Link::dial(address, None, config, Membership::new(lab.client.clone()), &tasks);
    let (dialled, ()) = tokio::join!(dialled, async { drop(dying.accept().await.unwrap()) });
    assert!(matches!(dialled, Err(DialError::Cut(..))), "{dialled:?}");
}

#[tokio::test]
async fn a_server_that_refuses_is_told_as_such_and_is_not_held_against_the_gateway() {
    let lab = Lab::new().await;
    let link = lab.link().await;
    let gone = Target::from(Origin::new().address);
    let failure = link.open(&gone, 1, Bytes::from_static(b"early")).await.unwrap_err();
    assert_eq!((failure.kind, failure.side), (Kind::Refused, Side::Server));
    assert!(!failure.blames_gateway());
    let gateway = &lab.gateway.node.name;
    assert_eq!(failure.sentence, format!("gateway {gateway}: {gone} refused the connection"));
    assert_alive(&link, &Origin::new()).await;
}

#[tokio::test]
async fn a_destination_that_the_rules_refuse_is_never_dialled() {
    let origin = Origin::new();
    let lab = Lab::with_access("allowed.test").await;
    let link = lab.link().await;
    for (target, kind) in [
        (Target::from(origin.address), Kind::AddressForbidden),
        (Target::new("169.254.169.254", 80).unwrap(), Kind::AddressForbidden),
        (Target::new("other.test", 80).unwrap(), Kind::NameForbidden),
    ] {
        let failure = link.open(&target, 1, Bytes::from_static(b"early")).await.unwrap_err();
        assert_eq!((failure.kind, failure.side), (kind, Side::Gateway), "{target}");
        assert!(!failure.blames_gateway());
    }
    assert!(link.is_usable());
}

#[tokio::test]
async fn two_hundred_tunnels_at_once_do_not_mix() {
    let (lab, origin) = (Lab::new().await, Arc::new(Origin::new()));
    let link = lab.link().await;
    let server = origin.clone();
    let accepting = tokio::spawn(async move {
        loop {
            tokio::spawn(server.accept().await.echo());
        }
    });
    let mut tunnels = JoinSet::new();
    for number in 0..200_u32 {
        let (link, origin) = (link.clone(), origin.clone());
        tunnels.spawn(async move {
            let mut tunnel = open(&link, &origin).await;
            let own = number.to_be_bytes().repeat(5_000);
            say(&mut tunnel, own.clone()).await;
            assert!(hear(&mut tunnel, own.len()).await == own, "tunnel {number}");
            tunnel
        });
    }
    let open = within(tunnels.join_all()).await;
    assert_eq!(link.state.tunnels(), 200);
    drop(open);
    assert_eq!(link.state.tunnels(), 0);
    accepting.abort();
}

#[tokio::test]
async fn stalled_readers_do_not_stop_another_tunnel() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let link = lab.link().await;
    let (mut stalled, mut servers) = (Vec::new(), Vec::new());
    for _ in 0..64 {
        let (tunnel, mut server) = through(&link, &origin).await;
        stalled.push(tunnel);
        servers.push(tokio::spawn(async move {
            // A whole stream window; what follows fills the sockets behind it.
            server.say(vec![0; 1024 * 1024]).await;
            server
        }));
    }
    for server in servers {
        tokio::spawn(server.await.unwrap().flood());
    }
    let (mut tunnel, server) = through(&link, &origin).await;
    tokio::spawn(server.echo());
    for _ in 0..64 {
        say(&mut tunnel, vec![1; 64 * 1024]).await;
        hear(&mut tunnel, 64 * 1024).await;
    }
    assert!(link.is_usable());
    drop(stalled);
    assert_alive(&link, &origin).await;
}

#[tokio::test]
async fn a_gateway_that_drains_lets_open_tunnels_finish_and_takes_no_new_ones() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let link = lab.link().await;
    let (mut tunnel, mut server) = through(&link, &origin).await;
    lab.drain.cancel();
    within(link.unusable()).await;
    let failure = within(link.open(&Target::from(origin.address), 2, Bytes::new())).await.unwrap_err();
    assert_eq!(failure.side, Side::Link, "another gateway may be asked: {failure}");

    say(&mut tunnel, "still").await;
    server.hear("still").await;
    server.say("here").await;
    assert_eq!(hear(&mut tunnel, 4).await, b"here");
    tunnel.stream.outbox.finish().unwrap();
    assert_eq!(server.rest().await, "");
    server.end();
    hear_end(&mut tunnel).await;
    drop((tunnel, link));
    lab.tasks.close();
    within(lab.tasks.wait()).await;
}

#[tokio::test]
async fn a_connection_that_never_shakes_hands_is_closed() {
    let (lab, clock) = (Lab::new().await, Clock::stop());
    let mut silent = Peer::connect(lab.link_address).await;
    // A link accepted after the silent one.
    let _link = lab.link().await;
    clock.pass_to_deadline(Duration::from_secs(3), &silent).await;
    assert_eq!(silent.rest().await, "");
}

#[tokio::test]
async fn a_connection_without_the_links_protocol_is_closed() {
    let lab = Lab::new().await;
    let mut other = Peer::connect(lab.link_address).await;
    other.say("GET / HTTP/1.1\r\nHost: gateway\r\n\r\n").await;
    // TLS may answer with an alert, and the unread rest may reset the connection.
    let mut bytes = bytes::BytesMut::new();
    while let Ok(1..) = within(net::read_some(&other.stream, &mut bytes, 1024)).await {}
    assert!(!bytes.starts_with(b"HTTP"), "{bytes:?}");
}
