//! Only members of a group serve each other.

use super::curl::{BIG, HTTP};
use crate::lab::group::{START, discover, enrol, forget_gateways, init, up};
use crate::lab::origin::{big, sha256};
use crate::lab::rogue::{Forger, Rogue, socket};
use crate::lab::{Case, Host, Lab};
use laneway::wire::datagram::SIZE;
use nix::sys::signal::Signal;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

pub(super) const CASES: &[Case] = &[
    ("trust::another_group_gets_no_offer_and_no_link", another_group_gets_no_offer_and_no_link),
    (
        "trust::a_member_that_poses_as_the_active_gateway_gets_nothing",
        a_member_that_poses_as_the_active_gateway_gets_nothing,
    ),
    ("trust::forged_and_replayed_datagrams_are_ignored", forged_and_replayed_datagrams_are_ignored),
];

fn another_group_gets_no_offer_and_no_link(lab: &Lab) {
    let (c1, c2, g1) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1], &[]);
    let _member = group.client(&c1, &[]);

    init(&c2);
    let offers = discover(&c2);
    assert_eq!(offers.code(), 1, "{offers}");
    assert!(!offers.text().contains("10.77.0.21"), "{offers}");

    // The stranger reaches the gateway's port, so the refusal is the gateway's.
    c2.connect((g1.address(), 7420)).unwrap();
    let mut stranger = up(&c2, &["--gateway", "10.77.0.21:7420", "--hold", "1"]);
    let format = ["--include", "--write-out", "\n%{http_code}"];
    let through_stranger = c2.curl(&[&HTTP as &[&str], &format, &[BIG]].concat()).success();
    let text = through_stranger.text().to_lowercase();
    assert!(text.ends_with("\n503"), "{through_stranger}");
    assert!(text.contains("proxy-status:") && text.contains("retry-after:"), "{through_stranger}");
    // The reason names the gateway that was tried, and does not just say that there is none.
    assert!(text.contains("10.77.0.21:7420"), "{through_stranger}");
    assert!(stranger.is_running());
    assert!(!stranger.log().contains("link up"), "the stranger has a link");

    let through_member = c1.curl(&[&HTTP as &[&str], &[BIG]].concat()).success();
    assert_eq!(sha256(&through_member.stdout), big().sha256);
}

/// A member that may use gateways but not be one: it has the discovery key, but its certificate is not valid for a server.
fn a_member_that_poses_as_the_active_gateway_gets_nothing(lab: &Lab) {
    let (c1, c2, c3, g1) = (lab.client("c1"), lab.client("c2"), lab.client("c3"), lab.gateway("g1"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1, &c3], &[]);
    enrol(&c2, &g1, &["--client-only"]);
    let rogue = Rogue::start(&c2);

    // Both answer; the rogue claims to be by far the best, and cannot prove that it may be a gateway.
    forget_gateways(&c1);
    let start = Instant::now();
    let _honest = group.client(&c1, &[]);
    eprintln!(
        "    with a rogue beside the gateway, a client is linked {:?} after its start",
        start.elapsed()
    );
    let download = c1.curl(&[&HTTP as &[&str], &[BIG]].concat()).success();
    assert_eq!(sha256(&download.stdout), big().sha256);

    // Only the rogue answers while the gateway cannot.
    group.gateway.signal(Signal::SIGSTOP);
    forget_gateways(&c3);
    let mut second = up(&c3, &[]);
    second.wait_for_line("reason=\"role\"", START);
    group.gateway.signal(Signal::SIGCONT);
    second.wait_for_line("link up", START);
    let download = c3.curl(&[&HTTP as &[&str], &[BIG]].concat()).success();
    assert_eq!(sha256(&download.stdout), big().sha256);
    assert_eq!(rogue.connections(), 0, "the rogue was dialled");
    assert_eq!(rogue.received(), 0, "bytes were entrusted to the rogue");
}

fn forged_and_replayed_datagrams_are_ignored(lab: &Lab) {
    let (c1, c2, c3, g1) = (lab.client("c1"), lab.client("c2"), lab.client("c3"), lab.gateway("g1"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1, &c2], &[]);
    let mut node = group.client(&c1, &[]);
    init(&c3);
    let (forger, stranger) = (Forger::of(&c2), Forger::of(&c3));
    let to_c1 = SocketAddr::from((c1.address(), 7420));
    let own = SocketAddr::from((c2.address(), 7420));
    let (liar, other) = (forger.group.node.id, stranger.group.node.id);

    // The gateway's datagram, replayed from another address.
    let (overheard, _) = overhear(&c2, &g1);
    let near = socket(&c2, c2.address(), 255);
    near.send_to(&overheard, to_c1).unwrap();
    // Datagrams of another group, for another address, and from beyond the LAN.
    near.send_to(&stranger.beacon(own, other, 1, 7001), to_c1).unwrap();
    near.send_to(&forger.beacon(SocketAddr::from((c3.address(), 7420)), liar, 2, 7002), to_c1).unwrap();
    near.set_ttl(254).unwrap();
    near.send_to(&forger.beacon(own, liar, 3, 7003), to_c1).unwrap();
    drop(near);
    // A source address outside this LAN, although the packets come from it.
    let elsewhere = Ipv4Addr::new(10, 99, 0, 5);
    run(&c2, &["ip", "address", "add", "10.99.0.5/24", "dev", "lan"]);
    run(&c1, &["ip", "route", "add", "10.99.0.0/24", "dev", "lan"]);
    let far = socket(&c2, elsewhere, 255);
    far.send_to(&forger.beacon(SocketAddr::from((elsewhere, 7420)), liar, 4, 7004), to_c1).unwrap();

    // A valid datagram is accepted, and all the others arrived before it.
    let near = socket(&c2, c2.address(), 255);
    near.send_to(&forger.beacon(own, liar, 5, 7005), to_c1).unwrap();
    node.wait_for_line("address=10.77.0.12:7005", START);
    // Machines of the other group are noted, and nothing else.
    let log = node.log();
    let log: String = log.lines().filter(|line| !line.contains("another group is on this LAN")).collect();
    let unheard = ["10.77.0.12:7420", ":7001", ":7002", ":7003", ":7004"];
    let heard: Vec<_> = unheard.into_iter().filter(|address| log.contains(address)).collect();
    assert_eq!(heard, [""; 0]);
}

/// A beacon of this gateway.
fn overhear(from: &Host, gateway: &Host) -> ([u8; SIZE], SocketAddr) {
    let receiver = from.inside(|| UdpSocket::bind((Ipv4Addr::new(10, 77, 0, 255), 7420))).unwrap();
    receiver.set_read_timeout(Some(START)).unwrap();
    let mut bytes = [0; SIZE];
    loop {
        let (count, sender) = receiver.recv_from(&mut bytes).expect("the gateway beacons");
        if sender.ip() == gateway.address() && count == SIZE && bytes[5] == 3 {
            return (bytes, sender);
        }
    }
}

fn run(host: &Host, words: &[&str]) {
    let mut command = host.command(words[0]);
    command.args(&words[1..]);
    host.output(command).success();
}
