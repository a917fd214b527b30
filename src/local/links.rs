//! Keeps this node linked to the best gateway: one task dials, all sessions wait for what it has.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::time::sleep_until;
use tokio_util::task::TaskTracker;

use crate::link::client::{DialError, Link};
use crate::peers::directory::{Directory, Gateway};
use crate::wire::datagram::State;

/// While nobody who is active has answered, standbys are given so long before one of them is dialled.
const WINDOW: Duration = Duration::from_millis(150);
/// A gateway that has not completed the handshake by then gets company: the next one is dialled beside it.
const HEDGE: Duration = Duration::from_millis(250);
/// The first pause after a failed dial; doubled each time.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause after failed dials.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The first pause after a failed proof of trust; doubled each time.
const PENALTY: Duration = Duration::from_secs(1);
/// The longest pause after failed proofs of trust.
const LONGEST_PENALTY: Duration = Duration::from_secs(300);

/// What is told of a gateway once a link to it stands.
pub type Remember = dyn Fn(SocketAddr) + Send + Sync;

/// The links of this node as a client.
pub struct Links {
    directory: Arc<Directory>,
    config: Arc<ClientConfig>,
    tasks: TaskTracker,
    remember: Box<Remember>,
    current: watch::Sender<Option<Link>>,
    pauses: Mutex<HashMap<SocketAddr, Paused>>,
    trouble: Mutex<Option<String>>,
}

struct Paused {
    failures: u32,
    until: Instant,
}

impl Links {
    /// Links made from what `directory` knows, with the proof of `config`.
    pub fn new(
        directory: Arc<Directory>,
        config: Arc<ClientConfig>,
        tasks: TaskTracker,
        remember: Box<Remember>,
    ) -> Arc<Self> {
        Arc::new(Self {
            directory,
            config,
            tasks,
            remember,
            current: watch::Sender::new(None),
            pauses: Mutex::default(),
            trouble: Mutex::default(),
        })
    }

    /// The link to use now, if there is one, and its changes.
    pub fn current(&self) -> watch::Receiver<Option<Link>> {
        self.current.subscribe()
    }

    /// What went wrong with the last gateway that was tried, for a person.
    pub fn trouble(&self) -> Option<String> {
        locked(&self.trouble).clone()
    }

