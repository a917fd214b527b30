//! A gateway whose own way out is another proxy.

use super::{Case, DIALECTS};
use crate::lab::group::START;
use crate::lab::origin::{big, sha256};
use crate::lab::upstream::{DANTE, NAME, PASSWORD, SQUID, WRITTEN};
use crate::lab::{Host, Lab, dialect, receiver, wait_until};

pub(super) const CASES: &[Case] = &[
    ("upstream::a_gateway_behind_squid_serves", a_gateway_behind_squid_serves),
    ("upstream::a_gateway_behind_dante_serves", a_gateway_behind_dante_serves),
    ("upstream::a_gateway_without_its_proxy_gives_way", a_gateway_without_its_proxy_gives_way),
];

fn a_gateway_behind_squid_serves(lab: &Lab) {
    let _squid = lab.squid();
    serves(lab, "http", SQUID);
}

fn a_gateway_behind_dante_serves(lab: &Lab) {
    let _dante = lab.dante();
    serves(lab, "socks5", DANTE);
}

/// The gateway reaches nothing on s1 but the proxy.
fn only_by(gateway: &Host, lab: &Lab, proxy: &str) {
    let port = proxy.rsplit_once(':').unwrap().1;
    lab.server.filter(&format!("ip saddr {} tcp dport != {port} drop", gateway.addresses()[1]));
}

fn serves(lab: &Lab, scheme: &str, at: &str) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _origin = lab.origin();
    let _receiver = lab.receiver();
    only_by(&g1, lab, at);
    let rules = format!("10.88.0.0/24,{NAME},none.lab");
    let proxy = format!("{scheme}://{WRITTEN}@{at}");
    let group = lab.group(&[&g1, &c1], &["--upstream", &proxy, "--allow", &rules]);
    let _node = group.client(&c1, &[]);
    let mut gateway = group.gateway;
    gateway.wait_for_line("reach=\"reachable\"", START);
    for dialect in DIALECTS {
        for host in ["10.88.0.100", NAME] {
            let download = c1.curl(&[dialect, &[&format!("http://{host}/big")]].concat()).success();
            assert_eq!(sha256(&download.stdout), big().sha256, "{dialect:?} {host}");
        }
    }
    let forbidden = receiver::REFUSED.port();
    assert_eq!(dialect::socks5(&c1, "10.88.0.100", forbidden).1, 2, "its proxy refuses it");
    assert_eq!(dialect::socks5(&c1, "10.88.0.100", 8090).1, 5, "nobody listens there");
    assert_eq!(dialect::socks5(&c1, "none.lab", 80).1, 4, "its proxy does not find it");
    assert_eq!(dialect::socks5(&c1, "localhost", 80).1, 2, "what means the proxy itself");
    assert_eq!(dialect::socks5(&c1, "other.lab", 80).1, 2, "its address cannot be judged");
    let log = gateway.log();
    assert!(!log.contains(PASSWORD) && !log.contains(WRITTEN), "{log}");
}

/// One gateway's proxy wants another login, the other one's is there.
fn a_gateway_without_its_proxy_gives_way(lab: &Lab) {
    let squid = lab.squid();
    let (c1, g1, g2) = (lab.client("c1"), lab.gateway("g1"), lab.gateway("g2"));
    let _origin = lab.origin();
    let wrong = format!("http://gate:wrong@{SQUID}");
    let right = format!("http://{WRITTEN}@{SQUID}");
    let group = lab.group(&[&g1, &c1, &g2], &["--upstream", &wrong]);
    let mut second = group.gateway(&g2, &["--upstream", &right]);
    let _node = group.client(&c1, &[]);
    let mut first = group.gateway;
    let line = first.wait_for_line("does not take this gateway's login", START);
    assert!(line.contains("USER:PASSWORD@") && !line.contains("wrong"), "{line}");
    wait_until("it to be known", || first.log().contains("reach=\"unreachable\""));
    assert_eq!(first.log().matches("does not take this gateway's login").count(), 1, "once is enough");
    second.wait_for_line("reach=\"reachable\"", START);
    let download = c1.curl(&[DIALECTS[1], &["http://10.88.0.100/big"]].concat()).success();
    assert_eq!(sha256(&download.stdout), big().sha256);
    // And without a proxy nobody reaches it, which the app is told.
    drop(squid);
    wait_until("the second gateway to notice", || second.log().contains("reach=\"unreachable\""));
    assert_ne!(c1.curl(&[DIALECTS[2], &["http://10.88.0.100/big"]].concat()).code(), 0);
}
