//! The layers beyond this machine: discovery, links to gateways, their clocks and servers, and a real request.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use super::discovery;
use super::filtering::{self, Filter};
use super::firewall::Firewall;
use super::fronts;
use super::gateways::{self, Known, Linked};
use super::machine::Node;
use super::neighbours;
use super::report::{Diagnosis, Finding, Layer, Verdict};
use super::request::{self, Route};
use super::running;
use super::unlinked::Origin;
use crate::commands::progress;
use crate::config::{Config, RoleSetting};
use crate::failure::{Failure, Kind};
use crate::lan::Lan;
use crate::local::logins::Login;
use crate::mark;
use crate::net;
use crate::peers::survey::{self, Survey};
use crate::problem::Problem;
use crate::telemetry::snapshot::GatewaySeen;
use crate::trust::group::Group;
use crate::wire::target::Target;

/// How long the LAN is surveyed: longer than the second between two beacons.
const SURVEY_TIME: Duration = Duration::from_millis(1800);
/// How much longer to listen for a gateway beside a running node. That finds no gateway that it does not hear, and an active one
/// announces itself several times a second.
const PATIENCE: Duration = Duration::from_secs(4);
/// The deadline for a connection from this machine to a server.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// Maximum servers that are sent a request.
const MAX_SERVERS: usize = 4;
const NO_SERVER: &str = "none was sent, because no server is known: 'laneway doctor --server HOST:PORT' tries the one that you name";

/// What is known of this machine when the layers beyond it are checked.
pub(super) struct Remote<'a> {
    pub(super) config: &'a Config,
    /// The servers that this command was given.
    pub(super) asked: &'a [Target],
    pub(super) group: &'a Group,
    /// The node that runs here.
    pub(super) node: Option<&'a Node>,
    pub(super) firewall: Option<&'a Firewall>,
    /// Its rules, if they can be read.
    pub(super) filter: Option<&'a Filter<'a>>,
    pub(super) lans: &'a [Lan],
    /// Whether this machine may be a gateway, by its configuration and its certificate.
    pub(super) may_serve: bool,
    /// Whether `laneway drain` was run on this machine.
    pub(super) in_maintenance: bool,
}

