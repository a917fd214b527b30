//! The gateways that this node knows, from all sources. Bounded.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::order::{Seen, is_latent};
use laneway_wire::datagram::{Advert, State};
use laneway_wire::id::NodeId;

/// How long after its last beacon a candidate counts as silent: three beacons of a standby in line, and six of an active
/// candidate, may be lost.
pub const SILENCE: Duration = Duration::from_millis(3500);
/// For a candidate with an interval above one second: after how many intervals it counts as silent, in tenths.
const SILENT_INTERVALS_TENTHS: u32 = 35;
/// Maximum number of known gateways. Only datagrams with the group's key add one.
const MAX_GATEWAYS: usize = 256;
/// How long a gateway that did not answer on a link is ranked behind the others. It doubles each time.
const SUSPICION: Duration = Duration::from_secs(10);
/// Maximum suspicion. After this time without another one it is forgotten.
const MAX_SUSPICION: Duration = Duration::from_secs(300);
/// How long a suspect that answers is still ranked behind the others.
const PROBATION: Duration = Duration::from_secs(2);

/// How this node came to know a gateway. The better source comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A datagram of its own.
    Heard,
    /// The configuration.
    Static,
    /// A datagram of another gateway.
    Named,
    /// The state of an earlier run.
    Remembered,
}

/// How an advert came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// In an offer, with the round trip from query to offer.
    Offer(Duration),
    /// In a beacon, with the number of the sender's run and a counter. A larger run is newer, and within one run a larger
    /// counter.
    Beacon(u64, u64),
}

/// One gateway, as known here.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Its id; `None` for an address without a datagram so far.
    pub id: Option<NodeId>,
    /// The address at which it accepts links.
    pub link: SocketAddr,
    /// How this node came to know it.
    pub source: Source,
    /// Its last advert, without the peers in it.
    pub advert: Option<Advert>,
    /// The time from query to offer.
    pub round_trip: Option<Duration>,
    /// When it was last heard.
    pub heard: Option<Instant>,
    beacon: Option<(u64, u64)>,
    steady: Option<Instant>,
    suspicion: Option<Suspicion>,
}

#[derive(Clone, Copy, Debug)]
struct Suspicion {
    times: u32,
    until: Instant,
    last: Instant,
}

impl Gateway {
    fn new(id: Option<NodeId>, link: SocketAddr, source: Source) -> Self {
        Self {
            id,
            link,
            source,
            advert: None,
            round_trip: None,
            heard: None,
            beacon: None,
            steady: None,
            suspicion: None,
        }
    }

    /// Its state, if it was heard recently.
    pub fn state(&self, now: Instant) -> Option<State> {
        self.fresh(now).map(|advert| advert.state)
    }

    /// Until when it is ranked behind the others, if it did not answer on a link recently.
    pub fn suspect_until(&self, now: Instant) -> Option<Instant> {
        self.suspicion.map(|suspicion| suspicion.until).filter(|until| now < *until)
    }

    /// When it counts as silent unless it is heard before.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        let interval = u64::from(self.advert.as_ref()?.standing.interval);
        let allowed = Duration::from_millis(interval) * SILENT_INTERVALS_TENTHS / 10;
        Some(self.heard? + allowed.max(SILENCE))
    }

    pub(super) fn seen(&self, now: Instant) -> Option<Seen> {
        let advert = self.fresh(now)?;
        let heard = self.heard?;
        Some(Seen::new(self.id?, self.link, advert, heard, self.steady.unwrap_or(heard)))
    }

    /// Whether a beacon of `id` from `link` is older than the last one. The same beacon comes over every network that both
    /// nodes are on, and not in order: a node that was suspended reads its sockets one after the other.
    fn has_newer_beacon_than(&self, boot: u64, counter: u64, id: NodeId, link: SocketAddr) -> bool {
        if self.link != link && self.id != Some(id) {
            return false;
        }
        self.beacon.is_some_and(|last| {
            if self.link == link { (boot, counter) <= last } else { (boot, counter) < last }
        })
    }

    fn fresh(&self, now: Instant) -> Option<&Advert> {
        let is_recent = self.silent_at().is_some_and(|silent_at| now < silent_at);
        self.advert.as_ref().filter(|_| is_recent)
    }

    fn is_steady(&self, now: Instant) -> bool {
        let able =
            |advert: &Advert| matches!(advert.state, State::Active | State::Standby) && !is_latent(advert);
        self.fresh(now).is_some_and(able)
    }
}

/// All gateways known, by the address of their link.
#[derive(Debug, Default)]
pub(super) struct Table(BTreeMap<SocketAddr, Gateway>);

