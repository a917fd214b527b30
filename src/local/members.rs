//! Links to other members of the group that have pieces of bodies: dialled when they are needed, and retired when unused for a
//! while. A member that has sent something wrong, or cannot be reached, is left alone for some time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::TaskTracker;

use crate::cache::pieces;
use crate::limited;
use crate::link::client::Link;
use crate::link::piece::{self, PieceError};
use crate::link::tls::Credentials;
use crate::net::Segments;
use crate::sharing::Holdings;
use crate::sys::blocking;
use crate::telemetry::Telemetry;
use crate::telemetry::journal::Happening;
use crate::wire::id::NodeId;
use crate::wire::sharing::PieceHash;

/// Maximum number of members that are remembered.
const MOST_KNOWN: usize = 256;
/// How long an unused link is kept.
const IDLE: Duration = Duration::from_secs(30);
/// How long a whole piece may take while four are in flight. Long before that another source is asked, too.
const LATE: Duration = Duration::from_secs(60);
/// A member that says sooner that it does not have a piece yet is not asked for it again.
const NOT_YET: Duration = Duration::from_secs(5);
/// How long a member that cannot be reached, or does not send a piece in time, is left alone.
const UNREACHABLE: Duration = Duration::from_secs(60);
/// How long a member that has sent something else than the piece is left alone.
const WRONG: Duration = Duration::from_secs(600);

/// The members that this node has asked for pieces.
pub struct Members {
    /// What this node keeps itself.
    pub holdings: Arc<Holdings>,
    /// The secret by which it recognizes what its gateways say about pieces.
    pub secret: u64,
    credentials: Arc<Credentials>,
    telemetry: Arc<Telemetry>,
    tasks: TaskTracker,
    known: Mutex<HashMap<NodeId, Arc<Known>>>,
}

/// One member.
struct Known {
    /// The link, while there is one. Whoever dials holds the lock.
    link: tokio::sync::Mutex<Option<Link>>,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
struct State {
    used: Instant,
    alone_until: Option<Instant>,
}

/// Why a member did not give a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// It does not have the piece.
    Missing,
    /// It says that it is still getting the piece.
    NotYet,
    /// It cannot be reached, its link broke, or it took too long.
    Gone,
    /// It has sent something else.
    Wrong,
    /// It is left alone.
    LeftAlone,
}

impl Failed {
    /// The word for it in the metrics.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Missing | Self::NotYet => "missing",
            Self::Gone | Self::LeftAlone => "gone",
            Self::Wrong => "wrong",
        }
    }
}

impl Members {
    /// A table without members. Only this node and its gateways know `secret`.
    pub fn new(
        holdings: Arc<Holdings>,
        secret: u64,
        credentials: Arc<Credentials>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        Self { holdings, secret, credentials, telemetry, tasks: TaskTracker::new(), known: Mutex::default() }
    }

    /// Gets a piece of `length` bytes from the member `id`, which serves them `at` this address, and verifies it.
    pub(super) async fn piece(
        &self,
        (id, at): (NodeId, SocketAddr),
        hash: PieceHash,
        length: usize,
        heard: impl Fn(),
    ) -> Result<Bytes, Failed> {
        let known = self.known(id);
        if known.state().alone_until.is_some_and(|until| Instant::now() < until) {
            return Err(Failed::LeftAlone);
        }
        let begun = Instant::now();
        let got = loop {
            let asked = Instant::now();
            match timeout(LATE, self.fetch(&known, (id, at), hash, length, &heard)).await {
                Ok(Err(Failed::NotYet)) if asked.elapsed() >= NOT_YET && begun.elapsed() < LATE => {}
                Ok(got) => break got,
                Err(_late) => break Err(Failed::Gone),
            }
        };
        let alone = match got {
            Err(Failed::Gone) => UNREACHABLE,
            Err(Failed::Wrong) => WRONG,
            _ => return got,
        };
        let is_news = known.leave_alone(Instant::now() + alone);
        if got == Err(Failed::Wrong) && is_news {
            let name = self.telemetry.names.of(id);
            limited!(
                warn,
                id,
                member = name,
                "a member sent something else than the piece that it was asked for"
            );
            let text = "what it sent was not the piece that it was asked for, and was thrown away";
            self.telemetry.note_about(id, Happening::Poisoned, name, text);
        }
        got
    }

    /// Leaves the member `id` alone for a while, for all bodies.
    pub(super) fn leave(&self, id: NodeId) {
        self.known(id).leave_alone(Instant::now() + UNREACHABLE);
    }

    async fn fetch(
        &self,
        known: &Arc<Known>,
        (id, at): (NodeId, SocketAddr),
        hash: PieceHash,
        length: usize,
        heard: impl Fn(),
    ) -> Result<Bytes, Failed> {
        let link = self.link(known, id, at).await.ok_or(Failed::Gone)?;
        let piece = match piece::fetch(&link, &hash, length, heard).await {
            Ok(piece) => piece,
            Err(PieceError::Missing) => return Err(Failed::Missing),
            Err(PieceError::NotYet) => return Err(Failed::NotYet),
            Err(PieceError::Length) => return Err(Failed::Wrong),
            Err(PieceError::Broken(_)) => return Err(Failed::Gone),
        };
        let checked = blocking::run(move || (pieces::hash(&piece) == hash).then_some(piece));
        checked.await.ok().flatten().ok_or(Failed::Wrong)
    }

    /// The link to a member.
    async fn link(&self, known: &Arc<Known>, id: NodeId, at: SocketAddr) -> Option<Link> {
        let mut place = known.link.lock().await;
        known.state().used = Instant::now();
        if let Some(link) = place.as_ref().filter(|link| link.is_usable()) {
            return Some(link.clone());
        }
        let config = self.credentials.pieces().ok()?;
        let membership = self.credentials.membership.clone();
        let dialled = Link::dial_with(at, Some(id), Segments::Full, config, membership, &self.tasks).await;
        let link = dialled
            .inspect_err(|error| tracing::debug!(%error, "a member with pieces is not reached"))
            .ok()?;
        self.telemetry.names.learn(id, &link.gateway.name);
        *place = Some(link.clone());
        self.tasks.spawn(until_idle(known.clone(), link.clone()));
        Some(link)
    }

    fn known(&self, id: NodeId) -> Arc<Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN && !known.contains_key(&id) {
            let now = Instant::now();
            known.retain(|_, other| {
                let State { used, alone_until } = *other.state();
                now < used + IDLE || alone_until.is_some_and(|until| now < until)
            });
            if known.len() >= MOST_KNOWN {
                known.clear();
            }
        }
        known.entry(id).or_insert_with(Known::new).clone()
    }
}

impl Known {
    fn new() -> Arc<Self> {
        let state = State { used: Instant::now(), alone_until: None };
        Arc::new(Self { link: tokio::sync::Mutex::new(None), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the member alone. Returns whether that is new.
    fn leave_alone(&self, until: Instant) -> bool {
        let mut state = self.state();
        let before = state.alone_until;
        // Of several such times the longest counts.
        state.alone_until = before.max(Some(until));
        before.is_none_or(|before| before < Instant::now())
    }
}

/// Retires a link once nothing was asked for on it for a while.
async fn until_idle(known: Arc<Known>, link: Link) {
    loop {
        let until = known.state().used + IDLE;
        if Instant::now() >= until {
            break;
        }
        tokio::select! {
            () = link.unusable() => break,
            () = sleep_until(until) => {}
        }
    }
    link.retire();
}
