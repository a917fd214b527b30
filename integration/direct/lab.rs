//! A group, its gateway and its clients, all in this process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use laneway::cache::store::Store;
use laneway::config::Config;
use laneway::failure::{Failure, Kind, Side};
use laneway::fronts::options::Upstream;
use laneway::gateway::bound::{self, BoundGateway, Duties};
use laneway::gateway::egress::Egress;
use laneway::gateway::served::ServedLinks;
use laneway::link::client::Link;
use laneway::link::tls;
use laneway::local::bound::{BoundClient, Direct, RunningClient, bind_proxy};
use laneway::local::context::Local;
use laneway::local::links::Links;
use laneway::local::listener::Apps;
use laneway::local::logins::Login;
use laneway::local::options::Live;
use laneway::memory::Budget;
use laneway::net;
use laneway::peers::candidate::Announcement;
use laneway::peers::directory::{Directory, Source};
use laneway::shared::{Part, Shared};
use laneway::sys::state::StateDir;
use laneway::telemetry::Telemetry;
use laneway::trust::authority::{Authority, Uses};
use laneway::trust::certificate::Role;
use laneway::trust::group::Group;
use laneway::trust::join as enrol;
use laneway::trust::membership::Membership;
use laneway::trust::name::WantedName;
use laneway::view::{Started, View};
use laneway::wire::datagram::{Advert, Reach, Standing, State};
use laneway::wire::id::NodeId;
use laneway::wire::target::Target;
use tokio::io::duplex;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that a local port serves at a time.
pub(crate) const CONNECTIONS: usize = 256;
/// How many of them may not have said yet what they want.
pub(crate) const HANDSHAKES: usize = 32;
/// The options of a gateway whose clients may take anything.
const UNLIMITED: &str = "client-tunnels = 4294967295\nclient-opens = 4294967295";
/// How long a local port holds a connection while there is no gateway.
const HOLD: Duration = Duration::from_secs(10);

/// A group of two, the first of which runs a gateway that may dial loopback addresses.
pub(crate) struct Lab {
    directory: tempfile::TempDir,
    _cache: tempfile::TempDir,
    _running: JoinSet<()>,
    pub(crate) gateway: Group,
    pub(crate) client: Group,
    pub(crate) link_address: SocketAddr,
    /// What the gateway's tunnels hold.
    pub(crate) memory: Arc<Budget>,
    /// What the gateway has counted.
    pub(crate) telemetry: Arc<Telemetry>,
    /// What the gateway stores; none without a cache.
    pub(crate) store: Option<Arc<Store>>,
    /// Stops the gateway, orderly.
    pub(crate) drain: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// The local port of a node.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// What its tunnels hold.
    pub(crate) memory: Arc<Budget>,
    pub(crate) links: Arc<Links>,
    /// What its ports share, for those that a test adds.
    pub(crate) local: Arc<Local>,
    /// What it has counted.
    pub(crate) telemetry: Arc<Telemetry>,
    /// The gateways that it knows.
    directory: Arc<Directory>,
    client: RunningClient,
    dials: Arc<AtomicUsize>,
    _running: JoinSet<()>,
}

/// A running gateway without a local port.
pub(crate) struct RunningGateway {
    pub(crate) shared: Shared,
    /// Where it accepts links.
    pub(crate) address: SocketAddr,
    running: JoinSet<()>,
    cache: tempfile::TempDir,
}

impl RunningGateway {
    /// A gateway of `group` with these options, in the form of the configuration file, and its memory limit in bytes.
    pub(crate) fn start(group: Group, options: &str, memory: u64) -> Self {
        Self::with_authority(group, options, memory, None)
    }

    /// As `start`; with an `authority` the gateway also enrols new members.
    pub(crate) fn with_authority(
        group: Group,
        options: &str,
        memory: u64,
        authority: Option<Authority>,
    ) -> Self {
        let config = Config::of_text(&format!("link = '127.0.0.1:0'\n{options}")).unwrap();
        let (mut shared, _announcements) = Shared::new(Membership::new(group), memory).unwrap();
        shared.name = "laneway-test".into();
        let directory = tempfile::tempdir().unwrap();
        shared.cache =
            config.gateway.open_cache(&directory.path().join("cache"), &shared.memory, &mut shared.unused);
        let egress = Egress::build(&config.gateway, &shared);
        let duties = Duties { serves: true, may_serve: true, authority: watch::channel(authority).1 };
        let workers = vec![Handle::current()];
        let gateway = BoundGateway::build(&config.gateway, &shared, duties, egress, workers).unwrap();
        let address = gateway.address().unwrap();
        let running = run(gateway.parts(vec![], mpsc::channel(1).1).unwrap());
        Self { shared, address, running, cache: directory }
    }
}

