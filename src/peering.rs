//! This node among the others: discovery, the known gateways, its candidacy and its uplink, bound and ready to run.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::lan::Lan;
use crate::peers::boot::Boot;
use crate::peers::candidate::{self, Announcement};
use crate::peers::directory::{Directory, Source};
use crate::peers::discovery::{self, Discovery};
use crate::peers::options::{Live, Options};
use crate::peers::remembered;
use crate::peers::selection;
use crate::peers::uplink::{self, Uplink};
use crate::problem::Problem;
use crate::shared::{Part, Shared};
use crate::sys::blocking;
use crate::sys::state::StateDir;
use crate::sys::tools;
use crate::trust::authority::JoinResponder;
use crate::wire::datagram::Reach;
use crate::wire::id::NodeId;
use crate::wire::target::{Host, Target};

/// Interval at which the names of `--gateway` are resolved again.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
/// Maximum number of lagging gateways that wait for group updates. Those that do not fit are noticed again later.
const MAX_BEHIND: usize = 64;

/// Resolves the name of a gateway and its port.
pub type ResolveGateway =
    dyn Fn(Target) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> + Send + Sync;

/// What the rest of the node decides about its candidacy.
pub struct Candidacy {
    /// Whether this node may be a gateway.
    pub serves: bool,
    /// Whether it was configured as a gateway.
    pub declared: bool,
    /// Whether there is a server, or a probe, to reach first.
    pub needs_server: bool,
    /// The port of its links.
    pub link_port: u16,
    /// Whether this machine reaches the servers.
    pub reach: watch::Receiver<Reach>,
    /// The settings of its uplink.
    pub uplink: uplink::Terms,
}

/// This node among the others.
pub struct BoundPeering {
    shared: Shared,
    discovery: Arc<Discovery>,
    receivers: JoinSet<Lan>,
    addresses: Vec<SocketAddr>,
    /// The addresses of gateways that this node was linked to before.
    remembered: Vec<SocketAddr>,
    gateways: Vec<Target>,
    behind: mpsc::Receiver<(NodeId, SocketAddr)>,
    serves: bool,
    reach: watch::Receiver<Reach>,
    uplink: Arc<Uplink>,
    candidate: watch::Sender<candidate::Options>,
    announcements: watch::Sender<Option<Announcement>>,
}

/// The running part, for a reload and for the end.
pub struct RunningPeering {
    /// The uplink, which the node brings down at its end.
    pub uplink: Arc<Uplink>,
    candidate: watch::Sender<candidate::Options>,
}

impl BoundPeering {
    /// Binds discovery on every LAN. `joins` answers joiners, while this node holds the authority.
    ///
    /// # Errors
    /// When another program uses the discovery port.
    pub fn build(
        options: &Options,
        shared: &Shared,
        state: &StateDir,
        candidacy: Candidacy,
        joins: JoinResponder,
        announcements: watch::Sender<Option<Announcement>>,
    ) -> Result<Self, Problem> {
        let Candidacy { serves, declared, needs_server, link_port, reach, uplink: terms } = candidacy;
        let group = shared.membership.group();
        let (lagging, behind) = mpsc::channel(MAX_BEHIND);
        let discovery_options = discovery::Options {
            membership: shared.membership.clone(),
            id: group.node.id,
            port: options.discovery_port,
            own_port: options.discovery_port,
            lans: options.lan.clone(),
            joins: Some((joins, link_port)),
            behind: serves.then_some(lagging),
            boot: Arc::new(Boot::begin(state)),
        };
        let discovery = Discovery::new(discovery_options, shared.directory.clone(), shared.announced.clone());
        let mut receivers = JoinSet::new();
        let addresses = discovery.bind(&mut receivers).map_err(|error| {
            Problem::new("discovery cannot start").because(error).hint(format!(
                "'{}' shows to an administrator which program has the port. If it is another node, this one takes ports of \
                 its own: --lan 127.0.0.1 --gateway HOST:7420 --proxy 127.0.0.1:1081. If it is another program, stop it, or name \
                 a gateway in place of discovery: --lan 127.0.0.1 --gateway HOST:7420",
                tools::PORTS
            ))
        })?;
        let remembered = remembered::load(state);
        for &address in &remembered {
            shared.directory.add_address(address, Source::Remembered);
        }
        let uplink_options = uplink::Options {
            on_promote: options.on_promote.clone(),
            on_demote: options.on_demote.clone(),
            node: group.node.name.clone(),
            needs_server,
        };
        let uplink = Uplink::new(uplink_options, terms);
        let (live, _) = options.reload(options);
        let candidate = watch::Sender::new(candidate::Options {
            selection: selection::Options {
                policy: live.policy,
                active: live.active,
                rotate: live.rotate,
                link_port,
                weight: live.weight,
                prepares: uplink.prepares(),
            },
            needs_server,
            declared,
        });
        Ok(Self {
            shared: shared.clone(),
            discovery,
            receivers,
            addresses,
            remembered,
            gateways: options.gateway.clone(),
            behind,
            serves,
            reach,
            uplink,
            candidate,
            announcements,
        })
    }

