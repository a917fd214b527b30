//! Gateways are found without a default route, and from behind common firewalls.

use super::curl::{BIG, HTTP};
use crate::lab::group::{START, discover, forget_gateways, laneway};
use crate::lab::origin::{big, sha256};
use crate::lab::{Case, Host, Lab, wait_until};
use laneway::telemetry::snapshot::Snapshot;
use std::io::ErrorKind;
use std::iter;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

pub(super) const CASES: &[Case] = &[
    ("discovery::finds_all_gateways_without_a_default_route", finds_all_gateways_without_a_default_route),
    ("discovery::works_beside_a_running_node", works_beside_a_running_node),
    (
        "discovery::works_behind_a_firewall_that_lets_its_port_in",
        works_behind_a_firewall_that_lets_its_port_in,
    ),
    (
        "discovery::asks_known_gateways_from_behind_a_closed_firewall",
        asks_known_gateways_from_behind_a_closed_firewall,
    ),
    (
        "discovery::every_node_is_called_by_its_name_and_no_gateway_lists_itself",
        every_node_is_called_by_its_name_and_no_gateway_lists_itself,
    ),
    ("discovery::an_empty_lan_is_reported_as_such", an_empty_lan_is_reported_as_such),
    (
        "discovery::a_client_stops_asking_once_a_gateway_has_answered",
        a_client_stops_asking_once_a_gateway_has_answered,
    ),
    ("discovery::joins_and_links_on_a_path_with_a_smaller_mtu", joins_and_links_on_a_path_with_a_smaller_mtu),
];

fn finds_all_gateways_without_a_default_route(lab: &Lab) {
    let (c1, g1, g2) = (lab.client("c1"), lab.gateway("g1"), lab.gateway("g2"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1, &g2], &[]);
    let _g2 = group.gateway(&g2, &[]);

    // The difficulty: the limited broadcast address is unreachable from this host.
    let everyone = (Ipv4Addr::BROADCAST, 7420);
    let error = udp(&c1, 0).send_to(b"?", everyone).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);

    lists_both(&c1);
}

fn works_beside_a_running_node(lab: &Lab) {
    let (c1, g1, g2) = (lab.client("c1"), lab.gateway("g1"), lab.gateway("g2"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1, &g2], &[]);
    let _g2 = group.gateway(&g2, &[]);
    let _node = group.client(&c1, &[]);
    lists_both(&c1);
    downloads(&c1);
}

/// A desktop firewall with one more rule: the discovery port is open.
fn works_behind_a_firewall_that_lets_its_port_in(lab: &Lab) {
    let (c1, g1, g2) = (lab.client("c1"), lab.gateway("g1"), lab.gateway("g2"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1, &g2], &[]);
    let _g2 = group.gateway(&g2, &[]);

    firewall(lab, &c1, "udp dport 7420 accept");
    assert!(!receives_the_answer(&c1, &lab.client("c2"), 0), "an ephemeral port gets in");
    assert!(receives_the_answer(&c1, &lab.client("c3"), 7420), "the discovery port does not get in");
    lists_both(&c1);
    let _node = group.client(&c1, &[]);
    downloads(&c1);
}

/// A desktop firewall by default: connection tracking does not match a unicast answer to a broadcast query.
fn asks_known_gateways_from_behind_a_closed_firewall(lab: &Lab) {
    let (c1, c4, g1) = (lab.client("c1"), lab.client("c4"), lab.gateway("g1"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1, &c4], &[]);

    for (host, probe) in [(&c1, "c2"), (&c4, "c3")] {
        firewall(lab, host, "");
        assert!(!receives_the_answer(host, &lab.client(probe), 7420), "the answer to a broadcast gets in");
    }
    // One has the gateway's name in its configuration, the other remembers the gateway that it joined through.
    c1.knows("way.lab", g1.address());
    forget_gateways(&c1);
    let _told = group.client(&c1, &["--gateway", "way.lab:7420"]);
    let _remembers = group.client(&c4, &[]);
    downloads(&c1);
    downloads(&c4);
}

fn an_empty_lan_is_reported_as_such(lab: &Lab) {
    let c1 = lab.client("c1");
    crate::lab::group::init(&c1);
    let output = discover(&c1);
    assert_eq!(output.code(), 1, "{output}");
    assert!(output.stderr.contains("hint:"), "it does not say what to check: {output}");
}

