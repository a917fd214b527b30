//! Which entries leave when the store is full: S3-FIFO (Yang et al., SOSP 2023). New entries wait in a small queue; those that
//! were used there, and those that return soon after they had left, go on to the main queue. So files that are fetched once
//! do not displace those that everybody fetches.

use std::collections::{HashMap, HashSet, VecDeque};

/// New entries wait in the small queue until they take more than one in this many of all bytes.
const SMALL_PART: u64 = 10;
/// Further uses of an entry beyond this number are not counted.
const MOST_USES: u8 = 3;

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The hash of its URI.
    pub(super) key: u64,
    /// The bytes that it takes on the disk.
    pub(super) size: u64,
    uses: u8,
    is_new: bool,
}

/// All entries by their ids, and the order in which they leave.
#[derive(Debug, Default)]
pub(super) struct Queues {
    entries: HashMap<u64, Entry>,
    /// Ids whose entry was removed stay until they are reached.
    new: VecDeque<u64>,
    main: VecDeque<u64>,
    /// The keys of entries that left without a use, the oldest first.
    left: VecDeque<u64>,
    has_left: HashSet<u64>,
    bytes: u64,
    new_bytes: u64,
}

impl Queues {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn insert(&mut self, id: u64, key: u64, size: u64) {
        self.remove(id);
        let is_new = !self.has_left.contains(&key);
        self.entries.insert(id, Entry { key, size, uses: 0, is_new });
        self.bytes += size;
        if is_new {
            self.new_bytes += size;
            self.new.push_back(id);
        } else {
            self.main.push_back(id);
        }
        let known = self.entries.len() * 2 + 64;
        if self.new.len() + self.main.len() > known {
            let entries = &self.entries;
            self.new.retain(|id| entries.get(id).is_some_and(|entry| entry.is_new));
            self.main.retain(|id| entries.get(id).is_some_and(|entry| !entry.is_new));
        }
    }

    /// Notes that an entry was used.
    pub(super) fn touch(&mut self, id: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.uses = (entry.uses + 1).min(MOST_USES);
        }
    }

    /// The ids of all entries.
    pub(super) fn ids(&self) -> Vec<u64> {
        self.entries.keys().copied().collect()
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.entries.contains_key(&id)
    }

    /// Notes that an entry now takes `size` bytes; false when there is no such entry.
    pub(super) fn resize(&mut self, id: u64, size: u64) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        let before = std::mem::replace(&mut entry.size, size);
        self.bytes = self.bytes - before + size;
        if entry.is_new {
            self.new_bytes = self.new_bytes - before + size;
        }
        true
    }

    /// Notes that an entry now belongs to another URI; false when there is no such entry.
    pub(super) fn rename(&mut self, id: u64, key: u64) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        entry.key = key;
        true
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.bytes -= entry.size;
        if entry.is_new {
            self.new_bytes -= entry.size;
        }
        Some(entry)
    }

    /// Removes the entry that is to leave next; `None` when there is none.
    pub(super) fn evict(&mut self) -> Option<(u64, Entry)> {
        while !self.entries.is_empty() {
            let from_new = self.new_bytes * SMALL_PART >= self.bytes || self.main.is_empty();
            let next = if from_new { self.new.pop_front() } else { self.main.pop_front() };
            let Some(id) = next else { continue };
            let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.is_new == from_new) else {
                continue;
            };
            if entry.uses > 0 {
                entry.uses -= if from_new { entry.uses } else { 1 };
                if from_new {
                    entry.is_new = false;
                    self.new_bytes -= entry.size;
                }
                self.main.push_back(id);
                continue;
            }
            let entry = self.remove(id)?;
            if from_new && self.has_left.insert(entry.key) {
                self.left.push_back(entry.key);
                if self.left.len() > self.entries.len().max(64)
                    && let Some(oldest) = self.left.pop_front()
                {
                    self.has_left.remove(&oldest);
                }
            }
            return Some((id, entry));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_fetched_once_does_not_displace_what_is_used() {
        let mut queues = Queues::default();
        (0..10).for_each(|id| queues.insert(id, id, 1));
        (0..10).for_each(|id| queues.touch(id));
        for id in 100..200 {
            queues.insert(id, id, 1);
            while queues.bytes() > 20 {
                queues.evict();
            }
        }
        assert!((0..10).all(|id| queues.entries.contains_key(&id)));
    }

    #[test]
    fn what_returns_soon_after_it_has_left_stays() {
        let mut queues = Queues::default();
        queues.insert(1, 7, 1);
        assert_eq!(queues.evict().map(|(id, _)| id), Some(1));
        queues.insert(2, 7, 1);
        (10..14).for_each(|id| queues.insert(id, id, 1));
        assert_eq!(queues.evict().map(|(id, _)| id), Some(10));
    }

    proptest! {
        /// Compared with a set of ids and their sizes.
        #[test]
        fn sums_are_those_of_the_entries_and_everything_leaves(
            steps in proptest::collection::vec((0_u8..5, 0_u64..12, 1_u64..50), 0..200),
        ) {
            let (mut queues, mut model) = (Queues::default(), HashMap::new());
            for (step, id, size) in steps {
                match step {
                    4 => {
                        let is_there = queues.resize(id, size);
                        prop_assert_eq!(is_there, model.contains_key(&id));
                        model.entry(id).and_modify(|now| *now = size);
                    }
                    0 => {
                        queues.insert(id, id % 5, size);
                        model.insert(id, size);
                    }
                    1 => prop_assert_eq!(queues.remove(id).map(|entry| entry.size), model.remove(&id)),
                    2 => queues.touch(id),
                    _ => match queues.evict() {
                        Some((id, entry)) => prop_assert_eq!(model.remove(&id), Some(entry.size)),
                        None => prop_assert!(model.is_empty()),
                    },
                }
                prop_assert_eq!((queues.bytes(), queues.len()), (model.values().sum(), model.len()));
            }
            while let Some((id, _)) = queues.evict() {
                prop_assert!(model.remove(&id).is_some());
            }
            prop_assert!(model.is_empty());
        }
    }
}