    /// The addresses at which discovery listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The handle for reloads.
    pub fn running(&self) -> RunningPeering {
        RunningPeering { uplink: self.uplink.clone(), candidate: self.candidate.clone() }
    }

    /// What the configuration says of the gateways of the group, also after a reload.
    pub fn settings(&self) -> watch::Receiver<candidate::Options> {
        self.candidate.subscribe()
    }

    /// The addresses of gateways that are known from the start.
    pub fn known(&self) -> Vec<SocketAddr> {
        let named = self.gateways.iter().filter_map(Target::address);
        self.remembered.iter().copied().chain(named).collect()
    }

    /// The tasks to run, and the channel of gateways that lag behind in the group's state. `resolve` finds the addresses
    /// of named gateways.
    pub fn parts(self, resolve: Box<ResolveGateway>) -> (Vec<Part>, mpsc::Receiver<(NodeId, SocketAddr)>) {
        let Self { shared, discovery, receivers, gateways, behind, uplink, announcements, .. } = self;
        let directory = shared.directory;
        let mut parts: Vec<Part> = vec![
            ("discovery", Box::pin(discovery.run(receivers))),
            ("static gateways", Box::pin(resolve_gateways(gateways, directory.clone(), resolve))),
        ];
        if self.serves {
            let commands = uplink.clone().run(self.reach.clone(), shared.activity.clone());
            parts.push(("uplink", Box::pin(commands)));
            let settings = self.candidate.subscribe();
            let candidate =
                candidate::run(settings, directory, self.reach, shared.activity, uplink, announcements);
            parts.push(("candidate", Box::pin(candidate)));
        } else {
            parts.push(("candidate", Box::pin(async move { announcements.closed().await })));
        }
        (parts, behind)
    }
}

impl RunningPeering {
    /// Applies a reload. `drain` is how long open tunnels delay bringing the uplink down; `servers` are those that the uplink's
    /// commands are told.
    pub fn apply(&self, new: Live, drain: Duration, servers: &[Target]) {
        let Live { active, weight, policy, rotate, command_timeout } = new;
        self.uplink.change(uplink_terms(command_timeout, drain, servers));
        self.candidate.send_modify(|options| {
            options.selection.policy = policy;
            options.selection.active = active;
            options.selection.rotate = rotate;
            options.selection.weight = weight;
        });
    }
}

/// The settings of an uplink whose commands are told these servers.
pub fn uplink_terms(command_timeout: Duration, drain: Duration, servers: &[Target]) -> uplink::Terms {
    let servers: Vec<_> = servers.iter().map(Target::to_string).collect();
    uplink::Terms { command_timeout, drain, server: servers.join(",") }
}

/// Writes the address of a gateway that this node is linked to into the state directory, without blocking.
pub fn remember(state: &StateDir, address: SocketAddr) {
    let state = state.clone();
    drop(blocking::run_with_state(move || remembered::add(&state, address)));
}

/// Keeps the addresses of `--gateway` in the directory. Runs forever, because a name's addresses may change.
async fn resolve_gateways(gateways: Vec<Target>, directory: Arc<Directory>, resolve: Box<ResolveGateway>) {
    loop {
        // Resolved concurrently, so that a name whose name servers do not respond does not delay the others.
        join_all(gateways.iter().map(async |gateway| {
            let found = match &gateway.host {
                Host::Address(ip) => Ok(vec![SocketAddr::new(*ip, gateway.port)]),
                Host::Name(_) => resolve(gateway.clone()).await,
            };
            match found {
                Ok(found) => {
                    found.into_iter().for_each(|address| directory.add_address(address, Source::Static));
                }
                Err(error) => tracing::warn!(%gateway, %error, "gateway name not resolved"),
            }
        }))
        .await;
        if gateways.is_empty() {
            return std::future::pending().await;
        }
        tokio::time::sleep(RESOLVE_INTERVAL).await;
    }
}
