//! `laneway doctor`: checks one layer after another, each of which depends on those before it, and says what is wrong and
//! how to fix it. It works beside a running node and changes nothing.

mod discovery;
mod environment;
mod filtering;
pub(super) mod firewall;
mod fronts;
mod gateways;
mod legacy;
mod machine;
mod name_servers;
mod neighbours;
mod program;
mod remedies;
mod remote;
mod report;
mod request;
mod ruleset;
mod running;
mod services;
mod storage;
mod tracking;
mod unlinked;
mod way_out;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::{ask, beside, say};
use crate::config::proxies::{Fault, configured_proxies};
use crate::config::{Config, RoleSetting};
use crate::control;
use crate::local::endpoint::Endpoint;
use crate::peers::remembered;
use crate::problem::Problem;
use crate::sys::state::StateDir;
use crate::trust::group::{self, Group};
use crate::wire::target::{Target, configured};
use environment::Settings;
use filtering::Filter;
use firewall::Firewall;
use machine::Node;
pub(super) use remedies::OTHER_GROUP;
use remote::Remote;
use report::{Diagnosis, Finding, Layer};

/// `laneway doctor`
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// The server to send a real request to; repeatable [default: those of the configuration, else of the gateways]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = configured)]
    server: Vec<Target>,
    /// Print the findings as one line of JSON
    #[arg(long)]
    json: bool,
    /// The local proxy of the node [default: as configured, else 127.0.0.1:1080]
    #[arg(long, value_name = "ADDR:PORT")]
    proxy: Option<SocketAddr>,
    /// A gateway to check even if discovery does not find it; repeatable [default: as configured]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = crate::peers::options::gateway)]
    gateway: Vec<Target>,
    /// The UDP port of discovery [default: as configured, else 7420]
    #[arg(long, value_name = "PORT")]
    discovery_port: Option<u16>,
    /// An interface or local address to discover on; repeatable [default: as configured, else all except loopback]
    #[arg(long, value_name = "NAME|ADDR", value_delimiter = ',')]
    lan: Vec<String>,
    /// The configuration file [default: ~/.config/laneway/laneway.toml, else /etc/laneway/laneway.toml]
    #[arg(long, env = "LANEWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The layers that cannot be checked without a group.
const NEED_GROUP: [Layer; 5] = [Layer::Discovery, Layer::Link, Layer::Clock, Layer::Gateway, Layer::Request];

impl Doctor {
    /// Checks all layers and prints the findings. `state` is the state directory, if it was named.
    ///
    /// # Errors
    /// When something is wrong: in which layers.
    pub async fn run(self, state: Option<PathBuf>) -> Result<(), Problem> {
        let mut diagnosis = Diagnosis::new(self.json);
        let place = state.clone().or_else(|| StateDir::default_path().ok()).unwrap_or_default();
        let opened = storage::within(storage::PATIENCE, move || beside::state_directory(state.as_deref()));
        let state = opened.unwrap_or_else(|| Err(storage::unanswered_state(&place)));
        self.check(state, &mut diagnosis).await;
        let wrong = diagnosis.finish();
        if self.json {
            let line = diagnosis.json();
            say(line.map_err(|error| Problem::new("the findings cannot be written").because(error))?);
        }
        match wrong.first() {
            None => Ok(()),
            Some(first) => Err(Problem::new(format!("something is wrong: {}", wrong.join(", ")))
                .hint(format!("begin with the first, {first}: the others may follow from it"))),
        }
    }

    async fn check(&self, state: Result<StateDir, Problem>, diagnosis: &mut Diagnosis) {
        let running = state.as_ref().ok().and_then(|state| control::running_proxies(state.path()));
        let mut config = self.configuration(running.as_deref(), diagnosis);
        if let (Some(config), Some(running), None) = (&mut config, &running, self.proxy) {
            config.local.proxy = running.iter().copied().map(Endpoint::Tcp).collect();
        }
        let (proxies, mut servers) = match &config {
            Some(config) => (proxies(config), config.gateway.server.clone()),
            None => {
                let found = || configured_proxies(self.config.as_deref()).addresses;
                let addresses = self.proxy.map_or_else(found, |proxy| vec![proxy]);
                (addresses.into_iter().map(ask::reachable).collect(), self.server.clone())
            }
        };
        if let Some(config) = &config {
            let asked = Question { config, servers: &self.server, running: running.as_deref() };
            servers.extend(layers(asked, state, diagnosis).await);
        } else {
            let why = "the configuration is not valid";
            diagnosis.skip(&[Layer::Group, Layer::Interfaces, Layer::Ports], why);
            diagnosis.skip(&NEED_GROUP, why);
        }
        diagnosis.extend(Settings::of_this_process().bypasses(&proxies, &servers));
    }

