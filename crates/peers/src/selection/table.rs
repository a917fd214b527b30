//! The gateways that this node knows, from all sources. Bounded.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::beacon::IN_CROWD;
use super::order::{Seen, is_latent};
use laneway_wire::datagram::{Advert, Peer, State};
use laneway_wire::id::NodeId;

/// How long after its last beacon a candidate counts as silent: three beacons of a standby in line, and six of an active
/// candidate, may be lost.
pub const SILENCE: Duration = Duration::from_millis(3500);
/// For a standby with an interval above one second: after how many intervals it counts as silent, in tenths.
const SILENT_INTERVALS_TENTHS: u32 = 35;
/// Maximum number of known gateways. Only datagrams with the group's key add one.
const MAX_GATEWAYS: usize = 256;
/// Maximum number of addresses of one gateway. A machine has one for each of its networks.
const MAX_ADDRESSES: usize = 8;
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
    /// The only gateway that was heard lately from this address itself. Set only in what [`super::Selection::ranked`] returns.
    pub announced: Option<NodeId>,
    beacon: Option<(u64, u64)>,
    steady: Option<Instant>,
    /// Since when each of its adverts has said that it is active, if the last one does.
    active_since: Option<Instant>,
    suspicion: Option<Suspicion>,
    /// It answers, but fails connections that other gateways carry.
    blame: Option<Suspicion>,
}

#[derive(Clone, Copy, Debug)]
struct Suspicion {
    times: u32,
    until: Instant,
    last: Instant,
}

impl Suspicion {
    /// The suspicion after a restart of the gateway. A restart ends only a first suspicion.
    fn forgiven(self) -> Self {
        if self.times > 1 { self } else { Self { until: self.last, ..self } }
    }
}

