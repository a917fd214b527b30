//! The order in which one client tries the gateways.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::order::{Seen, actives, draw};
use super::table::{Gateway, Source};
use laneway_wire::datagram::State;
use laneway_wire::id::NodeId;

/// The difference in load, in permille, from which a client changes to the other gateway.
const CLEARLY_LESS_BUSY: u16 = 250;
/// How long a client stays with the gateway that it last changed to, as long as that one is active and answers. So
/// gateways that change their state or their load with each beacon do not move it with each beacon.
const STAY: Duration = Duration::from_secs(10);

/// Which of its gateways a client has chosen.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice {
    /// Of two active gateways the one that is less busy.
    chosen: Option<([NodeId; 2], NodeId)>,
    /// The gateway that was ranked first last, and when the client changed to it.
    first: Option<(NodeId, Option<Instant>)>,
}

impl Choice {
    /// Sorts `gateways` for the client `client`. `seen` are those heard recently, in order.
    pub(super) fn sort(&mut self, gateways: &mut Vec<Gateway>, seen: &[Seen], client: NodeId, now: Instant) {
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
        // Suspects are tried in turn. The one whose suspicion ends first could be tried several times before another.
        gateways.sort_by_cached_key(|gateway| {
            let suspect_since = gateway.suspect_since(now);
            (class(gateway, now), suspect_since, place(gateway), gateway.link, gateway.id)
        });
        self.stay(gateways, now);
        name_no_one_where_two_are_heard(gateways, now);
    }

    /// Keeps in front the gateway that the client changed to a moment ago.
    fn stay(&mut self, gateways: &mut [Gateway], now: Instant) {
        let Some(first) = gateways.first().and_then(|gateway| gateway.id) else { return };
        let Some((before, changed_at)) = self.first.filter(|(before, _)| *before != first) else {
            self.first.get_or_insert((first, None));
            return;
        };
        let old = gateways.iter().position(|gateway| gateway.id == Some(before) && class(gateway, now) == 0);
        match old.filter(|_| changed_at.is_some_and(|at| now < at + STAY)) {
            Some(old) => gateways[..=old].rotate_right(1),
            None => self.first = Some((first, Some(now))),
        }
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

/// Of several gateways that were heard from one address only the first is kept, without its id: the link's handshake
/// proves which of them is there, and a member that sends from another's address must not keep clients from that one.
///
/// If only one of them was heard lately, it is noted: most likely it has replaced the others.
fn name_no_one_where_two_are_heard(gateways: &mut Vec<Gateway>, now: Instant) {
    let mut announced: HashMap<SocketAddr, Option<NodeId>> = HashMap::new();
    for gateway in gateways.iter().filter(|gateway| gateway.state(now).is_some()) {
        announced.entry(gateway.link).and_modify(|only| *only = None).or_insert(gateway.id);
    }
    let mut places: HashMap<SocketAddr, usize> = HashMap::new();
    let mut kept: Vec<Gateway> = Vec::with_capacity(gateways.len());
    for gateway in gateways.drain(..) {
        match places.get(&gateway.link) {
            Some(place) => kept[*place].id = None,
            None => {
                places.insert(gateway.link, kept.len());
                kept.push(gateway);
            }
        }
    }
    for gateway in &mut kept {
        gateway.announced = announced.get(&gateway.link).copied().flatten();
    }
    *gateways = kept;
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
