//! The order of candidates, which every node computes alike from the same facts.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use laneway_wire::datagram::{Advert, Policy, Reach, Standing, State};
use laneway_wire::id::NodeId;

/// The strength, in percent of the other's, from which a candidate is clearly better. Capacities are measured: with an
/// error of 20% each way two equal machines seem to differ by up to 50%.
const CLEARLY_STRONGER: u128 = 150;
/// The difference in load, in permille of its capacity, from which a candidate is clearly better.
const CLEARLY_LESS_BUSY: u16 = 250;

/// How far a claim may be ahead of another one and still be the later one. More changes of the role than this are
/// never missed in practice: at one a minute it takes 45 days.
const MAX_LEAD: u32 = 1 << 16;

/// Number of standbys in line, which beacon each second and take the role first when it is vacant.
pub(super) const LINE: usize = 3;

/// What is known of one candidate, as far as the selection needs it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) id: NodeId,
    pub(super) link: SocketAddr,
    pub(super) state: State,
    /// Whether it reaches the server only after its uplink is brought up.
    pub(super) latent: bool,
    pub(super) capacity: u32,
    pub(super) weight: u16,
    pub(super) load: u16,
    pub(super) standing: Standing,
    /// When it was last heard.
    pub(super) heard: Instant,
    /// Since when it has been able to serve without interruption.
    pub(super) steady: Instant,
    /// Since when it has been active without interruption, if it is.
    pub(super) active_since: Option<Instant>,
}

impl Seen {
    pub(super) fn new(id: NodeId, link: SocketAddr, advert: &Advert, heard: Instant) -> Self {
        Self {
            id,
            link,
            state: advert.state,
            latent: is_latent(advert),
            capacity: advert.capacity,
            weight: advert.weight,
            load: advert.load,
            standing: advert.standing,
            heard,
            steady: heard,
            active_since: None,
        }
    }

    fn strength(&self) -> u64 {
        u64::from(self.capacity) * u64::from(self.weight)
    }
}

/// Whether a standby must first bring its uplink up.
pub(super) fn is_latent(advert: &Advert) -> bool {
    advert.state == State::Standby && advert.reach == Reach::Unreachable
}

/// The rule that orders standbys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) policy: Policy,
    /// The number of the random draw.
    pub(super) round: u32,
    /// The holder of the role.
    pub(super) anchor: Anchor,
    /// Whether the role changes so often that its holder keeps it.
    pub(super) is_turbulent: bool,
}

/// The candidate that holds the role by the latest claim, or held it last. Nobody else's claim and round count, so a
/// number that is announced without the role has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Anchor {
    /// In round-robin the next id after this one is the next in turn.
    pub(super) id: NodeId,
    /// The claim that the next holder's claim follows.
    pub(super) claim: u32,
    /// The number of its random draw.
    pub(super) round: u32,
}

/// The place of one candidate in the order; the smallest is the best. Latent ones and those of weight 0 come last.
pub(super) type Place = (bool, bool, u128, NodeId);

impl Order {
    /// The place of `seen` among the others.
    pub(super) fn place(&self, seen: &Seen) -> Place {
        let strength = u128::from(u64::MAX - seen.strength());
        let place = match self.policy {
            Policy::Strongest => strength,
            Policy::LeastBusy => u128::from(seen.load) << 64 | strength,
            Policy::Random => u128::from(draw(u64::from(self.round), &seen.id)),
            Policy::RoundRobin => number(&seen.id).wrapping_sub(number(&self.anchor.id)).wrapping_sub(1),
        };
        (seen.latent, seen.weight == 0, place, seen.id)
    }

    /// Whether `challenger` is better than `incumbent` by enough to justify a change of the role.
    pub(super) fn is_clearly_better(&self, challenger: &Seen, incumbent: &Seen) -> bool {
        if challenger.latent || challenger.weight == 0 {
            return false;
        }
        match self.policy {
            Policy::Strongest => {
                u128::from(challenger.strength()) * 100 > u128::from(incumbent.strength()) * CLEARLY_STRONGER
            }
            Policy::LeastBusy => challenger.load.saturating_add(CLEARLY_LESS_BUSY) <= incumbent.load,
            Policy::Random | Policy::RoundRobin => false,
        }
    }
}

/// The candidates that are active and not replaced, by their claims. If there are too many, the first ones keep the role.
///
/// Claims that wrap around have no greatest one: a liar's can be later than one candidate's and earlier than
/// another's, although the second is earlier than the first. So candidates are ordered by the number of others whose
/// claims are later than theirs, which all nodes count alike.
pub(super) fn actives<'a>(seen: impl Iterator<Item = &'a Seen>) -> Vec<&'a Seen> {
    let mut actives: Vec<_> = seen.filter(|seen| seen.state == State::Active).collect();
    if actives.len() < 2 {
        return actives;
    }
    let is_replaced = |seen: &Seen| {
        actives.iter().any(|other| {
            other.standing.replaces == Some(seen.id) && is_later(other.standing.claim, seen.standing.claim)
        })
    };
    let kept: Vec<_> = actives.iter().copied().filter(|seen| !is_replaced(seen)).collect();
    // Only adverts that contradict each other replace each other in a circle.
    if !kept.is_empty() {
        actives = kept;
    }
    let claims: Vec<_> = actives.iter().map(|seen| seen.standing.claim).collect();
    let later = |claim: u32| claims.iter().filter(|other| is_later(**other, claim)).count();
    actives.sort_by_cached_key(|seen| (later(seen.standing.claim), Reverse(seen.weight), seen.id));
    actives
}

/// Whether `claim` is later than `other`, so that of two active candidates the one with `claim` keeps the role.
///
/// Claims wrap around, so no claim is the last one (serial numbers, RFC 1982 §3.2). One that is ahead by more than
/// [`MAX_LEAD`] is not a claim and loses. This also holds for a node that missed more changes of the role than that: both
/// sides compute the same winner, and the next claim follows the winner's.
pub(super) fn is_later(claim: u32, other: u32) -> bool {
    let (ahead, behind) = (claim.wrapping_sub(other), other.wrapping_sub(claim));
    match ahead {
        0 => false,
        1..=MAX_LEAD => true,
        // Of two claims that are exactly half of the range apart neither is later.
        _ => behind > MAX_LEAD && behind < 1 << 31,
    }
}

/// The random draw of `id` in `round`.
pub(super) fn draw(round: u64, id: &NodeId) -> u64 {
    let number = number(id);
    let [high, low] = [number >> 64, number & u128::from(u64::MAX)];
    let halves = [high, low].map(|half| u64::try_from(half).unwrap_or(u64::MAX));
    mix(halves[0] ^ mix(halves[1] ^ mix(round)))
}

/// Mixes the bits of a number (the finalizer of SplitMix64).
pub(super) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A share of `whole` between zero and `whole`, determined by `seed`.
pub(super) fn share(whole: Duration, seed: u64) -> Duration {
    whole * u32::try_from(mix(seed) >> 48).unwrap_or_default() / (1 << 16)
}

fn number(id: &NodeId) -> u128 {
    u128::from_be_bytes(id.0)
}
