//! What connections met through each gateway: which gateway comes last for which destination, and which is to blame.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use crate::limited;
use crate::link::client::Link;
use crate::peers::directory::Directory;
use crate::peers::selection::{Failing, Results};
use crate::telemetry::journal::Happening;
use crate::wire::id::NodeId;
use crate::wire::target::Target;

/// How long a gateway that answers pings may leave an open or an established connection without any answer before that
/// counts as silence.
pub(super) const SILENCE: Duration = Duration::from_secs(5);

/// How often a connection without an answer checks whether others wait in vain, too, or the gateway has lost its way out.
pub(super) const RECHECK: Duration = Duration::from_secs(1);

/// That interval after it has waited this long: thousands of tunnels may be idle.
pub(super) fn recheck_after(waited: Duration) -> Duration {
    (waited / 10).clamp(RECHECK, 3 * RECHECK)
}

/// What connections met, and what follows from it for the ranking.
pub(super) struct Outcomes {
    results: Mutex<Results>,
    directory: Arc<Directory>,
}

/// An open for which there is no answer yet. If it is dropped after a while, the gateway was silent.
pub(super) struct PendingOpen<'a> {
    outcomes: &'a Outcomes,
    gateway: NodeId,
    target: &'a Target,
    since: Instant,
    /// It was answered, or its silence was noted.
    is_noted: bool,
}

impl Outcomes {
    pub(super) fn new(directory: Arc<Directory>) -> Self {
        Self { results: Mutex::default(), directory }
    }

    /// Begins an open of `target` over `gateway`.
    pub(super) fn ask<'a>(&'a self, gateway: NodeId, target: &'a Target) -> PendingOpen<'a> {
        PendingOpen { outcomes: self, gateway, target, since: Instant::now(), is_noted: false }
    }

    /// Notes that a connection to `target` failed over `gateway`.
    pub(super) fn failed(&self, gateway: NodeId, target: &Target, how: Failing) {
        let now = Instant::now();
        let mut results = self.lock();
        let was_doubted = results.doubts(gateway, now);
        results.failed(gateway, target, how, now);
        let is_doubted = results.doubts(gateway, now);
        drop(results);
        if is_doubted && !was_doubted {
            // Another gateway may be dialled beside this one.
            self.directory.look_again();
        }
    }

    /// Whether connections have failed over `gateway` several times in a row, and nothing has answered since.
    pub(super) fn doubts(&self, gateway: NodeId) -> bool {
        self.lock().doubts(gateway, Instant::now())
    }

    /// Notes that `target` has answered over `gateway`.
    pub(super) fn answered(&self, gateway: NodeId, target: &Target) {
        let now = Instant::now();
        let blamed = self.lock().answered(gateway, target, now);
        for gateway in blamed {
            let telemetry = self.directory.telemetry();
            let name = telemetry.names.of(gateway);
            limited!(
                warn,
                gateway,
                gateway = name,
                "connections that other gateways carry fail over this one: it is used last"
            );
            let text = "connections that other gateways carry fail over it";
            telemetry.note_about(gateway, Happening::Suspect, name, text);
            self.directory.blame(gateway, now);
        }
    }

    /// The links for a new connection to `target` that are not suspect, and whose gateways have not failed that destination
    /// lately.
    pub(super) fn untried<'a>(&self, links: &'a [Link], target: &Target) -> impl Iterator<Item = &'a Link> {
        let (results, now) = (self.lock(), Instant::now());
        let usable = links.iter().filter(|link| link.is_usable() && !link.is_suspect());
        usable.filter(move |link| !results.is_last_for(link.gateway.id, target, now))
    }

    fn lock(&self) -> MutexGuard<'_, Results> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingOpen<'_> {
    /// Ends the open: with why the gateway `refused` it, or with `None` if the reason is not the gateway's. Returns how long it
    /// took.
    pub(super) fn end(mut self, refused: Option<Failing>) -> Duration {
        let was_silent = std::mem::replace(&mut self.is_noted, true);
        if let Some(how) = refused.filter(|how| *how != Failing::Silent || !was_silent) {
            self.outcomes.failed(self.gateway, self.target, how);
        }
        self.since.elapsed()
    }

    /// Notes once the gateway has been silent for a while. Never returns.
    pub(super) async fn note_silence(&mut self) -> Infallible {
        sleep_until((self.since + SILENCE).into()).await;
        if !std::mem::replace(&mut self.is_noted, true) {
            self.outcomes.failed(self.gateway, self.target, Failing::Silent);
        }
        std::future::pending().await
    }
}

impl Drop for PendingOpen<'_> {
    fn drop(&mut self) {
        if !self.is_noted && self.since.elapsed() >= SILENCE {
            self.outcomes.failed(self.gateway, self.target, Failing::Silent);
        }
    }
}
