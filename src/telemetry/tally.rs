//! Counters.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn one(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// How many so far.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Numbers that only grow, by words of the program itself: there are as many as it knows.
#[derive(Debug)]
pub struct Tally<Key>(Mutex<BTreeMap<Key, u64>>);

impl<Key> Default for Tally<Key> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Key: Ord + Copy> Tally<Key> {
    /// One more of these.
    pub fn one(&self, key: Key) {
        self.many(key, 1);
    }

    /// So many more of these.
    pub fn many(&self, key: Key, count: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += count;
    }

    /// How many of each so far, in the order of the keys.
    pub fn values(&self) -> Vec<(Key, u64)> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(key, count)| (*key, *count))
            .collect()
    }
}
