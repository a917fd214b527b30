//! `laneway up`: builds the node from its configuration, binds its ports, supervises its parts and drains it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, RoleSetting};
use crate::gateway::access::Access;
use crate::gateway::clients::Clients;
use crate::gateway::dns::Resolver;
use crate::gateway::egress::Egress;
use crate::gateway::probe;
use crate::gateway::propagation;
use crate::gateway::served::ServedLinks;
use crate::gateway::state::Gateway;
use crate::gateway::{enrolment::WrongProofs, listener::LinkPort};
use crate::link::tls::{self, Credentials};
use crate::live::{Live, Reread};
use crate::local::context::Local;
use crate::local::dns::{self, NameServer};
use crate::local::endpoint::Endpoint;
use crate::local::handshakes::Handshakes;
use crate::local::links::Links;
use crate::local::listener::{self, Apps};
use crate::local::logins::Logins;
use crate::local::page::Page;
use crate::local::port::Port;
use crate::local::routes::Routes;
use crate::memory::Budget;
use crate::net;
use crate::peers::candidate::{self, Activity, Announcement};
use crate::peers::directory::{Directory, Source};
use crate::peers::discovery::{self, Discovery};
use crate::peers::options::PORT;
use crate::peers::remembered;
use crate::peers::selection;
use crate::peers::uplink::{self, Uplink};
use crate::problem::Problem;
use crate::service::Manager;
use crate::sys::state::StateDir;
use crate::telemetry::{Telemetry, history};
use crate::transparent;
use crate::trust::authority::{Authority, JoinResponder};
use crate::trust::group::Group;
use crate::trust::membership::Membership;
use crate::view::{Started, View};
use crate::wire::datagram::{Reach, State};
use crate::wire::target::{Host, Target};

/// Interval at which the names of `--gateway` are resolved again.
const RESOLVE: Duration = Duration::from_secs(30);
/// Maximum number of lagging gateways that wait for group updates. Those that do not fit are noticed again later.
const MISSED: usize = 64;
/// Maximum number of dial results that wait for the probe.
const DIALS: usize = 64;
/// How long a stopping candidate keeps announcing that it stops, so that it is sent more than once.
const FAREWELL: Duration = Duration::from_millis(150);

