//! The gateway with its port bound, ready to run.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{BoxFuture, join};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::cache::Cache;
use super::clients::Clients;
use super::egress::{DialResult, Egress};
use super::listener::LinkPort;
use super::options::{Live, Options};
use super::probe::subject::{Expected, Probe};
use super::served::ServedLinks;
use super::sharer::Sharer;
use super::state::Gateway;
use super::tls::ServerTls;
use super::uplink::{OwnNetworks, Uplink};
use super::way_out::Others;
use super::{probe, propagation};
use crate::failure::Failure;
use crate::lan;
use crate::link::pipe::Pipe;
use crate::link::tls;
use crate::memory::Account;
use crate::net;
use crate::peers::candidate::Announcement;
use crate::peers::directory::Gateway as KnownGateway;
use crate::peers::options::PORT;
use crate::problem::Problem;
use crate::shared::{Part, Shared};
use crate::sys::tools;
use crate::telemetry::snapshot::{RulesSeen, Unreached};
use crate::telemetry::{Telemetry, report};
use crate::trust::authority::Held;
use crate::wire::datagram::{Reach, State};
use crate::wire::id::NodeId;
use crate::wire::target::Target;

/// Interval between two attempts to bind a port that is in use.
const BIND_INTERVAL: Duration = Duration::from_secs(5);

/// Opens a stream of plain requests to a target, over TLS if the flag says so, with the first bytes and the account of an app;
/// `None` without a cache.
pub type OpenRequests = dyn Fn((Target, bool), Bytes, Arc<Account>) -> BoxFuture<'static, Option<Result<Pipe, Failure>>>
    + Send
    + Sync;

/// What this node does for other machines.
pub struct Duties {
    /// Whether it serves links: it may be a gateway.
    pub serves: bool,
    /// Whether its certificate lets it accept links: it was not admitted as a client only.
    pub may_serve: bool,
    /// Enrols new members, while this machine holds the authority's key.
    pub authority: Held,
}

/// The gateway of this node. On a node that only uses others it is the way out of its resolver, and no more.
pub struct BoundGateway {
    shared: Shared,
    duties: Duties,
    gateway: Arc<Gateway>,
    /// Serves pieces to other members, if this node keeps any and may accept links.
    sharer: Option<Arc<Sharer>>,
    listener: Option<(TcpListener, SocketAddr)>,
    /// `--link`.
    link: Option<SocketAddr>,
    workers: Vec<Handle>,
    servers: watch::Sender<Vec<Target>>,
    results: mpsc::Receiver<DialResult>,
    proof: Proof,
}

/// How this gateway proves its way out.
struct Proof {
    probes: Vec<Probe>,
    expected: Option<Expected>,
    interval: Option<Duration>,
    asks_nobody: bool,
}

/// What the page and `laneway status` show of the gateway.
pub struct Facts {
    /// The address of the link port, if links are accepted.
    pub link: Option<SocketAddr>,
    /// The links that this node serves.
    pub served: ServedLinks,
    /// The configured servers.
    pub servers: watch::Receiver<Vec<Target>>,
    /// Holds the rules and the probe's results, if this node may be a gateway.
    pub egress: Option<Arc<Egress>>,
}

impl Facts {
    /// What this node's last probe did not reach.
    pub fn unreached(&self) -> Vec<Unreached> {
        self.egress.as_ref().map(|egress| egress.unreached()).unwrap_or_default()
    }

    /// Which destinations this node allows, if it may be a gateway.
    pub fn rules(&self) -> Option<RulesSeen> {
        self.egress.as_ref().map(|egress| egress.dialer().rules())
    }
}

/// The running gateway, for a reload.
pub struct RunningGateway {
    gateway: Arc<Gateway>,
    sharer: Option<Arc<Sharer>>,
    servers: watch::Sender<Vec<Target>>,
    serves: bool,
}

