//! Gateways for any destination: how they prove that they reach the outside, and what follows when they do not.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use laneway::telemetry::snapshot::Snapshot;

use super::ailments::stop;
use super::curl::HTTP;
use crate::lab::group::{init, join, laneway, up};
use crate::lab::process::Process;
use crate::lab::web::{Request, who};
use crate::lab::{Case, Host, Lab, wait_until};

pub(super) const CASES: &[Case] = &[
    ("way_out::the_standby_replaces_a_gateway_that_lost_it", the_standby_replaces_a_gateway_that_lost_it),
    (
        "way_out::without_any_the_reason_comes_after_the_hold_time",
        without_any_the_reason_comes_after_the_hold_time,
    ),
    ("way_out::gateways_whose_uplink_is_down_stay_withdrawn", gateways_whose_uplink_is_down_stay_withdrawn),
    ("way_out::one_destination_that_is_down_ends_no_gateway", one_destination_that_is_down_ends_no_gateway),
    ("way_out::a_probe_sees_through_a_captive_portal", a_probe_sees_through_a_captive_portal),
    ("way_out::a_machine_with_the_clients_network_only_takes_no_role", a_machine_with_one_network),
];

const URL: &str = "http://10.88.0.100/";
/// How long a node may take to notice something and to say so.
const NOTICED: Duration = Duration::from_secs(20);

/// Two gateways for any destination and a client that is linked to both of them.
pub(super) struct Open {
    pub(super) gateways: [Host; 2],
    pub(super) nodes: [Process; 2],
    pub(super) client: Host,
    pub(super) node: Process,
}

impl Open {
    fn start(lab: &Lab, options: &[&str]) -> Self {
        Self::start_with(lab, &[], options)
    }

    /// As `start`, with additional options for the gateways, and for the client.
    pub(super) fn start_with(lab: &Lab, gateway: &[&str], options: &[&str]) -> Self {
        let (g1, g2, client) = (lab.gateway("g1"), lab.gateway("g2"), lab.client("c1"));
        let code = init(&g1);
        let gateway = [&["--role", "gateway"], gateway].concat();
        let first = up(&g1, &gateway);
        [&g2, &client].into_iter().for_each(|host| join(host, &code));
        let second = up(&g2, &gateway);
        let mut node = up(&client, options);
        node.wait_for_line("standby link up", NOTICED);
        Self { gateways: [g1, g2], nodes: [first, second], client, node }
    }

    /// The response of the server to the client's next request, or of the proxy.
    pub(super) fn get(&self, url: &str) -> (u16, String) {
        get(&self.client, url)
    }

    /// The gateway that the client uses, once the two have agreed that it alone is active.
    pub(super) fn used(&self) -> usize {
        let mut used = None;
        wait_until("the client to use the only active gateway", || {
            let status = laneway(&self.client, &["status", "--json"]);
            let seen = serde_json::from_str::<Snapshot>(&status.text()).map(|seen| seen.gateways);
            let active: Vec<_> =
                seen.into_iter().flatten().filter(|gateway| gateway.state == "active").collect();
            let only = active.first().filter(|only| active.len() == 1 && only.is_used);
            used = only.and_then(|only| only.name.clone());
            used.is_some()
        });
        usize::from(used.as_deref() == Some("g2"))
    }

    /// The gateway by which the server is reached.
    pub(super) fn serving(&self) -> usize {
        self.used();
        let (status, from) = self.get(URL);
        assert_eq!(status, 200, "{from}");
        usize::from(from.contains(&self.gateways[1].addresses()[1].to_string()))
    }
}

fn get(client: &Host, url: &str) -> (u16, String) {
    let output = client.curl(&[&HTTP[..], &["--max-time", "30", "-w", "\n%{http_code}", url]].concat());
    let text = output.success().text();
    let (body, status) = text.trim_end().rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

fn the_standby_replaces_a_gateway_that_lost_it(lab: &Lab) {
    let _web = lab.web(who);
    let mut open = Open::start(lab, &[]);
    let serving = open.serving();
    open.nodes[serving].wait_for_line("the way out is proved", NOTICED);
    // The gateway's cable is cut: the interface has gone, and the network with it.
    open.gateways[serving].ip("link set out down");
    for _ in 0..3 {
        let (status, body) = open.get(URL);
        assert_eq!(status, 200, "not even the first request fails: {body}");
    }
    open.nodes[serving].wait_for_line("the way out is lost", NOTICED);
    let list = laneway(&open.client, &["discover"]).success().text();
    assert!(list.contains("withdrawn"), "{list}");
    // The gateway offers itself again once it reaches the same server.
    open.gateways[serving].ip("link set out up");
    open.nodes[serving].wait_for_line("a way out is there again", NOTICED);
}

fn without_any_the_reason_comes_after_the_hold_time(lab: &Lab) {
    let _web = lab.web(who);
    let mut open = Open::start(lab, &["--hold", "3"]);
    open.serving();
    open.gateways.iter().for_each(|gateway| gateway.ip("link set out down"));
    let (status, body) = open.get(URL);
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("has no way out") && body.contains("10.88.0.100:80"), "{body}");
    open.nodes.iter_mut().for_each(|node| drop(node.wait_for_line("the way out is lost", NOTICED)));
    open.gateways.iter().for_each(|gateway| gateway.ip("link set out up"));
    wait_until("requests to succeed again", || open.get(URL).0 == 200);
}

