//! This node as a candidate: what it knows of itself goes into the selection, what comes out is announced.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::capacity::{self, Meter};
use super::directory::Directory;
use super::selection::{self, Own};
use super::uplink::Uplink;
use laneway_telemetry::journal::Happening;
use laneway_telemetry::traffic::Traffic;
use laneway_wire::datagram::{Advert, Reach, State};

/// How often this node looks at itself even if nothing happens.
const REFRESH: Duration = Duration::from_millis(500);
/// One that looks at itself so much later than it meant to was stopped, or the machine slept.
const STOPPED: Duration = Duration::from_millis(500);

/// What does not change while this node runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// How it stands for selection.
    pub selection: selection::Options,
    /// There are servers to probe: this node serves only while one of them answers.
    pub needs_server: bool,
    /// This node was told to be a gateway: it says so even before it has reached a server.
    pub declared: bool,
}

/// What this node is doing, counted by those who do it.
#[derive(Debug, Default)]
pub struct Activity {
    /// Tunnels that are open through this node for others.
    pub tunnels: AtomicU32,
    /// Bytes carried for others.
    pub traffic: Arc<Traffic>,
    draining: AtomicBool,
    drain: Notify,
}

impl Activity {
    /// Nothing yet; what is carried for others counts in `traffic`.
    pub fn new(traffic: Arc<Traffic>) -> Self {
        Self { traffic, ..Self::default() }
    }

    /// Says, once and for all, that this node is about to stop.
    pub fn drain(&self) {
        self.draining.store(true, Relaxed);
        self.drain.notify_one();
    }
}

/// What discovery tells others of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The facts.
    pub advert: Advert,
    /// How many beacons were called for; each time it grows one is sent.
    pub beacons: u64,
    /// Of the queries that are put to all, one in so many is answered.
    pub answers_one_in: u32,
}

/// Decides and announces until `announcements` has no receiver. `None` means that this node is no candidate
/// and says nothing.
pub async fn run(
    mut live: watch::Receiver<Options>,
    directory: Arc<Directory>,
    mut reach: watch::Receiver<Reach>,
    activity: Arc<Activity>,
    uplink: Arc<Uplink>,
    announcements: watch::Sender<Option<Announcement>>,
) {
    let measured = tokio::task::spawn_blocking(capacity::measure).await.unwrap_or(1);
    tracing::debug!(mbit_per_second = measured, "capacity measured");
    let mut meter = Meter::new(measured, Instant::now());
    let mut prepared = uplink.prepared();
    let mut changes = directory.changes();
    let mut beacons = 0;
    directory.stand(live.borrow_and_update().selection.clone());
    loop {
        let options = live.borrow_and_update().clone();
        directory.choose_by(options.selection.clone());
        let now = Instant::now();
        changes.mark_unchanged();
        let tunnels = activity.tunnels.load(Relaxed);
        meter.sample(activity.traffic.total(), tunnels, now);
        let reached = *reach.borrow_and_update();
        let own = Own {
            able: match reached {
                Reach::Reachable => true,
                Reach::Unreachable => false,
                Reach::Unknown => !options.needs_server,
            },
            reach: reached,
            prepared: *prepared.borrow_and_update(),
            draining: activity.draining.load(Relaxed),
            load: meter.load(),
            capacity: meter.capacity(now),
            tunnels,
        };
        let Some(decision) = directory.decide(&own, now) else { return };
        uplink.want(decision.wanted, decision.advert.state);
        let before = announcements.borrow().as_ref().map(|before| before.advert.state);
        // One that has never been able to serve says nothing, unless it was told to be a gateway.
        if options.declared || before.is_some() || decision.advert.state != State::Withdrawn {
            let state = decision.advert.state;
            if before != Some(state) {
                tracing::info!(state = state.word(), reach = reached.word(), "this node's state");
                if let Some((what, text)) = told(before, state) {
                    directory.telemetry().note(what, "", text);
                }
            }
            beacons += u64::from(decision.beacon);
            let (advert, answers_one_in) = (decision.advert, decision.answers_one_in);
            let announcement = Some(Announcement { advert, beacons, answers_one_in });
            announcements.send_if_modified(|now| {
                let changed = *now != announcement;
                *now = announcement;
                changed
            });
        }
        let wake = decision.wake.min(now + REFRESH);
        tokio::select! {
            () = announcements.closed() => return,
            () = tokio::time::sleep_until(wake.into()) => {}
            Ok(()) = changes.changed() => {}
            Ok(()) = reach.changed() => {}
            Ok(()) = prepared.changed() => {}
            () = activity.drain.notified() => {}
        }
        let now = Instant::now();
        let late = now.saturating_duration_since(wake);
        if late >= STOPPED {
            tracing::info!(millis = late.as_millis(), "this node was stopped for a while");
            directory.was_deaf(late, now);
        }
    }
}

/// What it means for this node that it is something else than before, if that is worth telling.
fn told(before: Option<State>, now: State) -> Option<(Happening, &'static str)> {
    match (before, now) {
        (_, State::Active) => Some((Happening::Promoted, "this node is an active gateway now")),
        (_, State::Draining) => Some((Happening::Withdrawn, "this node is about to stop")),
        (None, State::Withdrawn) => None,
        (_, State::Withdrawn) => Some((Happening::Withdrawn, "this node does not reach the server")),
        (Some(State::Active), State::Standby) => Some((Happening::Demoted, "this node is a standby now")),
        (_, State::Standby) => Some((Happening::Offer, "this node is a standby gateway")),
    }
}
