//! UDP through the local port, with third-party programs: dnspython over PySocks, aioquic at both ends of QUIC.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::lab::fleet::Fleet;
use crate::lab::process::Process;
use crate::lab::programs::python;
use crate::lab::web::who;
use crate::lab::{Case, Host, Lab, programs, wait_until};

pub(super) const CASES: &[Case] = &[
    ("udp::a_name_is_looked_up_through_the_gateway", a_name_is_looked_up_through_the_gateway),
    ("udp::a_quic_connection_outlives_its_gateway", a_quic_connection_outlives_its_gateway),
];

/// The group's servers in these trials: for the probe, for DNS, for QUIC.
const SERVERS: [&str; 4] = ["--server", "10.88.0.100:53", "--server", "10.88.0.100:4433"];
const START: Duration = Duration::from_secs(20);

/// What this machine lacks for these trials; `.ci/run` installs it.
pub(crate) fn lacking() -> Option<String> {
    let mut lacking = String::new();
    if programs::find("dnsmasq").is_none() {
        lacking.push_str("dnsmasq; ");
    }
    let import =
        Command::new(python()).args(["-c", "import aioquic, dns, socks"]).stderr(Stdio::null()).status();
    if !import.is_ok_and(|status| status.success()) {
        let _ = write!(lacking, "aioquic, dnspython and PySocks for {}", python().display());
    }
    (!lacking.is_empty()).then_some(lacking)
}

fn program(host: &Host, name: &str, arguments: &[&str]) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/netns/programs").join(name);
    let mut command = host.command(python().to_str().unwrap());
    command.arg(script).args(arguments);
    command
}

fn a_name_is_looked_up_through_the_gateway(lab: &Lab) {
    let _web = lab.web(who);
    let mut dnsmasq = lab.server.command(programs::find("dnsmasq").unwrap().to_str().unwrap());
    dnsmasq.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
    ]);
    dnsmasq.args(["--pid-file=", "--log-facility=-", "--log-queries", "--bind-interfaces"]);
    dnsmasq.args(["--listen-address=10.88.0.100", "--address=/way.test/192.0.2.7"]);
    let mut dnsmasq = lab.server.spawn(dnsmasq);
    dnsmasq.wait_for_line("started", START);
    let mut fleet = lab.fleet(2, &SERVERS);
    let mut asked = Vec::new();
    for _ in 0..2 {
        let serving = fleet.serving();
        let query = program(&fleet.client, "dns_query.py", &["1080", "10.88.0.100", "way.test"]);
        let answer = fleet.client.output(query).success().text();
        assert!(answer.contains("way.test. 0 IN A 192.0.2.7"), "{answer}");
        asked.push(fleet.gateways[serving].outside());
        fleet.kill(serving);
    }
    let log = dnsmasq.log();
    for gateway in asked {
        assert!(log.contains(&format!("way.test from {gateway}")), "{log}");
    }
}

fn a_quic_connection_outlives_its_gateway(lab: &Lab) {
    let _web = lab.web(who);
    let mut server = lab.server.spawn(program(&lab.server, "quic_server.py", &["10.88.0.100", "4433"]));
    server.wait_for_line("ready", START);
    let mut fleet = lab.fleet(2, &SERVERS);
    let serving = fleet.serving();
    let quic = program(&fleet.client, "quic_client.py", &["1080", "10.88.0.100", "4433"]);
    let mut quic = fleet.client.spawn(quic);
    wait_for_echoes(&mut quic, &fleet, serving, 10);
    fleet.kill(serving);
    wait_for_echoes(&mut quic, &fleet, 1 - serving, 10);

    // One connection, without a gap.
    let log = quic.log();
    assert_eq!(log.matches("connected").count(), 1, "{log}");
    let numbers = log.lines().filter_map(|line| line.split_once(' ')?.1.parse::<usize>().ok());
    for (at, number) in numbers.enumerate() {
        assert_eq!(at, number, "{log}");
    }
}

/// Waits until `count` numbers have come back through this gateway.
fn wait_for_echoes(quic: &mut Process, fleet: &Fleet, which: usize, count: usize) {
    let by = format!("{} ", fleet.gateways[which].outside());
    wait_until("echoes by way of a gateway", || {
        assert!(quic.is_running(), "{}", quic.log());
        quic.log().lines().filter(|line| line.starts_with(&by)).count() >= count
    });
}
