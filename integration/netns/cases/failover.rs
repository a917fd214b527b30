//! No request fails when a gateway dies, hangs, drains or returns.

use crate::lab::fleet::Fleet;
use crate::lab::group::START;
use crate::lab::load::{Load, Report};
use crate::lab::origin::{noise, sha256};
use crate::lab::web::{Request, Web, who};
use crate::lab::{Case, Lab, wait_until};
use nix::sys::signal::Signal;
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub(super) const CASES: &[Case] = &[
    ("failover::a_killed_gateway_fails_no_request", a_killed_gateway_fails_no_request),
    (
        "failover::a_gateway_without_its_lan_leg_fails_no_request",
        a_gateway_without_its_lan_leg_fails_no_request,
    ),
    ("failover::a_hung_gateway_fails_no_request_now_or_later", a_hung_gateway_fails_no_request_now_or_later),
    ("failover::a_gateway_without_its_uplink_withdraws", a_gateway_without_its_uplink_withdraws),
    (
        "failover::requests_are_held_while_all_gateways_are_gone",
        requests_are_held_while_all_gateways_are_gone,
    ),
    (
        "failover::gateways_that_cannot_reach_each_other_both_serve",
        gateways_that_cannot_reach_each_other_both_serve,
    ),
    ("failover::a_lossy_network_fails_no_request", a_lossy_network_fails_no_request),
    ("failover::gateways_that_die_again_and_again_fail_no_request", gateways_that_die_again_and_again),
    ("failover::a_drained_gateway_cuts_nothing", a_drained_gateway_cuts_nothing),
    ("failover::round_robin_fails_no_request", round_robin_fails_no_request),
    ("failover::a_promoted_node_brings_its_uplink_up", a_promoted_node_brings_its_uplink_up),
];

/// New requests per second in most trials, low enough for a small machine.
const RATE: u32 = 60;

fn a_killed_gateway_fails_no_request(lab: &Lab) {
    let _web = lab.web(who);
    let mut fleet = lab.fleet(2, &[]);
    let serving = fleet.serving();
    let load = Load::start(&fleet.client, RATE);
    load.wait_for_new(60);
    fleet.kill(serving);
    load.wait_for_new(120);
    let report = ended("killed", load);
    report.no_failure();
    assert_eq!(report.gateways().len(), 2, "{report}");
}

/// `--policy round-robin`: each change of the active gateway is a drain.
fn round_robin_fails_no_request(lab: &Lab) {
    let _web = lab.web(who);
    let fleet = lab.fleet(2, &["--policy", "round-robin", "--rotate", "2"]);
    let serving = fleet.serving();
    let (first, second) = (fleet.gateways[serving].outside(), fleet.gateways[1 - serving].outside());
    let load = Load::start(&fleet.client, RATE);
    load.wait_for_service_by(second, 20);
    load.wait_for_service_by(first, 20);
    load.wait_for_service_by(second, 20);
    let report = ended("round-robin", load);
    report.no_failure();
}

/// The uplink is down until the group selects this node. A command brings it up, and takes it down at the end.
fn a_promoted_node_brings_its_uplink_up(lab: &Lab) {
    let _web = lab.web(who);
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let said = lab.write("said", "");
    let tell = |word: &str| {
        format!(
            "echo {word} $LANEWAY_NODE $LANEWAY_UPLINK_STATE $LANEWAY_SERVER >> {}; ip link set out",
            said.display()
        )
    };
    let (up, down) = (format!("{} up", tell("up")), format!("{} down", tell("down")));
    let mut ip = g1.command("ip");
    ip.args(["link", "set", "out", "down"]);
    g1.output(ip).success();
    let mut group = lab.group(&[&g1, &c1], &["--on-promote", &up, "--on-demote", &down]);
    let _client = group.client(&c1, &[]);
    wait_until("the uplink to be up", || {
        let answer = c1.curl(&["--proxy", "http://127.0.0.1:1080", "http://10.88.0.100/who/now"]);
        answer.text().starts_with(&g1.addresses()[1].to_string())
    });
    group.gateway.signal(Signal::SIGTERM);
    group.gateway.wait(START);
    let said = std::fs::read_to_string(said).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].starts_with("up g1 active 10.88.0.100:80"), "{said}");
    assert!(lines[1].starts_with("down g1 "), "{said}");
}

