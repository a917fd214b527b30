//! The gateways that this node knows of, from whatever source. Bounded.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::order::{Seen, is_latent};
use laneway_wire::datagram::{Advert, State};
use laneway_wire::id::NodeId;

/// A candidate that says nothing for so long is silent: three beacons of one that speaks each second and six
/// of an active one may be lost.
pub const SILENCE: Duration = Duration::from_millis(3500);
/// How many intervals without a beacon are silence, in tenths, for one that speaks more rarely than each second.
const SILENT_INTERVALS_TENTHS: u32 = 35;
/// How many gateways are known at a time. A datagram needs the group's key to add one.
const MOST_GATEWAYS: usize = 256;
/// How long a gateway that left a link unanswered comes behind the others; doubled each time.
const SUSPICION: Duration = Duration::from_secs(10);
/// The longest suspicion. One that lasted so long without another is forgotten.
const LONGEST_SUSPICION: Duration = Duration::from_secs(300);
/// How much longer a suspect that answers comes behind the others.
const PROBATION: Duration = Duration::from_secs(2);

/// How many earlier boots of one gateway are remembered.
const MOST_BOOTS: usize = 8;

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

/// How a gateway told its facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// In answer to a query, so long after it.
    Offer(Duration),
    /// Unasked: boot id and counter. Of one boot only a larger counter is news.
    Beacon(u64, u64),
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
    /// What it last said of itself; without the other candidates that it named.
    pub advert: Option<Advert>,
    /// From query to offer.
    pub round_trip: Option<Duration>,
    /// When it last spoke.
    pub heard: Option<Instant>,
    beacon: Option<(u64, u64)>,
    /// Boot ids that newer ones have followed: whoever repeats their beacons is not believed.
    past_boots: VecDeque<u64>,
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
            past_boots: VecDeque::new(),
            steady: None,
            suspicion: None,
        }
    }

    /// What it says it is, if it spoke lately.
    pub fn state(&self, now: Instant) -> Option<State> {
        self.fresh(now).map(|advert| advert.state)
    }

    /// It left a link unanswered lately: until then it comes behind the others.
    pub fn suspect_until(&self, now: Instant) -> Option<Instant> {
        self.suspicion.map(|suspicion| suspicion.until).filter(|until| now < *until)
    }

    /// When it falls silent if it says nothing more.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        let interval = u64::from(self.advert.as_ref()?.standing.interval);
        let patience = Duration::from_millis(interval) * SILENT_INTERVALS_TENTHS / 10;
        Some(self.heard? + patience.max(SILENCE))
    }

    pub(super) fn seen(&self, now: Instant) -> Option<Seen> {
        let advert = self.fresh(now)?;
        let heard = self.heard?;
        Some(Seen::new(self.id?, self.link, advert, heard, self.steady.unwrap_or(heard)))
    }

    /// Whether a beacon of `id` from `link` is older than what is known of it. The same beacon comes over every network
    /// that both are on, and not in order: a node that was stopped reads what has waited, one socket after the other.
    fn has_said_more_than(&self, boot: u64, counter: u64, id: NodeId, link: SocketAddr) -> bool {
        if self.link != link && self.id != Some(id) {
            return false;
        }
        let is_older = |(last_boot, last)| {
            last_boot == boot && if self.link == link { counter <= last } else { counter < last }
        };
        self.beacon.is_some_and(is_older) || self.past_boots.contains(&boot)
    }

    fn fresh(&self, now: Instant) -> Option<&Advert> {
        let spoke_lately = self.silent_at().is_some_and(|silent_at| now < silent_at);
        self.advert.as_ref().filter(|_| spoke_lately)
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
    /// Notes what the gateway at `link` says. False when that is older than what is known.
    pub(super) fn heard(
        &mut self,
        id: NodeId,
        link: SocketAddr,
        advert: &Advert,
        means: Means,
        now: Instant,
    ) -> bool {
        if let Means::Beacon(boot, counter) = means
            && self.0.values().any(|known| known.has_said_more_than(boot, counter, id, link))
        {
            return false;
        }
        for peer in advert.peers.iter().filter(|peer| peer.id != id && !is_link_local(peer.link)) {
            if self.0.len() < MOST_GATEWAYS {
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
                // What was suspected of the process before says nothing of this one.
                if let Some((before, _)) = gateway.beacon.filter(|(before, _)| *before != boot) {
                    gateway.suspicion = None;
                    gateway.past_boots.truncate(MOST_BOOTS - 1);
                    gateway.past_boots.push_front(before);
                }
                gateway.beacon = Some((boot, counter));
            }
        }
        if !was_steady {
            gateway.steady = Some(now);
        }
        true
    }

    pub(super) fn was_deaf(&mut self, length: Duration, now: Instant) {
        for heard in self.0.values_mut().filter_map(|gateway| gateway.heard.as_mut()) {
            *heard = (*heard + length).min(now);
        }
    }

    /// Adds an address.
    pub(super) fn name(&mut self, link: SocketAddr, source: Source) {
        if self.0.contains_key(&link) || self.make_room() {
            let known = self.0.entry(link).or_insert_with(|| Gateway::new(None, link, source));
            known.source = known.source.min(source);
        }
    }

    pub(super) fn suspect(&mut self, link: SocketAddr, now: Instant) {
        let Some(gateway) = self.0.get_mut(&link) else { return };
        let forgotten = |s: &Suspicion| now.saturating_duration_since(s.last) >= LONGEST_SUSPICION;
        let times = gateway.suspicion.filter(|s| !forgotten(s)).map_or(0, |s| s.times);
        let length = SUSPICION.saturating_mul(1 << times.min(8)).min(LONGEST_SUSPICION);
        gateway.suspicion = Some(Suspicion { times: times + 1, until: now + length, last: now });
    }

    pub(super) fn proved(&mut self, link: SocketAddr, now: Instant) {
        if let Some(suspicion) = self.0.get_mut(&link).and_then(|gateway| gateway.suspicion.as_mut()) {
            let probation = PROBATION.saturating_mul(suspicion.times).min(LONGEST_SUSPICION);
            suspicion.until = suspicion.until.min(now + probation);
        }
    }

    pub(super) fn at(&self, link: SocketAddr) -> Option<&Gateway> {
        self.0.get(&link)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Gateway> {
        self.0.values()
    }

    /// The candidates that spoke lately, each once, without the one called `but`.
    pub(super) fn seen(&self, but: NodeId, now: Instant) -> Vec<Seen> {
        let mut seen: Vec<_> =
            self.0.values().filter(|gateway| gateway.id != Some(but)).filter_map(|g| g.seen(now)).collect();
        // One that is on two networks with this node is heard on both. Others are told of it: a link-local address
        // means nothing to them.
        seen.sort_by_key(|seen| (seen.id, is_link_local(seen.link), std::cmp::Reverse(seen.heard)));
        seen.dedup_by_key(|seen| seen.id);
        seen
    }

    /// Forgets the gateway that was not heard for longest when there are too many. False when none can go.
    fn make_room(&mut self) -> bool {
        if self.0.len() < MOST_GATEWAYS {
            return true;
        }
        let oldest = self.0.values().filter(|gateway| gateway.source != Source::Static);
        // A static one that was heard counts as heard: its address is named again every now and then.
        let oldest = oldest.min_by_key(|gateway| gateway.heard).map(|gateway| gateway.link);
        oldest.is_some_and(|oldest| self.0.remove(&oldest).is_some())
    }
}

/// Of use on one network only, which the address does not say (RFC 4007 §6).
pub(super) fn is_link_local(link: SocketAddr) -> bool {
    matches!(link.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn without_peers(advert: &Advert) -> Advert {
    let Advert { state, reach, link_port, weight, load, capacity, tunnels, standing, peers: _ } = *advert;
    Advert { state, reach, link_port, weight, load, capacity, tunnels, standing, peers: Vec::new() }
}
