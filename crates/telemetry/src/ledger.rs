//! Connections by destination: how many are open, how many there were, and their bytes. The number of destinations is
//! bounded: those that have been idle the longest are removed first, and their bytes stay in the total.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::snapshot::{DestinationSeen, Usage};
use super::traffic::Traffic;

/// Maximum number of destinations that are counted separately.
const MAX_DESTINATIONS: usize = 512;
/// Counts the destinations beyond [`MAX_DESTINATIONS`] that are open at the same time.
const OTHERS: &str = "others";

/// The connections of one side: of local apps, or of the clients of this gateway.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The bytes of all of them.
    pub traffic: Arc<Traffic>,
    open: AtomicU32,
    opened: AtomicU64,
    destinations: Mutex<HashMap<String, Arc<Destination>>>,
}

#[derive(Debug)]
struct Destination {
    name: String,
    traffic: Arc<Traffic>,
    open: AtomicU32,
    opened: AtomicU64,
    failed: AtomicU64,
    /// The number of the latest connection to it, counted over the whole ledger.
    last: AtomicU64,
}

/// One connection to a destination, until it is dropped.
#[derive(Debug)]
pub struct Entry {
    ledger: Arc<Ledger>,
    destination: Arc<Destination>,
}

impl Ledger {
    /// Counts a connection to `target` as open.
    pub fn open(self: &Arc<Self>, target: &str) -> Entry {
        let number = self.opened.fetch_add(1, Relaxed) + 1;
        self.open.fetch_add(1, Relaxed);
        let destination = self.destination(target);
        destination.open.fetch_add(1, Relaxed);
        destination.opened.fetch_add(1, Relaxed);
        destination.last.store(number, Relaxed);
        Entry { ledger: self.clone(), destination }
    }

    fn destination(&self, target: &str) -> Arc<Destination> {
        let mut known = self.destinations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(destination) = known.get(target) {
            return destination.clone();
        }
        if known.len() >= MAX_DESTINATIONS {
            remove_idle(&mut known);
        }
        let name = if known.len() < MAX_DESTINATIONS { target } else { OTHERS };
        let new = || Arc::new(Destination::new(name, &self.traffic));
        known.entry(name.to_owned()).or_insert_with(new).clone()
    }

    /// The totals and at most `most` destinations: first those with open connections, by bytes, then the latest ones.
    pub fn usage(&self, most: usize) -> Usage {
        let mut destinations: Vec<_> =
            self.destinations.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        destinations.sort_by_cached_key(|destination| {
            let open = destination.open.load(Relaxed) > 0;
            let weight = if open { destination.traffic.total() } else { destination.last.load(Relaxed) };
            std::cmp::Reverse((open, weight))
        });
        destinations.truncate(most);
        Usage {
            open: self.open.load(Relaxed),
            opened: self.opened.load(Relaxed),
            sent: self.traffic.sent(),
            received: self.traffic.received(),
            destinations: destinations.iter().map(|destination| destination.seen()).collect(),
        }
    }
}

/// Removes the older half of the destinations without open connections.
fn remove_idle(known: &mut HashMap<String, Arc<Destination>>) {
    let is_idle = |destination: &Arc<Destination>| destination.open.load(Relaxed) == 0;
    let mut idle: Vec<_> = known
        .values()
        .filter(|destination| is_idle(destination))
        .map(|idle| idle.last.load(Relaxed))
        .collect();
    idle.sort_unstable();
    let Some(latest) = idle.get(idle.len() / 2).copied() else { return };
    known.retain(|_, destination| !is_idle(destination) || destination.last.load(Relaxed) > latest);
}

impl Destination {
    fn new(name: &str, whole: &Arc<Traffic>) -> Self {
        Self {
            name: name.to_owned(),
            traffic: Arc::new(Traffic::of(whole)),
            open: AtomicU32::new(0),
            opened: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            last: AtomicU64::new(0),
        }
    }

    fn seen(&self) -> DestinationSeen {
        DestinationSeen {
            target: self.name.clone(),
            open: self.open.load(Relaxed),
            opened: self.opened.load(Relaxed),
            failed: self.failed.load(Relaxed),
            sent: self.traffic.sent(),
            received: self.traffic.received(),
        }
    }
}

impl Entry {
    /// The counter for its bytes while they pass.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.destination.traffic
    }

    /// Counts it as failed.
    pub fn failed(&self) {
        self.destination.failed.fetch_add(1, Relaxed);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.open.fetch_sub(1, Relaxed);
        self.destination.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_connections_come_first_and_their_bytes_count_at_once() {
        let ledger = Arc::new(Ledger::default());
        drop(ledger.open("closed:1"));
        let held = ledger.open("held:1");
        held.traffic().add_received(7);
        let usage = ledger.usage(8);
        let names: Vec<_> = usage.destinations.iter().map(|seen| (seen.target.as_str(), seen.open)).collect();
        assert_eq!(names, [("held:1", 1), ("closed:1", 0)]);
        assert_eq!((usage.open, usage.opened, usage.received), (1, 2, 7));
        drop(held);
        assert_eq!(ledger.usage(8).open, 0);
    }

    #[test]
    fn however_many_destinations_there_are_the_table_is_bounded_and_the_total_is_complete() {
        let ledger = Arc::new(Ledger::default());
        let count = 3 * MAX_DESTINATIONS;
        for number in 0..count {
            ledger.open(&format!("host{number}:80")).traffic().add_sent(1);
        }
        assert!(ledger.destinations.lock().unwrap().len() <= MAX_DESTINATIONS);
        let latest = format!("host{}:80", count - 1);
        assert_eq!(ledger.usage(1).destinations[0].target, latest);
        let held: Vec<_> = (0..count).map(|number| ledger.open(&format!("held{number}:80"))).collect();
        assert!(ledger.destinations.lock().unwrap().len() <= MAX_DESTINATIONS + 1);
        let usage = ledger.usage(usize::MAX);
        assert_eq!((usage.sent, usage.open as usize), (count as u64, held.len()));
    }
}
