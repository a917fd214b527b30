//! Keeps this node linked: to the best gateway, and to the next one as a warm standby. One task dials; all sessions
//! use what stands.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::select_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, sleep_until};
use tokio_util::task::TaskTracker;

use super::pauses::{Fault, Pauses};
use crate::link::client::{DialError, Link};
use crate::link::tls::Credentials;
use crate::link::updates;
use crate::peers::directory::{Directory, Gateway, Source};
use crate::telemetry::journal::Happening;
use crate::wire::datagram::State;
use crate::wire::id::NodeId;

/// How many links are kept: the one that is used, and the standby.
const LINKS: usize = 2;
/// While nobody who is active has answered, standbys are given so long before one of them is dialled.
const WINDOW: Duration = Duration::from_millis(150);
/// A gateway that has not completed the handshake by then gets company: the next one is dialled beside it.
const HEDGE: Duration = Duration::from_millis(250);
/// How many addresses are known by who is behind them.
const MOST_IDENTITIES: usize = 1024;
/// With nothing to wait for, the table is looked at so often all the same.
const LOOK: Duration = Duration::from_secs(5);

/// Between two looks at the clock.
const CLOCK_LOOK: Duration = Duration::from_secs(1);
/// A wall clock that moves by more than the time that has passed, and this, has jumped.
const CLOCK_JUMP: Duration = Duration::from_secs(3);

/// What is told of a gateway once a link to it stands.
pub type Remember = dyn Fn(SocketAddr) + Send + Sync;

/// The links of this node as a client.
pub struct Links {
    own: NodeId,
    directory: Arc<Directory>,
    credentials: Arc<Credentials>,
    tasks: TaskTracker,
    remember: Box<Remember>,
    standing: watch::Sender<Vec<Link>>,
    pauses: Mutex<Pauses>,
    trouble: Mutex<Option<String>>,
    /// Who was found behind which address: a gateway may have several.
    identities: Mutex<HashMap<SocketAddr, NodeId>>,
}

impl Links {
    /// Links of the node `own`, made from what `directory` knows, with the proof of `credentials`.
    pub fn new(
        own: NodeId,
        directory: Arc<Directory>,
        credentials: Arc<Credentials>,
        tasks: TaskTracker,
        remember: Box<Remember>,
    ) -> Arc<Self> {
        Arc::new(Self {
            own,
            directory,
            credentials,
            tasks,
            remember,
            standing: watch::Sender::new(Vec::new()),
            pauses: Mutex::default(),
            trouble: Mutex::default(),
            identities: Mutex::default(),
        })
    }

    /// The links that stand, the one to use first in front, and their changes.
    pub fn up(&self) -> watch::Receiver<Vec<Link>> {
        self.standing.subscribe()
    }

    /// For how long a gateway is still left alone, after it has failed.
    pub fn paused_for(&self, gateway: &Gateway, now: Instant) -> Option<Duration> {
        self.pause_left(gateway, now).map(|until| until.saturating_duration_since(now))
    }

    /// What went wrong with the last gateway that was tried, for a person.
    pub fn trouble(&self) -> Option<String> {
        locked(&self.trouble).clone()
    }