/// Runs a node until it is told to stop and has drained. SIGHUP calls `reread`.
///
/// # Errors
/// When it cannot start, or when one of its parts ends unexpectedly.
pub async fn up(mut config: Config, state: StateDir, reread: Box<Reread>) -> Result<(), Problem> {
    net::raise_open_files();
    // Installed first, so that a signal during startup also stops the node in an orderly way.
    let mut signals = Signals::new()?;
    let manager = Arc::new(Manager::from_environment());
    let mut ports = Port::inherited().map_err(|error| {
        Problem::new("the sockets that the service manager passes cannot be used").because(error)
    })?;
    let inherited = !ports.is_empty();
    if inherited {
        config.local.proxy = ports.iter().map(|port| port.endpoint.clone()).collect();
        config.check()?;
    }
    let group = group(&state)?;
    let authority = Authority::load(&state)?;
    let name = format!("laneway-{}", group.node.id.short());
    let may_serve =
        config.node.role != RoleSetting::Client && group.node.role == crate::trust::group::Role::Gateway;
    if config.node.role == RoleSetting::Gateway && !may_serve {
        return Err(Problem::usage("this node was admitted as a client only and cannot be a gateway")
            .hint("join again with a code of 'laneway invite' without --client-only"));
    }

    // A node without configured servers that is not explicitly a gateway stays a client.
    let serves = may_serve && (config.node.role == RoleSetting::Gateway || !config.gateway.server.is_empty());

    let stop = CancellationToken::new();
    let connections = TaskTracker::new();
    let mut seed = [0; 8];
    aws_lc_rs::rand::fill(&mut seed).map_err(|error| Problem::new("no random numbers").because(error))?;
    let seed = u64::from_be_bytes(seed);
    let telemetry = Arc::new(Telemetry::default());
    let directory = Arc::new(Directory::new(group.node.id, seed, telemetry.clone()));
    let activity = Arc::new(Activity::new(telemetry.served.traffic.clone()));
    let access = Access::new(&config.gateway.server, &config.gateway.allow, &config.gateway.deny);
    let resolver = Resolver::system()
        .map_err(|error| Problem::new("no resolver").because(std::io::Error::other(error)))?;
    let (dials, dialled) = mpsc::channel(DIALS);
    let servers = config.gateway.server.clone();
    let egress = Arc::new(Egress::new(access, resolver, config.gateway.connect_timeout, servers, dials));

    egress.set_upstream(config.gateway.upstream()?);

    if !inherited {
        let bound = config.local.proxy.iter().map(|endpoint| bind_proxy(endpoint, config.local.proxy_mode.0));
        ports = bound.collect::<Result<_, _>>()?;
    }
    let transparent_ports = transparent::bind(&config.transparent, serves)?;
    let logins = Logins::new(&config.local.proxy_login).map(Arc::new);
    let logins = logins.map_err(|error| Problem::new("no random numbers").because(error))?;
    let dns = bind_dns(&config.dns.dns, &egress).await?;
    let workers = Workers::start(if serves { config.node.threads() } else { 1 })?;
    let link = if serves || authority.is_some() { Some(bind_link(config.gateway.link)?) } else { None };
    let link_port = link.as_ref().map_or(PORT, |(_, address)| address.port());
    ports
        .iter()
        .chain(&transparent_ports)
        .filter_map(Port::address)
        .for_each(|address| egress.own().listens_on(address));
    link.iter().for_each(|(_, address)| egress.own().listens_on(*address));

    let (announcements, announced) = watch::channel(None);
    let membership = Membership::new(group.clone());
    let credentials =
        Credentials::new(membership.clone()).map_err(|error| Problem::new("no links").because(error))?;
    let (behind, missed) = mpsc::channel(MISSED);
    let options = discovery::Options {
        membership: membership.clone(),
        id: group.node.id,
        port: config.peers.discovery_port,
        own_port: config.peers.discovery_port,
        lans: config.peers.lan.clone(),
        joins: authority.clone().map(|authority| (JoinResponder::new(authority), link_port)),
        behind: serves.then_some(behind),
    };
    let discovery = Discovery::new(options, directory.clone(), announced.clone());
    let mut ears = JoinSet::new();
    let heard_at = discovery.bind(&mut ears).map_err(|error| {
        Problem::new("discovery cannot start").because(error).hint(
            "another laneway may be running here; --discovery-port N chooses another port, the same on all machines",
        )
    })?;

    let known = remembered::load(&state);
    for &address in &known {
        directory.add_address(address, Source::Remembered);
    }
    let remember = {
        let state = state.clone();
        move |address: SocketAddr| {
            let state = state.clone();
            drop(tokio::task::spawn_blocking(move || remembered::add(&state, address)));
        }
    };
    let (tasks, remember) = (TaskTracker::new(), Box::new(remember));
    let links = Links::new(group.node.id, directory.clone(), credentials.clone(), tasks, remember);
    let (is_gateway_now, is_gateway) = watch::channel(false);
    let (needed_now, needed) = watch::channel(true);
    let direct = {
        let egress = egress.clone();
        move |target: Target| {
            let egress = egress.clone();
            async move { egress.connect(&target).await }.boxed()
        }
    };
    let direct_udp = {
        let egress = egress.clone();
        move |target: Target| {
            let egress = egress.clone();
            async move { egress.connect_udp(&target).await }.boxed()
        }
    };
    let (hold, held) = watch::channel(config.local.hold);
    let memory = Budget::new(config.node.memory_limit());
    tracing::debug!(limit = config.node.memory_limit(), "memory for connections");
    let routes = Routes {
        links: links.clone(),
        direct: Box::new(direct),
        direct_udp: Box::new(direct_udp),
        is_gateway,
        hold: held,
        memory: memory.clone(),
        own: egress.own().clone(),
    };
    let served = ServedLinks::default();
    let (servers, probed) = watch::channel(config.gateway.server.clone());
    let view = View {
        group: group.clone(),
        proxy: ports.iter().map(|port| port.endpoint.clone()).collect(),
        link: link.as_ref().map(|(_, address)| *address),
        telemetry: telemetry.clone(),
        directory: directory.clone(),
        links: links.clone(),
        served: served.clone(),
        announced: announced.clone(),
        is_gateway: routes.is_gateway.clone(),
        servers: probed.clone(),
        memory: memory.clone(),
        stop: stop.clone(),
        started: Started::now(),
    };
    let next_id = AtomicU64::new(seed);
    let local = Arc::new(Local {
        routes,
        name: name.clone(),
        drain: stop.clone(),
        tasks: connections.clone(),
        logins: logins.clone(),
        page: Page::new(Box::new(move || view.snapshot()), config.local.pac_direct),
        telemetry: telemetry.clone(),
        next_id,
        places: Arc::new(Semaphore::new(listener::MOST_CONNECTIONS)),
        handshakes: Handshakes::new(listener::MOST_HANDSHAKES),
    });

    let own = {
        let egress = egress.clone();
        move |query| {
            let egress = egress.clone();
            async move { egress.resolver().answer(&query).await }.boxed()
        }
    };
    let names = NameServer::new(local.clone(), Box::new(own), &config.dns.dns_local)
        .map_err(|error| Problem::new("no local name server").because(std::io::Error::other(error)))?;

    // Everything is bound: log the addresses before anything else can fail.
    for port in &ports {
        tracing::info!(address = %port.endpoint, "listening: local proxy, SOCKS and HTTP");
    }
    for port in &transparent_ports {
        tracing::info!(address = %port.endpoint, "listening: transparent");
    }
    for address in dns.iter().filter_map(|listener| listener.streams.local_addr().ok()) {
        tracing::info!(%address, "listening: local name server, UDP and TCP");
    }
    if let Some((_, address)) = &link {
        tracing::info!(%address, "listening: links, TCP");
    }
    for address in &heard_at {
        tracing::info!(%address, "listening: discovery, UDP");
    }
    if heard_at.is_empty() {
        tracing::warn!("no network interface to discover on is up yet");
    }

    let uplink_options = uplink::Options {
        on_promote: config.peers.on_promote.clone(),
        on_demote: config.peers.on_demote.clone(),
        node: group.node.name.clone(),
        needs_server: !config.gateway.server.is_empty(),
    };
    let uplink = Uplink::new(uplink_options, config.uplink_terms());

    let gateway = Arc::new(Gateway {
        egress: egress.clone(),
        activity: activity.clone(),
        clients: Clients::new(config.gateway.limits()),
        served,
        telemetry: telemetry.clone(),
        memory,
        id: group.node.id,
        name,
        drain: stop.clone(),
        membership: membership.clone(),
        announced: announced.clone(),
    });

    let mut parts = JoinSet::new();
    for port in ports {
        parts.spawn(named("local proxy", listener::run(local.clone(), port, Apps::Proxy)));
    }
    let kept = transparent::Kept::begin(&config.transparent, &transparent_ports, &state)?;
    for port in transparent_ports {
        let apps = Apps::Redirected { by_name: config.transparent.transparent_names };
        parts.spawn(named("transparent port", listener::run(local.clone(), port, apps)));
    }
    if let Some(kept) = kept {
        let stopped = stop.clone();
        parts.spawn(named("transparent rules", async move {
            stopped.cancelled().await;
            drop(kept);
        }));
    }
    if !dns.is_empty() {
        parts.spawn(named("local name server", names.run(dns)));
    }
    let (apps, others) = (telemetry.apps.traffic.clone(), telemetry.served.traffic.clone());
    parts.spawn(named("rates", history::run(telemetry.history.clone(), apps, others)));
    parts.spawn(named("discovery", discovery.run(ears)));
    parts.spawn(named("clock", links.clone().watch_clock()));
    parts.spawn(named("links", links.run(needed)));
    parts.spawn(named("group", membership.clone().follow(state.clone(), authority.clone())));
    if serves {
        let (announced, holds_authority) = (announced.clone(), authority.is_some());
        let is_due = move || {
            let announced = announced.borrow();
            let is_active = |announcement: &Announcement| announcement.advert.state == State::Active;
            holds_authority || announced.as_ref().is_some_and(is_active)
        };
        let known =
            known.into_iter().chain(config.peers.gateway.iter().filter_map(Target::address)).collect();
        parts.spawn(named(
            "propagation",
            propagation::run(credentials.clone(), known, missed, Box::new(is_due)),
        ));
    }
    parts.spawn(named(
        "static gateways",
        resolve_gateways(config.peers.gateway.clone(), directory.clone(), egress.clone()),
    ));
    if let Some((listener, _)) = link {
        let join_tls = tls::join_server(&group).map_err(|error| Problem::new("no joining").because(error))?;
        let port = LinkPort {
            gateway: serves.then(|| (gateway.clone(), credentials)),
            authority: authority.map(|authority| (authority, join_tls)),
            wrong_proofs: WrongProofs::default(),
            workers: workers.handles.clone(),
            tasks: connections.clone(),
            drain: stop.clone(),
        };
        parts.spawn(named("link port", Arc::new(port).run(listener)));
    }
    let (candidate_options, options) = watch::channel(candidate::Options {
        selection: selection::Options {
            policy: config.peers.policy,
            active: u8::try_from(config.peers.active).unwrap_or(u8::MAX),
            rotate: config.peers.rotate,
            link_port,
            weight: config.peers.weight,
            prepares: uplink.prepares(),
        },
        needs_server: !config.gateway.server.is_empty(),
        declared: config.node.role == RoleSetting::Gateway,
    });
    if serves {
        let (reach, reached) = watch::channel(Reach::Unknown);
        parts.spawn(named("uplink", uplink.clone().run(reached.clone(), activity.clone())));
        let candidate =
            candidate::run(options, directory, reached, activity.clone(), uplink.clone(), announcements);
        parts.spawn(named("candidate", candidate));
        if !config.gateway.server.is_empty() {
            parts.spawn(named("probe", probe::run(egress.clone(), probed, dialled, reach)));
        } else {
            parts.spawn(named("probe", async move { reach.closed().await }));
        }
    } else {
        parts.spawn(named("candidate", async move { announcements.closed().await }));
    }
    let farewell = announced.clone();
    parts.spawn(named("role", follow_role(announced, is_gateway_now, needed_now)));

    let (watched, threads) = (manager.clone(), workers.handles.clone());
    parts.spawn(named("watchdog", async move { watched.watched(threads).await }));

    let node = group.node.name.as_str();
    tracing::info!(node, id = group.node.id.short(), group = group.name, "ready");
    manager.ready(&format!("{node} of group {}", group.name));
    let live = Live {
        manager,
        config,
        reread,
        egress,
        gateway,
        logins,
        inherited,
        hold,
        servers,
        uplink: uplink.clone(),
        candidate: candidate_options,
    };
    let ended = supervise(&mut parts, &mut signals, stop, connections, &activity, &farewell, live).await;
    tokio::select! {
        () = uplink.demote() => {}
        () = signals.stop() => tracing::warn!("stopped before the command of --on-demote has ended: told again"),
    }
    ended?;
    workers.stop();
    Ok(())
}