impl Suspicion {
    /// The next suspicion after `before`. A suspicion that is long past is forgotten.
    fn after(before: Option<Self>, now: Instant) -> Self {
        let forgotten = |s: &Self| now.saturating_duration_since(s.last) >= MAX_SUSPICION;
        let times = before.filter(|s| !forgotten(s)).map_or(0, |s| s.times);
        let length = SUSPICION.saturating_mul(1 << times.min(8)).min(MAX_SUSPICION);
        Self { times: times + 1, until: now + length, last: now }
    }
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
            announced: None,
            beacon: None,
            steady: None,
            active_since: None,
            suspicion: None,
            blame: None,
        }
    }

    /// Its state, if it was heard recently.
    pub fn state(&self, now: Instant) -> Option<State> {
        self.fresh(now).map(|advert| advert.state)
    }

    /// Until when it is ranked behind the others, if it did not answer on a link recently, or is to blame for connections that
    /// failed.
    pub fn suspect_until(&self, now: Instant) -> Option<Instant> {
        self.suspicions(now).map(|suspicion| suspicion.until).max()
    }

    /// Since when it is ranked behind the others for either.
    pub(super) fn suspect_since(&self, now: Instant) -> Option<Instant> {
        self.suspicions(now).map(|suspicion| suspicion.last).max()
    }

    fn suspicions(&self, now: Instant) -> impl Iterator<Item = Suspicion> {
        [self.suspicion, self.blame].into_iter().flatten().filter(move |suspicion| now < suspicion.until)
    }

    /// When it counts as silent unless it is heard before. Only a standby and one that has withdrawn may announce a long
    /// interval: nobody waits for an active one that announces an hour.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        let advert = self.advert.as_ref()?;
        let interval = match advert.state {
            State::Active | State::Draining => Duration::ZERO,
            _ if advert.standing.preparing => Duration::ZERO,
            State::Standby | State::Withdrawn => {
                Duration::from_millis(advert.standing.interval.into()).min(IN_CROWD)
            }
        };
        Some(self.heard? + (interval * SILENT_INTERVALS_TENTHS / 10).max(SILENCE))
    }

    pub(super) fn seen(&self, now: Instant) -> Option<Seen> {
        let advert = self.fresh(now)?;
        let heard = self.heard?;
        let steady = self.steady.unwrap_or(heard);
        let active_since = self.active_since.filter(|_| advert.state == State::Active);
        Some(Seen { steady, active_since, ..Seen::new(self.id?, self.link, advert, heard) })
    }

    /// Whether a beacon from `link` is older than the last one of the same gateway. The same beacon comes over every
    /// network that both nodes are on, and not in order: a node that was suspended reads its sockets one after the other.
    fn has_newer_beacon_than(&self, boot: u64, counter: u64, link: SocketAddr) -> bool {
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

/// All gateways known, by the address of their link and by their id. One address may have several ids: a datagram from
/// the address of another gateway does not replace what that one has said. The node `own` is never in its table.
#[derive(Clone, Debug)]
pub(super) struct Table {
    own: NodeId,
    known: BTreeMap<(SocketAddr, Option<NodeId>), Gateway>,
}

impl Table {
    /// An empty table of the node `own`.
    pub(super) fn new(own: NodeId) -> Self {
        Self { own, known: BTreeMap::new() }
    }

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
            && self.of(id).any(|known| known.has_newer_beacon_than(boot, counter, link))
        {
            return false;
        }
        // Others name this node as a candidate, too.
        let is_other = |peer: &&Peer| peer.id != id && peer.id != self.own && !is_link_local(peer.link);
        for peer in advert.peers.iter().filter(is_other) {
            if self.known.len() < MAX_GATEWAYS && self.at(peer.link).is_none() {
                let named = Gateway::new(Some(peer.id), peer.link, Source::Named);
                self.known.insert((peer.link, Some(peer.id)), named);
            }
        }
        let Some(gateway) = self.entry(id, link) else { return false };
        let was_steady = gateway.is_steady(now);
        let was_active = gateway.state(now) == Some(State::Active);
        gateway.source = gateway.source.min(Source::Heard);
        gateway.heard = Some(now);
        gateway.advert = Some(without_peers(advert));
        match means {
            Means::Offer(round_trip) => gateway.round_trip = Some(round_trip),
            Means::Beacon(boot, counter) => {
                // A suspicion of the previous process does not apply to this one, unless starting again is a habit.
                if gateway.beacon.is_some_and(|(before, _)| before != boot) {
                    gateway.suspicion = gateway.suspicion.map(Suspicion::forgiven);
                }
                gateway.beacon = Some((boot, counter));
            }
        }
        if !was_steady {
            gateway.steady = Some(now);
        }
        if !was_active {
            gateway.active_since = Some(now);
        }
        true
    }

    /// Forgets how new the last beacon of `id` was.
    pub(super) fn went_back(&mut self, id: NodeId) {
        self.known
            .values_mut()
            .filter(|gateway| gateway.id == Some(id))
            .for_each(|gateway| gateway.beacon = None);
    }

    /// The entry of the gateway `id` at `link`, which is made if there is none. `None` when there is no room.
    fn entry(&mut self, id: NodeId, link: SocketAddr) -> Option<&mut Gateway> {
        let key = (link, Some(id));
        if !self.known.contains_key(&key) {
            // Entries of an address alone, or under another id: the gateway there has now been heard.
            let unheard: Vec<_> = self.at_link(link).filter(|known| known.heard.is_none()).cloned().collect();
            unheard.iter().for_each(|known| drop(self.known.remove(&(link, known.id))));
            if self.of(id).count() >= MAX_ADDRESSES {
                let oldest = self.of(id).min_by_key(|known| known.heard)?.link;
                self.known.remove(&(oldest, Some(id)));
            }
            if !self.make_room() {
                return None;
            }
            let mut gateway = Gateway::new(Some(id), link, Source::Heard);
            gateway.source = unheard.iter().map(|known| known.source).chain([Source::Heard]).min()?;
            // A gateway that did not answer is the same one at another address.
            let suspicions = self.of(id).chain(&unheard).filter_map(|known| known.suspicion);
            gateway.suspicion = suspicions.max_by_key(|suspicion| suspicion.until);
            gateway.blame = self.of(id).filter_map(|known| known.blame).max_by_key(|blame| blame.until);
            self.known.insert(key, gateway);
        }
        self.known.get_mut(&key)
    }

    pub(super) fn was_suspended(&mut self, length: Duration, now: Instant) {
        for heard in self.known.values_mut().filter_map(|gateway| gateway.heard.as_mut()) {
            *heard = (*heard + length).min(now);
        }
    }

    /// Removes the entries of gateways that are no longer members.
    pub(super) fn forget(&mut self, is_removed: &dyn Fn(NodeId) -> bool) {
        self.known.retain(|(_, id), _| !id.is_some_and(is_removed));
    }

    /// Adds an address.
    pub(super) fn add_address(&mut self, link: SocketAddr, source: Source) {
        for known in self.at_link_mut(link) {
            known.source = known.source.min(source);
        }
        if self.at(link).is_none() && self.make_room() {
            self.known.insert((link, None), Gateway::new(None, link, source));
        }
    }

    pub(super) fn suspect(&mut self, link: SocketAddr, now: Instant) {
        for gateway in self.at_link_mut(link) {
            gateway.suspicion = Some(Suspicion::after(gateway.suspicion, now));
        }
    }

    pub(super) fn blame(&mut self, id: NodeId, now: Instant) {
        for gateway in self.known.values_mut().filter(|gateway| gateway.id == Some(id)) {
            gateway.blame = Some(Suspicion::after(gateway.blame, now));
        }
    }

    pub(super) fn proved(&mut self, link: SocketAddr, now: Instant) {
        for suspicion in self.at_link_mut(link).filter_map(|gateway| gateway.suspicion.as_mut()) {
            let probation = PROBATION.saturating_mul(suspicion.times).min(MAX_SUSPICION);
            suspicion.until = suspicion.until.min(now + probation);
        }
    }

    /// The gateway at `link` that was heard last.
    pub(super) fn at(&self, link: SocketAddr) -> Option<&Gateway> {
        self.at_link(link).max_by_key(|gateway| gateway.heard)
    }

    fn at_link(&self, link: SocketAddr) -> impl Iterator<Item = &Gateway> {
        self.known.range((link, None)..).take_while(move |((at, _), _)| *at == link).map(|(_, known)| known)
    }

    fn at_link_mut(&mut self, link: SocketAddr) -> impl Iterator<Item = &mut Gateway> {
        self.known
            .range_mut((link, None)..)
            .take_while(move |((at, _), _)| *at == link)
            .map(|(_, known)| known)
    }

    /// The entries of the gateway `id`, one for each address.
    fn of(&self, id: NodeId) -> impl Iterator<Item = &Gateway> {
        self.known.values().filter(move |gateway| gateway.id == Some(id))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Gateway> {
        self.known.values()
    }

    /// The candidates heard recently, each once, except the node `except`.
    pub(super) fn seen(&self, except: NodeId, now: Instant) -> Vec<Seen> {
        let mut seen: Vec<_> = self
            .known
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

    /// Removes one entry if the table is full: first further addresses of gateways, then the gateway that was heard
    /// longest ago. `false` when none can be removed.
    fn make_room(&mut self) -> bool {
        if self.known.len() < MAX_GATEWAYS {
            return true;
        }
        let mut latest: BTreeMap<NodeId, Option<Instant>> = BTreeMap::new();
        for gateway in self.known.values() {
            let heard = latest.entry(gateway.id.unwrap_or(NodeId([0; 16]))).or_default();
            *heard = (*heard).max(gateway.heard);
        }
        let is_latest = |gateway: &Gateway| {
            gateway.heard.is_some() && gateway.id.and_then(|id| latest.get(&id)) == Some(&gateway.heard)
        };
        // A configured gateway that was heard has the source `Heard`; its address is added again regularly.
        let oldest = self.known.iter().filter(|(_, gateway)| gateway.source != Source::Static);
        let oldest =
            oldest.min_by_key(|(_, gateway)| (is_latest(gateway), gateway.heard)).map(|(key, _)| *key);
        oldest.is_some_and(|oldest| self.known.remove(&oldest).is_some())
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