impl Remote<'_> {
    /// Checks the layers from discovery to a request. Returns the servers that were checked.
    pub(super) async fn check(&self, remembered: Vec<SocketAddr>, diagnosis: &mut Diagnosis) -> Vec<Target> {
        let serves = self.serves().await;
        let is_candidate = serves || self.is_candidate();
        let named = resolve(&self.config.peers.gateway, diagnosis).await;
        let mut names = self.names();
        let (mut gateways, mut discovered) = self.discover(&remembered, is_candidate, &mut names).await;
        let is_new = |address: &SocketAddr| !gateways.iter().any(|known| known.addresses.contains(address));
        let named: Vec<_> =
            named.into_iter().filter(is_new).map(|address| Known::at(address, Origin::Named)).collect();
        gateways.extend(named);
        let is_silent = gateways.is_empty() && !is_candidate;
        if is_silent {
            // No gateway answers discovery, but those used before may still accept links.
            let is_new =
                |address: &SocketAddr| !gateways.iter().any(|known| known.addresses.contains(address));
            let more: Vec<_> = remembered.into_iter().filter(is_new).collect();
            gateways.extend(more.into_iter().map(|address| Known::at(address, Origin::Remembered)));
        } else {
            diagnosis.extend(std::mem::take(&mut discovered));
        }
        let mut found = Vec::new();
        let waiting = progress::waiting("linking to the gateways");
        let mut linked =
            gateways::link(self.group, &gateways, &names, self.filter, self.lans, &mut found).await;
        drop(waiting);
        let unreaching = linked.iter().filter(|gateway| gateway.reach() == Some("unreachable"));
        let unreaching: Vec<_> = unreaching.map(Linked::name).collect();
        diagnosis.extend(match unreaching.is_empty() {
            true => discovered,
            false => discovery::excused(discovered, &unreaching),
        });
        if found.is_empty() {
            let what = match is_candidate {
                true => "this machine is a gateway itself",
                false => "there is no gateway to link to",
            };
            found.push(Finding::skipped(Layer::Link, what));
        }
        let names: Vec<_> = linked.iter().map(Linked::name).collect();
        found.extend(self.node.and_then(|node| running::without_link(node, &names)));
        found.extend(gateways::twins(&mut linked, &self.group.node.name, self.node).await);
        diagnosis.extend(std::mem::take(&mut found));
        gateways::clocks(&linked, &mut found);
        diagnosis.extend(std::mem::take(&mut found));

        let reported =
            linked.iter().flat_map(|gateway| gateway.about.iter().flat_map(|about| &about.servers));
        let reported: BTreeSet<Target> = reported.filter_map(|server| server.parse().ok()).collect();
        let useful = gateways::reach(&linked, &self.own_servers(), &mut found).await;
        found.extend(gateways::unused(&linked));
        found.extend(running::maintenance(self.node, self.in_maintenance));
        if is_candidate && !serves && !self.is_in_maintenance() {
            found.extend(self.unreachable_server().await);
        }
        let missed = if serves { self.missed() } else { Vec::new() };
        if let Some(server) = missed.first() {
            let finding = self.directly(server).await;
            let is_wrong = finding.verdict == Verdict::Wrong;
            found.extend(is_wrong.then(|| if_mistyped(Finding { layer: Layer::Gateway, ..finding }, server)));
        }
        if found.is_empty() {
            found.push(match serves {
                true => Finding::ok(Layer::Gateway, "this machine reaches its servers itself"),
                false => Finding::skipped(Layer::Gateway, "there is no gateway to ask"),
            });
        }
        diagnosis.extend(found);
        let servers = self.servers(&reported);
        let is_missed = |server: &Target| match serves {
            true => missed.first() == Some(server),
            false => !linked.is_empty() && linked.iter().all(|gateway| gateway.misses(&server.to_string())),
        };
        let asked = servers.iter().filter(|server| self.asked.contains(server) || !is_missed(server));
        let asked: Vec<Target> = asked.cloned().collect();
        self.request(&asked, &linked, serves, useful, diagnosis).await;
        if let Some(node) = self.node {
            diagnosis.extend(fronts::check(node).await);
        }
        servers
    }

    fn is_in_maintenance(&self) -> bool {
        self.node.map_or(self.in_maintenance, |node| node.seen.node.in_maintenance)
    }

    /// Whether this machine reaches the servers itself: its node says so, or would.
    async fn serves(&self) -> bool {
        if let Some(node) = self.node {
            return node.seen.node.goes_direct;
        }
        if !self.may_serve {
            return false;
        }
        for server in &self.config.gateway.server {
            let connected = timeout(CONNECT_DEADLINE, mark::connect_to(&server.to_string())).await;
            if matches!(connected, Ok(Ok(_))) {
                return true;
            }
        }
        self.config.node.role == RoleSetting::Gateway && self.config.gateway.server.is_empty()
    }

    /// Whether this machine is a candidate, even if it reaches no server at the moment.
    fn is_candidate(&self) -> bool {
        match self.node {
            Some(node) => node.is_candidate(),
            None => self.may_serve && self.config.node.role == RoleSetting::Gateway,
        }
    }

    /// The servers that this command was given, else those of the running node, else of the configuration.
    fn own_servers(&self) -> Vec<Target> {
        if self.asked.is_empty() { self.configured() } else { self.asked.to_vec() }
    }

    /// Adds to the hint about a server that is not reached that this machine's `--server` may be wrong, if it names that server.
    fn if_mistyped(&self, finding: Finding, server: &Target) -> Finding {
        if self.configured().contains(server) { if_mistyped(finding, server) } else { finding }
    }

    /// The servers of the gateway on this machine that its last probe did not reach.
    fn missed(&self) -> Vec<Target> {
        let unreached = self.node.iter().flat_map(|node| &node.seen.unreached);
        let unreached: Vec<_> = unreached.map(|fault| fault.server.as_str()).collect();
        self.configured()
            .into_iter()
            .filter(|server| unreached.contains(&server.to_string().as_str()))
            .collect()
    }

    /// The servers of the running node, else of the configuration.
    fn configured(&self) -> Vec<Target> {
        match self.node {
            Some(node) => node.seen.servers.iter().filter_map(|server| server.parse().ok()).collect(),
            None => self.config.gateway.server.clone(),
        }
    }

    /// Why this candidate is not a gateway now: the first server that it does not reach.
    async fn unreachable_server(&self) -> Option<Finding> {
        for server in self.own_servers() {
            let finding = self.directly(&server).await;
            if finding.verdict == Verdict::Wrong {
                return Some(self.if_mistyped(Finding { layer: Layer::Gateway, ..finding }, &server));
            }
        }
        None
    }

    /// Sends a request from this machine, whose firewall may be in the way, or whose neighbours may be gone.
    async fn directly(&self, server: &Target) -> Finding {
        let outcome = request::outcome(&Route::Direct, server).await;
        let is_silent = outcome
            .as_ref()
            .is_err_and(|failure| matches!(failure.kind, Kind::ConnectTimeout | Kind::HostUnreachable));
        let finding = request::judge(&Route::Direct, server, outcome);
        let Some(address) = server.address() else { return finding };
        let hint = finding.hint.clone();
        let finding = filtering::explain(finding, self.filter, "tcp", &[address]).await;
        match is_silent && finding.hint == hint {
            true => neighbours::explain_silence(finding, address).await,
            false => finding,
        }
    }

    /// The first server of this machine's configuration that it does not reach, and why.
    async fn unreached_failure(&self) -> Option<(Target, Failure)> {
        for server in self.configured() {
            if let Err(failure) = request::directly(&server).await {
                return Some((server, failure));
            }
        }
        None
    }

    async fn discover(
        &self,
        remembered: &[SocketAddr],
        is_candidate: bool,
        names: &mut BTreeMap<SocketAddr, String>,
    ) -> (Vec<Known>, Vec<Finding>) {
        let nothing = |finding| (Vec::new(), vec![finding]);
        if self.lans.is_empty() {
            return nothing(Finding::skipped(Layer::Discovery, "there is no network to discover on"));
        }
        let known = self.known(remembered);
        let waiting = progress::waiting("asking the LAN for gateways");
        let survey = survey::look(survey::Options {
            group: self.group.clone().into(),
            port: self.config.peers.discovery_port,
            lans: self.config.peers.lan.clone(),
            known: known.iter().flatten().copied().collect(),
            time: SURVEY_TIME,
            patience: if self.node.is_some() { PATIENCE } else { Duration::ZERO },
        });
        let survey = survey.await;
        drop(waiting);
        let survey = match survey {
            Ok(survey) => survey,
            Err(error) => {
                let problem = Problem::new("discovery queries cannot be sent").because(error);
                return nothing(Finding::problem(Layer::Discovery, problem));
            }
        };
        let unreached = if survey.gateways.is_empty() { self.unreached_failure().await } else { None };
        let facts = discovery::Facts {
            port: self.config.peers.discovery_port,
            firewall: self.firewall,
            is_open: self
                .filter
                .is_some_and(|filter| filter.admits_discovery(self.config.peers.discovery_port)),
            node: self.node,
            named: !self.config.peers.gateway.is_empty(),
            is_candidate,
            known: &known,
            lans: self.lans,
            unreached,
        };
        let found = discovery::judge(&survey, &facts);
        names.extend(survey.gateways.iter().map(|seen| (seen.link, seen.name.clone())));
        (self.addresses(&survey), found)
    }

    /// The gateways that were found, each with its addresses: those that links of the running node use, then those that
    /// announcements came from, IPv4 first.
    fn addresses(&self, survey: &Survey) -> Vec<Known> {
        let used: Vec<SocketAddr> = self
            .node
            .iter()
            .flat_map(|node| &node.seen.links)
            .filter_map(|link| link.address.parse().ok())
            .collect();
        let each = survey.links().into_iter().map(|gateway| {
            let mut all: Vec<_> = survey.gateways.iter().filter(|seen| seen.id == gateway.id).collect();
            all.sort_by_key(|seen| {
                (!used.contains(&seen.link), seen.link.is_ipv6(), !seen.beacon, seen.link)
            });
            Known {
                origin: Origin::Announced(gateway.id),
                addresses: all.into_iter().map(|seen| seen.link).collect(),
            }
        });
        each.collect()
    }

    /// The names of gateways by their addresses, as the node that runs here knows them.
    fn names(&self) -> BTreeMap<SocketAddr, String> {
        let mut names = BTreeMap::new();
        for gateway in self.node.iter().flat_map(|node| &node.seen.gateways) {
            let all = [&gateway.address].into_iter().chain(&gateway.other_addresses);
            let named = all.filter_map(|address| Some((address.parse().ok()?, gateway.name.clone()?)));
            names.extend(named);
        }
        names
    }

    /// The gateways that were known before the survey, each as its addresses, without this machine.
    fn known(&self, remembered: &[SocketAddr]) -> Vec<Vec<SocketAddr>> {
        let own = net::own_addresses().unwrap_or_default();
        let seen = self.node.iter().flat_map(|node| &node.seen.gateways);
        let addresses = |gateway: &GatewaySeen| {
            let all = [&gateway.address].into_iter().chain(&gateway.other_addresses);
            all.filter_map(|address| address.parse().ok()).collect()
        };
        let mut known: Vec<Vec<SocketAddr>> = seen.map(addresses).collect();
        for address in remembered {
            if !known.iter().flatten().any(|seen| seen == address) {
                known.push(vec![*address]);
            }
        }
        known.iter_mut().for_each(|addresses| addresses.retain(|address| !own.contains(&address.ip())));
        known.retain(|addresses| !addresses.is_empty());
        known
    }

    /// The servers to send a request to: this machine's own, else those that gateways `reported`, else the destination
    /// that apps used most.
    fn servers(&self, reported: &BTreeSet<Target>) -> Vec<Target> {
        let own = self.own_servers();
        let used = self.node.iter().flat_map(|node| &node.seen.apps.destinations);
        let used = used.filter_map(|destination| destination.target.parse().ok());
        match (own.is_empty(), reported.is_empty()) {
            (false, _) => own.iter().take(MAX_SERVERS).cloned().collect(),
            (true, false) => reported.iter().take(MAX_SERVERS).cloned().collect(),
            (true, true) => used.take(1).collect(),
        }
    }

    async fn request(
        &self,
        servers: &[Target],
        linked: &[Linked],
        serves: bool,
        useful: bool,
        diagnosis: &mut Diagnosis,
    ) {
        let reaching = linked.iter().find(|gateway| gateway.may_serve());
        let route = match (self.node, reaching) {
            _ if !serves && linked.is_empty() => {
                return diagnosis.skip(&[Layer::Request], "there is no link to a gateway");
            }
            _ if !serves && !useful => {
                return diagnosis.skip(&[Layer::Request], "no gateway reaches a server");
            }
            (Some(node), _) => through(node, self.config),
            (None, _) if serves => Route::Direct,
            (None, Some(gateway)) => Route::Link(gateway),
            (None, None) => return diagnosis.skip(&[Layer::Request], "no gateway reaches a server"),
        };
        // A gateway for any destination has none of its own, and the layer of its way out tells how it does.
        if servers.is_empty() && serves {
            return;
        }
        if servers.is_empty() {
            return diagnosis.skip(&[Layer::Request], NO_SERVER);
        }
        for server in servers {
            let finding = request::send(&route, server).await;
            diagnosis.add(match finding.verdict {
                Verdict::Wrong => self.if_mistyped(finding, server),
                _ => finding,
            });
        }
    }
}

