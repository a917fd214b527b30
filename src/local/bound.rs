//! The local port and the local name server, bound and ready to run: how the apps of this machine reach the gateways.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::context::{Local, LocalFronts};
use super::dns::{self, NameServer, SystemResolver, Zones};
use super::endpoint::Endpoint;
use super::handshakes::Handshakes;
use super::links::{Links, Remember};
use super::listener::{self, Apps, MOST_CONNECTIONS, MOST_HANDSHAKES};
use super::logins::Logins;
use super::members::Members;
use super::options::{Live, Options};
use super::page::{Page, TakeSnapshot};
use super::port::Port;
use super::routes::{Connect, ConnectUdp, Fault, OwnRequests, Routes};
use crate::failure::printable;
use crate::fronts::known::Known;
use crate::fronts::place::Fronts;
use crate::peers::candidate::Announcement;
use crate::problem::Problem;
use crate::shared::{Part, Shared};
use crate::sys::state::quoted;
use crate::sys::{tools, users};
use crate::trust::random::random;
use crate::wire::datagram::{Reach, State};
use crate::wire::sharing::Offer;

/// How this node connects and resolves from its own machine, which it does while it is a gateway.
pub struct Direct {
    /// Connects by TCP.
    pub connect: Box<Connect>,
    /// Connects by UDP.
    pub connect_udp: Box<ConnectUdp>,
    /// Why this machine has no way out itself, if it should have one.
    pub fault: Box<Fault>,
    /// Has this node's own gateway answer plain requests.
    pub own_requests: Box<OwnRequests>,
    /// Asks this machine's name servers.
    pub resolve: Box<SystemResolver>,
}

/// The client side of this node.
pub struct BoundClient {
    shared: Shared,
    ports: Vec<(Port, Apps)>,
    name_servers: Vec<dns::Listener>,
    routes: Routes,
    /// What gateways repeat when they answer the offer of this node to take bodies in pieces.
    secret: Option<u64>,
    resolve: Box<SystemResolver>,
    pac_direct: bool,
    running: RunningClient,
    is_gateway: watch::Sender<bool>,
    /// Maximum number of connections of apps at a time.
    pub most_connections: usize,
    /// Maximum number of them that have not sent their request yet.
    pub most_handshakes: usize,
}

/// What the page and `laneway status` show of the client side.
pub struct Facts {
    /// The endpoints of the local proxy.
    pub proxy: Vec<Endpoint>,
    /// The logins that it accepts from apps.
    pub logins: Arc<Logins>,
    /// The links to gateways.
    pub links: Arc<Links>,
    /// The fronts of registries.
    pub fronts: watch::Receiver<Arc<Fronts>>,
    /// Whether this node's own apps connect directly instead of over a link.
    pub is_gateway: watch::Receiver<bool>,
}

/// The running client side, for a reload.
#[derive(Clone)]
pub struct RunningClient {
    logins: Arc<Logins>,
    hold: watch::Sender<Duration>,
    fronts: watch::Sender<Arc<Fronts>>,
    zones: watch::Sender<Arc<Zones>>,
    prefers_names: watch::Sender<bool>,
}

impl BoundClient {
    /// Binds the local name server, and takes over the bound `ports` of apps. Each gateway that this node links to is
    /// passed to `remember`.
    ///
    /// # Errors
    /// When an address of the name server cannot be bound.
    pub async fn build(
        options: &Options,
        names: &dns::options::Options,
        shared: &Shared,
        ports: Vec<(Port, Apps)>,
        direct: Direct,
        remember: Box<Remember>,
    ) -> Result<Self, Problem> {
        let mut name_servers = Vec::new();
        for &address in &names.dns {
            name_servers.push(bind_dns(address).await?);
        }
        let bound = name_servers.iter().filter_map(dns::Listener::address);
        let addresses = ports.iter().filter_map(|(port, _)| port.address()).chain(bound);
        addresses.for_each(|address| shared.own.listens_on(address));
        let logins = Logins::new(&options.proxy_login)
            .map_err(|error| Problem::new("no random numbers").because(error))?;
        let id = shared.membership.group().node.id;
        let offer = shared
            .holdings
            .as_ref()
            .map(|_| Offer { secret: u64::from_be_bytes(random()), port: shared.serves_pieces });
        let links = Links::new(
            id,
            shared.directory.clone(),
            shared.credentials.clone(),
            TaskTracker::new(),
            remember,
            (shared.own.clone(), offer),
        );
        let hold = watch::Sender::new(options.hold);
        let is_gateway = watch::Sender::new(serves(shared.announced.borrow().as_ref()));
        let routes = Routes {
            links,
            direct: direct.connect,
            direct_udp: direct.connect_udp,
            fault: direct.fault,
            own_requests: direct.own_requests,
            is_gateway: is_gateway.subscribe(),
            hold: hold.subscribe(),
            memory: shared.memory.clone(),
            spreads: !options.no_spread,
            own: shared.own.clone(),
        };
        let running = RunningClient {
            logins: Arc::new(logins),
            hold,
            fronts: watch::Sender::new(Arc::new(Fronts::new(&options.front))),
            zones: watch::Sender::new(dns::zones(&names.dns_local)),
            prefers_names: watch::Sender::new(false),
        };
        Ok(Self {
            shared: shared.clone(),
            ports,
            name_servers,
            routes,
            secret: offer.map(|offer| offer.secret),
            resolve: direct.resolve,
            pac_direct: options.pac_direct,
            running,
            is_gateway,
            most_connections: MOST_CONNECTIONS,
            most_handshakes: MOST_HANDSHAKES.min(shared.descriptors.handshakes),
        })
    }

