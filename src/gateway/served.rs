//! The links that clients have to this gateway now, for status and metrics. Admission is decided elsewhere.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use crate::link::alive::LinkState;
use crate::link::tls::PeerIdentity;
use crate::net;
use crate::peers::directory::Directory;
use crate::sys::blocking;
use crate::sys::state::{StateDir, StateError};
use crate::telemetry::snapshot::LinkSeen;
use crate::trust::clock;
use crate::wire::id::NodeId;

/// The links that this gateway serves.
#[derive(Clone, Default)]
pub struct ServedLinks(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    /// The number of the newest link; numbers start at 1.
    last: u64,
    links: HashMap<u64, (PeerIdentity, SocketAddr, Arc<LinkState>)>,
    /// The members that were seen, linked now or not.
    seen: BTreeMap<NodeId, Seen>,
}

/// When a member was seen last, in seconds since 1970, its name, and the version of its program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// When.
    pub at: u64,
    /// The name, if it is known: the machine with the group's key may not have this member in its list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The version, if it was said.
    pub version: Option<String>,
}

/// Members by their ids in hexadecimal, as `seen.json` lists them.
pub type SeenMembers = BTreeMap<String, Seen>;

/// How many links there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub links: usize,
    /// Those with an unanswered ping, which carry nothing as long as that lasts.
    pub silent: usize,
}

/// The file that keeps the sightings across restarts.
pub const FILE: &str = "seen.json";
/// Interval between two writes of that file.
const SAVE_INTERVAL: Duration = Duration::from_secs(300);
/// Maximum members that are kept; a group has at most 14,000.
const MAX_SEEN: usize = 16_384;

impl Seen {
    /// A member seen now.
    pub fn now(name: Option<&str>, version: Option<&str>) -> Self {
        Self {
            at: clock::now().as_secs(),
            name: name.map(str::to_owned),
            version: version.map(str::to_owned),
        }
    }

    /// Takes the later sighting, and its version if it is known. A member's name never changes.
    pub fn merge(&mut self, other: Self) {
        self.name = self.name.take().or(other.name);
        if other.at >= self.at {
            self.at = other.at;
            self.version = other.version.or(self.version.take());
        } else if self.version.is_none() {
            self.version = other.version;
        }
    }
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
        table.see(client.id, Seen::now(Some(&client.name), None));
        table.links.insert(number, (client, address, link_state));
        ServedLink { all: self.clone(), number }
    }

    /// Notes that a member was seen now, its name and its version.
    pub fn see(&self, id: NodeId, name: Option<&str>, version: Option<&str>) {
        self.lock().see(id, Seen::now(name, version));
    }

    /// The members that were seen; those that are linked are seen now.
    pub fn members(&self) -> BTreeMap<NodeId, Seen> {
        let mut table = self.lock();
        let linked: Vec<_> = table.links.values().map(|(client, ..)| client.id).collect();
        linked.into_iter().for_each(|id| table.see(id, Seen::now(None, None)));
        table.seen.clone()
    }

    /// Keeps the members that were seen in the state directory, together with the gateways that discovery hears. Never
    /// returns.
    pub async fn keep(self, state: StateDir, directory: Arc<Directory>) {
        let saved = load(&state);
        for (id, seen) in saved {
            if let Some(id) = NodeId::parse(&id) {
                self.lock().see(id, seen);
            }
        }
        let mut ticks = tokio::time::interval(SAVE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.save(&state, &directory).await;
        }
    }

    /// Saves the members that were seen, and the gateways that discovery hears now, beside those that are saved already.
    pub async fn save(&self, state: &StateDir, directory: &Directory) {
        for gateway in directory.ranked(Instant::now()) {
            if let (Some(id), Some(_)) = (gateway.id, gateway.state(Instant::now())) {
                self.see(id, None, None);
            }
        }
        let (state, members) = (state.clone(), self.members());
        let saved = blocking::run_with_state(move || {
            let mut all = load(&state);
            members.into_iter().for_each(|(id, seen)| all.entry(id.to_string()).or_default().merge(seen));
            save(&state, &all)
        });
        if let Ok(Err(error)) = saved.await {
            tracing::debug!(%error, "the members that were seen are not saved");
        }
    }

    /// The addresses from which a member is linked, at most `limit`.
    pub fn addresses(&self, id: NodeId, limit: usize) -> Vec<IpAddr> {
        let table = self.lock();
        let own = table.links.values().filter(|(client, ..)| client.id == id);
        let found: BTreeSet<_> = own.map(|(_, address, _)| address.ip().to_canonical()).collect();
        found.into_iter().take(limit).collect()
    }

    /// Whether a client's link comes from this network.
    pub fn come_from(&self, network: &IpNet) -> bool {
        self.lock().links.values().any(|(_, address, _)| network.contains(&address.ip().to_canonical()))
    }

    /// The members that have requests open now.
    pub(super) fn busy(&self) -> BTreeSet<NodeId> {
        let table = self.lock();
        let busy = table.links.values().filter(|(_, _, link_state)| link_state.tunnels() > 0);
        busy.map(|(client, ..)| client.id).collect()
    }

    /// Those networks of this machine that links of clients come from.
    pub(super) fn networks(&self) -> Vec<IpNet> {
        let mut own = net::own_networks().unwrap_or_default();
        own.retain(|network| self.come_from(network));
        own
    }

    /// How many links there are, and at most `limit` of them: those with the most tunnels first, then the oldest.
    pub fn busiest(&self, limit: usize) -> (Counts, Vec<LinkSeen>) {
        let table = self.lock();
        let is_silent = |link_state: &LinkState| *link_state.suspect().borrow();
        let mut links: Vec<_> = table.links.iter().collect();
        links.sort_by_key(|(number, (_, _, link_state))| (Reverse(link_state.tunnels()), **number));
        let shown = links.iter().take(limit).map(|(_, (client, address, link_state))| {
            let (sent, received) = link_state.moved();
            LinkSeen {
                id: client.id.short(),
                name: client.name.to_string(),
                address: address.to_string(),
                state: if is_silent(link_state) { "suspect" } else { "accepted" }.into(),
                age: link_state.age().as_secs_f64(),
                tunnels: link_state.tunnels(),
                sent,
                received,
                round_trip: link_state.round_trip().map(|time| time.as_secs_f64()),
            }
        });
        let silent = links.iter().filter(|(_, (.., link_state))| is_silent(link_state)).count();
        (Counts { links: links.len(), silent }, shown.collect())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn see(&mut self, id: NodeId, seen: Seen) {
        if self.seen.len() < MAX_SEEN || self.seen.contains_key(&id) {
            self.seen.entry(id).or_default().merge(seen);
        }
    }
}

