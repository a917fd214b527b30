//! `laneway doctor`: looks at one layer after the other, each of which rests on those before it, and says what is wrong and
//! what fixes it. It asks beside a running node and changes nothing.

mod discovery;
mod environment;
mod firewall;
mod gateways;
mod holder;
mod machine;
mod report;
mod request;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{progress, say};
use crate::config::{Config, Role, Typed};
use crate::lan::Lan;
use crate::local::endpoint::Endpoint;
use crate::local::logins::Login;
use crate::peers::{remembered, survey};
use crate::problem::Problem;
use crate::trust::group::{self, Group};
use crate::trust::state::StateDir;
use crate::wire::id::NodeId;
use crate::wire::target::Target;
use environment::Places;
use firewall::Firewall;
use gateways::Linked;
use machine::Node;
use report::{Finding, Layer, Report, Verdict};
use request::Way;

/// How long the LAN is looked at: more than the second between two beacons.
const LOOK: Duration = Duration::from_millis(1800);
/// How long a server may take to be reached from here.
const REACH: Duration = Duration::from_secs(2);
/// How many servers are sent a request.
const MOST_SERVERS: usize = 4;

/// `laneway doctor`
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// The server to send a real request to; repeatable [default: those of the configuration, else of the gateways]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    server: Vec<Target>,
    /// Print all of it as one line of JSON
    #[arg(long)]
    json: bool,
    /// The local proxy of the node [default: what the configuration says, else 127.0.0.1:1080]
    #[arg(long, value_name = "ADDR:PORT")]
    proxy: Option<SocketAddr>,
    /// A gateway that is tried, found or not; repeatable [default: what the configuration says]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    gateway: Vec<Target>,
    /// The UDP port of discovery [default: what the configuration says, else 7420]
    #[arg(long, value_name = "PORT")]
    discovery_port: Option<u16>,
    /// An interface or a local address to discover on; repeatable [default: what the configuration says, else all but
    /// loopback]
    #[arg(long, value_name = "NAME|ADDR", value_delimiter = ',')]
    lan: Vec<String>,
    /// The configuration file [default: ~/.config/laneway/laneway.toml, else /etc/laneway/laneway.toml]
    #[arg(long, env = "LANEWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The options of `laneway up` as they are in the environment.
#[derive(Debug, clap::Parser)]
struct Environment {
    #[command(flatten)]
    typed: Typed,
}

/// What is found, shown as it comes.
struct Walk {
    json: bool,
    report: Report,
}

impl Doctor {
    /// Walks, and prints.
    ///
    /// # Errors
    /// When something is wrong: in which layers.
    pub async fn run(self, state: Result<StateDir, Problem>) -> Result<(), Problem> {
        let mut walk = Walk { json: self.json, report: Report::default() };
        self.walk(state, &mut walk).await;
        let wrong = walk.report.wrong();
        walk.report.ok = wrong.is_empty();
        if self.json {
            let line = serde_json::to_string(&walk.report);
            say(line.map_err(|error| Problem::new("the findings cannot be written").because(error))?);
        }
        match wrong.first() {
            None => Ok(()),
            Some(first) => Err(Problem::new(format!("something is wrong: {}", wrong.join(", ")))
                .hint(format!("begin with the first, {first}: what comes later may follow from it"))),
        }
    }

    async fn walk(&self, state: Result<StateDir, Problem>, walk: &mut Walk) {
        let config = self.configuration(walk);
        let (proxies, mut servers) = match &config {
            Some(config) => (proxies(config), config.servers.clone()),
            None => {
                (vec![SocketAddr::from(([127, 0, 0, 1], crate::config::PROXY_PORT))], self.server.clone())
            }
        };
        if let Some(config) = &config {
            let known = self.layers(config, state, walk).await;
            servers.extend(known);
        } else {
            walk.skip(&[Layer::Group, Layer::Interfaces, Layer::Ports], "the configuration is not valid");
            walk.skip(&BEYOND, "the configuration is not valid");
        }
        walk.all(Places::own().traps(&proxies, &servers));
    }

