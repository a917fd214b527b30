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
    /// The candidate that became active last. In round-robin its successor is next.
    pub(super) anchor: NodeId,
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
            Policy::RoundRobin => number(&seen.id).wrapping_sub(number(&self.anchor)).wrapping_sub(1),
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

/// The candidates that are active and not replaced. If there are too many, the first ones keep the role.
pub(super) fn actives<'a>(seen: impl Iterator<Item = &'a Seen>) -> Vec<&'a Seen> {
    let mut actives: Vec<_> = seen.filter(|seen| seen.state == State::Active).collect();
    let replaced: Vec<_> = actives
        .iter()
        .filter_map(|seen| seen.standing.replaces.map(|replaced| (replaced, seen.standing.claim)))
        .collect();
    // The largest claim is never replaced, so at least one remains.
    actives.retain(|seen| {
        !replaced.iter().any(|(replaced, claim)| *replaced == seen.id && *claim > seen.standing.claim)
    });
    actives.sort_by_key(|seen| (Reverse(seen.standing.claim), Reverse(seen.weight), seen.id));
    actives
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