/// What a signal requests.
#[derive(PartialEq, Eq)]
enum Asked {
    Stop,
    Reload,
}

/// The signals that the node handles.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// SIGHUP: reload the configuration.
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Problem> {
        let failed = |error: std::io::Error| Problem::new("signals cannot be handled").because(error);
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            hangup: signal(SignalKind::hangup()).map_err(failed)?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    async fn stop(&mut self) {
        while self.next().await != Asked::Stop {}
    }
}

/// Waits for a stop signal, or for a part to end, which none should; on a signal, drains the node.
async fn supervise(
    parts: &mut JoinSet<&'static str>,
    signals: &mut Signals,
    stop: CancellationToken,
    connections: TaskTracker,
    activity: &Activity,
    announced: &watch::Receiver<Option<Announcement>>,
    mut live: Live,
) -> Result<(), Problem> {
    loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Stop => break,
                Asked::Reload => live.reload(),
            },
            Some(ended) = parts.join_next() => {
                return Err(match ended {
                    Ok(part) => Problem::new(format!("{part} ended on its own")),
                    Err(error) => Problem::new("a part of the node failed").because(error),
                });
            }
        }
    }
    let drain = live.config.node.drain;
    live.manager.stopping(drain);
    activity.drain();
    stop.cancel();
    connections.close();
    let open = connections.len();
    tracing::info!(open, seconds = drain.as_secs_f32(), "stopping: open connections may finish");
    // Even with no open connections, wait long enough for a candidate's last announcement to reach the others.
    let farewell = if announced.borrow().is_some() { FAREWELL } else { Duration::ZERO };
    let finish = async { tokio::join!(connections.wait(), tokio::time::sleep(farewell)) };
    tokio::select! {
        finished = timeout(drain.max(farewell), finish) => if finished.is_err() {
            tracing::warn!(open = connections.len(), "stopped: the time to finish is over");
        },
        () = signals.stop() => tracing::warn!(open = connections.len(), "stopped: told twice"),
    }
    tracing::info!("stopped");
    Ok(())
}