    /// What `laneway up` would be told, but for its flags.
    fn configuration(&self, walk: &mut Walk) -> Option<Config> {
        let typed = Environment::try_parse_from(["laneway"]).map(|environment| environment.typed);
        let typed = typed.map_err(|error| {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Problem::usage(line).hint("correct that variable, LANEWAY_…, or unset it")
        });
        let config = typed.and_then(|mut typed| {
            typed.proxy = self.proxy.map(Endpoint::Tcp).map_or(typed.proxy, |proxy| vec![proxy]);
            typed.discovery_port = self.discovery_port.or(typed.discovery_port);
            let set = |mine: &Vec<Target>, list: &mut Vec<Target>| {
                if !mine.is_empty() {
                    list.clone_from(mine);
                }
            };
            set(&self.server, &mut typed.server);
            set(&self.gateway, &mut typed.gateway);
            if !self.lan.is_empty() {
                typed.lan.clone_from(&self.lan);
            }
            Config::new(typed, self.config.as_deref())
        });
        match config {
            Ok(config) => {
                let role = match config.role {
                    Role::Auto => "auto",
                    Role::Client => "client",
                    Role::Gateway => "gateway",
                };
                let servers: Vec<_> = config.servers.iter().map(Target::to_string).collect();
                let servers = if servers.is_empty() { "none".into() } else { servers.join(", ") };
                walk.one(Finding::ok(Layer::Configuration, format!("valid: role {role}, servers {servers}")));
                Some(config)
            }
            Err(problem) => {
                walk.one(Finding::problem(Layer::Configuration, problem));
                None
            }
        }
    }

    /// From the group to a server; gives the servers that gateways told of.
    async fn layers(
        &self,
        config: &Config,
        state: Result<StateDir, Problem>,
        walk: &mut Walk,
    ) -> Vec<Target> {
        let mut found = Vec::new();
        let known = state.as_ref().map(remembered::load).unwrap_or_default();
        let group = match state {
            Ok(state) => machine::group(Ok(&state), &mut found),
            Err(problem) => machine::group(Err(problem), &mut found),
        };
        if let Some(group) = &group {
            machine::role(config, group, &mut found);
        }
        walk.all(std::mem::take(&mut found));
        let lans = machine::interfaces(config, &mut found);
        walk.all(std::mem::take(&mut found));
        let may_serve = group.as_ref().is_some_and(|group| may_serve(config, group));
        let node = machine::ports(config, &lans, may_serve, &mut found);
        walk.all(found);
        let Some(group) = group else {
            walk.skip(&BEYOND, "this machine is in no group");
            return Vec::new();
        };
        let firewall = Firewall::found();
        let here =
            Here { config, group: &group, node: node.as_ref(), firewall: firewall.as_ref(), lans: &lans };
        here.beyond(known, may_serve, walk).await
    }
}

/// The layers that need a group.
const BEYOND: [Layer; 5] = [Layer::Discovery, Layer::Link, Layer::Clock, Layer::Gateway, Layer::Request];

/// What is known of this machine.
struct Here<'a> {
    config: &'a Config,
    group: &'a Group,
    node: Option<&'a Node>,
    firewall: Option<&'a Firewall>,
    lans: &'a [Lan],
}

