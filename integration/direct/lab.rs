//! A group, its gateway and its clients, all in this process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use laneway::failure::{Failure, Kind, Side};
use laneway::gateway::access::Access;
use laneway::gateway::clients::{Clients, Limits};
use laneway::gateway::dns::Resolver;
use laneway::gateway::egress::Egress;
use laneway::gateway::served::ServedLinks;
use laneway::gateway::state::Gateway;
use laneway::gateway::{enrolment::WrongProofs, listener::LinkPort};
use laneway::link::client::Link;
use laneway::link::tls::{self, Credentials};
use laneway::local::context::Local;
use laneway::local::handshakes::Handshakes;
use laneway::local::links::Links;
use laneway::local::listener::{self, Apps};
use laneway::local::logins::{Login, Logins};
use laneway::local::page::Page;
use laneway::local::port::Port;
use laneway::local::routes::Routes;
use laneway::memory::Budget;
use laneway::net;
use laneway::own::Own;
use laneway::peers::candidate::Activity;
use laneway::peers::directory::{Directory, Source};
use laneway::sys::state::StateDir;
use laneway::telemetry::Telemetry;
use laneway::trust::authority::{Authority, Uses};
use laneway::trust::certificate::Role;
use laneway::trust::group::Group;
use laneway::trust::join as enrol;
use laneway::trust::membership::Membership;
use laneway::trust::name::WantedName;
use laneway::view::{Started, View};
use laneway::wire::target::Target;
use tokio::io::duplex;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that a local port serves at a time.
pub(crate) const CONNECTIONS: usize = 256;
/// Those of them that have not said yet what they want.
pub(crate) const HANDSHAKES: usize = 32;

/// What a client may take where that is not what matters.
pub(crate) const UNLIMITED: Limits = Limits { tunnels: u32::MAX, opens: u32::MAX, rate: 0 };

/// A group of two, the first of which runs a gateway that may dial loopback addresses.
pub(crate) struct Lab {
    directory: tempfile::TempDir,
    pub(crate) gateway: Group,
    pub(crate) client: Group,
    pub(crate) link_address: SocketAddr,
    /// What the gateway's tunnels hold.
    pub(crate) memory: Arc<Budget>,
    /// What the gateway has counted.
    pub(crate) telemetry: Arc<Telemetry>,
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
    logins: Arc<Logins>,
    /// What it has counted.
    pub(crate) telemetry: Arc<Telemetry>,
    dials: Arc<AtomicUsize>,
    /// How long it holds a connection while there is no gateway.
    pub(crate) hold: watch::Sender<Duration>,
    _needed: watch::Sender<bool>,
    _is_gateway: watch::Sender<bool>,
    running: Vec<JoinHandle<()>>,
}

impl Lab {
    pub(crate) async fn new() -> Self {
        Self::with_access("127.0.0.0/8").await
    }

    /// With a gateway that allows this alone.
    pub(crate) async fn with_access(allow: &str) -> Self {
        Self::with(allow, UNLIMITED, u64::MAX).await
    }

    /// With a gateway that gives each client no more than this.
    pub(crate) async fn with_limits(limits: Limits) -> Self {
        Self::with("127.0.0.0/8", limits, u64::MAX).await
    }

    /// With a gateway whose tunnels may hold no more than this, in bytes.
    pub(crate) async fn with_memory(limit: u64) -> Self {
        Self::with("127.0.0.0/8", UNLIMITED, limit).await
    }

    async fn with(allow: &str, limits: Limits, memory: u64) -> Self {
        let memory = Budget::new(memory);
        let (directory, gateway, client) = two_members().await;
        let listener = net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let link_address = listener.local_addr().unwrap();
        let (drain, tasks) = (CancellationToken::new(), TaskTracker::new());
        let access = Access::new(&[], &[allow.parse().unwrap()], &[]);
        let egress = Egress::new(
            access,
            Resolver::system().unwrap(),
            Duration::from_secs(10),
            vec![],
            tokio::sync::mpsc::channel(1).0,
        );
        egress.own().listens_on(link_address);
        let membership = Membership::new(gateway.clone());
        let telemetry = Arc::<Telemetry>::default();
        let serve = Gateway {
            egress: Arc::new(egress),
            activity: Arc::new(Activity::default()),
            served: ServedLinks::default(),
            telemetry: telemetry.clone(),
            clients: Clients::new(limits),
            memory: memory.clone(),
            id: gateway.node.id,
            name: "laneway-test".into(),
            drain: drain.clone(),
            membership: membership.clone(),
            announced: watch::channel(None).1,
        };
        let port = LinkPort {
            gateway: Some((Arc::new(serve), Credentials::new(membership.clone()).unwrap())),
            authority: None,
            wrong_proofs: WrongProofs::default(),
            workers: vec![Handle::current()],
            tasks: tasks.clone(),
            drain: drain.clone(),
        };
        tasks.spawn(Arc::new(port).run(listener));
        Self { directory, gateway, client, link_address, memory, telemetry, drain, tasks }
    }

