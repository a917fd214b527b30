//! An uplink that drops packets without a word costs no request while another gateway is there.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::curl::{BIG, DIALECTS, HTTP, SOCKS, TUNNEL};
use super::failover::Gate;
use super::way_out::Open;
use crate::lab::dialect::PROXY;
use crate::lab::group::{START, init, join, laneway, up};
use crate::lab::origin::{big, sha256};
use crate::lab::process::Process;
use crate::lab::web::{Server, who};
use crate::lab::{Case, Host, Lab, wait_until};

pub(super) const CASES: &[Case] = &[
    (
        "uplinks::a_silent_uplink_to_the_server_costs_no_request",
        a_silent_uplink_to_the_server_costs_no_request,
    ),
    ("uplinks::a_silent_uplink_to_anywhere_costs_no_request", a_silent_uplink_to_anywhere_costs_no_request),
    (
        "uplinks::one_port_that_vanishes_at_one_gateway_costs_no_request",
        one_port_that_vanishes_costs_no_request,
    ),
    ("uplinks::a_short_connect_timeout_costs_no_request", a_short_connect_timeout_costs_no_request),
    ("uplinks::an_idle_connection_to_the_server_costs_no_request", an_idle_connection_costs_no_request),
    ("uplinks::a_request_that_waits_for_its_answer_is_sent_again", a_request_that_waits_is_sent_again),
    ("uplinks::a_download_goes_on_over_the_other_gateway", a_download_goes_on_over_the_other_gateway),
    (
        "uplinks::a_gateways_own_software_goes_over_the_other_one",
        a_gateways_own_software_goes_over_the_other_one,
    ),
    (
        "uplinks::one_port_that_vanishes_costs_a_gateways_own_software_no_request",
        one_port_that_vanishes_costs_own_software_no_request,
    ),
    ("uplinks::names_are_asked_for_at_the_other_gateway", names_are_asked_for_at_the_other_gateway),
    ("uplinks::a_server_that_is_down_is_told_as_such", a_server_that_is_down_is_told_as_such),
    ("uplinks::a_probe_that_is_asked_rarely_notices_at_once", a_probe_that_is_asked_rarely_notices_at_once),
];

const URL: &str = "http://10.88.0.100/";
/// What a gateway logs when it has lost its servers.
const LOST: &str = "servers reach=\"unreachable\"";
/// How long a node may take to notice something and to say so.
const NOTICED: Duration = Duration::from_secs(20);
/// A dial may take as long as clients wait for it, so that only another gateway can help.
const PATIENT: [&str; 2] = ["--connect-timeout", "25"];

/// From now on the server's machine gets nothing from this gateway, and nobody says so.
fn silence(lab: &Lab, gateway: &Host) {
    lab.server.filter(&format!("ip saddr {} drop", gateway.addresses()[1]));
}

/// Requests in every dialect, and one with a body, all at the same moment: each is served over `by`.
fn all_at_once(client: &Host, by: Ipv4Addr) {
    let post: &[&str] = &["--data", "x"];
    let plain = DIALECTS.map(|dialect| (dialect, &[] as &[&str]));
    let with_body = [(&HTTP as &[&str], post), (&TUNNEL, post), (&SOCKS, post)];
    let begun: Vec<_> = plain
        .into_iter()
        .chain(with_body)
        .map(|(dialect, more)| {
            let mut curl = client.command("curl");
            curl.args(["--silent", "--show-error", "--max-time", "25"]).args(dialect).args(more).arg(URL);
            (dialect, more, client.spawn(curl))
        })
        .collect();
    for (dialect, more, request) in begun {
        let text = request.finish(START * 3).success().text();
        assert!(text.starts_with(&by.to_string()), "{dialect:?} {more:?}: {text}");
    }
}

fn a_silent_uplink_to_the_server_costs_no_request(lab: &Lab) {
    let _web = lab.web(who);
    let fleet = lab.fleet(2, &PATIENT);
    let serving = fleet.serving();
    silence(lab, &fleet.gateways[serving].host);
    all_at_once(&fleet.client, fleet.gateways[1 - serving].outside());
    wait_until("the gateway to withdraw", || fleet.gateways[serving].log().contains(LOST));
    assert!(!fleet.gateways[1 - serving].log().contains(LOST));
}

fn a_silent_uplink_to_anywhere_costs_no_request(lab: &Lab) {
    let _web = lab.web(who);
    let mut open = Open::start_with(lab, &PATIENT, &[]);
    let serving = open.serving();
    silence(lab, &open.gateways[serving]);
    all_at_once(&open.client, open.gateways[1 - serving].addresses()[1]);
    open.nodes[serving].wait_for_line("the way out is lost", NOTICED);
    assert!(!open.nodes[1 - serving].log().contains("the way out is lost"));
}