fn run(parts: Vec<Part>) -> JoinSet<()> {
    parts.into_iter().map(|(_, part)| part).collect()
}

impl Lab {
    pub(crate) async fn new() -> Self {
        Self::with_access("127.0.0.0/8").await
    }

    /// A lab whose gateway allows only this.
    pub(crate) async fn with_access(allow: &str) -> Self {
        Self::with(allow, UNLIMITED, u64::MAX).await
    }

    /// A lab whose gateway gives each client no more than these options say.
    pub(crate) async fn with_limits(limits: &str) -> Self {
        Self::with("127.0.0.0/8", limits, u64::MAX).await
    }

    /// A lab whose gateway's tunnels may hold no more than this, in bytes.
    pub(crate) async fn with_memory(limit: u64) -> Self {
        Self::with("127.0.0.0/8", UNLIMITED, limit).await
    }

    async fn with(allow: &str, limits: &str, memory: u64) -> Self {
        let (directory, gateway, client) = two_members().await;
        let options = format!("allow = '{allow}'\n{limits}");
        let RunningGateway { shared, address, running, cache } =
            RunningGateway::start(gateway.clone(), &options, memory);
        Self {
            directory,
            gateway,
            client,
            link_address: address,
            memory: shared.memory,
            telemetry: shared.telemetry,
            store: shared.cache,
            drain: shared.drain,
            tasks: shared.tasks,
            _running: running,
            _cache: cache,
        }
    }

    /// One more member of the group.
    pub(crate) async fn member(&self, role: Role) -> Group {
        join(&StateDir::open(self.directory.path().join("state")).unwrap(), role).await
    }

    /// One more gateway of the group that allows the same, and is ranked before the first one when neither is heard.
    pub(crate) async fn better_gateway(&self) -> (NodeId, RunningGateway) {
        let options = format!("allow = '127.0.0.0/8'\n{UNLIMITED}");
        let member = self.member(Role::Gateway).await;
        loop {
            let gateway = RunningGateway::start(member.clone(), &options, u64::MAX);
            if gateway.address < self.link_address {
                return (member.node.id, gateway);
            }
        }
    }

    /// A link of the client to the gateway.
    pub(crate) async fn link(&self) -> Link {
        self.link_of(&self.client).await
    }

    /// A link of any member to the gateway.
    pub(crate) async fn link_of(&self, member: &Group) -> Link {
        let config = tls::link_client(member).unwrap();
        let membership = Membership::new(member.clone());
        Link::dial(self.link_address, Some(self.gateway.node.id), config, membership, &self.tasks)
            .await
            .unwrap()
    }

    /// The client's local port: everything goes over the link.
    pub(crate) async fn proxy(&self) -> Proxy {
        self.proxy_with_memory(u64::MAX).await
    }

    /// As `proxy`, with tunnels that may hold no more than this, in bytes.
    pub(crate) async fn proxy_with_memory(&self, limit: u64) -> Proxy {
        Proxy::start(&self.client, &[self.link_address], limit).await
    }

    /// As `proxy`, over other gateways of the group.
    pub(crate) async fn proxy_to(&self, gateways: &[SocketAddr]) -> Proxy {
        Proxy::start(&self.client, gateways, u64::MAX).await
    }
}

impl Proxy {
    /// The local port of a gateway: it dials itself.
    pub(crate) async fn direct() -> Self {
        let (_directory, gateway, _) = two_members().await;
        let announcement =
            Announcement { advert: active(), beacons: 0, answers_one_in: 1, in_maintenance: false };
        Self::build(&gateway, &[], Some(announcement), u64::MAX).await
    }

    async fn start(group: &Group, gateways: &[SocketAddr], memory: u64) -> Self {
        Self::build(group, gateways, None, memory).await
    }