    /// The endpoints that apps connect to, each with how they come to it.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Endpoint, Apps)> {
        self.ports.iter().map(|(port, apps)| (&port.endpoint, *apps))
    }

    /// The addresses of the local name server.
    pub fn name_servers(&self) -> impl Iterator<Item = SocketAddr> {
        self.name_servers.iter().filter_map(dns::Listener::address)
    }

    /// The facts to show.
    pub fn facts(&self) -> Facts {
        let proxy = self.endpoints().filter(|(_, apps)| *apps == Apps::Proxy);
        Facts {
            proxy: proxy.map(|(endpoint, _)| endpoint.clone()).collect(),
            logins: self.running.logins.clone(),
            links: self.routes.links.clone(),
            fronts: self.running.fronts.subscribe(),
            is_gateway: self.is_gateway.subscribe(),
        }
    }

    /// The handle for reloads.
    pub fn running(&self) -> RunningClient {
        self.running.clone()
    }

    /// The state that all connections of apps share, and the tasks to run. The page shows what `snapshot` returns.
    ///
    /// # Errors
    /// When a name server of `--dns-local` cannot be used.
    pub fn parts(self, snapshot: Box<TakeSnapshot>) -> Result<(Arc<Local>, Vec<Part>), Problem> {
        let Self { shared, ports, name_servers, routes, secret, resolve, running, .. } = self;
        let (links, memory) = (routes.links.clone(), routes.memory.clone());
        let members = shared.holdings.clone().zip(secret).map(|(holdings, secret)| {
            Members::new(holdings, secret, shared.credentials.clone(), shared.telemetry.clone())
        });
        let local = Arc::new(Local {
            routes,
            members,
            name: shared.name,
            drain: shared.drain,
            tasks: shared.tasks,
            logins: running.logins,
            page: Page::new(snapshot, self.pac_direct),
            fronts: LocalFronts {
                configured: running.fronts.subscribe(),
                known: Arc::new(Known::within(&memory)),
            },
            telemetry: shared.telemetry,
            next_id: AtomicU64::new(u64::from_be_bytes(random())),
            places: Arc::new(Semaphore::new(self.most_connections)),
            handshakes: Handshakes::new(self.most_handshakes, memory),
            prefers_names: running.prefers_names.subscribe(),
        });
        let needed = watch::Sender::new(!*self.is_gateway.borrow());
        let mut parts: Vec<Part> = vec![
            ("clock", Box::pin(links.clone().watch_clock())),
            ("links", Box::pin(links.run(needed.subscribe()))),
            ("role", Box::pin(follow_role(shared.announced, self.is_gateway, needed))),
        ];
        for (port, apps) in ports {
            let name = if apps == Apps::Proxy { "local proxy" } else { "transparent port" };
            parts.push((name, Box::pin(listener::run(local.clone(), port, apps))));
        }
        let names = NameServer::new(local.clone(), resolve, running.zones.subscribe());
        let (server, logins) = (Arc::downgrade(&names), local.logins.clone());
        local.page.answer_questions(Box::new(move |question| {
            let server = server.upgrade().filter(|_| !logins.are_needed());
            Box::pin(async move { server?.answer_to(&question).await })
        }));
        parts.push(("local name server", Box::pin(names.run(name_servers))));
        Ok((local, parts))
    }
}

