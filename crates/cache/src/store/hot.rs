//! Copies in memory of small responses that are used often. A hit then costs neither a read of two files nor the change to
//! another thread and back, which cost ten times as much as everything else that a small hit does.
//!
//! Nobody looks at the files for a hit: that would wait for the disk. A copy leaves with its response, and is used for a few
//! seconds only; then the response is read from its files once more. So a response that was removed or damaged on the disk is
//! not delivered for long. While the disk hangs, copies are used whatever their age.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use laneway_limits::memory::Reserve;
use tokio::time::Instant;

use super::body::Body;
use super::layout::read_head;
use crate::stored::{BLOCK, Stored};

/// The longest body that is copied, in bytes: one block.
pub(super) const MAX_BODY: u64 = BLOCK as u64;
/// The most memory of all copies, in bytes.
const MOST_MEMORY: usize = 16 * 1024 * 1024;
/// What a copy costs besides its response, in bytes.
const COST: usize = 512;

/// How long a copy is used before its response is read again.
pub(super) const UNREAD: Duration = Duration::from_secs(5);

/// A response and its whole body.
#[derive(Clone, Debug)]
pub struct Copied {
    /// The id of the response.
    pub id: u64,
    /// The response.
    pub stored: Arc<Stored>,
    /// Its body.
    pub body: Bytes,
}

/// A copy, and when its files were read.
#[derive(Debug)]
struct Entry {
    copied: Copied,
    read: Instant,
    was_used: bool,
}

/// All copies. Those that were not used since they came to the front of the queue leave first.
#[derive(Debug)]
pub(super) struct Hot {
    entries: HashMap<u64, Entry>,
    queue: VecDeque<u64>,
    limit: usize,
    bytes: usize,
    /// How often a response was changed or removed.
    changes: u64,
    memory: Reserve,
}

impl Entry {
    fn memory(&self) -> usize {
        self.copied.stored.memory() + self.copied.body.len() + COST
    }

    /// Reads the response `id`; `None` unless it is whole, small and undamaged.
    fn read(directory: &Path, id: u64) -> Option<Self> {
        let (read, stored) = (Instant::now(), read_head(directory, id).ok()?);
        if stored.total > MAX_BODY || !stored.is_complete() {
            return None;
        }
        let body = Body::open(directory, id, &stored).ok()?;
        let body = body.read(0, stored.total, 1).ok()?;
        let copied = Copied { id, stored: Arc::new(stored), body };
        Some(Self { copied, read, was_used: false })
    }
}

impl Hot {
    /// Copies that take at most `limit` bytes, which count in `memory`.
    pub(super) fn new(limit: usize, memory: Reserve) -> Self {
        let limit = limit.min(MOST_MEMORY);
        Self { entries: HashMap::new(), queue: VecDeque::new(), limit, bytes: 0, changes: 0, memory }
    }

    /// The copy of the response `id`, if its files were read a short while ago or cannot be read now, because the disk `is_hung`.
    pub(super) fn get(&mut self, id: u64, is_hung: impl FnOnce() -> bool) -> Option<Copied> {
        let entry = self.entries.get_mut(&id)?;
        if entry.read.elapsed() >= UNREAD && !is_hung() {
            return None;
        }
        entry.was_used = true;
        Some(entry.copied.clone())
    }

    /// How often a response was changed or removed; to be read before the files of one are.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Adds a copy that [`read`] has made, unless a response was changed after `changes` was read.
    pub(super) fn insert(&mut self, made: Made, changes: u64) {
        let Made(entry) = made;
        let (id, memory) = (entry.copied.id, entry.memory());
        if memory > self.limit / 2 || changes != self.changes {
            return;
        }
        self.drop_copy(id);
        while self.bytes + memory > self.limit {
            let Some(oldest) = self.queue.pop_front() else { break };
            let entry = self.entries.get_mut(&oldest);
            match entry.is_some_and(|entry| std::mem::take(&mut entry.was_used)) {
                true => self.queue.push_back(oldest),
                false => self.drop_copy(oldest),
            }
        }
        self.bytes += memory;
        self.entries.insert(id, entry);
        // Ids of copies that were forgotten leave when they are reached, or here.
        if self.queue.len() > 2 * self.entries.len() + 16 {
            let entries = &self.entries;
            self.queue.retain(|other| *other != id && entries.contains_key(other));
        }
        self.queue.push_back(id);
        self.memory.set(self.bytes);
    }

    /// Notes that the response `id` was changed or removed.
    pub(super) fn forget(&mut self, id: u64) {
        self.changes += 1;
        self.drop_copy(id);
    }

    fn drop_copy(&mut self, id: u64) {
        if let Some(entry) = self.entries.remove(&id) {
            self.bytes -= entry.memory();
            self.memory.set(self.bytes);
        }
    }
}

/// A copy that was just made.
pub(super) struct Made(Entry);

/// Makes a copy of the response `id`; `None` unless it is whole, small and undamaged. Blocks.
pub(super) fn read(directory: &Path, id: u64) -> Option<Made> {
    Entry::read(directory, id).map(Made)
}
