//! The lab itself: the other trials prove something only if the network is as described.

use super::curl::{BIG, CANNOT_CONNECT};
use crate::lab::dialect::PROXY;
use crate::lab::origin::{big, noise, sha256};
use crate::lab::{Case, Lab, receiver};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener};

pub(super) const CASES: &[Case] = &[
    ("isolation::hosts_reach_exactly_what_they_should", hosts_reach_exactly_what_they_should),
    ("isolation::the_test_servers_answer_correctly", the_test_servers_answer_correctly),
];

fn hosts_reach_exactly_what_they_should(lab: &Lab) {
    let (c1, c2, g1) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"));
    let _origin = lab.origin();

    // A gateway reaches the server. A client does not, and has no route to it.
    let direct = g1.curl(&[BIG]).success();
    assert_eq!(sha256(&direct.stdout), big().sha256);
    let refused = c1.curl(&[BIG]);
    assert_eq!(refused.code(), CANNOT_CONNECT, "{refused}");
    let routes = run(&c1, &["ip", "route", "show", "table", "all"]);
    assert!(!routes.contains("default") && routes.contains("10.77.0.0/24 dev lan"), "{routes}");

    // Gateways do not forward its packets either.
    run(&c1, &["ip", "route", "add", "10.88.0.0/24", "via", "10.77.0.21"]);
    run(&lab.server, &["ip", "route", "add", "10.77.0.0/24", "via", "10.88.0.21"]);
    let through = c1.curl(&["--connect-timeout", "0.5", BIG]);
    assert!(!through.status.success(), "{through}");

    // Clients and gateways reach each other. Each host has its own loopback.
    for to in [&c2, &g1] {
        let listener = to.inside(|| TcpListener::bind((to.address(), 7420))).unwrap();
        c1.connect((to.address(), 7420)).unwrap();
        listener.accept().unwrap();
    }
    let _own = c1.inside(|| TcpListener::bind(PROXY)).unwrap();
    c1.connect(PROXY).unwrap();
    assert!(c2.connect(PROXY).is_err(), "c2 reaches a port on the loopback of c1");

    // IPv6 link-local addresses exist, and are usable without duplicate address detection.
    let link_local = run(&c1, &["ip", "-6", "address", "show", "dev", "lan"]);
    assert!(link_local.contains("fe80::") && !link_local.contains("tentative"), "{link_local}");

    // Each host has its own names.
    g1.knows("files.lab", lab.server.address());
    assert!(run(&g1, &["getent", "hosts", "files.lab"]).starts_with("10.88.0.100"));
    let unknown = c1.output(command(&c1, &["getent", "hosts", "files.lab"]));
    assert_eq!(unknown.code(), 2, "{unknown}");
}

fn the_test_servers_answer_correctly(lab: &Lab) {
    let g1 = lab.gateway("g1");
    let _receiver = lab.receiver();

    let content = noise(2, 3 << 20);
    let file = lab.write("upload", &content);
    let url = format!("http://{}/", receiver::UPLOAD);
    for header in ["X-Plain: yes", "Transfer-Encoding: chunked"] {
        let answer = g1.curl(&["--header", header, "--upload-file", file.to_str().unwrap(), &url]).success();
        assert_eq!(answer.text(), sha256(&content), "{header}");
    }

    for (service, expected) in [(receiver::COUNT, "8"), (receiver::ECHO, "somewhat")] {
        let mut stream = g1.connect(service).unwrap();
        stream.write_all(b"somewhat").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, expected);
    }

    let refused = g1.connect(receiver::REFUSED).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    // The name server answers NXDOMAIN, so curl fails at once instead of after its timeouts.
    let unknown = g1.curl(&["--max-time", "3", "http://nosuch.invalid/"]);
    assert_eq!(unknown.code(), 6, "{unknown}");
    let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x02no\x03lab\0\0\x01\0\x01";
    let socket = g1.inside(|| std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
    socket.set_read_timeout(Some(crate::lab::wait::PATIENCE)).unwrap();
    socket.send_to(query, SocketAddr::from((lab.server.address(), 53))).unwrap();
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).unwrap();
    assert_eq!(answer[..length], *b"\x12\x34\x81\x83\0\x01\0\0\0\0\0\0\x02no\x03lab\0\0\x01\0\x01");
}

fn command(host: &crate::lab::Host, words: &[&str]) -> std::process::Command {
    let mut command = host.command(words[0]);
    command.args(&words[1..]);
    command
}

fn run(host: &crate::lab::Host, words: &[&str]) -> String {
    host.output(command(host, words)).success().text()
}