    async fn build(
        group: &Group,
        gateways: &[SocketAddr],
        announcement: Option<Announcement>,
        memory: u64,
    ) -> Self {
        let config = Config::of_text("proxy = '127.0.0.1:0'").unwrap();
        let (mut shared, announcements) = Shared::new(Membership::new(group.clone()), memory).unwrap();
        shared.name = "laneway-test".into();
        announcements.send_replace(announcement);
        gateways.iter().for_each(|gateway| shared.directory.add_address(*gateway, Source::Static));
        let ports = bind_proxy(&config.local, Path::new("laneway.toml")).unwrap();
        let address = ports[0].address().unwrap();
        let ports = ports.into_iter().map(|port| (port, Apps::Proxy)).collect();
        let dials = Arc::new(AtomicUsize::new(0));
        let (direct, remember) = (counting(&dials), Box::new(|_| {}));
        let build = BoundClient::build(&config.local, &config.dns, &shared, ports, direct, remember);
        let mut client = build.await.unwrap();
        (client.most_connections, client.most_handshakes) = (CONNECTIONS, HANDSHAKES);
        let running = client.running();
        let view = View {
            shared: shared.clone(),
            client: client.facts(),
            gateway: no_gateway(),
            setting: "client",
            discovery: (0, vec![]),
            candidate: None,
            started: Started::now(),
            directory: String::new(),
        };
        let links = client.facts().links;
        let (local, parts) = client.parts(Box::new(move || view.snapshot())).unwrap();
        let (memory, telemetry, directory) = (shared.memory, shared.telemetry, shared.directory);
        Self {
            address,
            memory,
            links,
            local,
            telemetry,
            directory,
            client: running,
            dials,
            _running: run(parts),
        }
    }

    /// Has the node hear an offer of this gateway.
    pub(crate) fn hears(&self, gateway: NodeId, address: SocketAddr, state: State) {
        let advert = Advert { state, ..active() };
        self.directory.offered(gateway, address, advert, Duration::ZERO, Instant::now());
    }

    /// From now on, apps must log in with this.
    pub(crate) fn asks_for(&self, login: &str) {
        self.client.apply(Live { logins: vec![login.parse::<Login>().unwrap()], hold: HOLD, fronts: vec![] });
    }

    /// From now on, the local port has these fronts.
    pub(crate) fn has_fronts(&self, fronts: Vec<Upstream>) {
        self.client.apply(Live { logins: vec![], hold: HOLD, fronts });
    }

    /// From now on, connections wait this long for a gateway.
    pub(crate) fn holds_for(&self, hold: Duration) {
        self.client.apply(Live { logins: vec![], hold, fronts: vec![] });
    }

    /// How often a server was dialled.
    pub(crate) fn dials(&self) -> usize {
        self.dials.load(Ordering::Relaxed)
    }
}

/// Connects from this machine, and counts the TCP connections.
fn counting(dials: &Arc<AtomicUsize>) -> Direct {
    let counted = dials.clone();
    Direct {
        connect: Box::new(move |target: Target| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move { dial(&target).await }.boxed()
        }),
        connect_udp: Box::new(|target: Target| {
            let address = target.address().expect("the tests ask for addresses");
            let connected = net::connect_udp(address);
            let failed = |error: std::io::Error| Failure::new(Kind::Refused, Side::Server, error.to_string());
            async move { connected.await.map_err(failed) }.boxed()
        }),
        fault: Box::new(|| None),
        own_requests: Box::new(|_, _, _| std::future::ready(None).boxed()),
        resolve: Box::new(|_| panic!("no test asks this proxy's name server")),
    }
}

/// The facts shown about a node that is no gateway.
fn no_gateway() -> bound::Facts {
    bound::Facts {
        link: None,
        served: ServedLinks::default(),
        servers: watch::channel(vec![]).1,
        egress: None,
    }
}

/// What an active gateway announces.
fn active() -> Advert {
    Advert {
        state: State::Active,
        reach: Reach::Reachable,
        link_port: 7420,
        weight: 100,
        load: 0,
        capacity: 1000,
        tunnels: 0,
        standing: Standing { active: 1, interval: 1000, ..Standing::default() },
        peers: vec![],
    }
}

async fn dial(target: &Target) -> Result<TcpStream, Failure> {
    let address = target.address().expect("the tests ask for addresses");
    let connected = TcpStream::connect(address).await;
    connected.map_err(|error| Failure::new(Kind::Refused, Side::Server, error.to_string()))
}

/// The first of a group and one that has joined it.
async fn two_members() -> (tempfile::TempDir, Group, Group) {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(directory.path().join("state")).unwrap();
    let first = Authority::create(&state, "office", "first").unwrap();
    let second = join(&state, Role::Client).await;
    (directory, first, second)
}

pub(crate) async fn join(state: &StateDir, role: Role) -> Group {
    let authority = Authority::load(state).unwrap().unwrap();
    let code = authority.invite(role, Uses::Times(1), None, None).unwrap();
    let (mut joiner, mut signer) = duplex(4096);
    let session = [7; 32];
    let name = WantedName::Suggested("member".into());
    let (joined, enrolled) = tokio::join!(
        enrol::request(&mut joiner, &session, &code, &name, enrol::JoinKey::temporary().unwrap()),
        enrol::serve(&mut signer, &session, &authority),
    );
    enrolled.unwrap();
    joined.unwrap()
}