/// Before there is any link, and on gateways, which link to nobody.
fn every_node_is_called_by_its_name_and_no_gateway_lists_itself(lab: &Lab) {
    let _origin = lab.origin();
    let fleet = lab.fleet(2, &[]);
    let names = |host: &Host| -> Vec<(Option<String>, String)> {
        let seen: Snapshot =
            serde_json::from_str(&laneway(host, &["status", "--json"]).success().text()).unwrap();
        seen.gateways.into_iter().map(|gateway| (gateway.name, gateway.state)).collect()
    };
    for (gateway, other) in
        [(0, 1), (1, 0)].map(|(one, other)| (&fleet.gateways[one], &fleet.gateways[other]))
    {
        let host = &gateway.host;
        wait_until("the other gateway to be heard", || {
            names(host).iter().any(|(name, _)| name.as_deref() == Some(&other.host.name))
        });
        let seen = names(host);
        assert_eq!(seen.len(), 1, "{} sees {seen:?}", host.name);
        let metrics = host.curl(&["http://127.0.0.1:1080/metrics"]).success().text();
        assert!(metrics.contains("laneway_gateways{state=\"silent\"} 0"), "{metrics}");
        let table = discover(host).success().text();
        assert!(table.contains(&format!("{} (this machine)", host.name)), "{table}");
        let doctor = laneway(host, &["doctor"]).text();
        assert!(doctor.contains(&format!("{} at {}", other.host.name, other.host.address())), "{doctor}");
    }
    let client = &fleet.client;
    let (one, two) = (&fleet.gateways[0].host, &fleet.gateways[1].host);
    let table = discover(client).success().text();
    assert_eq!(table.lines().filter(|line| line.contains("Mbit/s")).count(), 2, "{table}");
    let speed = laneway(client, &["speedtest", "--seconds", "1"]).success().text();
    for host in [one, two] {
        assert!(table.lines().any(|line| line.starts_with(&format!("{} ", host.name))), "{table}");
        assert!(speed.contains(&format!("gateway {} at {}", host.name, host.address())), "{speed}");
    }
    let log = fleet.node.log();
    assert!(log.contains(&format!("gateway heard gateway=\"{}\"", one.name)), "{log}");
    let metrics = client.curl(&["http://127.0.0.1:1080/metrics"]).success().text();
    assert!(metrics.contains(&format!("laneway_link_up{{gateway=\"{}\",id=\"", one.name)), "{metrics}");
}

/// The whole LAN receives a query, so a client that waits for its link must not repeat it.
fn a_client_stops_asking_once_a_gateway_has_answered(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1], &[]);
    g1.filter("tcp dport 7420 drop");
    let node = group.up(&c1, &[]);
    let queries = "laneway_discovery_datagrams_total{type=\"query\",direction=\"sent\"} ";
    let mut sent = 0;
    wait_until("the link to be given up", || {
        let metrics = c1.curl(&["http://127.0.0.1:1080/metrics"]).success().text();
        let now = metrics.lines().find_map(|line| line.strip_prefix(queries)).unwrap().parse().unwrap();
        let is_given_up = node.log().contains("no link");
        if !is_given_up {
            sent = now;
        }
        is_given_up
    });
    // A query and its repetition by both protocols, and perhaps one that was being sent when the answer arrived. It goes to
    // the known addresses too.
    assert!((1..=12).contains(&sent), "{sent} queries");
}

/// A path with a smaller MTU than both ends have, and no ICMP messages about it.
fn joins_and_links_on_a_path_with_a_smaller_mtu(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _origin = lab.origin();
    for host in [&c1, &g1] {
        // Packets are counted as a wire would carry them.
        host.ip("link set lan gso_max_segs 1");
        host.filter("iif lan meta length > 1280 drop");
    }
    let group = lab.group(&[&g1, &c1], &[]);
    let mut node = group.up(&c1, &[]);
    // The first two handshakes remain unanswered.
    node.wait_for_line("link up", START * 3);
    let download = c1.curl(&[&HTTP[..], &[BIG]].concat()).success();
    assert_eq!(sha256(&download.stdout), big().sha256);
}

fn lists_both(client: &Host) {
    let table = discover(client).success();
    for gateway in ["10.77.0.21", "10.77.0.22"] {
        assert!(table.text().contains(gateway), "{gateway} is not in the table: {table}");
    }
}

fn downloads(client: &Host) {
    let download = client.curl(&[&HTTP as &[&str], &[BIG]].concat()).success();
    assert_eq!(sha256(&download.stdout), big().sha256);
}

/// Drops incoming packets unless they are from loopback, ICMP, of a tracked connection, or allowed by `rule`.
fn firewall(lab: &Lab, host: &Host, rule: &str) {
    let rules = format!(
        "table inet firewall {{\n chain input {{\n type filter hook input priority filter; policy drop;\n\
         iif lo accept\nct state established,related accept\nmeta l4proto {{ icmp, ipv6-icmp }} accept\n{rule}\n}}\n}}\n"
    );
    let file = lab.write("firewall.nft", rules);
    let mut nft = host.command("nft");
    nft.arg("-f").arg(file);
    host.output(nft).success();
}

/// Whether `host`, after a broadcast from `port` to port 7420, receives a unicast answer from `peer`.
fn receives_the_answer(host: &Host, peer: &Host, port: u16) -> bool {
    let (asking, answering) = (udp(host, port), udp(peer, 7420));
    asking.send_to(b"who?", (Ipv4Addr::new(10, 77, 0, 255), 7420)).unwrap();
    let (_, from) = answering.recv_from(&mut [0; 8]).expect("the broadcast arrives");
    answering.send_to(b"me", from).unwrap();
    // Usually it is delivered before `send_to` returns, but a busy kernel may defer that.
    asking.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    // On the discovery port it receives its own broadcast too.
    iter::from_fn(|| asking.recv_from(&mut [0; 8]).ok()).any(|(_, from)| from.ip() == peer.address())
}

fn udp(host: &Host, port: u16) -> UdpSocket {
    let socket = host.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap();
    socket.set_broadcast(true).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}