impl Table {
    /// Notes an advert of the gateway at `link`. `false` when it is older than what is known.
    pub(super) fn heard(
        &mut self,
        id: NodeId,
        link: SocketAddr,
        advert: &Advert,
        means: Means,
        now: Instant,
    ) -> bool {
        if let Means::Beacon(boot, counter) = means
            && self.0.values().any(|known| known.has_newer_beacon_than(boot, counter, id, link))
        {
            return false;
        }
        for peer in advert.peers.iter().filter(|peer| peer.id != id && !is_link_local(peer.link)) {
            if self.0.len() < MAX_GATEWAYS {
                self.0
                    .entry(peer.link)
                    .or_insert_with(|| Gateway::new(Some(peer.id), peer.link, Source::Named));
            }
        }
        if !self.0.contains_key(&link) && !self.make_room() {
            return false;
        }
        let gateway = self.0.entry(link).or_insert_with(|| Gateway::new(Some(id), link, Source::Heard));
        let was_steady = gateway.is_steady(now) && gateway.id == Some(id);
        gateway.id = Some(id);
        gateway.source = gateway.source.min(Source::Heard);
        gateway.heard = Some(now);
        gateway.advert = Some(without_peers(advert));
        match means {
            Means::Offer(round_trip) => gateway.round_trip = Some(round_trip),
            Means::Beacon(boot, counter) => {
                // A suspicion of the previous process does not apply to this one.
                if gateway.beacon.is_some_and(|(before, _)| before != boot) {
                    gateway.suspicion = None;
                }
                gateway.beacon = Some((boot, counter));
            }
        }
        if !was_steady {
            gateway.steady = Some(now);
        }
        true
    }

    /// Forgets how new the last beacon of `id` was.
    pub(super) fn went_back(&mut self, id: NodeId) {
        self.0
            .values_mut()
            .filter(|gateway| gateway.id == Some(id))
            .for_each(|gateway| gateway.beacon = None);
    }

    pub(super) fn was_suspended(&mut self, length: Duration, now: Instant) {
        for heard in self.0.values_mut().filter_map(|gateway| gateway.heard.as_mut()) {
            *heard = (*heard + length).min(now);
        }
    }

    /// Adds an address.
    pub(super) fn add_address(&mut self, link: SocketAddr, source: Source) {
        if self.0.contains_key(&link) || self.make_room() {
            let known = self.0.entry(link).or_insert_with(|| Gateway::new(None, link, source));
            known.source = known.source.min(source);
        }
    }

    pub(super) fn suspect(&mut self, link: SocketAddr, now: Instant) {
        let Some(gateway) = self.0.get_mut(&link) else { return };
        let forgotten = |s: &Suspicion| now.saturating_duration_since(s.last) >= MAX_SUSPICION;
        let times = gateway.suspicion.filter(|s| !forgotten(s)).map_or(0, |s| s.times);
        let length = SUSPICION.saturating_mul(1 << times.min(8)).min(MAX_SUSPICION);
        gateway.suspicion = Some(Suspicion { times: times + 1, until: now + length, last: now });
    }

    pub(super) fn proved(&mut self, link: SocketAddr, now: Instant) {
        if let Some(suspicion) = self.0.get_mut(&link).and_then(|gateway| gateway.suspicion.as_mut()) {
            let probation = PROBATION.saturating_mul(suspicion.times).min(MAX_SUSPICION);
            suspicion.until = suspicion.until.min(now + probation);
        }
    }

    pub(super) fn at(&self, link: SocketAddr) -> Option<&Gateway> {
        self.0.get(&link)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Gateway> {
        self.0.values()
    }

    /// The candidates heard recently, each once, except the node `except`.
    pub(super) fn seen(&self, except: NodeId, now: Instant) -> Vec<Seen> {
        let mut seen: Vec<_> = self
            .0
            .values()
            .filter(|gateway| gateway.id != Some(except))
            .filter_map(|g| g.seen(now))
            .collect();
        // A candidate that shares two networks with this node is heard on both. Link-local addresses come last, since
        // this node passes the first address on, and other nodes cannot use a link-local one.
        seen.sort_by_key(|seen| (seen.id, is_link_local(seen.link), std::cmp::Reverse(seen.heard)));
        seen.dedup_by_key(|seen| seen.id);
        seen
    }

    /// Removes the gateway that was heard longest ago if the table is full. `false` when none can be removed.
    fn make_room(&mut self) -> bool {
        if self.0.len() < MAX_GATEWAYS {
            return true;
        }
        let oldest = self.0.values().filter(|gateway| gateway.source != Source::Static);
        // A configured gateway that was heard has the source `Heard`; its address is added again regularly.
        let oldest = oldest.min_by_key(|gateway| gateway.heard).map(|gateway| gateway.link);
        oldest.is_some_and(|oldest| self.0.remove(&oldest).is_some())
    }
}

/// Whether an address is valid on one network only (RFC 4007 §6).
pub(super) fn is_link_local(link: SocketAddr) -> bool {
    matches!(link.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn without_peers(advert: &Advert) -> Advert {
    let Advert { state, reach, link_port, weight, load, capacity, tunnels, standing, peers: _ } = *advert;
    Advert { state, reach, link_port, weight, load, capacity, tunnels, standing, peers: Vec::new() }
}