/// The members in the file. An unreadable one counts as empty.
pub fn load(state: &StateDir) -> SeenMembers {
    let bytes = state.read(FILE).ok().flatten().unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Writes the file.
///
/// # Errors
/// When the disk is full or read-only.
pub fn save(state: &StateDir, members: &SeenMembers) -> Result<(), StateError> {
    state.write(FILE, &serde_json::to_vec(members).unwrap_or_default())
}

impl Drop for ServedLink {
    fn drop(&mut self) {
        let mut table = self.all.lock();
        if let Some((client, ..)) = table.links.remove(&self.number) {
            table.see(client.id, Seen::now(None, None));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_keeps_its_latest_time_and_its_last_known_version() {
        let links = ServedLinks::default();
        let id = NodeId([1; 16]);
        let of = |at, name: Option<&str>, version: Option<&str>| Seen {
            at,
            name: name.map(str::to_owned),
            version: version.map(str::to_owned),
        };
        links.lock().see(id, of(100, Some("mill-7"), Some("1.0")));
        links.lock().see(id, of(200, None, None));
        links.lock().see(id, of(150, None, Some("0.9")));
        assert_eq!(links.members()[&id], of(200, Some("mill-7"), Some("1.0")));
        links.lock().see(id, of(300, None, Some("1.1")));
        assert_eq!(links.members()[&id], of(300, Some("mill-7"), Some("1.1")));
        for number in 0..20_000_u128 {
            links.lock().see(NodeId(number.to_be_bytes()), of(1, None, None));
        }
        assert_eq!(links.members().len(), MAX_SEEN);
    }

    #[test]
    fn the_busiest_links_are_shown_and_those_that_ended_are_not() {
        let links = ServedLinks::default();
        let (idle, busy) = (Arc::<LinkState>::default(), Arc::<LinkState>::default());
        let _tunnel = busy.tunnel();
        let address = "10.0.0.1:9".parse().unwrap();
        let client = |id| PeerIdentity { id: NodeId([id; 16]), name: "mill-7".into() };
        let _idle = links.enter(client(1), address, idle);
        let second = links.enter(client(2), address, busy);
        let (counts, shown) = links.busiest(1);
        assert_eq!((counts.links, shown[0].id.as_str(), shown[0].tunnels), (2, "02020202", 1));
        drop(second);
        let (counts, shown) = links.busiest(9);
        assert_eq!((counts, shown[0].id.as_str()), (Counts { links: 1, silent: 0 }, "01010101"));
    }
}
