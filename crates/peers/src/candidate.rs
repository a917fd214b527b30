//! This node as a candidate: feeds its own state into the selection, and announces the decisions.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use super::activity::Activity;
use super::capacity::{self, Meter};
use super::directory::Directory;
use super::selection::{self, SelfState};
use super::uplink::Uplink;
use laneway_limits::limited;
use laneway_limits::lines::NOBODY;
use laneway_sys::blocking;
use laneway_telemetry::journal::Happening;
use laneway_wire::datagram::{Advert, Reach, State};

/// Maximum time between two decisions, even if nothing changes.
const MAX_INTERVAL: Duration = Duration::from_millis(500);
/// A decision that is late by this much shows that the process was stopped, or the machine slept.
const SUSPENDED: Duration = Duration::from_millis(500);

/// The settings of a candidate. A reload changes them.
#[derive(Clone, Debug)]
pub struct Options {
    /// The settings of the selection.
    pub selection: selection::Options,
    /// Whether there are servers to probe: then this node serves only while it reaches one of them.
    pub needs_server: bool,
    /// Whether this node was configured as a gateway: then it announces itself even before it has reached a server.
    pub declared: bool,
}

/// What discovery sends about this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The content of beacons and offers.
    pub advert: Advert,
    /// The number of beacons due so far; each time it grows one is sent.
    pub beacons: u64,
    /// One in this many broadcast queries is answered.
    pub answers_one_in: u32,
    /// Whether it is withdrawn for maintenance, although it could serve.
    pub in_maintenance: bool,
}

/// Decides and announces until `announcements` has no receiver. `None` is announced while this node is not a candidate.
pub async fn run(
    mut settings: watch::Receiver<Options>,
    directory: Arc<Directory>,
    mut reach: watch::Receiver<Reach>,
    activity: Arc<Activity>,
    uplink: Arc<Uplink>,
    announcements: watch::Sender<Option<Announcement>>,
) {
    let measured = blocking::run(capacity::measure).await.unwrap_or(1);
    tracing::debug!(mbit_per_second = measured, "capacity measured");
    let mut meter = Meter::new(measured, Instant::now());
    let mut prepared = uplink.prepared();
    let mut changes = directory.changes();
    let mut maintenance = activity.maintenance();
    let mut beacons = 0;
    directory.become_candidate(settings.borrow_and_update().selection.clone());
    loop {
        let options = settings.borrow_and_update().clone();
        directory.set_options(options.selection.clone());
        let now = Instant::now();
        changes.mark_unchanged();
        let tunnels = activity.tunnels.load(Relaxed);
        meter.sample(activity.traffic.total(), tunnels, now);
        let reached = *reach.borrow_and_update();
        let own = SelfState {
            able: match reached {
                Reach::Reachable => true,
                Reach::Unreachable => false,
                Reach::Unknown => !options.needs_server,
            },
            reach: reached,
            prepared: *prepared.borrow_and_update(),
            draining: activity.is_draining(),
            in_maintenance: *maintenance.borrow_and_update(),
            load: meter.load(),
            capacity: meter.capacity(now),
            tunnels,
        };
        let Some(decision) = directory.decide(&own, now) else { return };
        uplink.want(decision.wanted, decision.advert.state);
        let before = announcements.borrow().as_ref().map(|before| before.advert.state);
        // A node that has never been able to serve is silent, unless it was configured as a gateway. One that was started in
        // maintenance could serve.
        let is_able = decision.advert.state != State::Withdrawn || own.in_maintenance && own.able;
        if options.declared || before.is_some() || is_able {
            let state = decision.advert.state;
            if before != Some(state) {
                limited!(info, NOBODY, state = state.word(), reach = reached.word(), "this node's state");
                if let Some((what, text)) = happening(before, state, own.in_maintenance) {
                    directory.telemetry().note_about(NOBODY, what, "", text);
                }
            }
            beacons += u64::from(decision.beacon);
            let (advert, answers_one_in) = (decision.advert, decision.answers_one_in);
            let in_maintenance = own.in_maintenance;
            let announcement = Some(Announcement { advert, beacons, answers_one_in, in_maintenance });
            announcements.send_if_modified(|now| {
                let changed = *now != announcement;
                *now = announcement;
                changed
            });
        }
        let wake = decision.wake.min(now + MAX_INTERVAL);
        tokio::select! {
            () = announcements.closed() => return,
            () = tokio::time::sleep_until(wake.into()) => {}
            Ok(()) = changes.changed() => {}
            Ok(()) = reach.changed() => {}
            Ok(()) = prepared.changed() => {}
            Ok(()) = maintenance.changed() => {}
            () = activity.drained() => {}
        }
        let now = Instant::now();
        let late = now.saturating_duration_since(wake);
        if late >= SUSPENDED {
            tracing::info!(millis = late.as_millis(), "this node was suspended");
            directory.was_suspended(late, now);
        }
    }
}

/// The journal's entry for a change of this node's state, if it is worth one.
fn happening(before: Option<State>, now: State, in_maintenance: bool) -> Option<(Happening, &'static str)> {
    match (before, now) {
        (_, State::Draining | State::Withdrawn) if in_maintenance => {
            Some((Happening::Withdrawn, "this node is in maintenance"))
        }
        (_, State::Active) => Some((Happening::Promoted, "this node is an active gateway now")),
        (_, State::Draining) => Some((Happening::Withdrawn, "this node is about to stop")),
        (None, State::Withdrawn) => None,
        (_, State::Withdrawn) => Some((Happening::Withdrawn, "this node does not reach the server")),
        (Some(State::Active), State::Standby) => Some((Happening::Demoted, "this node is a standby now")),
        (_, State::Standby) => Some((Happening::Offer, "this node is a standby gateway")),
    }
}