impl BoundGateway {
    /// Binds the link port, if this node has duties there. Links run on `workers`, in turn. `egress` and `results` come
    /// from [`Egress::build`].
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub fn build(
        options: &Options,
        shared: &Shared,
        duties: Duties,
        (egress, results): (Arc<Egress>, mpsc::Receiver<DialResult>),
        workers: Vec<Handle>,
    ) -> Result<Self, Problem> {
        let is_needed = duties.serves || duties.authority.borrow().is_some();
        let sharer = shared.holdings.clone().filter(|_| duties.may_serve).map(|holdings| {
            Sharer::new(
                holdings,
                options.limits().rate,
                (shared.memory.clone(), shared.membership.clone()),
                (shared.telemetry.clone(), shared.name.clone()),
                shared.drain.clone(),
            )
        });
        let listener = match bind_link(options.link) {
            _ if !is_needed && sharer.is_none() => None,
            Ok(listener) => Some(listener),
            Err(problem) if is_needed => return Err(problem),
            Err(problem) => {
                let (what, why, _) = problem.parts();
                tracing::warn!(
                    reason = why.join(": "),
                    "no member gets pieces of downloads from here: {what}"
                );
                None
            }
        };
        listener.iter().for_each(|(_, address)| shared.own.accepts_links_on(*address));
        let clients = Clients::new(options.limits(), shared.descriptors.tunnels);
        if let Some(most) = clients.fewer().filter(|_| duties.serves) {
            tracing::info!(
                most,
                "one client gets fewer connections than --client-tunnels: raise the limit on open files (LimitNOFILE=, ulimit -n) for more"
            );
        }
        let gateway = Arc::new(Gateway {
            egress,
            activity: shared.activity.clone(),
            clients,
            served: ServedLinks::default(),
            telemetry: shared.telemetry.clone(),
            memory: shared.memory.clone(),
            cache: shared.cache.clone().map(Cache::new),
            unused: shared.unused.clone(),
            swarms: Arc::default(),
            tls: Arc::new(ServerTls::new(if duties.serves { &options.front_ca } else { &[] })),
            tasks: shared.tasks.clone(),
            id: shared.membership.group().node.id,
            name: shared.name.clone(),
            drain: shared.drain.clone(),
            membership: shared.membership.clone(),
            announced: shared.announced.clone(),
        });
        let servers = watch::Sender::new(options.server.clone());
        let proof = Proof {
            probes: options.probes().cloned().collect(),
            expected: options.probe_expect.clone(),
            interval: options.probe_interval,
            asks_nobody: options.probe.contains(&Probe::Nothing),
        };
        let (shared, link) = (shared.clone(), options.link);
        Ok(Self { shared, duties, gateway, sharer, listener, link, workers, servers, results, proof })
    }

