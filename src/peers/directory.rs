//! What this node knows of the gateways, from whatever source. A table with a version: no I/O.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::wire::datagram::{Advert, State};
use crate::wire::id::NodeId;

/// A candidate that was not heard for so long has fallen silent: its beacons come each second.
pub const SILENCE: Duration = Duration::from_millis(3500);
/// How many gateways are remembered. A datagram needs the group's key to add one.
const MOST_GATEWAYS: usize = 1024;

/// How this node came to know a gateway. The better source comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// It spoke itself.
    Heard,
    /// The user named it.
    Static,
    /// Another gateway named it.
    Named,
    /// It was used in an earlier run.
    Remembered,
}

/// One gateway, as known here.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Its id; unknown for an address that has only been named.
    pub id: Option<NodeId>,
    /// Where its link listens.
    pub link: SocketAddr,
    /// How it is known.
    pub source: Source,
    /// What it last said of itself.
    pub advert: Option<Advert>,
    /// From query to offer.
    pub round_trip: Option<Duration>,
    /// When it last spoke.
    pub heard: Option<Instant>,
    /// Boot id and counter of its newest beacon, which must only grow.
    beacon: Option<(u64, u64)>,
}

impl Gateway {
    fn new(id: Option<NodeId>, link: SocketAddr, source: Source) -> Self {
        Self { id, link, source, advert: None, round_trip: None, heard: None, beacon: None }
    }

    /// What it says it is, if it spoke lately.
    pub fn state(&self, now: Instant) -> Option<State> {
        let fresh = self.heard.is_some_and(|heard| now.duration_since(heard) < SILENCE);
        self.advert.as_ref().filter(|_| fresh).map(|advert| advert.state)
    }

    /// The order in which a client tries gateways: smaller is better.
    fn preference(&self, now: Instant) -> u8 {
        match (self.state(now), self.source) {
            (Some(State::Active), _) => 0,
            (Some(State::Standby), _) => 1,
            (None, Source::Static) => 2,
            (None, Source::Heard) => 3,
            (None, Source::Named) => 4,
            (None, Source::Remembered) => 5,
            (Some(State::Draining), _) => 6,
            (Some(State::Withdrawn), _) => 7,
        }
    }
}

/// The gateways known to this node.
pub struct Directory {
    gateways: Mutex<HashMap<SocketAddr, Gateway>>,
    version: watch::Sender<u64>,
    wanted: watch::Sender<bool>,
}

impl Default for Directory {
    fn default() -> Self {
        Self { gateways: Mutex::default(), version: watch::Sender::new(0), wanted: watch::Sender::new(false) }
    }
}

impl Directory {
    /// Notes that the gateway at `link` answered a query.
    pub fn offered(&self, id: NodeId, link: SocketAddr, advert: Advert, round_trip: Duration, now: Instant) {
        self.spoke(id, link, advert, now, |gateway| {
            gateway.round_trip = Some(round_trip);
            true
        });
    }

    /// Notes a beacon of the gateway at `link`. One that is not newer than the last is ignored.
    pub fn beaconed(&self, id: NodeId, link: SocketAddr, advert: Advert, order: (u64, u64), now: Instant) {
        self.spoke(id, link, advert, now, |gateway| {
            let newer = gateway.beacon.is_none_or(|(boot, counter)| boot != order.0 || counter < order.1);
            if newer {
                gateway.beacon = Some(order);
            }
            newer
        });
    }

    fn spoke(
        &self,
        id: NodeId,
        link: SocketAddr,
        advert: Advert,
        now: Instant,
        accept: impl FnOnce(&mut Gateway) -> bool,
    ) {
        let mut gateways = self.lock();
        for peer in advert.peers.iter().filter(|peer| peer.id != id) {
            if gateways.len() < MOST_GATEWAYS {
                gateways
                    .entry(peer.link)
                    .or_insert_with(|| Gateway::new(Some(peer.id), peer.link, Source::Named));
            }
        }
        if gateways.len() >= MOST_GATEWAYS && !gateways.contains_key(&link) {
            let oldest = gateways.values().filter(|gateway| gateway.source != Source::Static);
            let Some(oldest) = oldest.min_by_key(|gateway| gateway.heard).map(|gateway| gateway.link) else {
                return;
            };
            gateways.remove(&oldest);
        }
        let gateway = gateways.entry(link).or_insert_with(|| Gateway::new(Some(id), link, Source::Heard));
        if !accept(gateway) {
            return;
        }
        let before = gateway.state(now);
        gateway.id = Some(id);
        gateway.source = gateway.source.min(Source::Heard);
        gateway.heard = Some(now);
        gateway.advert = Some(advert);
        let state = gateway.state(now);
        if before != state {
            let word = state.map_or("unknown", State::word);
            tracing::info!(gateway = %id.short(), address = %link, state = word, "gateway heard");
        }
        drop(gateways);
        self.version.send_modify(|version| *version += 1);
    }

    /// Adds an address that the user named, or that an earlier run used.
    pub fn name(&self, link: SocketAddr, source: Source) {
        let mut gateways = self.lock();
        if gateways.len() < MOST_GATEWAYS {
            gateways.entry(link).or_insert_with(|| Gateway::new(None, link, source));
        }
        drop(gateways);
        self.version.send_modify(|version| *version += 1);
    }

    /// All gateways, those that a client should try first in front: active, standby, then the ones that
    /// have not spoken lately. Among alike the stronger one, then the smaller id, so that all clients agree.
    pub fn ranked(&self, now: Instant) -> Vec<Gateway> {
        let mut gateways: Vec<_> = self.lock().values().cloned().collect();
        gateways.sort_by_key(|gateway| {
            let strength = gateway.advert.as_ref().map_or(0, |a| u64::from(a.capacity) * u64::from(a.weight));
            (gateway.preference(now), std::cmp::Reverse(strength), gateway.id, gateway.link)
        });
        gateways
    }

    /// What is known of the gateway at `link`.
    pub fn at(&self, link: SocketAddr) -> Option<Gateway> {
        self.lock().get(&link).cloned()
    }

    /// Ticks with every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Says whether this node needs a gateway now; discovery asks the LAN as long as it does.
    pub fn want(&self, wanted: bool) {
        self.wanted.send_if_modified(|now| std::mem::replace(now, wanted) != wanted);
    }

    /// What [`Directory::want`] said last.
    pub fn wanted(&self) -> watch::Receiver<bool> {
        self.wanted.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Gateway>> {
        self.gateways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::datagram::{Peer, Reach, Standing};

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
    fn the_active_one_comes_first_and_a_silent_one_falls_behind_the_standby() {
        let directory = Directory::default();
        let start = Instant::now();
        directory.name(address(9), Source::Static);
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
        for n in 0..3000_u32 {
            let link = SocketAddr::new(n.to_be_bytes().into(), 1);
            directory.offered(NodeId([1; 16]), link, advert(State::Active, 5), Duration::ZERO, now);
        }
        assert!(directory.ranked(now).len() <= MOST_GATEWAYS);
    }
}