impl Here<'_> {
    /// What is beyond this machine; gives the servers that gateways told of.
    async fn beyond(&self, known: Vec<SocketAddr>, may_serve: bool, walk: &mut Walk) -> Vec<Target> {
        let serves = self.serves(may_serve).await;
        let stands = serves || self.stands(may_serve);
        let named = resolved(&self.config.gateways, walk).await;
        let mut gateways = self.discover(&known, stands, walk).await;
        gateways.extend(named.into_iter().map(|address| (address, None)));
        if gateways.is_empty() && !stands {
            // Nobody speaks: those that were used before may still take links.
            gateways.extend(known.into_iter().map(|address| (address, None)));
        }
        let mut found = Vec::new();
        let waiting = progress::waiting("linking with the gateways");
        let linked = gateways::link(self.group, &gateways, self.firewall, &mut found).await;
        drop(waiting);
        if found.is_empty() {
            let what =
                if stands { "this machine is a gateway itself" } else { "there is no gateway to link with" };
            found.push(Finding::skipped(Layer::Link, what));
        }
        walk.all(std::mem::take(&mut found));
        gateways::clocks(&linked, &mut found);
        walk.all(std::mem::take(&mut found));

        let told = linked.iter().flat_map(|gateway| gateway.about.iter().flat_map(|about| &about.servers));
        let told: BTreeSet<Target> = told.filter_map(|server| server.parse().ok()).collect();
        let useful = gateways::reach(&linked, &self.config.servers, &mut found).await;
        if stands && !serves {
            found.extend(self.cut_off().await);
        }
        if found.is_empty() {
            let what =
                if serves { "this machine reaches its servers itself" } else { "there is no gateway to ask" };
            let finding = if serves {
                Finding::ok(Layer::Gateway, what)
            } else {
                Finding::skipped(Layer::Gateway, what)
            };
            found.push(finding);
        }
        walk.all(found);
        let servers = self.servers(&told);
        self.request(&servers, &linked, serves, useful, walk).await;
        servers
    }

    /// Whether this machine is a way out: its node says so, or would.
    async fn serves(&self, may_serve: bool) -> bool {
        if let Some(node) = self.node {
            return node.seen.node.goes_direct;
        }
        if !may_serve {
            return false;
        }
        for server in &self.config.servers {
            if matches!(timeout(REACH, TcpStream::connect(server.to_string())).await, Ok(Ok(_))) {
                return true;
            }
        }
        self.config.role == Role::Gateway && self.config.servers.is_empty()
    }

    /// Whether it is to be one, and may not reach a server just now.
    fn stands(&self, may_serve: bool) -> bool {
        match self.node {
            Some(node) => node.seen.node.state.is_some(),
            None => may_serve && self.config.role == Role::Gateway,
        }
    }

    /// The servers that this machine was told of, or its node.
    fn own_servers(&self) -> Vec<Target> {
        let told = self.node.iter().flat_map(|node| &node.seen.servers);
        match self.config.servers.is_empty() {
            true => told.filter_map(|server| server.parse().ok()).collect(),
            false => self.config.servers.clone(),
        }
    }

    /// Why this machine is no gateway now that is to be one.
    async fn cut_off(&self) -> Option<Finding> {
        for server in self.own_servers() {
            let finding = request::send(&Way::Direct, &server).await;
            if finding.verdict == Verdict::Wrong {
                return Some(Finding { layer: Layer::Gateway, ..finding });
            }
        }
        None
    }

    async fn discover(
        &self,
        known: &[SocketAddr],
        serves: bool,
        walk: &mut Walk,
    ) -> BTreeMap<SocketAddr, Option<NodeId>> {
        if self.lans.is_empty() {
            walk.skip(&[Layer::Discovery], "there is no network to ask on");
            return BTreeMap::new();
        }
        let seen = self.node.iter().flat_map(|node| &node.seen.gateways);
        let seen = seen.flat_map(|gateway| [&gateway.address].into_iter().chain(&gateway.other_addresses));
        let seen = seen.filter_map(|address| address.parse().ok());
        let asked: BTreeSet<SocketAddr> = known.iter().copied().chain(seen).collect();
        let waiting = progress::waiting("asking the LAN for gateways");
        let survey = survey::look(survey::Options {
            group: self.group.clone().into(),
            port: self.config.discovery_port,
            lans: self.config.lans.clone(),
            known: asked.iter().copied().collect(),
            time: LOOK,
        });
        let survey = survey.await;
        drop(waiting);
        let survey = match survey {
            Ok(survey) => survey,
            Err(error) => {
                let problem = Problem::new("the LAN cannot be asked").because(error);
                walk.one(Finding::problem(Layer::Discovery, problem));
                return BTreeMap::new();
            }
        };
        let facts = discovery::Facts {
            port: self.config.discovery_port,
            firewall: self.firewall,
            node: self.node,
            named: !self.config.gateways.is_empty(),
            serves,
            known: asked.len(),
        };
        walk.all(discovery::judge(&survey, &facts));
        survey.links().into_iter().map(|(link, id)| (link, Some(id))).collect()
    }

    /// Which servers to send a request to.
    fn servers(&self, told: &BTreeSet<Target>) -> Vec<Target> {
        let own = self.own_servers();
        let used = self.node.iter().flat_map(|node| &node.seen.apps.destinations);
        let used = used.filter_map(|destination| destination.target.parse().ok());
        match (own.is_empty(), told.is_empty()) {
            (false, _) => own.iter().take(MOST_SERVERS).cloned().collect(),
            (true, false) => told.iter().take(MOST_SERVERS).cloned().collect(),
            (true, true) => used.take(1).collect(),
        }
    }

    async fn request(
        &self,
        servers: &[Target],
        linked: &[Linked],
        serves: bool,
        useful: bool,
        walk: &mut Walk,
    ) {
        let reached = linked.iter().find(|gateway| gateway.reach() != Some("unreachable"));
        let way = match (self.node, reached) {
            _ if !serves && linked.is_empty() => {
                return walk.skip(&[Layer::Request], "no link to a gateway stands");
            }
            _ if !serves && !useful => return walk.skip(&[Layer::Request], "no gateway reaches a server"),
            (Some(node), _) => Way::Local(node.proxy, self.config.logins.first().map(Login::basic)),
            (None, _) if serves => Way::Direct,
            (None, Some(gateway)) => Way::Link(gateway),
            (None, None) => return walk.skip(&[Layer::Request], "no gateway reaches a server"),
        };
        if servers.is_empty() {
            return walk.skip(
                &[Layer::Request],
                "no server is known: name one with 'laneway doctor --server HOST:PORT'",
            );
        }
        for server in servers {
            walk.one(request::send(&way, server).await);
        }
    }
}

