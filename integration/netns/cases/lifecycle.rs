//! A node stops on SIGTERM, and leaves nothing behind.

use crate::lab::dialect::PROXY;
use crate::lab::group::START;
use crate::lab::process::Process;
use crate::lab::{Case, Host, Lab};
use nix::sys::signal::Signal;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

pub(super) const CASES: &[Case] =
    &[("lifecycle::sigterm_ends_it_and_frees_its_ports", sigterm_ends_it_and_frees_its_ports)];

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