    /// The address of the link port, if it is bound.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().map(|(_, address)| *address)
    }

    /// The port at which pieces are served to other members, if they are.
    pub fn serves_pieces(&self) -> Option<u16> {
        self.sharer.as_ref().and(self.address()).map(|address| address.port())
    }

    /// Whether this machine reaches the servers, as the probe finds out.
    pub fn reach(&self) -> watch::Receiver<Reach> {
        self.gateway.egress.reach().subscribe()
    }

    /// The id of this node, the member that its own apps belong to.
    pub fn id(&self) -> NodeId {
        self.gateway.id
    }

    /// Opens streams of plain requests for this node's own apps.
    pub fn own_requests(&self) -> Box<OpenRequests> {
        let gateway = self.gateway.clone();
        Box::new(move |target, first, account| Box::pin(gateway.clone().own_requests(target, first, account)))
    }

    /// The facts to show.
    pub fn facts(&self) -> Facts {
        Facts {
            link: self.address().filter(|_| self.duties.serves || self.duties.authority.borrow().is_some()),
            served: self.gateway.served.clone(),
            servers: self.servers.subscribe(),
            egress: self.duties.serves.then(|| self.gateway.egress.clone()),
        }
    }

    /// The handle for reloads.
    pub fn running(&self) -> RunningGateway {
        RunningGateway {
            gateway: self.gateway.clone(),
            sharer: self.sharer.clone(),
            servers: self.servers.clone(),
            serves: self.duties.serves,
        }
    }

    /// The tasks to run. `behind` carries the gateways that lag behind in the group's state; at the start those at
    /// `known` are asked too.
    ///
    /// # Errors
    /// When this node's certificate cannot be used to enrol others.
    pub fn parts(
        self,
        known: Vec<SocketAddr>,
        behind: mpsc::Receiver<(NodeId, SocketAddr)>,
    ) -> Result<Vec<Part>, Problem> {
        let Self { shared, duties, gateway, sharer, listener, link, workers, servers, results, proof } = self;
        let mut parts: Vec<Part> = Vec::new();
        if duties.serves {
            let (announced, authority) = (shared.announced.clone(), duties.authority.clone());
            let is_due =
                Box::new(move || authority.borrow().is_some() || is_active(announced.borrow().as_ref()));
            let heard = Box::new(heard(&shared, &duties));
            let delivery = propagation::run(shared.credentials.clone(), known, behind, is_due, heard);
            parts.push(("propagation", Box::pin(delivery)));
            let (egress, proof) = (gateway.egress.clone(), proof.part(&shared, &gateway, &servers, results));
            parts.push((
                "probe",
                Box::pin(async move {
                    join(egress.dialer().check_upstream(), proof).await;
                }),
            ));
        }
        let group = shared.membership.group();
        let join_tls = tls::join_server(&group).map_err(|error| Problem::new("no joining").because(error))?;
        let port = Arc::new(LinkPort {
            gateway: duties.serves.then_some(gateway),
            sharer,
            credentials: shared.credentials.clone(),
            authority: (duties.authority.clone(), join_tls),
            memory: shared.memory.clone(),
            most_handshakes: shared.descriptors.handshakes,
            workers,
            tasks: shared.tasks.clone(),
            drain: shared.drain.clone(),
        });
        let part: BoxFuture<'static, ()> = match listener {
            Some((listener, address)) => {
                let is_for_pieces = !duties.serves && duties.authority.borrow().is_none();
                let mut authority = duties.authority;
                let joins = async move {
                    if is_for_pieces && authority.wait_for(Option::is_some).await.is_ok() {
                        tracing::info!(%address, "listening: machines that join, TCP");
                    }
                };
                Box::pin(async move {
                    join(port.run(listener), joins).await;
                })
            }
            None => Box::pin(async move {
                let listener = bind_when_needed(duties.authority, link, &shared).await;
                port.run(listener).await;
            }),
        };
        parts.push(("link port", part));
        Ok(parts)
    }
}

/// The addresses of the other gateways that are heard now, and whether this machine holds the group's key.
fn heard(shared: &Shared, duties: &Duties) -> impl Fn() -> (Vec<SocketAddr>, bool) + Send + Sync + use<> {
    let (directory, own, authority) =
        (shared.directory.clone(), shared.own.clone(), duties.authority.clone());
    move || {
        let now = Instant::now();
        let is_heard =
            |gateway: &KnownGateway| gateway.state(now).is_some() && !own.is_this_node(gateway.link);
        let heard = directory.ranked(now).into_iter().filter(is_heard).map(|gateway| gateway.link);
        (heard.collect(), authority.borrow().is_some())
    }
}

impl Proof {
    /// The task that proves the way out: by `--probe`, by the servers, or else by clients' connections.
    fn part(
        self,
        shared: &Shared,
        gateway: &Gateway,
        servers: &watch::Sender<Vec<Target>>,
        results: mpsc::Receiver<DialResult>,
    ) -> BoxFuture<'static, ()> {
        let Self { probes, expected, interval, asks_nobody } = self;
        let (egress, tls) = (gateway.egress.clone(), gateway.tls.clone());
        let reach = egress.reach().clone();
        let served = gateway.served.clone();
        if !probes.is_empty() {
            return Box::pin(probe::run_checks(
                (egress, served),
                interval,
                (probes, expected),
                results,
                reach,
            ));
        }
        if !servers.borrow().is_empty() {
            let around = (egress, tls, served);
            return Box::pin(probe::run(around, interval, servers.subscribe(), results, reach));
        }
        let directory = shared.directory.clone();
        let others = Box::new(move || others(&directory.ranked(Instant::now()), Instant::now()));
        let networks = OwnNetworks::default();
        let uplink = Uplink { egress, tls, served, own: gateway.id, asks_nobody, others, networks };
        Box::pin(uplink.run(interval, results, reach))
    }
}