/// The group that this machine is a member of.
///
/// # Errors
/// When it is in no group: then it can neither be a gateway nor use one.
pub fn group(state: &StateDir) -> Result<Group, Problem> {
    Group::load(state)?.ok_or_else(|| {
        Problem::usage(format!("this machine is in no group: {} holds none", state.path().display()))
            .hint("run 'laneway init' on the first machine, then the line that it prints on every other one")
    })
}

async fn named(name: &'static str, part: impl Future<Output = ()>) -> &'static str {
    part.await;
    name
}

/// Makes a node that is a gateway connect its own apps directly; any other node needs links.
async fn follow_role(
    mut announced: watch::Receiver<Option<Announcement>>,
    is_gateway: watch::Sender<bool>,
    needed: watch::Sender<bool>,
) {
    loop {
        // A gateway that must first bring its uplink up cannot reach the servers itself yet.
        let serves = announced.borrow_and_update().as_ref().is_some_and(|announcement| {
            let advert = &announcement.advert;
            advert.state != State::Withdrawn && advert.reach != Reach::Unreachable
        });
        is_gateway.send_if_modified(|now| std::mem::replace(now, serves) != serves);
        needed.send_if_modified(|now| std::mem::replace(now, !serves) == serves);
        if announced.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Keeps the addresses of `--gateway` in the directory. Runs forever, because a name's addresses may change.
async fn resolve_gateways(gateways: Vec<Target>, directory: Arc<Directory>, egress: Arc<Egress>) {
    loop {
        // Resolved concurrently, so that a name whose name servers do not respond does not delay the others.
        join_all(gateways.iter().map(async |gateway| match addresses(gateway, &egress).await {
            Ok(found) => found.into_iter().for_each(|address| directory.add_address(address, Source::Static)),
            Err(error) => tracing::warn!(%gateway, %error, "gateway name not resolved"),
        }))
        .await;
        if gateways.is_empty() {
            return std::future::pending().await;
        }
        tokio::time::sleep(RESOLVE).await;
    }
}

/// The addresses of a gateway. The node's own resolver is used first, because the C library would query this node
/// itself where `--dns` or the rules of transparent mode redirect it. The C library is the fallback, because it knows
/// sources of names other than DNS.
async fn addresses(gateway: &Target, egress: &Egress) -> std::io::Result<Vec<SocketAddr>> {
    let name = match &gateway.host {
        Host::Address(ip) => return Ok(vec![SocketAddr::new(*ip, gateway.port)]),
        Host::Name(name) => name,
    };
    match egress.resolver().resolve(name).await {
        Ok(found) => Ok(found.into_iter().map(|ip| SocketAddr::new(ip, gateway.port)).collect()),
        Err(_) => Ok(tokio::net::lookup_host(gateway.to_string()).await?.collect()),
    }
}

fn bind(address: SocketAddr, what: &str, hint: &str) -> Result<TcpListener, Problem> {
    net::listen(address)
        .map_err(|error| Problem::new(format!("{what} cannot listen on {address}")).because(error).hint(hint))
}

fn bind_proxy(endpoint: &Endpoint, mode: u32) -> Result<Port, Problem> {
    let hint = match endpoint {
        Endpoint::Tcp(_) => {
            "'laneway status' shows a node that runs here already; --proxy 127.0.0.1:0 takes any free port"
        }
        Endpoint::Unix(_) => "another laneway may be running here; --proxy unix:/PATH chooses another place",
    };
    Port::bind(endpoint, mode).map_err(|error| {
        Problem::new(format!("the local proxy cannot listen on {endpoint}")).because(error).hint(hint)
    })
}

/// Binds the local name server's listeners, and excludes them from the name servers that the resolver queries.
async fn bind_dns(addresses: &[SocketAddr], egress: &Egress) -> Result<Vec<dns::Listener>, Problem> {
    let mut listeners = Vec::new();
    for &address in addresses {
        let listener = dns::Listener::bind(address).await.map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::PermissionDenied => "ports below 1024 need root, or the capability CAP_NET_BIND_SERVICE",
                _ => "another name server may be running here; --dns 127.0.0.2:53 or another port is free more often",
            };
            Problem::new(format!("the local name server cannot listen on {address}")).because(error).hint(hint)
        })?;
        let bound = listener.streams.local_addr().unwrap_or(address);
        egress.own().listens_on(bound);
        egress.resolver().avoid(bound);
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Binds the link port. Without an address it listens on all of them, IPv4 only where there is no IPv6.
fn bind_link(address: Option<SocketAddr>) -> Result<(TcpListener, SocketAddr), Problem> {
    let hint = "another laneway may be running here; --link ADDR:PORT chooses another address or port";
    let listener = match address {
        Some(address) => bind(address, "the link port", hint)?,
        None => match net::listen(SocketAddr::from(([0_u16; 8], PORT))) {
            Ok(listener) => listener,
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                let what = format!("the link port cannot listen on port {PORT}");
                return Err(Problem::new(what).because(error).hint(hint));
            }
            Err(_) => bind(SocketAddr::from(([0, 0, 0, 0], PORT)), "the link port", hint)?,
        },
    };
    let bound = listener.local_addr().map_err(|error| Problem::new("no link port").because(error))?;
    Ok((listener, bound))
}

/// The threads that serve links, each with its own runtime: a link and its tunnels never move to another thread.
struct Workers {
    handles: Vec<Handle>,
    stops: Vec<oneshot::Sender<()>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Workers {
    fn start(count: usize) -> Result<Self, Problem> {
        let failed = |error: std::io::Error| Problem::new("cannot start a thread").because(error);
        let mut workers = Self { handles: Vec::new(), stops: Vec::new(), threads: Vec::new() };
        for number in 0..count {
            let runtime = net::runtime().map_err(failed)?;
            let (stop, stopped) = oneshot::channel::<()>();
            workers.handles.push(runtime.handle().clone());
            workers.stops.push(stop);
            let thread = std::thread::Builder::new().name(format!("link-{number}"));
            let thread = thread.spawn(move || drop(runtime.block_on(stopped))).map_err(failed)?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    fn stop(self) {
        drop(self.stops);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a link thread failed");
            }
        }
    }
}
