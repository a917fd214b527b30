//! Malformed input on every port does no harm.

use super::curl::{BIG, HTTP};
use crate::lab::dialect::PROXY;
use crate::lab::group::START;
use crate::lab::origin::{big, noise, sha256};
use crate::lab::{Case, Host, Lab};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, UdpSocket};

pub(super) const CASES: &[Case] = &[
    ("hostile::garbage_on_every_port_is_survived", garbage_on_every_port_is_survived),
    (
        "hostile::a_member_reaches_the_link_port_of_no_gateway_through_another",
        a_member_reaches_the_link_port_of_no_gateway_through_another,
    ),
];

/// A link within a tunnel would cross the same machines again and again, and the gateway that dials would be blamed for
/// what is done on it.
fn a_member_reaches_the_link_port_of_no_gateway_through_another(lab: &Lab) {
    let (c1, g1, g2) = (lab.client("c1"), lab.gateway("g1"), lab.gateway("g2"));
    let _origin = lab.origin();
    let mut group = lab.group(&[&g1, &c1, &g2], &["--allow", "*"]);
    // The second gateway's LAN address has a port of its own, which the first one hears of.
    let _second = group.gateway(&g2, &["--allow", "*", "--link", "0.0.0.0:7555"]);
    let _client = group.client(&c1, &[]);
    group.gateway.wait_for_line("gateway=\"g2\" address=10.77.0.22:7555", START);
    for port in ["10.77.0.21:7420", "10.88.0.21:7420", "10.77.0.22:7555"] {
        let through = ["--proxytunnel", "--proxy", "http://127.0.0.1:1080"];
        let refused = c1.curl(&[&through[..], &["--verbose", &format!("http://{port}/")]].concat());
        let said = refused.stderr.to_ascii_lowercase();
        assert!(said.contains("response 403") || said.contains("response 502"), "{port}: {refused}");
        assert!(said.contains("proxy-status"), "{port}: {refused}");
    }
    let download = c1.curl(&[&HTTP as &[&str], &[BIG]].concat()).success();
    assert_eq!(sha256(&download.stdout), big().sha256);
}

fn garbage_on_every_port_is_survived(lab: &Lab) {
    let (c1, c2, g1) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"));
    let _origin = lab.origin();
    let mut group = lab.group(&[&g1, &c1], &[]);
    let mut node = group.client(&c1, &[]);

    // The local proxy: noise, truncated greetings, and endless heads.
    let long_target = [b"GET http://10.88.0.100/".as_slice(), &[b'a'; 1 << 20]].concat();
    let many_fields =
        [b"GET http://10.88.0.100/ HTTP/1.1\r\n".as_slice(), &b"X: y\r\n".repeat(100_000)].concat();
    let broken: [&[u8]; 12] = [
        b"",
        b"\x05",
        b"\x05\xff\x00",
        b"\x05\x01\x00\x05\x01\x00",
        b"\x05\x01\x00\x05\x01\x00\x03\xffshort",
        b"\x05\x01\x00\x05\x01\x00\x09\x00\x00\x00\x00\x00\x50",
        b"\x04\x01\x00\x50",
        b"\x00\x00\x00\x00",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"CONNECT :99999 HTTP/1.1\r\n\r\n",
        &long_target,
        &many_fields,
    ];
    for bytes in broken {
        throw(&c1, PROXY, bytes);
    }
    for seed in 1..=20 {
        throw(&c1, PROXY, &noise(seed, 4096));
    }

    // The link port of both nodes: noise, and a TLS record that is never completed.
    for to in [&c1, &g1] {
        throw(&c2, SocketAddr::from((to.address(), 7420)), &noise(21, 4096));
        throw(&c2, SocketAddr::from((to.address(), 7420)), b"\x16\x03\x01\xff\xff\x01");
    }

    // The discovery port of both nodes: noise of every length near the valid one.
    let stranger = c2.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
    for to in [&c1, &g1] {
        for length in [0, 1, 4, 16, 511, 512, 513, 1400] {
            for seed in 1..=5 {
                // An ICMP "unreachable" makes the next send fail. Then the node has ended, which is checked below.
                let _ = stranger.send_to(&noise(seed, length), (to.address(), 7420));
            }
        }
    }

    assert!(node.is_running() && group.gateway.is_running());
    let download = c1.curl(&[&HTTP as &[&str], &[BIG]].concat()).success();
    assert_eq!(sha256(&download.stdout), big().sha256);
    for log in [node.log(), group.gateway.log()] {
        assert!(!log.contains("panicked"), "a task panicked");
    }
}

/// Sends as much as the peer accepts, shuts down writing, and reads until the peer closes.
fn throw(from: &Host, to: SocketAddr, bytes: &[u8]) {
    // A client node may have no link port.
    let Ok(mut stream) = from.connect(to) else { return };
    // The peer may stop reading or reset the connection.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{to} neither answers nor closes");
    }
}
