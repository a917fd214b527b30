//! Small responses that are in memory until they are on the disk: the app has the last byte before any file is made, and
//! others that ask meanwhile are answered from here. A thread writes each of them into one file. What it has not written when
//! the process is killed is missing afterwards.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use laneway_limits::memory::Reserve;

use super::hot::Copied;
use crate::stored::Stored;

/// The most memory of all of them, in bytes.
const MOST_MEMORY: usize = 8 * 1024 * 1024;
/// What one costs besides its response, in bytes.
const COST: usize = 512;

/// All responses that are not on the disk yet.
#[derive(Debug)]
pub(super) struct Unwritten {
    entries: HashMap<u64, Entry>,
    /// What the thread has to do, in order.
    pub(super) chores: VecDeque<Chore>,
    /// The bytes of the entries, and of those that are to come.
    bytes: usize,
    limit: usize,
    memory: Reserve,
    /// There is a thread that does the chores.
    pub(super) is_writing: bool,
}

#[derive(Debug)]
struct Entry {
    copied: Copied,
    memory: usize,
}

/// What is done on the disk later.
#[derive(Debug)]
pub(super) enum Chore {
    /// To write this response, if it is still to be written.
    Write(u64),
    /// To remove the files of a response that has left the index.
    Remove(u64),
    /// To remove a response from its URI, but not what is proved.
    Release(u64),
}

impl Unwritten {
    /// Responses that take at most an eighth of `most` bytes, which count in `memory`.
    pub(super) fn new(most: usize, memory: Reserve) -> Self {
        let limit = (most / 8).min(MOST_MEMORY);
        Self { entries: HashMap::new(), chores: VecDeque::new(), bytes: 0, limit, memory, is_writing: false }
    }

    /// The response `id`, if it is not on the disk yet.
    pub(super) fn get(&self, id: u64) -> Option<&Copied> {
        self.entries.get(&id).map(|entry| &entry.copied)
    }

    /// Drops the response `id`.
    pub(super) fn forget(&mut self, id: u64) {
        if let Some(entry) = self.entries.remove(&id) {
            self.change(entry.memory, 0);
        }
    }

    /// Adds a response, for which `before` bytes were counted.
    pub(super) fn insert(&mut self, copied: Copied, before: usize) {
        let memory = memory_of(&copied.stored, copied.body.len());
        self.change(before, memory);
        self.entries.insert(copied.id, Entry { copied, memory });
    }

    /// Whether this many more bytes may wait.
    pub(super) fn admits(&self, count: usize) -> bool {
        self.bytes.saturating_add(count) <= self.limit
    }

    /// Whether the thread may wait for more: there is memory for as much again.
    pub(super) fn has_time(&self) -> bool {
        2 * self.bytes <= self.limit
    }

    /// Replaces the metadata of the response `id`; false when it is on the disk, or not there.
    pub(super) fn update(&mut self, id: u64, stored: &Stored) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        let memory = memory_of(stored, entry.copied.body.len());
        let before = std::mem::replace(&mut entry.memory, memory);
        // The thread may be writing it as it was.
        entry.copied.stored = Arc::new(stored.clone());
        self.chores.push_back(Chore::Write(id));
        self.change(before, memory);
        true
    }

    /// Counts `after` bytes in place of `before`.
    pub(super) fn change(&mut self, before: usize, after: usize) {
        self.bytes = self.bytes + after - before;
        self.memory.set(self.bytes);
    }
}

/// The memory that a response takes.
pub(super) fn memory_of(stored: &Stored, body: usize) -> usize {
    stored.memory() + body + COST
}