/// The gateway disappears without a message: its packets just stop.
fn a_gateway_without_its_lan_leg_fails_no_request(lab: &Lab) {
    let _web = lab.web(who);
    let fleet = lab.fleet(2, &[]);
    let serving = fleet.serving();
    let load = Load::start(&fleet.client, RATE);
    load.wait_for_new(60);
    fleet.gateways[serving].leg("lan", "down");
    let fault = Instant::now();
    load.wait_for_new(300);
    let report = ended("LAN leg down", load);
    report.no_failure();
    assert_eq!(report.since(fault).gateways().len(), 1, "{report}");
}

/// A stopped process still accepts connections, and does not notice how long it was stopped.
fn a_hung_gateway_fails_no_request_now_or_later(lab: &Lab) {
    let _web = lab.web(who);
    let fleet = lab.fleet(2, &[]);
    let serving = fleet.serving();
    let other = fleet.gateways[1 - serving].outside();
    let load = Load::start(&fleet.client, RATE);
    load.wait_for_new(60);

    fleet.gateways[serving].signal(Signal::SIGSTOP);
    load.wait_for_service_by(other, 60);
    // Longer than the deadline after which it counts as dead.
    load.wait_for_new(RATE as usize * 4);
    fleet.gateways[serving].signal(Signal::SIGCONT);
    let woken = Instant::now();
    load.wait_for_new(RATE as usize * 4);

    let report = ended("hung, then awake", load);
    report.no_failure();
    let after = report.since(woken);
    assert_eq!(after.gateways().keys().collect::<Vec<_>>(), [&other], "it takes over again: {after}");
}

/// The gateway is alive, but cannot serve.
fn a_gateway_without_its_uplink_withdraws(lab: &Lab) {
    let _web = lab.web(who);
    let fleet = lab.fleet(2, &[]);
    let serving = fleet.serving();
    let other = fleet.gateways[1 - serving].outside();
    let load = Load::start(&fleet.client, RATE);
    load.wait_for_new(60);

    fleet.gateways[serving].leg("out", "down");
    load.wait_for_service_by(other, 60);
    load.wait_for_new(120);
    // Until the gateway notices, it gets requests, and answers truthfully that it cannot reach the server: another is asked.
    ended("uplink down", load).no_failure();
}

fn requests_are_held_while_all_gateways_are_gone(lab: &Lab) {
    let _web = lab.web(who);
    let mut fleet = lab.fleet(2, &[]);
    let load = Load::start(&fleet.client, 20);
    load.wait_for_new(20);
    fleet.kill(0);
    fleet.kill(1);
    thread::sleep(Duration::from_secs(5));
    fleet.start(0);
    fleet.start(1);
    load.wait_for_new(20);
    let report = ended("all gone for 5 s", load);
    report.no_failure();
    assert!(report.longest() > Duration::from_secs(4), "nothing was held: {report}");
}

/// Both are active, which is harmless.
fn gateways_that_cannot_reach_each_other_both_serve(lab: &Lab) {
    let _web = lab.web(who);
    let mut fleet = lab.fleet(2, &[]);
    let load = Load::start(&fleet.client, RATE);
    load.wait_for_new(60);
    let [one, two] = [0, 1].map(|which| &fleet.gateways[which].host);
    for (host, other) in [(one, two), (two, one)] {
        let [lan, outside] = other.addresses() else { panic!("{} has two legs", other.name) };
        host.filter(&format!(
            "ip saddr {{ {lan}, {outside} }} drop\nip6 saddr fe80::/10 udp dport 7420 drop"
        ));
    }
    wait_until("both to be active", || {
        fleet.gateways.iter().all(|gateway| {
            let log = gateway.log();
            let last = log.lines().rfind(|line| line.contains("this node's state"));
            last.is_some_and(|line| line.contains("state=\"active\""))
        })
    });
    load.wait_for_new(RATE as usize * 2);
    fleet.kill(fleet.serving());
    load.wait_for_new(120);
    ended("deaf to each other, then one killed", load).no_failure();
}

