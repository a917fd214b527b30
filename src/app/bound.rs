//! The whole node, put together from its parts: each is built with its own options, and all ports are bound before any
//! part runs.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::watch;

use super::workers::Workers;
use crate::config::{Config, RoleSetting};
use crate::control;
use crate::descriptors::{Descriptors, first_reserved};
use crate::failure::with_causes;
use crate::gateway::bound::{BoundGateway, Duties};
use crate::gateway::egress::Egress;
use crate::gateway::options::CACHE;
use crate::lan;
use crate::limits::allocator;
use crate::local::bound::{BoundClient, Direct, bind_proxy};
use crate::local::listener::Apps;
use crate::local::port::Port;
use crate::net;
use crate::peering::{self, BoundPeering, Candidacy, ResolveGateway, uplink_terms};
use crate::peers::options::PORT;
use crate::problem::Problem;
use crate::service::Manager;
use crate::shared::{self, Part, Shared};
use crate::sharing;
use crate::sys::state::StateDir;
use crate::telemetry::{history, report};
use crate::transparent::{self, NodeRules, RunningRules};
use crate::trust::authority::{Authority, JoinResponder};
use crate::trust::group::{Group, Role};
use crate::trust::membership::Membership;
use crate::view::{Started, View};
use crate::wire::target::{Host, Target};

/// What this machine is in its group.
pub(super) struct Member {
    group: Group,
    authority: Option<Authority>,
    /// Whether it may be a gateway.
    serves: bool,
}

/// A node with its ports bound.
pub(super) struct BoundNode {
    pub(super) shared: Shared,
    pub(super) client: BoundClient,
    pub(super) gateway: BoundGateway,
    pub(super) peering: BoundPeering,
    workers: Workers,
    egress: Arc<Egress>,
    authority: watch::Sender<Option<Authority>>,
    rules: Option<NodeRules>,
    /// The role in its configuration.
    setting: &'static str,
    /// The UDP port of discovery and what `--lan` names.
    discovery: (u16, Vec<String>),
}

impl Member {
    /// Reads the group, and decides whether this node may be a gateway. One that has neither a server nor a probe and is
    /// not explicitly a gateway stays a client.
    ///
    /// # Errors
    /// When the machine is in no group, or was admitted as a client only and is configured as a gateway.
    pub(super) fn load(config: &Config, state: &StateDir) -> Result<Self, Problem> {
        let group = shared::group(state)?;
        let authority = Authority::load(state)?;
        let may_serve = config.node.role != RoleSetting::Client && group.node.role == Role::Gateway;
        if config.node.role == RoleSetting::Gateway && !may_serve {
            return Err(Problem::usage("this node was admitted as a client only and cannot be a gateway")
                .hint(shared::CLIENT_ONLY));
        }
        let serves = may_serve && (config.node.role == RoleSetting::Gateway || config.gateway.needs_proof());
        Ok(Self { group, authority, serves })
    }
}