fn gateways_whose_uplink_is_down_stay_withdrawn(lab: &Lab) {
    let _web = lab.web(who);
    let mut open = Open::start(lab, &["--hold", "3"]);
    open.serving();
    open.gateways.iter().for_each(|gateway| gateway.ip("link set out down"));
    assert_eq!(open.get(URL).0, 503);
    for node in &mut open.nodes {
        node.wait_for_line("the way out is lost", NOTICED);
        node.wait_for_line("the way out stays lost", 2 * NOTICED);
        assert!(!node.log().contains("a way out is there again"), "{}", node.log());
    }
    for gateway in &open.gateways {
        let said = laneway(gateway, &["status"]).success().text();
        assert!(said.contains("withdrawn gateway, "), "{said}");
        assert!(said.contains("this node does not reach 10.88.0.100:80: "), "{said}");
        let said = laneway(gateway, &["doctor"]).text();
        assert!(said.contains("wrong    way out ") && said.contains("ip route get 10.88.0.100"), "{said}");
    }
    open.gateways[1].ip("link set out up");
    wait_until("requests to succeed again", || open.get(URL).0 == 200);
    assert!(!open.nodes[0].log().contains("a way out is there again"), "{}", open.nodes[0].log());
}

fn one_destination_that_is_down_ends_no_gateway(lab: &Lab) {
    let _web = lab.web(who);
    let open = Open::start(lab, &[]);
    open.serving();
    for _ in 0..4 {
        let (status, body) = open.get("http://10.88.0.99/");
        assert!(matches!(status, 502 | 504), "the server's fault is told as such: {status} {body}");
        assert_eq!(open.get(URL).0, 200);
    }
    assert!(open.nodes.iter().all(|node| !node.log().contains("the way out is lost")));
}

static ANSWER: AtomicU16 = AtomicU16::new(302);

fn portal(_: &Request, stream: &mut TcpStream) -> io::Result<()> {
    let status = ANSWER.load(Relaxed);
    write!(stream, "HTTP/1.1 {status} X\r\nLocation: http://login/\r\nContent-Length: 0\r\n\r\n")
}

fn a_probe_sees_through_a_captive_portal(lab: &Lab) {
    let _web = lab.web(portal);
    let (g1, client) = (lab.gateway("g1"), lab.client("c1"));
    let code = init(&g1);
    let mut gateway = up(&g1, &["--probe", "http://10.88.0.100/generate_204", "--probe-interval", "1"]);
    join(&client, &code);
    let line = gateway.wait_for_line("server not reached", NOTICED);
    assert!(line.contains("WARN") && line.contains("302"), "{line}");
    let list = laneway(&client, &["discover"]).text();
    assert!(!list.contains("active"), "{list}");
    ANSWER.store(204, Relaxed);
    gateway.wait_for_line("server reached", NOTICED);
    let _node = up(&client, &[]);
    wait_until("the portal to be passed", || get(&client, URL).0 == 204);
}

/// Its clients reach everything that it reaches themselves, so they wait for another gateway, for as long as `--hold` says.
fn a_machine_with_one_network(lab: &Lab) {
    let _web = lab.web(who);
    let (g1, c1, c2) = (lab.gateway("g1"), lab.client("c1"), lab.client("c2"));
    let code = init(&g1);
    let real = up(&g1, &["--role", "gateway"]);
    [&c1, &c2].into_iter().for_each(|host| join(host, &code));
    let mut useless = up(&c2, &["--role", "gateway"]);
    let none = "this machine has no way out";
    useless.wait_for_line(none, NOTICED);
    // With a route, the machine may serve.
    c2.ip("route add default via 10.77.0.21");
    useless.wait_for_line("a way out is there again", NOTICED);
    wait_until("it to stand by", || {
        let said = laneway(&c2, &["status"]).success().text();
        said.contains("standby gateway, ") && !said.contains("does not reach")
    });
    stop(useless);
    c2.ip("route del default");
    let mut useless = up(&c2, &["--role", "gateway"]);
    useless.wait_for_line(none, NOTICED);
    let mut node = up(&c1, &["--hold", "20"]);
    node.wait_for_line("link up", NOTICED);
    stop(real);
    let mut curl = c1.command("curl");
    curl.args(["--silent", "--max-time", "60"]).args(HTTP).arg(URL);
    let waiting = c1.spawn(curl);
    wait_until("the client to find no gateway", || laneway(&c1, &["status"]).text().contains("no gateway: "));
    let said = laneway(&c2, &["status"]).success().text();
    let why = "this node does not reach other networks: this machine has no default route, and no network but that of lan";
    assert!(said.contains("withdrawn gateway, ") && said.contains(why), "{said}");
    let said = laneway(&c2, &["doctor"]).text();
    assert!(said.contains("wrong    way out ") && said.contains("no default route"), "{said}");
    let _real = up(&g1, &["--role", "gateway"]);
    let body = waiting.finish(NOTICED * 3).success().text();
    assert!(body.starts_with(&g1.addresses()[1].to_string()), "{body}");
}
