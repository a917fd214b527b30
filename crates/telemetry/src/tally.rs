//! Counters that only grow.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds one.
    pub fn one(&self) {
        self.many(1);
    }

    /// Adds `count`.
    pub fn many(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// The number so far.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Numbers that only grow, one per key. Keys are words of the program itself, so their number is bounded.
#[derive(Debug)]
pub struct Tally<Key>(Mutex<BTreeMap<Key, u64>>);

impl<Key> Default for Tally<Key> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Key: Ord + Copy> Tally<Key> {
    /// Adds one to a key.
    pub fn one(&self, key: Key) {
        self.many(key, 1);
    }

    /// Adds `count` to a key.
    pub fn many(&self, key: Key, count: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += count;
    }

    /// The numbers so far, in the order of the keys.
    pub fn values(&self) -> Vec<(Key, u64)> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(key, count)| (*key, *count))
            .collect()
    }
}
