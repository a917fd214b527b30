//! The gateways known to this node, shared by all its parts: a [`Selection`] behind a lock, with notice of its changes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::selection::{Decision, Means, Options, Selection, SelfState};
use laneway_limits::limited;
use laneway_telemetry::Telemetry;
use laneway_telemetry::journal::Happening;
use laneway_wire::datagram::{Advert, Reach, State};
use laneway_wire::id::NodeId;

pub use super::selection::{Gateway, SILENCE, Source};

/// The gateways known to this node.
pub struct Directory {
    selection: Mutex<Selection>,
    version: watch::Sender<u64>,
    wanted: watch::Sender<bool>,
    telemetry: Arc<Telemetry>,
}

impl Default for Directory {
    /// The directory of a process that only observes.
    fn default() -> Self {
        Self::new(NodeId([0; 16]), 0, Arc::default())
    }
}

impl Directory {
    /// An empty directory of the node `id`. `seed` is random. Events of gateways are noted in `telemetry`.
    pub fn new(id: NodeId, seed: u64, telemetry: Arc<Telemetry>) -> Self {
        Self {
            selection: Mutex::new(Selection::new(id, seed)),
            version: watch::Sender::new(0),
            wanted: watch::Sender::new(false),
            telemetry,
        }
    }

    /// The telemetry in which events of gateways are noted.
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// Notes an offer of the gateway at `link`.
    pub fn offered(&self, id: NodeId, link: SocketAddr, advert: Advert, round_trip: Duration, now: Instant) {
        self.heard(id, link, &advert, Means::Offer(round_trip), now);
    }

    /// Notes a beacon of the gateway at `link`; `order` is the number of its run, and its counter. One that is not newer is
    /// ignored.
    pub fn beaconed(&self, id: NodeId, link: SocketAddr, advert: Advert, order: (u64, u64), now: Instant) {
        self.heard(id, link, &advert, Means::Beacon(order.0, order.1), now);
    }

    /// Notes that the gateway counts its runs anew, from a smaller number: its next beacon does not count as older than
    /// the last.
    pub fn went_back(&self, id: NodeId) {
        self.lock().went_back(id);
    }

    fn heard(&self, id: NodeId, link: SocketAddr, advert: &Advert, means: Means, now: Instant) {
        let mut selection = self.lock();
        let before = selection.at(link).and_then(|gateway| gateway.state(now));
        if !selection.heard(id, link, advert, means, now) {
            return;
        }
        let state = selection.at(link).and_then(|gateway| gateway.state(now));
        drop(selection);
        if before != state {
            let word = state.map_or("unknown", State::word);
            let name = self.telemetry.names.of(id);
            limited!(info, id, gateway = name, address = %link, state = word, "gateway heard");
            let (what, text) = happening(before, state.unwrap_or(advert.state), advert.reach);
            self.telemetry.note_about(id, what, name, format!("{text} ({link})"));
        }
        self.changed();
    }

    /// Forgets the gateways that are no longer members; see [`Selection::forget`].
    pub fn forget(&self, is_removed: &dyn Fn(NodeId) -> bool) {
        self.lock().forget(is_removed);
    }

    /// Adds an address that the user configured, or that an earlier run used.
    pub fn add_address(&self, link: SocketAddr, source: Source) {
        self.lock().add_address(link, source);
        self.changed();
    }

    /// Notes that the gateway at `link` did not answer on a link: it is ranked behind the others for a while.
    pub fn suspect(&self, link: SocketAddr, now: Instant) {
        self.lock().suspect(link, now);
        self.changed();
    }

    /// Notes that the gateway `id` fails connections that other gateways carry; see [`Selection::blame`].
    pub fn blame(&self, id: NodeId, now: Instant) {
        self.lock().blame(id, now);
        self.changed();
    }

    /// Notes that the gateway at `link` answered on a link. Cheap unless it is a suspect.
    pub fn proved(&self, link: SocketAddr, now: Instant) {
        let mut selection = self.lock();
        if selection.at(link).is_some_and(|gateway| gateway.suspect_until(now).is_some()) {
            selection.proved(link, now);
        }
    }

    /// All gateways, in the order in which a client tries them; see [`Selection::ranked`].
    pub fn ranked(&self, now: Instant) -> Vec<Gateway> {
        self.lock().ranked(now)
    }

    /// What is known of the gateway at `link`.
    pub fn at(&self, link: SocketAddr) -> Option<Gateway> {
        self.lock().at(link).cloned()
    }

    /// Whether a gateway has said itself that it accepts links at this address, or the user has. What gateways say of others
    /// does not count: they could name any server.
    pub fn has_link_at(&self, address: SocketAddr) -> bool {
        let own_word = |gateway: &Gateway| gateway.heard.is_some() || gateway.source == Source::Static;
        self.lock().at(address).is_some_and(own_word)
    }