/// The gateway proves its way out all the time, by another port of the server.
fn one_port_that_vanishes_costs_no_request(lab: &Lab) {
    let _web = lab.web(who);
    let _proof = lab.serve(81, |_, _| Ok(()));
    let (g1, g2, client) = (lab.gateway("g1"), lab.gateway("g2"), lab.client("c1"));
    let options =
        [&["--role", "gateway", "--server", "10.88.0.100:81", "--allow", "*"], &PATIENT[..]].concat();
    let (nodes, mut node) = three(&[&g1, &g2], &client, &options);
    node.wait_for_line("standby link up", NOTICED);
    let gateways = [&g1, &g2];
    let serving = serving(&gateways, &client);
    gateways[serving].swallow("oif out tcp dport 80 drop");
    for _ in 0..2 {
        all_at_once(&client, gateways[1 - serving].addresses()[1]);
    }
    assert!(nodes.iter().all(|node| !node.log().contains(LOST)));
}

fn a_short_connect_timeout_costs_no_request(lab: &Lab) {
    let _web = lab.web(who);
    let fleet = lab.fleet(2, &["--connect-timeout", "1"]);
    let serving = fleet.serving();
    fleet.gateways[serving].host.swallow("oif out tcp dport 80 drop");
    all_at_once(&fleet.client, fleet.gateways[1 - serving].outside());
}

/// Answers each request of a connection with the gateway's address.
fn answer_all(stream: &TcpStream) -> io::Result<()> {
    let IpAddr::V4(from) = stream.peer_addr()?.ip() else { return Ok(()) };
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        if line.is_empty() {
            return Ok(());
        }
        let body = from.to_string();
        write!(&*stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    }
}

/// Reads one response, and gives its body.
fn response(reader: &mut impl BufRead) -> String {
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line).unwrap() > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}

fn an_idle_connection_costs_no_request(lab: &Lab) {
    let _web: Server = lab.serve(80, |_, stream| answer_all(&stream));
    let _proof = lab.serve(81, |_, _| Ok(()));
    let (g1, g2, client) = (lab.gateway("g1"), lab.gateway("g2"), lab.client("c1"));
    // The gateway does not withdraw: only the connection itself shows the fault.
    let options = ["--role", "gateway", "--server", "10.88.0.100:81", "--allow", "*"];
    let (_nodes, mut node) = three(&[&g1, &g2], &client, &options);
    node.wait_for_line("standby link up", NOTICED);
    let app = client.connect(PROXY).unwrap();
    let mut reader = BufReader::new(&app);
    let mut ask = || {
        write!(&app, "GET {URL} HTTP/1.1\r\nHost: 10.88.0.100\r\n\r\n").unwrap();
        response(&mut reader)
    };
    let before = ask();
    let serving = usize::from(before == g2.addresses()[1].to_string());
    [&g1, &g2][serving].swallow("oif out tcp dport 80 drop");
    assert_eq!(ask(), [&g1, &g2][1 - serving].addresses()[1].to_string());
}

/// The server has the request, but its answer can no longer come.
fn a_request_that_waits_is_sent_again(lab: &Lab) {
    let gate = Arc::new(Gate::default());
    let web = {
        let gate = gate.clone();
        lab.web(move |asked, stream| {
            if asked.path == "/slow" && asked.turn == 1 {
                gate.wait();
            }
            who(asked, stream)
        })
    };
    let mut open = Open::start_with(lab, &PATIENT, &[]);
    let serving = open.serving();
    let mut curl = open.client.command("curl");
    curl.args(["--silent", "--show-error", "--max-time", "28"]).args(HTTP).arg(format!("{URL}slow"));
    let waiting = open.client.spawn(curl);
    wait_until("the server to have the request", || web.asked("/slow").len() == 1);
    silence(lab, &open.gateways[serving]);
    // Another request reveals the fault.
    assert_eq!(open.serving(), 1 - serving);
    open.nodes[serving].wait_for_line("the way out is lost", NOTICED);
    let text = waiting.finish(START * 3).success().text();
    assert!(text.starts_with(&open.gateways[1 - serving].addresses()[1].to_string()), "{text}");
    gate.open();
}

/// The rest of the download is asked for there once the first gateway has withdrawn.
fn a_download_goes_on_over_the_other_gateway(lab: &Lab) {
    let _origin = lab.origin();
    // A cache would have fetched all of it before.
    let open = Open::start_with(lab, &["--no-cache"], &["--no-spread"]);
    let serving = open.used();
    let mut curl = open.client.command("curl");
    curl.args(["--silent", "--show-error", "--limit-rate", "8M", "--max-time", "60"]).args(HTTP).arg(BIG);
    let download = open.client.spawn(curl);
    wait_until("the download to run", || download.printed() > 1 << 20);
    silence(lab, &open.gateways[serving]);
    // Another request reveals the fault.
    open.client.curl(&[&HTTP[..], &[URL]].concat()).success();
    let whole = download.finish(START * 6).success();
    assert_eq!(sha256(&whole.stdout), big().sha256);
    assert!(open.node.log().contains("the rest of a download is asked for on the next gateway"));
}