/// Whether one of the other gateways could serve instead of this one, or has lost its way out.
fn others(known: &[KnownGateway], now: Instant) -> Others {
    let could_serve =
        |gateway: &KnownGateway| matches!(gateway.state(now), Some(State::Active | State::Standby));
    let has_lost = |gateway: &KnownGateway| {
        let reach = gateway.advert.as_ref().map(|advert| advert.reach);
        gateway.state(now) == Some(State::Withdrawn) && reach == Some(Reach::Unreachable)
    };
    match known {
        known if known.iter().any(could_serve) => Others::CouldServe,
        known if known.iter().any(has_lost) => Others::HaveLost,
        _ => Others::None,
    }
}

impl RunningGateway {
    /// What this node counts and records.
    pub fn telemetry(&self) -> &Telemetry {
        &self.gateway.telemetry
    }

    /// Applies a reload. Open tunnels stay open.
    pub fn apply(&self, new: Live) {
        let Live { access, upstream, connect_timeout, servers, limits } = new;
        let egress = &self.gateway.egress;
        let before = egress.dialer().rules();
        egress.change(access, connect_timeout, servers.clone());
        let rules = egress.dialer().rules();
        if self.serves && rules != before {
            report::rules(&rules).into_iter().for_each(|sentence| tracing::info!("{sentence}"));
        }
        egress.dialer().set_upstream(upstream);
        egress.dialer().reload_names();
        self.gateway.clients.change(limits);
        self.sharer.iter().for_each(|sharer| sharer.change(limits.rate));
        self.servers.send_if_modified(|now| {
            let changed = *now != servers;
            if changed {
                *now = servers;
            }
            changed
        });
    }
}

fn is_active(announcement: Option<&Announcement>) -> bool {
    announcement.is_some_and(|announcement| announcement.advert.state == State::Active)
}

/// Binds the link port of a client as soon as this machine holds the authority's key: then machines join there. Tries again
/// while the port is in use.
async fn bind_when_needed(mut authority: Held, link: Option<SocketAddr>, shared: &Shared) -> TcpListener {
    let mut warned = false;
    loop {
        if authority.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
        match bind_link(link) {
            Ok((listener, address)) => {
                shared.own.listens_on(address);
                tracing::info!(%address, "listening: machines that join, TCP");
                return listener;
            }
            Err(problem) if !warned => {
                warned = true;
                let (what, why, _) = problem.parts();
                tracing::warn!(reason = why.join(": "), "no machine can join here: {what}");
            }
            Err(_) => {}
        }
        tokio::time::sleep(BIND_INTERVAL).await;
    }
}

/// Binds the link port. Without an address it listens on all of them, IPv4 only where there is no IPv6.
fn bind_link(address: Option<SocketAddr>) -> Result<(TcpListener, SocketAddr), Problem> {
    let failed = |place: String, error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrNotAvailable => {
                let own = lan::interfaces().map(|all| lan::listed(&all)).unwrap_or_default();
                format!(
                    "--link names an address of this machine, which has {own}; without --link it listens on all of them"
                )
            }
            _ => format!(
                "'laneway status' shows whether a node runs here already, and '{}' which program has the port. To take \
                 another port, start the node with --link 0.0.0.0:7421 (in laneway.toml: link = \"0.0.0.0:7421\")",
                tools::PORTS
            ),
        };
        Problem::new(format!("the link port cannot listen on {place}")).because(error).hint(hint)
    };
    let bind = |address: SocketAddr| net::listen(address).map_err(|error| failed(address.to_string(), error));
    let listener = match address {
        Some(address) => bind(address)?,
        None => match net::listen(SocketAddr::from(([0_u16; 8], PORT))) {
            Ok(listener) => listener,
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                return Err(failed(format!("port {PORT}"), error));
            }
            Err(_) => bind(SocketAddr::from(([0, 0, 0, 0], PORT)))?,
        },
    };
    let bound = listener.local_addr().map_err(|error| Problem::new("no link port").because(error))?;
    Ok((listener, bound))
}