    /// Makes this node a candidate.
    pub fn become_candidate(&self, options: Options) {
        self.lock().become_candidate(options);
    }

    /// Changes the settings of this candidate.
    pub fn set_options(&self, options: Options) {
        self.lock().set_options(options);
    }

    /// Notes that this node did not run; see [`Selection::was_suspended`].
    pub fn was_suspended(&self, length: Duration, now: Instant) {
        self.lock().was_suspended(length, now);
    }

    /// What this node has to do as a candidate; see [`Selection::decide`].
    pub fn decide(&self, own: &SelfState, now: Instant) -> Option<Decision> {
        self.lock().decide(own, now)
    }

    /// Wakes everyone that waits for changes, because of something that is known elsewhere.
    pub fn look_again(&self) {
        self.changed();
    }

    /// Changes with every change of the directory.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Sets whether this node needs a gateway now. Discovery sends queries while it does.
    pub fn want(&self, wanted: bool) {
        self.wanted.send_if_modified(|now| std::mem::replace(now, wanted) != wanted);
    }

    /// Whether this node needs a gateway, as [`Directory::want`] last set it.
    pub fn wanted(&self) -> watch::Receiver<bool> {
        self.wanted.subscribe()
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Selection> {
        self.selection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The journal's entry for a change of a gateway's state.
fn happening(before: Option<State>, now: State, reach: Reach) -> (Happening, &'static str) {
    match (before, now) {
        (_, State::Draining) => (Happening::Withdrawn, "the gateway is about to stop, or in maintenance"),
        (_, State::Withdrawn) if reach == Reach::Reachable => {
            (Happening::Withdrawn, "the gateway is in maintenance")
        }
        (_, State::Withdrawn) => (Happening::Withdrawn, "the gateway does not reach the server"),
        (Some(State::Active), State::Standby) => (Happening::Demoted, "the gateway is a standby now"),
        (Some(_), State::Active) => (Happening::Promoted, "the gateway is active now"),
        (None, State::Active) => (Happening::Offer, "an active gateway is heard"),
        (_, State::Standby) => (Happening::Offer, "a standby gateway is heard"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use laneway_wire::datagram::{Peer, Standing};

    fn advert(state: State, capacity: u32) -> Advert {
        let reach = Reach::Reachable;
        let standing = Standing::default();
        Advert {
            state,
            reach,
            link_port: 7420,
            weight: 100,
            load: 0,
            capacity,
            tunnels: 0,
            standing,
            peers: vec![],
        }
    }

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 7420))
    }

    fn order(directory: &Directory, now: Instant) -> Vec<SocketAddr> {
        directory.ranked(now).into_iter().map(|gateway| gateway.link).collect()
    }

    #[test]
    fn the_active_gateway_comes_first_and_a_silent_one_behind_the_standby() {
        let directory = Directory::default();
        let start = Instant::now();
        directory.add_address(address(9), Source::Static);
        directory.offered(NodeId([1; 16]), address(1), advert(State::Active, 5), Duration::ZERO, start);
        directory.beaconed(NodeId([2; 16]), address(2), advert(State::Standby, 9), (1, 1), start);
        assert_eq!(order(&directory, start), [address(1), address(2), address(9)]);
        let later = start + SILENCE;
        directory.beaconed(NodeId([2; 16]), address(2), advert(State::Standby, 9), (1, 2), later);
        assert_eq!(order(&directory, later), [address(2), address(9), address(1)]);
    }

    #[test]
    fn a_replayed_beacon_changes_nothing() {
        let directory = Directory::default();
        let now = Instant::now();
        directory.beaconed(NodeId([1; 16]), address(1), advert(State::Active, 5), (7, 1), now);
        directory.beaconed(NodeId([1; 16]), address(1), advert(State::Draining, 5), (7, 2), now);
        directory.beaconed(NodeId([1; 16]), address(1), advert(State::Active, 5), (7, 1), now);
        assert_eq!(directory.at(address(1)).unwrap().state(now), Some(State::Draining));
    }

    #[test]
    fn named_peers_are_known_and_the_table_is_bounded() {
        let directory = Directory::default();
        let now = Instant::now();
        let mut first = advert(State::Active, 5);
        first.peers.push(Peer { id: NodeId([3; 16]), link: address(3), state: State::Standby });
        directory.offered(NodeId([1; 16]), address(1), first, Duration::ZERO, now);
        assert_eq!(directory.at(address(3)).unwrap().source, Source::Named);
        assert!(
            directory.has_link_at(address(1)) && !directory.has_link_at(address(3)),
            "a gateway names any address"
        );
        for n in 0..3000_u32 {
            let link = SocketAddr::new(n.to_be_bytes().into(), 1);
            directory.offered(NodeId([1; 16]), link, advert(State::Active, 5), Duration::ZERO, now);
        }
        assert!(directory.ranked(now).len() <= 1000);
    }
}