    /// The flags of this command that mean the same to `laneway up`. `--server` is none: here it names where a request is sent.
    fn flags(&self) -> Vec<OsString> {
        fn flag(name: &str, value: impl fmt::Display) -> OsString {
            format!("--{name}={value}").into()
        }
        let proxy = self.proxy.map(|proxy| flag("proxy", proxy));
        let port = self.discovery_port.map(|port| flag("discovery-port", port));
        let gateways = self.gateway.iter().map(|gateway| flag("gateway", gateway));
        let lans = self.lan.iter().map(|lan| flag("lan", lan));
        proxy.into_iter().chain(port).chain(gateways).chain(lans).collect()
    }

    /// The configuration that `laneway up` would have here without flags, with the flags of this command.
    fn configuration(&self, running: Option<&[SocketAddr]>, diagnosis: &mut Diagnosis) -> Option<Config> {
        let config = Config::of_flags(&self.flags(), self.config.as_deref());
        match config {
            Ok(config) => {
                let role = config.node.role.word();
                let servers: Vec<_> = config.gateway.server.iter().map(Target::to_string).collect();
                let servers = if servers.is_empty() { "none".into() } else { servers.join(", ") };
                let what = format!("valid; 'laneway up' without options has role {role}, servers {servers}");
                diagnosis.add(refused(running).unwrap_or_else(|| Finding::ok(Layer::Configuration, what)));
                Some(config)
            }
            Err(problem) => {
                let mut finding = Finding::problem(Layer::Configuration, problem);
                let found = configured_proxies(self.config.as_deref());
                let mut addresses = self.proxy.into_iter().chain(found.addresses).map(ask::reachable);
                let mut config = None;
                if found.fault.is_some_and(|fault| fault.is_invalid)
                    && let Some((address, node)) =
                        addresses.find_map(|address| Some((address, ask::snapshot(address).ok()?)))
                {
                    // It runs with what it read before, so that the other layers can be checked.
                    config = Config::without_file(&self.flags()).ok();
                    if let Some(config) = &mut config {
                        config.local.proxy = vec![Endpoint::Tcp(address)];
                        let peers = &mut config.peers;
                        let port = self.discovery_port.or(node.node.discovery_port);
                        peers.discovery_port = port.unwrap_or(peers.discovery_port);
                        if self.lan.is_empty() {
                            peers.lan.clone_from(&node.node.lan);
                        }
                    }
                    finding = finding.because(format!(
                        "the node {} runs here: {}",
                        node.node.name,
                        Fault::FOR_THE_NODE
                    ));
                }
                diagnosis.add(finding);
                config
            }
        }
    }
}

/// The finding that the node which runs here refused its configuration when it read it last: its file may be another one than
/// that of this command.
fn refused(running: Option<&[SocketAddr]>) -> Option<Finding> {
    let mut seen = running?.iter().filter_map(|proxy| ask::snapshot(ask::reachable(*proxy)).ok());
    let why = seen.find_map(|seen| seen.refused_configuration)?;
    let what = "the node that runs here refused its configuration at the last reload, and goes on with the one from before";
    let hint = "correct the file that the node was started with, and reload once more";
    Some(Finding::wrong(Layer::Configuration, what).because(why).hint(hint))
}

/// What the layers depend on.
struct Question<'a> {
    config: &'a Config,
    /// The servers that this command was given.
    servers: &'a [Target],
    /// Where the local proxy of the node listens that runs with this state directory.
    running: Option<&'a [SocketAddr]>,
}

