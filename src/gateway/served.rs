//! The links that clients have to this gateway now, for status and metrics. Admission is decided elsewhere.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::link::alive::LinkState;
use crate::link::tls::PeerIdentity;
use crate::telemetry::snapshot::LinkSeen;

/// The links that this gateway serves.
#[derive(Clone, Default)]
pub struct ServedLinks(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    /// The number of the newest link; numbers start at 1.
    last: u64,
    links: HashMap<u64, (PeerIdentity, SocketAddr, Arc<LinkState>)>,
}

/// One link's entry in [`ServedLinks`]; dropping it removes the entry.
pub struct ServedLink {
    all: ServedLinks,
    number: u64,
}

impl ServedLinks {
    /// Adds a link of `client`, which connected from `address`.
    pub fn enter(&self, client: PeerIdentity, address: SocketAddr, link_state: Arc<LinkState>) -> ServedLink {
        let mut table = self.lock();
        table.last += 1;
        let number = table.last;
        table.links.insert(number, (client, address, link_state));
        ServedLink { all: self.clone(), number }
    }

    /// Whether a client's link comes from this network.
    pub fn come_from(&self, network: &IpNet) -> bool {
        self.lock().links.values().any(|(_, address, _)| network.contains(&address.ip().to_canonical()))
    }

    /// The number of links, and at most `limit` of them: those with the most tunnels first, then the oldest.
    pub fn busiest(&self, limit: usize) -> (usize, Vec<LinkSeen>) {
        let table = self.lock();
        let mut links: Vec<_> = table.links.iter().collect();
        links.sort_by_key(|(number, (_, _, link_state))| (Reverse(link_state.tunnels()), **number));
        let shown = links.iter().take(limit).map(|(_, (client, address, link_state))| {
            let (sent, received) = link_state.moved();
            LinkSeen {
                id: client.id.short(),
                name: client.name.to_string(),
                address: address.to_string(),
                state: "accepted".into(),
                age: link_state.age().as_secs_f64(),
                tunnels: link_state.tunnels(),
                sent,
                received,
                round_trip: link_state.round_trip().map(|time| time.as_secs_f64()),
            }
        });
        (links.len(), shown.collect())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ServedLink {
    fn drop(&mut self) {
        self.all.lock().links.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::id::NodeId;

    #[test]
    fn the_busiest_links_are_shown_and_those_that_ended_are_not() {
        let links = ServedLinks::default();
        let (idle, busy) = (Arc::<LinkState>::default(), Arc::<LinkState>::default());
        let _tunnel = busy.tunnel();
        let address = "10.0.0.1:9".parse().unwrap();
        let client = |id| PeerIdentity { id: NodeId([id; 16]), name: "mill-7".into() };
        let _idle = links.enter(client(1), address, idle);
        let second = links.enter(client(2), address, busy);
        let (count, shown) = links.busiest(1);
        assert_eq!((count, shown[0].id.as_str(), shown[0].tunnels), (2, "02020202", 1));
        drop(second);
        let (count, shown) = links.busiest(9);
        assert_eq!((count, shown[0].id.as_str()), (1, "01010101"));
    }
}
