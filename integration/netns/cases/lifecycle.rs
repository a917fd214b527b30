//! A node stops on SIGTERM, and leaves nothing behind.

use crate::lab::dialect::PROXY;
use crate::lab::group::{START, laneway};
use crate::lab::process::Process;
use crate::lab::{Case, Host, Lab};
use laneway::telemetry::snapshot::Snapshot;
use nix::sys::signal::Signal;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

pub(super) const CASES: &[Case] = &[
    ("lifecycle::sigterm_ends_it_and_frees_its_ports", sigterm_ends_it_and_frees_its_ports),
    ("lifecycle::a_client_that_stops_is_taken_for_no_gateway", a_client_that_stops_is_taken_for_no_gateway),
];

fn sigterm_ends_it_and_frees_its_ports(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1], &[]);
    let node = group.client(&c1, &[]);

    assert!(c1.connect(PROXY).is_ok());
    ends_well(&c1, node);
    // The gateway still has the remains of the client's link.
    ends_well(&g1, group.gateway);
}

/// With a server it may be a gateway, but it does not reach that server and so is a client. What it says while it stops must not
/// make the others list it.
fn a_client_that_stops_is_taken_for_no_gateway(lab: &Lab) {
    let (c1, c2, g1) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1, &c2], &[]);
    let first = group.client(&c1, &[]);
    let may_serve = ["--server", "10.88.0.100:80"];
    let mut second = group.client(&c2, &may_serve);
    second.signal(Signal::SIGTERM);
    assert_eq!(second.wait(START).code(), Some(0));
    // What c2 said before arrives before the first link of its next run.
    let _again = group.client(&c2, &may_serve);
    for (host, known) in [(&c1, vec!["g1"]), (&g1, vec![])] {
        let status = laneway(host, &["status", "--json"]).success().text();
        let seen: Snapshot = serde_json::from_str(&status).unwrap();
        let listed: Vec<_> = seen.gateways.iter().filter_map(|gateway| gateway.name.as_deref()).collect();
        assert_eq!(listed, known, "{}: {:?}", host.name, seen.gateways);
        assert_eq!(seen.gateways.len(), known.len(), "{}: {:?}", host.name, seen.gateways);
    }
    for (host, node) in [(&c1, &first), (&g1, &group.gateway)] {
        assert!(!node.log().contains("draining"), "{}: {}", host.name, node.log());
    }
}

fn ends_well(host: &Host, mut node: Process) {
    node.signal(Signal::SIGTERM);
    let status = node.wait(START);
    assert_eq!(status.code(), Some(0), "{}: {status}", host.name);

    let mut ss = host.command("ss");
    ss.args(["-H", "-l", "-t", "-u", "-n"]);
    let listening = host.output(ss).success();
    assert!(listening.stdout.is_empty(), "{listening}");
    let everywhere = (Ipv4Addr::UNSPECIFIED, 7420);
    host.inside(|| UdpSocket::bind(everywhere)).expect("the discovery port is free");
    host.inside(|| TcpListener::bind(everywhere)).expect("the link port is free");
    assert!(host.connect(PROXY).is_err());
}