impl BoundNode {
    /// Builds all parts. `inherited` are the ports of the local proxy that the service manager passed; without them they
    /// are bound.
    ///
    /// # Errors
    /// When a part cannot be built: mostly because a port is in use.
    pub(super) async fn build(
        config: &Config,
        state: &StateDir,
        member: Member,
        inherited: Option<Vec<Port>>,
    ) -> Result<Self, Problem> {
        let Member { group, authority, serves } = member;
        let may_serve = group.node.role == Role::Gateway;
        // First, because a port in use is what mostly stops a node.
        let mut ports = app_ports(
            inherited.map_or_else(|| bind_proxy(&config.local, &config.file_to_change()), Ok)?,
            Apps::Proxy,
        );
        let (mut shared, announcements) =
            Shared::new(Membership::of_node(group, state), config.node.memory_limit())?;
        let files = net::open_files_limit();
        shared.descriptors = Descriptors::of(files);
        files.into_iter().for_each(|limit| net::reserve_files(first_reserved(limit)));
        if serves {
            shared.cache =
                config.gateway.open_cache(&state.path().join(CACHE), &shared.memory, &mut shared.unused);
        }
        let pieces = state.path().join(sharing::DIRECTORY);
        let keeps = config.local.peer_cache;
        shared.holdings = sharing::options::open(keeps, &pieces, &shared.memory, &mut shared.unused);
        let (egress, results) = Egress::build(&config.gateway, &shared);

        ports.extend(app_ports(transparent::bind(&config.transparent)?, Apps::Redirected));
        let workers = Workers::start(if serves { config.node.threads() } else { 1 })?;
        let authority = watch::Sender::new(authority.filter(|_| !shared.membership.is_removed()));
        let duties = Duties { serves, may_serve, authority: authority.subscribe() };
        let outlet = (egress.clone(), results);
        let gateway = BoundGateway::build(&config.gateway, &shared, duties, outlet, workers.handles.clone())?;

        shared.serves_pieces = gateway.serves_pieces();
        let remember = {
            let state = state.clone();
            Box::new(move |address| peering::remember(&state, address))
        };
        let direct = direct(&egress, &gateway, serves);
        let client = BoundClient::build(&config.local, &config.dns, &shared, ports, direct, remember).await?;
        client.running().prefer_names(config.transparent.transparent_names);
        client.name_servers().for_each(|address| egress.dialer().resolver().avoid(address, serves));

        let candidacy = Candidacy {
            serves,
            declared: config.node.role == RoleSetting::Gateway,
            needs_server: config.gateway.needs_proof(),
            link_port: gateway.address().or(config.gateway.link).map_or(PORT, |address| address.port()),
            reach: gateway.reach(),
            uplink: uplink_terms(config.peers.command_timeout, config.node.drain, &config.gateway.server),
        };
        let joins = JoinResponder::new(authority.subscribe());
        let peering = BoundPeering::build(&config.peers, &shared, state, candidacy, joins, announcements)?;
        Ok(Self {
            shared,
            client,
            gateway,
            peering,
            workers,
            egress,
            authority,
            rules: None,
            setting: config.node.role.word(),
            discovery: (config.peers.discovery_port, config.peers.lan.clone()),
        })
    }

    /// Logs all addresses at which the node listens.
    pub(super) fn log_addresses(&self, lans: &[String]) {
        for (address, apps) in self.client.endpoints() {
            match apps {
                Apps::Proxy => tracing::info!(%address, "listening: local proxy, SOCKS and HTTP"),
                Apps::Redirected => tracing::info!(%address, "listening: transparent"),
            }
        }
        for address in self.client.name_servers() {
            tracing::info!(%address, "listening: local name server, UDP and TCP");
        }
        if let Some(address) = self.gateway.address() {
            match self.gateway.facts().link {
                Some(_) => tracing::info!(%address, "listening: links, TCP"),
                None => tracing::info!(%address, "listening: pieces of downloads for other members, TCP"),
            }
        }
        if let Some(rules) = self.gateway.facts().rules() {
            report::rules(&rules).into_iter().for_each(|sentence| tracing::info!("{sentence}"));
        }
        for address in self.peering.addresses() {
            tracing::info!(%address, "listening: discovery, UDP");
        }
        if self.peering.addresses().is_empty() {
            tracing::warn!("no network interface to discover on is up yet");
        }
        let unknown = lan::unknown(lans).unwrap_or_default();
        if !unknown.is_empty() {
            let existing = lan::interfaces().map(|all| lan::listed(&all)).unwrap_or_default();
            let lan = unknown.join(", ");
            tracing::warn!(
                lan,
                existing,
                "--lan names an interface or address that does not exist; it is used as soon as it does"
            );
        }
    }

    /// Notes where the local proxy listens, for the commands of this machine.
    pub(super) fn note_proxies(&self, state: &StateDir) {
        let proxies = self.client.endpoints().filter(|(_, apps)| *apps == Apps::Proxy);
        let endpoints: Vec<_> = proxies.map(|(endpoint, _)| endpoint.to_string()).collect();
        if let Err(error) = control::note_proxies(state, &endpoints) {
            tracing::warn!(
                error = with_causes(&error),
                "commands may not find the local proxy of this node: name it with --proxy"
            );
        }
    }

    /// Installs the rules of transparent mode, if this node keeps them. They end with its parts.
    ///
    /// # Errors
    /// When they cannot be installed.
    pub(super) fn install_rules(&mut self, options: &transparent::Options) -> Result<RunningRules, Problem> {
        let redirected = self.client.endpoints().filter(|(_, apps)| *apps == Apps::Redirected);
        let addresses: Vec<_> = redirected.filter_map(|(endpoint, _)| endpoint.address()).collect();
        let rules = NodeRules::install(options, addresses)?;
        let running = rules.running();
        self.rules = Some(rules);
        Ok(running)
    }