impl Walk {
    fn one(&mut self, finding: Finding) {
        if !self.json {
            say(finding.text(progress::is_coloured()));
        }
        self.report.findings.push(finding);
    }

    fn all(&mut self, findings: Vec<Finding>) {
        findings.into_iter().for_each(|finding| self.one(finding));
    }

    fn skip(&mut self, layers: &[Layer], why: &str) {
        layers.iter().for_each(|layer| self.one(Finding::skipped(*layer, why)));
    }
}

/// The TCP ports of the local proxy, as software here reaches them.
fn proxies(config: &Config) -> Vec<SocketAddr> {
    let tcp = config.proxy.iter().filter_map(|endpoint| match endpoint {
        Endpoint::Tcp(address) => Some(machine::reachable(*address)),
        Endpoint::Unix(_) => None,
    });
    tcp.collect()
}

fn may_serve(config: &Config, group: &Group) -> bool {
    let serves = config.role == Role::Gateway || config.role == Role::Auto && !config.servers.is_empty();
    serves && group.node.role == group::Role::Gateway
}

/// The addresses of the gateways that were named.
async fn resolved(gateways: &[Target], walk: &mut Walk) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for gateway in gateways {
        match tokio::net::lookup_host(gateway.to_string()).await {
            Ok(addresses) => found.extend(addresses),
            Err(error) => walk.one(
                Finding::wrong(Layer::Discovery, format!("the gateway {gateway} has no address"))
                    .because(error.to_string())
                    .hint("name it by its address, or add it to /etc/hosts"),
            ),
        }
    }
    found
}
