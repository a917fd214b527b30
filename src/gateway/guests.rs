//! The links that others have to this gateway now: to be shown, not to be judged.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::link::alive::Pulse;
use crate::link::tls::Peer;
use crate::telemetry::snapshot::LinkSeen;

/// All links that this gateway serves.
#[derive(Clone, Default)]
pub struct Guests(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    last: u64,
    links: HashMap<u64, (Peer, SocketAddr, Arc<Pulse>)>,
}

/// One link, until it is dropped.
pub struct Guest {
    guests: Guests,
    number: u64,
}

impl Guests {
    /// Notes a link of `client`, which comes from `address`.
    pub fn enter(&self, client: Peer, address: SocketAddr, pulse: Arc<Pulse>) -> Guest {
        let mut known = self.lock();
        known.last += 1;
        let number = known.last;
        known.links.insert(number, (client, address, pulse));
        Guest { guests: self.clone(), number }
    }

    /// How many there are, and the `most` that have the most tunnels; of those with as many, the oldest first.
    pub fn seen(&self, most: usize) -> (usize, Vec<LinkSeen>) {
        let known = self.lock();
        let mut links: Vec<_> = known.links.iter().collect();
        links.sort_by_key(|(number, (_, _, pulse))| (std::cmp::Reverse(pulse.tunnels()), **number));
        let seen = links.iter().take(most).map(|(_, (client, address, pulse))| {
            let (sent, received) = pulse.moved();
            LinkSeen {
                id: client.id.short(),
                name: client.name.to_string(),
                address: address.to_string(),
                state: "accepted".into(),
                age: pulse.age().as_secs_f64(),
                tunnels: pulse.tunnels(),
                sent,
                received,
                round_trip: pulse.round_trip().map(|time| time.as_secs_f64()),
            }
        });
        (links.len(), seen.collect())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.lock().links.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::id::NodeId;

    #[test]
    fn the_busiest_links_are_shown_and_those_that_ended_are_not() {
        let guests = Guests::default();
        let (idle, busy) = (Arc::<Pulse>::default(), Arc::<Pulse>::default());
        let _tunnel = busy.tunnel();
        let address = "10.0.0.1:9".parse().unwrap();
        let client = |id| Peer { id: NodeId([id; 16]), name: "mill-7".into() };
        let _idle = guests.enter(client(1), address, idle);
        let second = guests.enter(client(2), address, busy);
        let (all, seen) = guests.seen(1);
        assert_eq!((all, seen[0].id.as_str(), seen[0].tunnels), (2, "02020202", 1));
        drop(second);
        let (all, seen) = guests.seen(9);
        assert_eq!((all, seen[0].id.as_str()), (1, "01010101"));
    }
}