/// Adds to what can be done that this machine's `--server` may be wrong.
fn if_mistyped(mut finding: Finding, server: &Target) -> Finding {
    finding.hint = finding.hint.map(|hint| gateways::or_mistyped(server, None, &hint));
    finding
}

/// Sends requests through the node that runs here, which needs no keys. Returns the servers that were asked for: those of
/// this command, else those that the node says are its own.
pub(super) async fn ask_node(
    node: &Node,
    config: &Config,
    asked: &[Target],
    diagnosis: &mut Diagnosis,
) -> Vec<Target> {
    let own = node.seen.servers.iter().filter_map(|server| server.parse().ok());
    let mut servers: Vec<Target> = if asked.is_empty() { own.collect() } else { asked.to_vec() };
    servers.truncate(MAX_SERVERS);
    if servers.is_empty() {
        diagnosis.skip(&[Layer::Request], NO_SERVER);
    }
    let route = through(node, config);
    for server in &servers {
        diagnosis.add(request::send(&route, server).await);
    }
    servers
}

/// The route through the node that runs here.
fn through(node: &Node, config: &Config) -> Route<'static> {
    let used = node.seen.links.first().filter(|_| !node.seen.node.goes_direct);
    Route::LocalPort {
        proxy: node.proxy,
        login: config.local.proxy_login.first().map(Login::basic),
        gateway: used.map(|link| link.name.clone()),
    }
}

/// The addresses of the gateways of `--gateway`.
async fn resolve(gateways: &[Target], diagnosis: &mut Diagnosis) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for gateway in gateways {
        match net::lookup(&gateway.to_string()).await {
            Ok(addresses) => found.extend(addresses),
            Err(error) => diagnosis.add(
                Finding::wrong(Layer::Discovery, format!("the gateway {gateway} has no address"))
                    .because(error.to_string())
                    .hint("name it by its address, or add it to /etc/hosts"),
            ),
        }
    }
    found
}
