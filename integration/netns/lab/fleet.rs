//! Several gateways, and one client that uses them.

use super::group::{START, laneway, up};
use super::process::Process;
use super::{Host, Lab, wait_until};
use laneway::telemetry::snapshot::{GatewaySeen, Snapshot};
use nix::sys::signal::Signal;
use std::net::Ipv4Addr;

/// Options of every gateway.
const GATEWAY: [&str; 4] = ["--role", "gateway", "--server", "10.88.0.100:80"];

/// Options of a node that logs events of its links, but not each connection.
pub(crate) const QUIET: [&str; 2] =
    ["--log", "warn,laneway::app=info,laneway::local::links=info,laneway::link=info"];

/// The number of links of a client: the active one and the standby.
const LINKS: usize = 2;

/// Gateways g1, g2 …, and the client c1 with its links. Needs a running server on s1.
pub(crate) struct Fleet {
    pub(crate) client: Host,
    pub(crate) node: Process,
    pub(crate) gateways: Vec<Gateway>,
    options: Vec<String>,
}

/// One of the gateways.
pub(crate) struct Gateway {
    pub(crate) host: Host,
    process: Option<Process>,
}

impl Lab {
    /// Starts `count` gateways with these additional `options`, and a client that has links to two of them.
    pub(crate) fn fleet(&self, count: usize, options: &[&str]) -> Fleet {
        self.fleet_with(count, options, &[])
    }

    /// As [`Lab::fleet`], with additional options for the client.
    pub(crate) fn fleet_with(&self, count: usize, options: &[&str], client_options: &[&str]) -> Fleet {
        let client = self.client("c1");
        let hosts: Vec<_> = (1..=count).map(|number| self.gateway(&format!("g{number}"))).collect();
        let members: Vec<_> = hosts[..1].iter().chain([&client]).chain(&hosts[1..]).collect();
        let group = self.group(&members, options);
        let others: Vec<_> = hosts[1..].iter().map(|host| group.gateway(host, options)).collect();
        let node = group.client(&client, client_options);
        let processes = [group.gateway].into_iter().chain(others);
        let gateways =
            hosts.into_iter().zip(processes).map(|(host, process)| Gateway { host, process: Some(process) });
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let fleet = Fleet { client, node, gateways: gateways.collect(), options };
        fleet.wait_for_links();
        fleet
    }
}

impl Fleet {
    /// Waits until the client has all its links and uses the selected gateway. At the start
    /// it uses any.
    pub(crate) fn wait_for_links(&self) {
        let running = self.gateways.iter().filter(|gateway| gateway.process.is_some()).count();
        wait_until("the client to use an active gateway", || {
            let output = laneway(&self.client, &["status", "--json"]);
            let seen = serde_json::from_str::<Snapshot>(&output.text());
            let is_chosen = |gateway: &GatewaySeen| gateway.is_used && gateway.state == "active";
            output.status.success() && seen.is_ok_and(|seen| seen.gateways.iter().any(is_chosen))
        });
        wait_until("the client to have its links", || {
            let mut ss = self.client.command("ss");
            ss.args(["-H", "-t", "-n", "state", "established", "dport = :7420"]);
            self.client.output(ss).success().text().lines().count() >= running.min(LINKS)
        });
    }

    /// The links that are up, as `ss` shows them: another port is another link.
    pub(crate) fn link(&self) -> String {
        let mut ss = self.client.command("ss");
        ss.args(["-H", "-t", "-n", "-O", "state", "established", "dport = :7420"]);
        let text = self.client.output(ss).success().text();
        let ends =
            text.lines().map(|line| line.split_whitespace().skip(2).take(2).collect::<Vec<_>>().join(" "));
        ends.collect::<Vec<_>>().join("\n")
    }

    /// The gateway that serves a new request now.
    pub(crate) fn serving(&self) -> usize {
        let answer =
            self.client.curl(&["--proxy", "http://127.0.0.1:1080", "http://10.88.0.100/who/now"]).success();
        let text = answer.text();
        let address = text.split(' ').next().and_then(|address| address.parse().ok());
        self.which(address.unwrap_or_else(|| panic!("not an answer of `who`: {text:?}")))
    }

    /// The gateway with this address on the outside network.
    pub(crate) fn which(&self, outside: Ipv4Addr) -> usize {
        let found = self.gateways.iter().position(|gateway| gateway.outside() == outside);
        found.unwrap_or_else(|| panic!("no gateway has the address {outside}"))
    }

    /// Kills a gateway with SIGKILL.
    pub(crate) fn kill(&mut self, which: usize) {
        let mut process = self.gateways[which].process.take().expect("it runs");
        process.signal(Signal::SIGKILL);
        process.wait(START);
    }

    /// Starts a gateway that has ended.
    pub(crate) fn start(&mut self, which: usize) {
        let options: Vec<_> = GATEWAY.into_iter().chain(self.options.iter().map(String::as_str)).collect();
        let gateway = &mut self.gateways[which];
        gateway.process = Some(up(&gateway.host, &options));
    }

    /// Sends SIGTERM to a gateway, without waiting for its end.
    pub(crate) fn take(&mut self, which: usize) -> Process {
        self.gateways[which].process.take().expect("it runs")
    }
}

impl Gateway {
    /// Its address on the outside network, which the server sees.
    pub(crate) fn outside(&self) -> Ipv4Addr {
        self.host.addresses()[1]
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// What it has logged since it was last started.
    pub(crate) fn log(&self) -> String {
        self.process.as_ref().expect("it runs").log()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("it runs").signal(signal);
    }

    /// Takes one of its interfaces, `lan` or `out`, `down` or `up`.
    pub(crate) fn leg(&self, leg: &str, state: &str) {
        self.host.ip(&format!("link set {leg} {state}"));
    }
}