    /// One more member of the group.
    pub(crate) async fn member(&self, role: Role) -> Group {
        join(&StateDir::open(self.directory.path().join("state")).unwrap(), role).await
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

    /// The same with a client whose tunnels may hold no more than this, in bytes.
    pub(crate) async fn proxy_with_memory(&self, limit: u64) -> Proxy {
        self.proxy_by(&[self.link_address], limit)
    }

    /// The same over other gateways of the group.
    pub(crate) async fn proxy_to(&self, gateways: &[SocketAddr]) -> Proxy {
        self.proxy_by(gateways, u64::MAX)
    }

    fn proxy_by(&self, gateways: &[SocketAddr], limit: u64) -> Proxy {
        let directory = Arc::new(Directory::default());
        gateways.iter().for_each(|gateway| directory.add_address(*gateway, Source::Static));
        Proxy::start(&self.client, directory, false, limit)
    }
}

impl Proxy {
    /// The local port of a gateway: it dials itself.
    pub(crate) async fn direct() -> Self {
        let (_directory, gateway, _) = two_members().await;
        Self::start(&gateway, Arc::default(), true, u64::MAX)
    }

    fn start(group: &Group, directory: Arc<Directory>, is_gateway: bool, memory: u64) -> Self {
        let memory = Budget::new(memory);
        let dials = Arc::new(AtomicUsize::new(0));
        let counted = dials.clone();
        let direct = move |target: Target| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move { dial(&target).await }.boxed()
        };
        let direct_udp = |target: Target| {
            let address = target.address().expect("the tests ask for addresses");
            let connected = net::connect_udp(address);
            let failed = |error: std::io::Error| Failure::new(Kind::Refused, Side::Server, error.to_string());
            async move { connected.await.map_err(failed) }.boxed()
        };
        let credentials = Credentials::new(Membership::new(group.clone())).unwrap();
        let links =
            Links::new(group.node.id, directory.clone(), credentials, TaskTracker::new(), Box::new(|_| {}));
        let (is_gateway_now, is_gateway) = watch::channel(is_gateway);
        let (needed_now, needed) = watch::channel(!*is_gateway.borrow());
        let (hold_now, hold) = watch::channel(Duration::from_secs(10));
        let port = Port::bind(&"127.0.0.1:0".parse().unwrap(), 0o600).unwrap();
        let address = port.address().unwrap();
        let own = Arc::<Own>::default();
        own.listens_on(address);
        let logins = Arc::new(Logins::new(&[]).unwrap());
        let routes = Routes {
            links: links.clone(),
            direct: Box::new(direct),
            direct_udp: Box::new(direct_udp),
            is_gateway,
            hold,
            memory: memory.clone(),
            own,
        };
        let telemetry = Arc::<Telemetry>::default();
        let view = View {
            group: group.clone(),
            proxy: vec![port.endpoint.clone()],
            link: None,
            telemetry: telemetry.clone(),
            directory,
            links: links.clone(),
            served: ServedLinks::default(),
            announced: watch::channel(None).1,
            is_gateway: routes.is_gateway.clone(),
            servers: watch::channel(vec![]).1,
            memory: memory.clone(),
            stop: CancellationToken::new(),
            started: Started::now(),
        };
        let local = Arc::new(Local {
            routes,
            page: Page::new(Box::new(move || view.snapshot()), false),
            telemetry: telemetry.clone(),
            name: "laneway-test".into(),
            drain: CancellationToken::new(),
            tasks: TaskTracker::new(),
            logins: logins.clone(),
            next_id: AtomicU64::new(1),
            places: Arc::new(Semaphore::new(CONNECTIONS)),
            handshakes: Handshakes::new(HANDSHAKES),
        });
        let running = vec![
            tokio::spawn(links.clone().run(needed)),
            tokio::spawn(listener::run(local.clone(), port, Apps::Proxy)),
        ];
        Self {
            address,
            memory,
            links,
            local,
            logins,
            telemetry,
            dials,
            hold: hold_now,
            _needed: needed_now,
            _is_gateway: is_gateway_now,
            running,
        }
    }

    /// From now on apps must log in with this.
    pub(crate) fn asks_for(&self, login: &str) {
        self.logins.change(&[login.parse::<Login>().unwrap()]);
    }

    /// How often a server was dialled.
    pub(crate) fn dials(&self) -> usize {
        self.dials.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.running.iter().for_each(JoinHandle::abort);
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

async fn join(state: &StateDir, role: Role) -> Group {
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
