//! The order in which one client tries the gateways.

use std::collections::HashMap;
use std::time::Instant;

use super::order::{Seen, actives, draw};
use super::table::{Gateway, Source};
use laneway_wire::datagram::State;
use laneway_wire::id::NodeId;

/// A client stays with its choice until the other one has so much less load, in permille.
const CLEARLY_LESS_BUSY: u16 = 250;

/// Which of its two gateways a client has chosen.
#[derive(Debug, Default)]
pub(super) struct Choice {
    chosen: Option<([NodeId; 2], NodeId)>,
}

impl Choice {
    /// Sorts `gateways` for the client called `client`. `seen` are those that spoke lately, in their order.
    pub(super) fn sort(&mut self, gateways: &mut [Gateway], seen: &[Seen], client: NodeId, now: Instant) {
        let actives = actives(seen.iter());
        let selected = actives.first().map_or(0, |first| usize::from(first.standing.active.max(1)));
        let (selected, surplus) = actives.split_at(selected.min(actives.len()));
        let mut first = selected.to_vec();
        // Each client has an order of its own, so that clients spread; it changes only for those whose
        // gateway comes or goes.
        first.sort_by_key(|seen| (draw(draw(0, &client), &seen.id), seen.id));
        self.choose(&mut first);
        let order = first.into_iter().chain(surplus.iter().copied()).chain(seen);
        let mut places: HashMap<NodeId, usize> = HashMap::new();
        for (place, seen) in order.enumerate() {
            places.entry(seen.id).or_insert(place);
        }
        let place =
            |gateway: &Gateway| gateway.id.and_then(|id| places.get(&id)).copied().unwrap_or(usize::MAX);
        // Of the suspects the one that has been one for longest has had the most time to recover.
        gateways.sort_by_cached_key(|gateway| {
            (class(gateway, now), gateway.suspect_until(now), place(gateway), gateway.link)
        });
    }

    /// Puts the better of the first two in front: the less busy one, unless the choice was made already.
    fn choose(&mut self, first: &mut [&Seen]) {
        let [one, two, ..] = first else {
            self.chosen = None;
            return;
        };
        let pair = [one.id, two.id];
        let stays = self.chosen.filter(|(of, _)| *of == pair).map(|(_, chosen)| chosen);
        let (kept, other) = if stays == Some(two.id) { (&*two, &*one) } else { (&*one, &*two) };
        let margin = if stays.is_some() { CLEARLY_LESS_BUSY } else { 1 };
        let chosen = if other.load.saturating_add(margin) <= kept.load { other.id } else { kept.id };
        self.chosen = Some((pair, chosen));
        if chosen == two.id {
            first.swap(0, 1);
        }
    }
}

/// The smaller, the earlier it is tried.
fn class(gateway: &Gateway, now: Instant) -> u8 {
    match (gateway.state(now), gateway.source) {
        (Some(State::Draining), _) => 7,
        (Some(State::Withdrawn), _) => 8,
        _ if gateway.suspect_until(now).is_some() => 6,
        (Some(State::Active), _) => 0,
        (Some(State::Standby), _) => 1,
        (None, Source::Static) => 2,
        (None, Source::Heard) => 3,
        (None, Source::Named) => 4,
        (None, Source::Remembered) => 5,
    }
}