    /// Dials, watches and replaces links as long as `needed` says so; until it has no sender.
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
            if let Some(link) = self.current.send_replace(None) {
                link.retire();
            }
        }
    }

    async fn keep_linked(&self) {
        loop {
            self.directory.want(true);
            let link = self.establish().await;
            self.directory.want(false);
            self.take(link);
            self.watch().await;
        }
    }

    fn take(&self, link: Link) {
        let gateway = link.gateway.id.short();
        tracing::info!(gateway, address = %link.address, "link up");
        *locked(&self.trouble) = None;
        (self.remember)(link.address);
        if let Some(old) = self.current.send_replace(Some(link)) {
            old.retire();
        }
    }

    /// Returns when the current link is of no more use. A gateway that drains, withdraws or is no longer the
    /// active one is left for a better one only once the link to that one stands.
    async fn watch(&self) {
        let mut changes = self.directory.changes();
        loop {
            let Some(link) = self.current.borrow().clone() else { return };
            tokio::select! {
                () = link.unusable() => {
                    self.current.send_if_modified(|current| {
                        current.take_if(|now| now.address == link.address).is_some()
                    });
                    return;
                }
                Ok(()) = changes.changed() => {}
            }
            let now = Instant::now();
            let state = self.directory.at(link.address).and_then(|gateway| gateway.state(now));
            let better = self.directory.ranked(now).into_iter().find(|gateway| {
                gateway.link != link.address
                    && matches!(gateway.state(now), Some(State::Active | State::Standby))
                    && self.pause_left(gateway.link, now).is_none()
            });
            let leave = match (state, &better) {
                (Some(State::Draining | State::Withdrawn), Some(_)) => true,
                (Some(State::Standby), Some(better)) => better.state(now) == Some(State::Active),
                _ => false,
            };
            if leave && let Some(better) = better {
                tokio::select! {
                    () = link.unusable() => {}
                    dialled = self.dial(better) => if let Some(link) = dialled {
                        self.take(link);
                    }
                }
            }
        }
    }

    /// Dials until a link stands: the best gateway first, the next one beside it when it does not answer soon.
    async fn establish(&self) -> Link {
        let start = Instant::now() + WINDOW;
        let mut changes = self.directory.changes();
        let mut dials = FuturesUnordered::new();
        let mut dialling: Vec<SocketAddr> = Vec::new();
        let mut hedge_at = Instant::now();
        loop {
            changes.borrow_and_update();
            let now = Instant::now();
            let ranked = self.directory.ranked(now);
            let mut next = None;
            let mut wake: Option<Instant> = None;
            for gateway in ranked.into_iter().filter(|gateway| !dialling.contains(&gateway.link)) {
                match self.pause_left(gateway.link, now) {
                    None => {
                        next = Some(gateway);
                        break;
                    }
                    Some(until) => wake = Some(wake.map_or(until, |wake| wake.min(until))),
                }
            }
            if let Some(gateway) = next {
                let eager = gateway.state(now) == Some(State::Active) || gateway.heard.is_none();
                let due = if dialling.is_empty() && eager { now } else { start.max(hedge_at) };
                if due <= now {
                    let (id, address) = (gateway.id, gateway.link);
                    let state = gateway.state(now).map_or("not heard", State::word);
                    let id = id.map_or_else(|| "unknown".into(), |id| id.short());
                    tracing::info!(gateway = id, %address, state, "gateway chosen");
                    dialling.push(address);
                    hedge_at = now + HEDGE;
                    dials.push(async move { (address, self.dial(gateway).await) });
                } else {
                    wake = Some(wake.map_or(due, |wake| wake.min(due)));
                }
            }
            let wake = wake.unwrap_or(now + LONGEST_PAUSE);
            tokio::select! {
                Some((address, link)) = dials.next(), if !dials.is_empty() => match link {
                    Some(link) => return link,
                    None => dialling.retain(|other| *other != address),
                },
                Ok(()) = changes.changed() => {}
                () = sleep_until(wake.into()), if dialling.is_empty() || wake > now => {}
            }
        }
    }

    async fn dial(&self, gateway: Gateway) -> Option<Link> {
        match Link::dial(gateway.link, gateway.id, self.config.clone(), &self.tasks).await {
            Ok(link) => {
                locked(&self.pauses).remove(&gateway.link);
                Some(link)
            }
            Err(error) => {
                let reason = anyhow::Error::new(error);
                tracing::info!(address = %gateway.link, reason = format!("{reason:#}"), "no link");
                let distrust = matches!(
                    reason.downcast_ref::<DialError>(),
                    Some(DialError::Trust(..) | DialError::Certificate(..) | DialError::Protocol(..))
                );
                self.pause(gateway.link, distrust);
                *locked(&self.trouble) = Some(format!("{reason:#}"));
                None
            }
        }
    }

    fn pause(&self, address: SocketAddr, distrust: bool) {
        let (first, longest) = if distrust { (PENALTY, LONGEST_PENALTY) } else { (PAUSE, LONGEST_PAUSE) };
        let mut pauses = locked(&self.pauses);
        let paused = pauses.entry(address).or_insert(Paused { failures: 0, until: Instant::now() });
        paused.until = Instant::now() + first.saturating_mul(1 << paused.failures.min(16)).min(longest);
        paused.failures += 1;
    }

    fn pause_left(&self, address: SocketAddr, now: Instant) -> Option<Instant> {
        locked(&self.pauses).get(&address).map(|paused| paused.until).filter(|until| *until > now)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