fn a_lossy_network_fails_no_request(lab: &Lab) {
    let _web = lab.web(who);
    let mut fleet = lab.fleet(2, &[]);
    let lossy = "iif lan numgen random mod 100 < 5 drop";
    fleet.client.filter(lossy);
    for gateway in &fleet.gateways {
        gateway.host.filter(lossy);
    }
    let load = Load::start(&fleet.client, RATE);
    load.wait_for_new(RATE as usize * 5);
    fleet.kill(fleet.serving());
    load.wait_for_new(RATE as usize * 3);
    ended("5% loss each way, and a kill", load).no_failure();
}

fn gateways_that_die_again_and_again(lab: &Lab) {
    let _web = lab.web(who);
    let mut fleet = lab.fleet(2, &[]);
    let load = Load::start(&fleet.client, RATE);
    restart_serving(&mut fleet, &load, 5);
    ended("restarted 5 times", load).no_failure();
}

/// Kills the serving gateway and starts it again, `times` times.
pub(crate) fn restart_serving(fleet: &mut Fleet, load: &Load, times: usize) {
    for _ in 0..times {
        fleet.wait_for_links();
        let serving = fleet.serving();
        fleet.kill(serving);
        load.wait_for_new(20);
        fleet.start(serving);
        load.wait_for_new(20);
    }
}

fn a_drained_gateway_cuts_nothing(lab: &Lab) {
    let content = noise(5, 4 << 20);
    let hash = sha256(&content);
    let gate = Arc::new(Gate::default());
    let web = {
        let gate = gate.clone();
        lab.web(move |asked, stream| paused_download(asked, stream, &content, &gate))
    };
    let mut fleet = lab.fleet(2, &[]);
    let serving = fleet.serving();
    let load = Load::start(&fleet.client, RATE);

    // One download that could be resumed, and one inside a tunnel that could not.
    let downloads = [("/plain", &[] as &[&str]), ("/tunnel", &["--proxytunnel"])].map(|(path, options)| {
        let mut curl = fleet.client.command("curl");
        curl.args(["--silent", "--show-error", "--no-buffer", "--proxy", "http://127.0.0.1:1080"]);
        curl.args(options).arg(format!("http://10.88.0.100{path}"));
        (path, fleet.client.spawn(curl))
    });
    for (path, download) in &downloads {
        wait_until("the download to begin", || download.printed() >= 1 << 20);
        assert_eq!(web.asked(path)[0].from, fleet.gateways[serving].outside());
    }
    let mut leaving = fleet.take(serving);
    leaving.signal(Signal::SIGTERM);
    load.wait_for_service_by(fleet.gateways[1 - serving].outside(), 120);
    assert!(leaving.is_running(), "it does not wait for its tunnels");
    gate.open();
    for (path, download) in downloads {
        assert_eq!(sha256(&download.finish(START).success().stdout), hash, "{path}");
        assert_eq!(web.asked(path).len(), 1, "{path} was asked for again");
    }
    assert_eq!(leaving.wait(START).code(), Some(0));
    fleet.start(serving);
    load.wait_for_new(60);
    ended("drained, and back", load).no_failure();
}

/// Sends half of the content, and the rest once the gate is open.
fn paused_download(asked: &Request, stream: &mut TcpStream, content: &[u8], gate: &Gate) -> io::Result<()> {
    if asked.path.starts_with("/who") {
        return who(asked, stream);
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: \"one\"\r\nConnection: close\r\n\r\n",
        content.len()
    );
    let (before, after) = content.split_at(content.len() / 2);
    stream.write_all(head.as_bytes())?;
    stream.write_all(before)?;
    gate.wait();
    stream.write_all(after)
}

/// Closed until it is opened.
#[derive(Default)]
pub(crate) struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    /// Answers requests for `/` like [`who`], and those for other paths once the gate is open.
    pub(crate) fn web(self: &Arc<Self>, lab: &Lab) -> Web {
        let gate = self.clone();
        lab.web(move |asked, stream| {
            if asked.path != "/" {
                gate.wait();
            }
            who(asked, stream)
        })
    }

    pub(crate) fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    pub(crate) fn wait(&self) {
        drop(self.opened.wait_while(self.is_open.lock().unwrap(), |open| !*open).unwrap());
    }
}

fn ended(fault: &str, load: Load) -> Report {
    let report = load.stop();
    eprintln!("    {fault}: {report}");
    report
}