fn a_gateways_own_software_goes_over_the_other_one(lab: &Lab) {
    let _web = lab.web(who);
    let fleet = lab.fleet(2, &PATIENT);
    let (own, other) = (&fleet.gateways[0], &fleet.gateways[1]);
    silence(lab, &own.host);
    all_at_once(&own.host, other.outside());
}

/// The node stays a gateway, since it proves its way out all the time by another port of the server.
fn one_port_that_vanishes_costs_own_software_no_request(lab: &Lab) {
    let _web = lab.web(who);
    let _proof = lab.serve(81, |_, _| Ok(()));
    let (g1, g2, client) = (lab.gateway("g1"), lab.gateway("g2"), lab.client("c1"));
    let options =
        [&["--role", "gateway", "--server", "10.88.0.100:81", "--allow", "*"], &PATIENT[..]].concat();
    let (nodes, mut node) = three(&[&g1, &g2], &client, &options);
    node.wait_for_line("standby link up", NOTICED);
    g1.swallow("oif out tcp dport 80 drop");
    all_at_once(&g1, g2.addresses()[1]);
    assert!(nodes.iter().all(|node| !node.log().contains(LOST)));
}

fn names_are_asked_for_at_the_other_gateway(lab: &Lab) {
    let _names = lab.name_server();
    let _web = lab.web(who);
    let fleet = lab.fleet_with(2, &["--allow", "10.0.0.0/8"], &["--dns", "127.0.0.1:53"]);
    let serving = fleet.serving();
    fleet.gateways[serving].host.swallow("oif out meta l4proto { tcp, udp } th dport 53 drop");
    lab.server.filter(&format!("ip saddr {} udp dport 53 drop", fleet.gateways[serving].outside()));
    let mut dig = fleet.client.command("dig");
    dig.args(["@127.0.0.1", "+tries=1", "+timeout=10", "+short", "web.lab", "A"]);
    assert_eq!(fleet.client.output(dig).text().trim(), "10.88.0.100");
    for dialect in DIALECTS {
        let text = fleet.client.curl(&[dialect, &["http://mail.lab/"]].concat()).success().text();
        assert!(text.starts_with(&fleet.gateways[1 - serving].outside().to_string()), "{text}");
    }
}

fn a_server_that_is_down_is_told_as_such(lab: &Lab) {
    let _web = lab.web(who);
    let _other = lab.serve(81, |_, _| Ok(()));
    let open = Open::start_with(lab, &["--connect-timeout", "3"], &[]);
    // What both gateways have reached before.
    for gateway in &open.gateways {
        let text = gateway.curl(&[&HTTP[..], &[URL]].concat()).success().text();
        assert!(text.starts_with(&gateway.addresses()[1].to_string()), "{text}");
    }
    lab.server.filter("tcp dport 81 drop");
    for _ in 0..3 {
        let (status, body) = open.get("http://10.88.0.100:81/");
        assert_eq!(status, 504, "{body}");
        assert!(body.contains("10.88.0.100:81 did not answer within 3 s"), "{body}");
        open.serving();
    }
    assert!(open.nodes.iter().all(|node| !node.log().contains("the way out is lost")));
}

/// A line on which each byte costs: the page of the probe is asked for once in an hour.
fn a_probe_that_is_asked_rarely_notices_at_once(lab: &Lab) {
    let _web = lab.web(who);
    let probe = ["--probe", "http://10.88.0.100/probe", "--probe-interval", "3600"];
    let mut open = Open::start_with(lab, &[&probe[..], &PATIENT].concat(), &[]);
    let serving = open.serving();
    silence(lab, &open.gateways[serving]);
    all_at_once(&open.client, open.gateways[1 - serving].addresses()[1]);
    open.nodes[serving].wait_for_line("server not reached", NOTICED);
    let list = laneway(&open.client, &["discover"]).success().text();
    assert!(list.contains("withdrawn"), "{list}");
}

/// A group of two gateways with these options, and a client.
fn three(gateways: &[&Host; 2], client: &Host, options: &[&str]) -> ([Process; 2], Process) {
    let code = init(gateways[0]);
    let first = up(gateways[0], options);
    [gateways[1], client].into_iter().for_each(|host| join(host, &code));
    let second = up(gateways[1], options);
    ([first, second], up(client, &[]))
}

/// The gateway by which the server was reached.
fn serving(gateways: &[&Host; 2], client: &Host) -> usize {
    let text = client.curl(&[&HTTP[..], &[URL]].concat()).success().text();
    usize::from(text.starts_with(&gateways[1].addresses()[1].to_string()))
}
