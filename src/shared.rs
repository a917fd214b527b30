//! What all parts of one node share: its place in the group, its counters and limits, and its shutdown.

use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::store::Store;
use crate::descriptors::Descriptors;
use crate::failure::printable;
use crate::link::tls::Credentials;
use crate::memory::Budget;
use crate::own_addresses::OwnAddresses;
use crate::peers::candidate::{Activity, Announcement};
use crate::peers::directory::Directory;
use crate::problem::Problem;
use crate::sharing::Holdings;
use crate::sys::state::{StateDir, quoted};
use crate::telemetry::Telemetry;
use crate::telemetry::snapshot::UnusedDirectory;
use crate::trust::group::Group;
use crate::trust::membership::Membership;
use crate::trust::random::random;

/// A task that runs until the node stops, with its name for the error when it ends by itself.
pub type Part = (&'static str, BoxFuture<'static, ()>);

/// What all parts of one node share.
// fields: each belongs to another part of the node
#[derive(Clone)]
pub struct Shared {
    /// This node in its group, and the group's state.
    pub membership: Arc<Membership>,
    /// What authenticates this node on links.
    pub credentials: Arc<Credentials>,
    /// This node's pseudonym in Via and Proxy-Status fields; a token (RFC 9110 §5.6.2).
    pub name: String,
    /// Counters, usage and events.
    pub telemetry: Arc<Telemetry>,
    /// What this node carries for others.
    pub activity: Arc<Activity>,
    /// Bounds the memory of all connections together.
    pub memory: Arc<Budget>,
    /// Bounds their number.
    pub descriptors: Descriptors,
    /// The known gateways.
    pub directory: Arc<Directory>,
    /// What this node announces as a candidate.
    pub announced: watch::Receiver<Option<Announcement>>,
    /// This machine's addresses, and the ports that this node listens on.
    pub own: Arc<OwnAddresses>,
    /// The responses that this node stores, if it does.
    pub cache: Option<Arc<Store>>,
    /// The pieces of large downloads that this node keeps for other members, if it does.
    pub holdings: Option<Arc<Holdings>>,
    /// The directories of both that cannot be used.
    pub unused: Unused,
    /// The port at which it serves them, if it does.
    pub serves_pieces: Option<u16>,
    /// Cancelled when the node drains.
    pub drain: CancellationToken,
    /// The tasks of connections and links, which a drain waits for.
    pub tasks: TaskTracker,
}

/// The directories in which this node should store something, but cannot.
#[derive(Clone, Default)]
pub struct Unused {
    /// Those that could not be opened.
    closed: Vec<UnusedDirectory>,
    /// Those that were opened.
    open: Vec<(&'static str, Arc<Store>)>,
}

impl Unused {
    /// Notes the store in `directory`, which is for `what`, once it was opened, or why it cannot be.
    pub fn note(
        &mut self,
        what: &'static str,
        directory: &Path,
        opened: Result<&Arc<Store>, &std::io::Error>,
    ) {
        match opened {
            Ok(store) => self.open.push((what, store.clone())),
            Err(error) => self.closed.push(unused(what, directory, &error.to_string(), true)),
        }
    }

    /// Those in which nothing can be stored now.
    pub fn now(&self) -> Vec<UnusedDirectory> {
        let failing = self
            .open
            .iter()
            .filter_map(|(what, store)| Some(unused(what, store.directory(), &store.fault()?, false)));
        self.closed.iter().cloned().chain(failing).collect()
    }
}

fn unused(what: &str, directory: &Path, reason: &str, until_restart: bool) -> UnusedDirectory {
    UnusedDirectory {
        what: what.into(),
        directory: quoted(directory),
        reason: printable(reason),
        until_restart,
    }
}

impl Shared {
    /// A node with this `membership` whose connections may hold `memory_limit` bytes, with the channel that announces it.
    ///
    /// # Errors
    /// When the node's key or certificate cannot be used.
    pub fn new(
        membership: Arc<Membership>,
        memory_limit: u64,
    ) -> Result<(Self, watch::Sender<Option<Announcement>>), Problem> {
        let telemetry = Arc::new(Telemetry::default());
        let (announcements, announced) = watch::channel(None);
        let id = membership.group().node.id;
        let credentials =
            Credentials::new(membership.clone()).map_err(|error| Problem::new("no links").because(error))?;
        tracing::debug!(limit = memory_limit, "memory for connections");
        let shared = Self {
            membership,
            credentials,
            name: format!("laneway-{}", id.short()),
            activity: Arc::new(Activity::new(telemetry.served.traffic.clone())),
            memory: Budget::new(memory_limit),
            descriptors: Descriptors::UNLIMITED,
            directory: Arc::new(Directory::new(id, u64::from_be_bytes(random()), telemetry.clone())),
            telemetry,
            announced,
            own: Arc::default(),
            cache: None,
            holdings: None,
            unused: Unused::default(),
            serves_pieces: None,
            drain: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Ok((shared, announcements))
    }
}

/// The group that this machine is a member of.
///
/// # Errors
/// When it is in no group: then it can neither be a gateway nor use one.
pub fn group(state: &StateDir) -> Result<Group, Problem> {
    Group::load(state)?.ok_or_else(|| no_group(state))
}

/// What to do where `--role gateway` is wanted on a machine that was admitted as a client only.
pub const CLIENT_ONLY: &str = "leave out --role gateway; or run 'laneway leave' here, and join again with a code of \
 'laneway invite' without --client-only";

/// The problem of a machine that is in no group.
pub fn no_group(state: &StateDir) -> Problem {
    Problem::usage(format!("this machine is in no group: {} holds none", quoted(state.path()))).hint(format!(
        "run 'laneway init' on the first machine, then the line that it prints on every other one{}",
        match state.option() {
            option if option.is_empty() => option,
            option => format!(", with{option} here"),
        }
    ))
}