    /// The tasks of all parts, and the threads that serve their links.
    ///
    /// # Errors
    /// When a part cannot start.
    pub(super) fn parts(
        self,
        state: &StateDir,
        manager: Arc<Manager>,
    ) -> Result<(Vec<Part>, Part, Workers), Problem> {
        let Self { shared, client, gateway, peering, workers, egress, authority, rules, setting, discovery } =
            self;
        let view = View {
            shared: shared.clone(),
            client: client.facts(),
            gateway: gateway.facts(),
            setting,
            discovery,
            candidate: Some(peering.settings()),
            started: Started::now(),
            directory: state.path().display().to_string(),
        };
        let (_, mut parts) = client.parts(Box::new(move || view.snapshot()))?;
        let known = peering.known();
        let (more, behind) = peering.parts(resolve_gateway(egress));
        parts.extend(more);
        let crate::gateway::bound::Facts { served, link, .. } = gateway.facts();
        parts.extend(gateway.parts(known, behind)?);
        if link.is_some() {
            parts.push(("sightings", Box::pin(served.keep(state.clone(), shared.directory.clone()))));
        }
        parts.extend(rules.map(|rules| rules.part(shared.drain.clone())));

        let (apps, served) = (shared.telemetry.apps.traffic.clone(), shared.telemetry.served.traffic.clone());
        let rates = history::run(shared.telemetry.history.clone(), apps, served);
        parts.push(("rates", Box::pin(rates)));
        parts.push(("memory", Box::pin(allocator::return_spare())));
        let group = shared.membership.clone().follow(state.clone(), authority);
        let threads = workers.handles.clone();
        parts.push(("watchdog", Box::pin(async move { manager.watched(threads).await })));
        Ok((parts, ("group", Box::pin(group)), workers))
    }
}

fn app_ports(ports: Vec<Port>, apps: Apps) -> Vec<(Port, Apps)> {
    ports.into_iter().map(|port| (port, apps)).collect()
}

/// How this node's own apps are connected while it is a gateway: as a gateway connects others.
fn direct(egress: &Arc<Egress>, gateway: &BoundGateway, serves: bool) -> Direct {
    const THIS: &str = "this machine";
    let (tcp, udp, names, own) = (egress.clone(), egress.clone(), egress.clone(), egress.clone());
    let requests = gateway.own_requests();
    let id = gateway.id();
    Direct {
        connect: Box::new(move |target| {
            let egress = tcp.clone();
            let connected = async move { egress.connect(&target, id).await };
            connected
                .map(|connected| {
                    let stream = connected.map_err(|failure| failure.said_by(THIS))?.stream;
                    net::keep_alive(&stream);
                    Ok(stream)
                })
                .boxed()
        }),
        connect_udp: Box::new(move |target| {
            let egress = udp.clone();
            async move { egress.dialer().connect_udp(&target).await.map_err(|failure| failure.said_by(THIS)) }
                .boxed()
        }),
        fault: Box::new(move || own.fault().filter(|_| serves)),
        own_requests: Box::new(move |target, first, account| {
            let opened = requests(target, first, account);
            async move { Some(opened.await?.map_err(|failure| failure.said_by(THIS))) }.boxed()
        }),
        resolve: Box::new(move |query| {
            let egress = names.clone();
            async move { egress.dialer().resolver().answer(&query).await }.boxed()
        }),
    }
}

/// Resolves a gateway's name with the node's own resolver. The C library would query this node itself where `--dns` or
/// the rules of transparent mode redirect it.
fn resolve_gateway(egress: Arc<Egress>) -> Box<ResolveGateway> {
    Box::new(move |gateway: Target| {
        let egress = egress.clone();
        async move {
            let Host::Name(name) = &gateway.host else { return Ok(Vec::new()) };
            let found = egress.dialer().resolver().resolve(name).await;
            let found = found.map_err(|failure| std::io::Error::other(failure.said_here()))?;
            Ok(found.into_iter().map(|ip| SocketAddr::new(ip, gateway.port)).collect())
        }
        .boxed()
    })
}