impl RunningClient {
    /// Applies a reload. Open connections stay open.
    pub fn apply(&self, new: Live) {
        let Live { logins, hold, fronts } = new;
        self.logins.change(&logins);
        self.fronts.send_replace(Arc::new(Fronts::new(&fronts)));
        self.hold.send_replace(hold);
    }

    /// Applies a reload of the zones of the local name server. Its cache is emptied if they have changed.
    pub fn apply_names(&self, new: &dns::options::Live) {
        self.zones.send_if_modified(|zones| {
            let is_new = !zones.iter().map(|(zone, _)| zone).eq(&new.zones);
            if is_new {
                *zones = dns::zones(&new.zones);
            }
            is_new
        });
    }

    /// Whether redirected connections go to the names in their first bytes rather than to the addresses.
    pub fn prefer_names(&self, prefers: bool) {
        self.prefers_names.send_replace(prefers);
    }
}

/// Binds the endpoints of the local proxy. `file` is the configuration file, for a hint.
///
/// # Errors
/// When one of them cannot be bound.
pub fn bind_proxy(options: &Options, file: &Path) -> Result<Vec<Port>, Problem> {
    let bind = |endpoint: &Endpoint| {
        Port::bind(endpoint, options.proxy_mode.0).map_err(|error| {
            let hint = match (endpoint, error.kind()) {
                (Endpoint::Tcp(address), std::io::ErrorKind::AddrInUse) => port_taken(*address, file),
                (Endpoint::Tcp(address), std::io::ErrorKind::AddrNotAvailable) => format!(
                    "--proxy names an address of this machine, such as 127.0.0.1:{}: '{}' shows them",
                    address.port(),
                    tools::ADDRESSES
                ),
                (Endpoint::Tcp(_), _) => "ports below 1024 need root: --proxy 127.0.0.1:1080".to_owned(),
                (Endpoint::Unix(_), _) => {
                    "another laneway may be running here; --proxy unix:/PATH chooses another place".to_owned()
                }
            };
            Problem::new(format!("the local proxy cannot listen on {endpoint}")).because(error).hint(hint)
        })
    };
    options.proxy.iter().map(bind).collect()
}

/// What to do about a port that a node or another program has.
fn port_taken(address: SocketAddr, file: &Path) -> String {
    let other = crate::net::free_port_beside(address);
    let user = users::who_listens(address).filter(|user| Some(*user) != users::own()).map(users::name_of);
    if let Some(user) = user {
        return format!(
            "a program of the user {0} has that port. If it is {0}'s node, 'laneway status' shows it, and software of all users can go \
             through it; a node of your own beside it needs ports of its own: --proxy {other} --lan 127.0.0.1 --gateway HOST:7420, \
             with a gateway of your group as HOST",
            printable(&user)
        );
    }
    format!(
        "'laneway status' shows whether a node runs here already, and '{}' which program has the port. To take another port, write  \
         proxy = \"{other}\"  to {}, or start the node with --proxy {other}",
        tools::PORTS,
        quoted(file)
    )
}

async fn bind_dns(address: SocketAddr) -> Result<dns::Listener, Problem> {
    dns::Listener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need root, or the capability CAP_NET_BIND_SERVICE"
            }
            _ => {
                "another name server may be running here; --dns 127.0.0.2:53 or another port is free more often"
            }
        };
        Problem::new(format!("the local name server cannot listen on {address}")).because(error).hint(hint)
    })
}

/// Whether a node with this announcement connects its own apps directly. A gateway that must first bring its uplink up
/// cannot reach the servers itself yet.
fn serves(announcement: Option<&Announcement>) -> bool {
    announcement.is_some_and(|announcement| {
        let advert = &announcement.advert;
        (advert.state != State::Withdrawn || announcement.in_maintenance)
            && advert.reach != Reach::Unreachable
    })
}

/// Makes a node that is a gateway connect its own apps directly; any other node needs links.
async fn follow_role(
    mut announced: watch::Receiver<Option<Announcement>>,
    is_gateway: watch::Sender<bool>,
    needed: watch::Sender<bool>,
) {
    loop {
        let serves = serves(announced.borrow_and_update().as_ref());
        is_gateway.send_if_modified(|now| std::mem::replace(now, serves) != serves);
        needed.send_if_modified(|now| std::mem::replace(now, !serves) == serves);
        if announced.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