    /// Notices that this machine has slept, or that its clock was set: the network may be another one now, so every
    /// link has to prove at once that it lives, and the LAN is asked again.
    pub async fn watch_clock(self: Arc<Self>) {
        let mut tick = tokio::time::interval(CLOCK_LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = (Instant::now(), SystemTime::now());
        loop {
            tick.tick().await;
            let now = (Instant::now(), SystemTime::now());
            if jumped(now.0.duration_since(last.0), last.1, now.1) {
                tracing::info!("the clock jumped: every link is proved again");
                self.standing.borrow().iter().for_each(|link| link.pulse.want_proof());
                locked(&self.pauses).clear();
            }
            last = now;
        }
    }

    /// Dials, orders and replaces links as long as `needed` says so; until it has no sender.
    pub async fn run(self: Arc<Self>, mut needed: watch::Receiver<bool>) {
        loop {
            if needed.wait_for(|needed| *needed).await.is_err() {
                return;
            }
            tokio::select! {
                () = self.keep_linked() => {}
                _ = needed.wait_for(|needed| !needed) => {}
            }
            self.directory.want(false);
            self.standing.send_replace(Vec::new()).iter().for_each(Link::retire);
        }
    }

    async fn keep_linked(&self) {
        let mut changes = self.directory.changes();
        let mut dials = FuturesUnordered::new();
        let mut dialling: Vec<SocketAddr> = Vec::new();
        // When the last link was lost, or the search began.
        let mut alone_since = Instant::now();
        let mut last_dial = alone_since;
        let mut suspects: Vec<SocketAddr> = Vec::new();
        loop {
            self.report(&mut suspects);
            changes.borrow_and_update();
            let now = Instant::now();
            let ranked = self.directory.ranked(now);
            let links = self.order(&ranked, now);
            // Whoever has answered and is being dialled need not be searched for.
            let found = ranked.iter().any(|gateway| self.is_promising(gateway, now));
            self.directory.want(links.is_empty() && !found);
            if !links.is_empty() {
                alone_since = now;
            }
            let (next, wake) = self.next_dial(&ranked, &links, &dialling, alone_since, last_dial, now);
            if let Some(gateway) = next {
                let address = gateway.link;
                if links.is_empty() {
                    let id = gateway.id.map_or_else(|| "unknown".into(), |id| id.short());
                    let state = gateway.state(now).map_or("not heard", State::word);
                    tracing::info!(gateway = id, %address, state, "gateway chosen");
                }
                dialling.push(address);
                last_dial = now;
                dials.push(async move { (address, self.dial(gateway).await) });
                continue;
            }
            let lost = async {
                match links.is_empty() {
                    true => std::future::pending().await,
                    false => drop(select_all(links.iter().map(|link| Box::pin(link.changed()))).await),
                }
            };
            tokio::select! {
                Some((address, link)) = dials.next(), if !dials.is_empty() => {
                    dialling.retain(|other| *other != address);
                    if let Some(link) = link {
                        self.take(link);
                    }
                }
                Ok(()) = changes.changed() => {}
                () = lost => {}
                () = sleep_until(wake.into()) => {}
            }
        }
    }

    /// Tells the directory which gateways have become suspect, and which have shown that they live.
    fn report(&self, suspects: &mut Vec<SocketAddr>) {
        for link in self.standing.borrow().iter() {
            let known = suspects.contains(&link.address);
            if !link.is_suspect() {
                suspects.retain(|address| *address != link.address);
                self.directory.proved(link.address, Instant::now());
            } else if !known {
                suspects.push(link.address);
                tracing::info!(gateway = link.gateway.id.short(), address = %link.address, "gateway suspect");
                let text = format!("a ping is unanswered ({})", link.address);
                self.directory.telemetry().note(Happening::Suspect, &link.gateway.name, text);
                self.directory.suspect(link.address, Instant::now());
            }
        }
    }

    /// Drops what cannot be used any more and what there is a better one for, and puts the rest in the order of
    /// the ranking. A gateway that is left keeps its open tunnels.
    fn order(&self, ranked: &[Gateway], now: Instant) -> Vec<Link> {
        let place = |link: &Link| {
            let same =
                |gateway: &Gateway| gateway.link == link.address || gateway.id == Some(link.gateway.id);
            let leaving =
                ranked.iter().find(|gateway| same(gateway)).is_some_and(|gateway| is_leaving(gateway, now));
            (leaving, ranked.iter().position(same).unwrap_or(usize::MAX))
        };
        self.standing.send_if_modified(|links| {
            let before: Vec<_> = links.iter().map(|link| link.address).collect();
            links.extract_if(.., |link| !link.is_usable()).for_each(|lost| self.lost(&lost));
            links.sort_by_key(place);
            let keep =
                links.iter().position(|link| place(link).0).map_or(LINKS, |leaving| leaving.clamp(1, LINKS));
            for left in links.drain(keep.min(links.len())..) {
                left.retire();
            }
            if let (Some(first), Some(old)) = (links.first(), before.first())
                && first.address != *old
            {
                tracing::info!(gateway = first.gateway.id.short(), address = %first.address, "gateway in use");
                let text = format!("connections go over this gateway ({})", first.address);
                self.directory.telemetry().note(Happening::InUse, &first.gateway.name, text);
            }
            links.iter().map(|link| link.address).ne(before)
        });
        self.standing.borrow().clone()
    }

    fn lost(&self, link: &Link) {
        let reason = link.end().unwrap_or("it takes no new connections");
        let text = format!("the link to {} is out of use: {reason}", link.address);
        self.directory.telemetry().note(Happening::LinkLost, &link.gateway.name, text);
    }

    /// Whom to dial now, if anybody, and when to look again.
    fn next_dial(
        &self,
        ranked: &[Gateway],
        links: &[Link],
        dialling: &[SocketAddr],
        alone_since: Instant,
        last_dial: Instant,
        now: Instant,
    ) -> (Option<Gateway>, Instant) {
        let mut wake = now + LOOK;
        // A worn link is to be replaced by another one to the same gateway.
        let is_linked = |gateway: &Gateway, worn: bool| {
            let id = self.identity(gateway);
            let mut links = links.iter().filter(|link| link.pulse.is_exhausted() == worn);
            links.any(|link| link.address == gateway.link || Some(link.gateway.id) == id)
        };
        // The best ones first: who is linked already takes a place, who must pause does not. A gateway takes one
        // place, however many addresses it has; its other ones are for when nobody else is left to try.
        let mut places = LINKS;
        let is_dialled = |gateway: &Gateway| dialling.contains(&gateway.link);
        let mut placed: Vec<_> = ranked
            .iter()
            .filter(|gateway| is_dialled(gateway))
            .filter_map(|gateway| self.identity(gateway))
            .collect();
        let (mut first, mut others) = (Vec::new(), Vec::new());
        for gateway in ranked {
            let id = self.identity(gateway);
            if !is_dialled(gateway) && id.is_some_and(|id| placed.contains(&id)) {
                others.push(gateway);
            } else {
                first.push(gateway);
                if self.pause_left(gateway, now).is_none() || is_linked(gateway, false) {
                    placed.extend(id);
                }
            }
        }
        others.retain(|_| links.is_empty());
        let revoked = |id: NodeId| self.credentials.board.revokes(id);
        for gateway in first.into_iter().chain(others) {
            if places == 0 {
                break;
            }
            if self.identity(gateway).is_some_and(|id| id == self.own || revoked(id)) {
                continue;
            }
            if is_linked(gateway, false) || is_dialled(gateway) {
                places -= 1;
                continue;
            }
            if !links.is_empty()
                && !is_linked(gateway, true)
                && (is_leaving(gateway, now) || gateway.heard.is_none() && gateway.id.is_none())
            {
                continue;
            }
            if let Some(until) = self.pause_left(gateway, now) {
                wake = wake.min(until);
                continue;
            }
            let eager = gateway.state(now) == Some(State::Active) || gateway.source == Source::Static;
            let due = match (links.is_empty(), dialling.is_empty()) {
                (true, true) if eager => now,
                (true, true) => alone_since + WINDOW,
                (true, false) => last_dial + HEDGE,
                (false, true) => now,
                (false, false) => now + LOOK,
            };
            if due <= now {
                return (Some(gateway.clone()), now);
            }
            return (None, wake.min(due));
        }
        (None, wake)
    }

    /// Whether a link to it may be expected: it is active, and nothing has gone wrong with it.
    fn is_promising(&self, gateway: &Gateway, now: Instant) -> bool {
        let is_active = gateway.state(now) == Some(State::Active);
        is_active && gateway.suspect_until(now).is_none() && self.pause_left(gateway, now).is_none()
    }

    /// Who is behind an address, as it said itself or as it proved.
    fn identity(&self, gateway: &Gateway) -> Option<NodeId> {
        gateway.id.or_else(|| locked(&self.identities).get(&gateway.link).copied())
    }

    fn take(&self, link: Link) {
        if link.gateway.id == self.own {
            // Some address of this node's own, named by somebody: never dialled again.
            return link.retire();
        }
        let gateway = link.gateway.id.short();
        let same = |other: &Link| other.gateway.id == link.gateway.id;
        let known = self.standing.borrow().iter().any(|other| same(other) && !other.pulse.is_exhausted());
        if known {
            // One gateway, two addresses: one link is enough.
            return link.retire();
        }
        let standby = !self.standing.borrow().is_empty();
        let what = if standby { "standby link up" } else { "link up" };
        tracing::info!(gateway, address = %link.address, "{what}");
        self.directory.telemetry().note(
            Happening::LinkUp,
            &link.gateway.name,
            format!("{what} ({})", link.address),
        );
        *locked(&self.trouble) = None;
        (self.remember)(link.address);
        self.tasks.spawn(updates::follow(link.clone(), self.credentials.board.clone()));
        self.standing.send_modify(|links| {
            // Its tunnels go on until they end.
            let worn = |old: &Link| old.gateway.id == link.gateway.id;
            links.extract_if(.., |old| worn(old)).for_each(|old| old.retire());
            links.push(link);
        });
    }

    async fn dial(&self, gateway: Gateway) -> Option<Link> {
        let config = match self.credentials.client() {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(%error, "links cannot be dialled");
                let fault = Fault { distrust: true, silent: true, unanswered: false };
                locked(&self.pauses).add(gateway.link, fault, Instant::now());
                return None;
            }
        };
        let board = self.credentials.board.clone();
        let segments = locked(&self.pauses).segments(gateway.link);
        match Link::dial_with(gateway.link, gateway.id, segments, config, board, &self.tasks).await {
            Ok(link) => {
                let mut identities = locked(&self.identities);
                // Its other addresses will do again too.
                let others =
                    identities.iter().filter(|(_, id)| **id == link.gateway.id).map(|(address, _)| *address);
                others
                    .chain([gateway.link])
                    .for_each(|address| locked(&self.pauses).forgive(address, Instant::now()));
                if identities.len() >= MOST_IDENTITIES {
                    // They are learnt again by the next dial.
                    identities.clear();
                }
                identities.insert(gateway.link, link.gateway.id);
                self.directory.telemetry().names.learn(link.gateway.id, &link.gateway.name);
                Some(link)
            }
            Err(error) => {
                let distrust = matches!(
                    error,
                    DialError::Trust(..)
                        | DialError::Certificate(..)
                        | DialError::Refused(..)
                        | DialError::Removed(..)
                        | DialError::Protocol(..)
                );
                let unanswered = matches!(error, DialError::Late(_));
                let reason = format!("{:#}", anyhow::Error::new(error));
                let silent = gateway.state(Instant::now()).is_none();
                let now = Instant::now();
                if locked(&self.pauses).add(gateway.link, Fault { distrust, unanswered, silent }, now) == 1 {
                    tracing::info!(address = %gateway.link, reason, "no link");
                    let telemetry = self.directory.telemetry();
                    let who = gateway.id.map(|id| telemetry.names.of(id)).unwrap_or_default();
                    telemetry.note(Happening::Refused, who, format!("no link: {reason}"));
                } else {
                    tracing::debug!(address = %gateway.link, reason, "no link again");
                }
                *locked(&self.trouble) = Some(reason);
                None
            }
        }
    }

    fn pause_left(&self, gateway: &Gateway, now: Instant) -> Option<Instant> {
        locked(&self.pauses).left(gateway.link, gateway.state(now).is_some(), now)
    }
}

/// Whether the wall clock went another way than `passed`, by more than clocks are corrected in passing.
fn jumped(passed: Duration, before: SystemTime, now: SystemTime) -> bool {
    now.duration_since(before).map_or(true, |wall| wall.abs_diff(passed) > CLOCK_JUMP)
}

/// The gateway has said that it is about to stop, or that it cannot reach the server.
fn is_leaving(gateway: &Gateway, now: Instant) -> bool {
    matches!(gateway.state(now), Some(State::Draining | State::Withdrawn))
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_and_a_clock_that_is_set_are_jumps_and_a_slow_second_is_none() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let second = Duration::from_secs(1);
        assert!(!jumped(second, start, start + second));
        assert!(!jumped(second * 20, start, start + second * 21));
        assert!(jumped(second, start, start + Duration::from_secs(60)));
        assert!(jumped(second, start, start - second));
    }
}