/// Checks the layers from the group to a request. Returns the servers that were checked.
async fn layers(
    asked: Question<'_>,
    state: Result<StateDir, Problem>,
    diagnosis: &mut Diagnosis,
) -> Vec<Target> {
    let Question { config, servers, running } = asked;
    let mut found = Vec::new();
    let place = state.as_ref().ok().map(|state| state.path().to_owned());
    let remembered = state.as_ref().map(remembered::load).unwrap_or_default();
    let in_maintenance = state.as_ref().is_ok_and(control::is_in_maintenance);
    let (group, is_removed) = machine::member(state, &mut found).await;
    if let Some(group) = &group {
        machine::role(config, group, &mut found);
    }
    found.extend(place.iter().filter(|_| group.is_some()).flat_map(|place| storage::check(place, running)));
    let is_stored = found.iter().all(|finding| finding.verdict != report::Verdict::Wrong);
    let may_run = found
        .iter()
        .filter(|finding| finding.layer != Layer::Storage)
        .all(|finding| finding.verdict != report::Verdict::Wrong);
    diagnosis.extend(std::mem::take(&mut found));
    let lans = machine::interfaces(config, &mut found);
    diagnosis.extend(std::mem::take(&mut found));
    let may_serve = group.as_ref().is_some_and(|group| may_serve(config, group));
    let own = machine::InstalledNode { group: group.as_ref(), running };
    let node = machine::ports(config, own, &lans, may_serve, &mut found);
    if node.is_none() && may_run && found.iter().all(|finding| finding.verdict != report::Verdict::Wrong) {
        let lacks_option = config.gateway.server.is_empty() && config.node.role == RoleSetting::Auto;
        let may_be_one =
            lacks_option && group.as_ref().is_some_and(|group| group.node.role == group::Role::Gateway);
        found.push(running::absent(running.is_some(), place.as_deref(), may_be_one));
    }
    // By the automatic role, one that does not reach its servers is a client.
    let is_gateway = node.as_ref().map_or(may_serve, Node::is_candidate);
    // With the layer that it belongs to.
    found.splice(0..0, machine::without_carrier(config, &lans, is_gateway));
    found.extend(running::unusable_files(config, is_gateway));
    let firewall = Firewall::detect();
    found.extend(node.iter().filter(|_| is_stored).flat_map(|node| storage::of_node(&node.seen)));
    found.extend(node.as_ref().and_then(running::crowded));
    found.extend(node.as_ref().and_then(|node| running::link_address(node, &lans)));
    found.extend(machine::firewall(config.peers.discovery_port, is_gateway));
    found.extend(tracking::check());
    let filter = Filter::new(firewall.as_ref(), &lans);
    if let Some(filter) = &filter {
        found.extend(filtering::check(filter, config, is_gateway, node.as_ref()));
    }
    found.extend(beyond(config, node.as_ref(), is_gateway, filter.as_ref()).await);
    diagnosis.extend(found);
    if is_removed {
        diagnosis.skip(&NEED_GROUP, "no member of the group accepts this machine any more");
        return Vec::new();
    }
    let Some(group) = group else {
        let why = "it needs the keys of this machine's group";
        let Some(node) = node else {
            diagnosis.skip(&NEED_GROUP, why);
            return Vec::new();
        };
        diagnosis.skip(&NEED_GROUP[..NEED_GROUP.len() - 1], why);
        return remote::ask_node(&node, config, servers, diagnosis).await;
    };
    let remote = Remote {
        config,
        asked: servers,
        group: &group,
        node: node.as_ref(),
        firewall: firewall.as_ref(),
        filter: filter.as_ref(),
        lans: &lans,
        may_serve,
        in_maintenance,
    };
    remote.check(remembered, diagnosis).await
}

/// The findings about what a gateway reaches beyond its networks: its way out, and its name servers.
async fn beyond(
    config: &Config,
    node: Option<&Node>,
    is_gateway: bool,
    filter: Option<&Filter<'_>>,
) -> impl Iterator<Item = Finding> {
    let names = match is_gateway {
        true => name_servers::check(config, node, filter).await,
        false => None,
    };
    let way_out = match node {
        Some(node) => way_out::check(node, config, names.as_ref(), filter).await,
        None => None,
    };
    let verdict = way_out
        .as_ref()
        .map(|finding| finding.verdict)
        .filter(|verdict| *verdict != report::Verdict::Skipped);
    way_out.into_iter().chain(names.map(|names| names.beside(verdict)))
}

/// The first port of a node that another program has, or a node other than the one that is asked for.
pub(super) fn ports_in_use(config: &Config) -> Option<Problem> {
    let mut found = Vec::new();
    let lans = crate::lan::lans(&config.peers.lan).unwrap_or_default();
    if let Some(node) = machine::ports(config, machine::InstalledNode::default(), &lans, true, &mut found) {
        return Some(
            Problem::new(format!("a node runs here already: {} on {}", node.seen.node.name, node.proxy))
                .hint("stop it, with Ctrl-C in its terminal or 'laneway service stop' as its user"),
        );
    }
    let wrong = found.into_iter().find(|finding| finding.verdict == report::Verdict::Wrong)?;
    let problem =
        wrong.why.into_iter().fold(Problem::new(wrong.what), |all, why| all.after(Problem::new(why)));
    Some(match wrong.hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    })
}

/// The TCP addresses of the local proxy, as software on this machine reaches them.
fn proxies(config: &Config) -> Vec<SocketAddr> {
    let tcp = config.local.proxy.iter().filter_map(|endpoint| match endpoint {
        Endpoint::Tcp(address) => Some(ask::reachable(*address)),
        Endpoint::Unix(_) => None,
    });
    tcp.collect()
}

/// Whether the configuration and the certificate make this machine a possible gateway.
fn may_serve(config: &Config, group: &Group) -> bool {
    let serves = config.node.role == RoleSetting::Gateway
        || config.node.role == RoleSetting::Auto && !config.gateway.server.is_empty();
    serves && group.node.role == group::Role::Gateway
}
