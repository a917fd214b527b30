//! Who comes before whom: what every node computes alike from the same facts.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::time::Instant;

use laneway_wire::datagram::{Advert, Policy, Reach, Standing, State};
use laneway_wire::id::NodeId;

/// How much stronger, in percent, a candidate must be to be clearly better. Capacities are measured: with an
/// error of 20% each way two equal machines seem to differ by up to 50%.
const CLEARLY_STRONGER: u128 = 150;
/// How much less busy, in permille of its capacity, a candidate must be to be clearly better.
const CLEARLY_LESS_BUSY: u16 = 250;

/// What one candidate says of itself, as far as it matters here.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) id: NodeId,
    pub(super) link: SocketAddr,
    pub(super) state: State,
    /// It does not reach the server before its uplink is brought up.
    pub(super) latent: bool,
    pub(super) capacity: u32,
    pub(super) weight: u16,
    pub(super) load: u16,
    pub(super) standing: Standing,
    /// When it was last heard, and since when it has been able to serve without a break.
    pub(super) heard: Instant,
    pub(super) steady: Instant,
}

impl Seen {
    pub(super) fn new(
        id: NodeId,
        link: SocketAddr,
        advert: &Advert,
        heard: Instant,
        steady: Instant,
    ) -> Self {
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
            steady,
        }
    }

    fn strength(&self) -> u64 {
        u64::from(self.capacity) * u64::from(self.weight)
    }
}

/// Whether a candidate that stands by must first bring its uplink up.
pub(super) fn is_latent(advert: &Advert) -> bool {
    advert.state == State::Standby && advert.reach == Reach::Unreachable
}

/// The rule that standbys are put in order by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) policy: Policy,
    /// The number of the draw.
    pub(super) round: u32,
    /// Whoever became active last: the one after it comes next in turn.
    pub(super) anchor: NodeId,
}

/// The place of one candidate; the smallest is the best. The last resorts come behind all others.
pub(super) type Place = (bool, bool, u128, NodeId);

impl Order {
    /// The place of `seen` among the others.
    pub(super) fn place(&self, seen: &Seen) -> Place {
        let strength = u128::from(u64::MAX - seen.strength());
        let place = match self.policy {
            Policy::Strongest => strength,
            Policy::LeastBusy => u128::from(seen.load) << 64 | strength,
            Policy::Random => u128::from(draw(u64::from(self.round), &seen.id)),
            Policy::RoundRobin => number(&seen.id).wrapping_sub(number(&self.anchor)).wrapping_sub(1),
        };
        (seen.latent, seen.weight == 0, place, seen.id)
    }

    /// Whether `challenger` is so much better than `incumbent` that changing over is worth it.
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

/// The candidates that are active and not replaced, those first that keep the role if there are too many.
pub(super) fn actives<'a>(seen: impl Iterator<Item = &'a Seen>) -> Vec<&'a Seen> {
    let mut actives: Vec<_> = seen.filter(|seen| seen.state == State::Active).collect();
    let replaced: Vec<_> = actives
        .iter()
        .filter_map(|seen| seen.standing.replaces.map(|replaced| (replaced, seen.standing.claim)))
        .collect();
    // The largest claim is never replaced, so that somebody is always left.
    actives.retain(|seen| {
        !replaced.iter().any(|(replaced, claim)| *replaced == seen.id && *claim > seen.standing.claim)
    });
    actives.sort_by_key(|seen| (Reverse(seen.standing.claim), Reverse(seen.weight), seen.id));
    actives
}

/// What `id` draws in `round`.
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

fn number(id: &NodeId) -> u128 {
    u128::from_be_bytes(id.0)
}
