//! Members that lie about themselves, and a stranger that forges, repeats and delays datagrams.

use std::time::Duration;

use laneway::wire::datagram::{Advert, Reach, State};
use laneway::wire::id::NodeId;

use crate::schedule::{MILLI, Random};

/// How often a liar sends.
pub(crate) const PERIOD: u64 = 250 * MILLI;
/// How long it tells the same story: between one and two times this.
pub(crate) const STORY: u64 = 4_000 * MILLI;
/// How often the stranger sends something forged and something old.
pub(crate) const STRANGER: u64 = 200 * MILLI;
/// The most by which the stranger delays a beacon.
pub(crate) const MOST_DELAY: u64 = 2_000 * MILLI;
/// The number of beacons that the stranger remembers.
pub(crate) const RECORDED: usize = 500;

/// What a liar says until it tells another story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Story {
    Silent,
    /// The strongest and least busy standby, that never takes the role.
    Standby,
    Withdrawn,
    /// About to bring its uplink up.
    Preparing,
    /// Active, by a claim that is later than all others.
    Active,
    /// Active, by a claim that is far ahead.
    FarAhead,
    /// Active, by any claim, in any round, in place of somebody and calling somebody.
    Anything,
    /// Another state in each datagram.
    Flapping,
    /// Active to some nodes and withdrawn to the others.
    TwoFaced,
    /// Active, and calls others to take the role.
    Calling,
}

impl Story {
    pub(crate) fn any(random: &mut Random) -> Self {
        use Story::*;
        let stories =
            [Silent, Standby, Withdrawn, Preparing, Active, FarAhead, Anything, Flapping, TwoFaced, Calling];
        stories[(random.next() % stories.len() as u64) as usize]
    }

    /// What the liar tells one node. `claim` is the latest that an honest candidate has made.
    pub(crate) fn told(
        self,
        mut advert: Advert,
        to: usize,
        claim: u32,
        honest: &[NodeId],
        random: &mut Random,
    ) -> Option<Advert> {
        let lot = random.next();
        let somebody = honest[(lot % honest.len() as u64) as usize];
        let states = [State::Active, State::Standby, State::Draining, State::Withdrawn];
        let any_state = states[(lot / 7 % 4) as usize];
        let standing = &mut advert.standing;
        standing.interval = if lot.is_multiple_of(2) { u16::MAX } else { 0 };
        standing.claim = match self {
            Self::FarAhead => claim.wrapping_add(1 << 30),
            Self::Anything => lot as u32,
            _ => claim.wrapping_add(1),
        };
        standing.round = lot as u32;
        standing.preparing = self == Self::Preparing;
        standing.yields_to = matches!(self, Self::Calling | Self::Anything).then_some(somebody);
        standing.replaces = (self == Self::Anything).then_some(somebody);
        advert.reach = if lot.is_multiple_of(3) { Reach::Unreachable } else { Reach::Reachable };
        (advert.weight, advert.capacity, advert.load) = (u16::MAX, u32::MAX, 0);
        advert.state = match self {
            Self::Silent => return None,
            Self::Standby | Self::Preparing => State::Standby,
            Self::Withdrawn => State::Withdrawn,
            Self::Flapping => any_state,
            Self::TwoFaced if (to / 2).is_multiple_of(2) => State::Withdrawn,
            _ => State::Active,
        };
        advert.peers.clear();
        Some(advert)
    }
}

/// What must hold while a third of the candidates lie, and after that.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// How long a client may be without a gateway, in microseconds.
    pub(crate) gap: u64,
    /// How often honest candidates may become active in a minute.
    pub(crate) promotions: u64,
    /// How long it may take until honest nodes agree after the attack, in microseconds.
    pub(crate) agreed: u64,
}

impl Bounds {
    /// The bounds with this number of liars: each of them costs a client one attempt.
    pub(crate) fn with(liars: usize) -> Self {
        let attempt = Duration::from_millis(300).as_micros() as u64;
        Self { gap: attempt * (liars as u64 + 2), promotions: 20, agreed: 66_000 * MILLI }
    }
}
