//! The app gets the true reason of a failure behind the gateway, in its own dialect.

use std::io::Read as _;

use crate::lab::dialect::{self, Head};
use crate::lab::group::{init, up};
use crate::lab::{Case, Host, Lab, receiver, wait_until};

pub(super) const CASES: &[Case] = &[
    ("errors::each_failure_has_its_code_in_each_dialect", each_failure_has_its_code_in_each_dialect),
    (
        "errors::without_a_gateway_the_app_gets_an_error_after_the_hold",
        without_a_gateway_the_app_gets_an_error_after_the_hold,
    ),
];

/// A destination, and the result of a request for it.
struct Failure {
    host: &'static str,
    port: u16,
    status: u16,
    /// RFC 9209 §2.3.
    error: &'static str,
    /// RFC 1928 §6.
    reply: u8,
    /// What the app reads: who refused, by which option, and what allows it.
    says: &'static str,
}

const DENIED: u16 = 8090;
/// An address on the outside network that is unused at first.
const NEW: &str = "10.88.0.77";
/// A part of that network, and one of its addresses with a port.
const ROUTED_HERE: &str = "10.88.0.224/28";
const HERE: (&str, u16) = ("10.88.0.225", 8095);

const FAILURES: [Failure; 7] = [
    Failure {
        host: "10.88.0.100",
        port: 8089,
        status: 502,
        error: "connection_refused",
        reply: 5,
        says: "gateway g1: 10.88.0.100:8089",
    },
    Failure {
        host: "nosuch.invalid",
        port: 80,
        status: 502,
        error: "dns_error",
        reply: 4,
        says: "gateway g1 cannot find the name nosuch.invalid",
    },
    Failure {
        host: "10.88.0.100",
        port: DENIED,
        status: 403,
        error: "destination_ip_prohibited",
        reply: 2,
        says: "gateway g1: 10.88.0.100:8090 is refused by --deny 10.88.0.100:8090: change that rule there",
    },
    Failure {
        host: "127.0.0.1",
        port: 7421,
        status: 403,
        error: "destination_ip_prohibited",
        reply: 2,
        says: "allowed only by a rule that names it: add --allow 127.0.0.1:7421 there",
    },
    // The gateway's own address, and the same as a 6to4 one.
    Failure {
        host: "10.88.0.21",
        port: 22,
        status: 403,
        error: "destination_ip_prohibited",
        reply: 2,
        says: "gateway g1: 10.88.0.21:22 is the gateway's own address",
    },
    Failure {
        host: "[2002:a58:15::1]",
        port: 22,
        status: 403,
        error: "destination_ip_prohibited",
        reply: 2,
        says: "add --allow [2002:a58:15::1]:22 there",
    },
    Failure {
        host: "192.0.2.1",
        port: 80,
        status: 403,
        error: "destination_ip_prohibited",
        reply: 2,
        says: "gateway g1: 192.0.2.1:80 is not in --server or --allow: add --allow 192.0.2.1:80 there to allow it",
    },
];

fn each_failure_has_its_code_in_each_dialect(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _receiver = lab.receiver();
    // All of s1 is allowed except one port. Names are allowed, but the name server knows none.
    let denied = format!("10.88.0.100:{DENIED}");
    let rules = ["--deny", &denied, "--allow", "10.88.0.0/24", "--allow", "nosuch.invalid"];
    let group = lab.group(&[&g1, &c1], &rules);
    let mut node = group.client(&c1, &["--hold", "3"]);

    assert!(g1.connect(receiver::REFUSED).is_err(), "something listens on {}", receiver::REFUSED);
    for failure in &FAILURES {
        let (_, reply) = dialect::socks5(&c1, failure.host, failure.port);
        assert_eq!(reply, failure.reply, "SOCKS5 to {}:{}", failure.host, failure.port);
        let (_, head) = dialect::connect(&c1, &authority(failure));
        check(&head, failure, "CONNECT");
        let (mut stream, head) = dialect::get(&c1, &authority(failure), "/");
        check(&head, failure, "GET");
        let mut body = String::new();
        stream.read_to_string(&mut body).unwrap();
        assert!(body.contains(failure.says), "{body:?} lacks {:?}", failure.says);
        assert!(node.log().contains(failure.says), "the log lacks {:?}", failure.says);
    }

    // An address that the gateway has just been given is refused too.
    let (_, reply) = dialect::socks5(&c1, NEW, 22);
    assert_ne!(reply, 2);
    let mut ip = g1.command("ip");
    ip.args(["address", "add", &format!("{NEW}/24"), "dev", "out"]);
    g1.output(ip).success();
    wait_until("the new address to be refused", || dialect::socks5(&c1, NEW, 22).1 == 2);

    // So is a whole network that is routed to this machine, though no interface has an address of it.
    let listener = g1.inside(|| std::net::TcpListener::bind(("0.0.0.0", HERE.1)).unwrap());
    let mut ip = g1.command("ip");
    ip.args(["route", "add", "local", ROUTED_HERE, "dev", "lo"]);
    g1.output(ip).success();
    assert_eq!(dialect::socks5(&c1, HERE.0, HERE.1).1, 2);
    drop(listener);

    // A failure of the destination does not count against the gateway.
    let (_, reply) = dialect::socks5(&c1, "10.88.0.100", receiver::ECHO.port());
    assert_eq!(reply, 0);
    assert!(node.is_running());
}

fn without_a_gateway_the_app_gets_an_error_after_the_hold(lab: &Lab) {
    let c1 = lab.client("c1");
    init(&c1);
    let _node = up(&c1, &["--role", "client", "--hold", "1"]);

    let (_, reply) = dialect::socks5(&c1, "10.88.0.100", 80);
    assert_eq!(reply, 1);
    for head in [connect_head(&c1), dialect::get(&c1, "10.88.0.100", "/").1] {
        assert_eq!(head.status, 503);
        let status = head.field("proxy-status").unwrap_or_default();
        assert!(status.contains("error=destination_unavailable"), "{status:?}");
        let retry: Option<u32> = head.field("retry-after").and_then(|seconds| seconds.parse().ok());
        assert!(retry.is_some(), "no number of seconds in Retry-After");
    }
}

fn connect_head(host: &Host) -> Head {
    dialect::connect(host, "10.88.0.100:80").1
}

fn authority(failure: &Failure) -> String {
    format!("{}:{}", failure.host, failure.port)
}

fn check(head: &Head, failure: &Failure, dialect: &str) {
    let target = authority(failure);
    assert_eq!(head.status, failure.status, "{dialect} to {target}");
    let status = head.field("proxy-status").unwrap_or_default();
    assert!(status.contains(&format!("error={}", failure.error)), "{dialect} to {target}: {status:?}");
    assert!(status.contains(failure.says), "{dialect} to {target}: {status:?}");
}
