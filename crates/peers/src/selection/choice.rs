//! The order in which one client tries the gateways.

use std::collections::HashMap;
use std::time::Instant;

use super::order::{Seen, actives, draw};
use super::table::{Gateway, Source};
use laneway_wire::datagram::State;
use laneway_wire::id::NodeId;

/// The difference in load, in permille, from which a client changes to the other gateway.
const CLEARLY_LESS_BUSY: u16 = 250;

/// Which of its two gateways a client has chosen.
#[derive(Debug, Default)]
pub(super) struct Choice {
    chosen: Option<([NodeId; 2], NodeId)>,
}

impl Choice {
    /// Sorts `gateways` for the client `client`. `seen` are those heard recently, in order.
    pub(super) fn sort(&mut self, gateways: &mut [Gateway], seen: &[Seen], client: NodeId, now: Instant) {
        let actives = actives(seen.iter());
        let selected = actives.first().map_or(0, |first| usize::from(first.standing.active.max(1)));
        let (selected, surplus) = actives.split_at(selected.min(actives.len()));
        let mut first = selected.to_vec();
        // Each client has its own order, so that clients spread. It changes only for clients whose gateway comes or goes.
        first.sort_by_key(|seen| (draw(draw(0, &client), &seen.id), seen.id));
        self.choose(&mut first);
        let order = first.into_iter().chain(surplus.iter().copied()).chain(seen);
        let mut places: HashMap<NodeId, usize> = HashMap::new();
        for (place, seen) in order.enumerate() {
            places.entry(seen.id).or_insert(place);
        }
        let place =
            |gateway: &Gateway| gateway.id.and_then(|id| places.get(&id)).copied().unwrap_or(usize::MAX);
        // Among suspects the one whose suspicion ends first comes first.
        gateways.sort_by_cached_key(|gateway| {
            (class(gateway, now), gateway.suspect_until(now), place(gateway), gateway.link)
        });
    }

    /// Puts the less busy of the first two in front. An earlier choice stays unless the other is clearly less busy.
    fn choose(&mut self, first: &mut [&Seen]) {
        let [one, two, ..] = first else {
            self.chosen = None;
            return;
        };
        let pair = [one.id, two.id];
        let stays = self.chosen.filter(|(of, _)| *of == pair).map(|(_, chosen)| chosen);
        let (preferred, other) = if stays == Some(two.id) { (&*two, &*one) } else { (&*one, &*two) };
        let margin = if stays.is_some() { CLEARLY_LESS_BUSY } else { 1 };
        let chosen =
            if other.load.saturating_add(margin) <= preferred.load { other.id } else { preferred.id };
        self.chosen = Some((pair, chosen));
        if chosen == two.id {
            first.swap(0, 1);
        }
    }
}

/// The class of a gateway; smaller ones are tried first.
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
