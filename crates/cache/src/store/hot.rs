//! Copies in memory of small responses that are used often. A hit then costs neither a read of two files nor the change to
//! another thread and back, which cost ten times as much as everything else that a small hit does.
//!
//! A copy counts only while its files are as they were when it was made, so that what a command has removed, or what
//! was damaged, is not delivered.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use laneway_limits::memory::Reserve;

use super::body::Body;
use super::layout::{SMALL, path, read_head};
use crate::stored::{BLOCK, Stored};

/// The longest body that is copied, in bytes: one block.
pub(super) const MAX_BODY: u64 = BLOCK as u64;
/// The most memory of all copies, in bytes.
const MOST_MEMORY: usize = 16 * 1024 * 1024;
/// What a copy costs besides its response, in bytes.
const COST: usize = 512;

/// What tells one state of a file from another.
type FileState = (u64, SystemTime);

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

/// A copy, and what its files were like.
#[derive(Debug)]
struct Entry {
    copied: Copied,
    files: [FileState; 2],
    was_used: bool,
}

/// All copies. Those that were not used since they came to the front of the queue leave first.
#[derive(Debug)]
pub(super) struct Hot {
    entries: HashMap<u64, Entry>,
    queue: VecDeque<u64>,
    limit: usize,
    bytes: usize,
    memory: Reserve,
}

impl Entry {
    fn memory(&self) -> usize {
        self.copied.stored.memory() + self.copied.body.len() + COST
    }

    /// Reads the response `id`; `None` unless it is whole, small and undamaged.
    fn read(directory: &Path, id: u64) -> Option<Self> {
        // Before they are read, so that a later change is noticed.
        let files = states(directory, id)?;
        let stored = read_head(directory, id).ok()?;
        if stored.total > MAX_BODY || !stored.is_complete() {
            return None;
        }
        let body = Body::open(directory, id, &stored).ok()?;
        let body = body.read(0, stored.total, 1).ok()?;
        let copied = Copied { id, stored: Arc::new(stored), body };
        Some(Self { copied, files, was_used: false })
    }
}

impl Hot {
    /// Copies that take at most `limit` bytes, which count in `memory`.
    pub(super) fn new(limit: usize, memory: Reserve) -> Self {
        let limit = limit.min(MOST_MEMORY);
        Self { entries: HashMap::new(), queue: VecDeque::new(), limit, bytes: 0, memory }
    }

    /// The copy of the response `id`, if its files have not changed.
    pub(super) fn get(&mut self, directory: &Path, id: u64) -> Option<Copied> {
        let entry = self.entries.get_mut(&id)?;
        if states(directory, id) != Some(entry.files) {
            self.forget(id);
            return None;
        }
        entry.was_used = true;
        Some(entry.copied.clone())
    }

    /// Adds a copy that [`read`] has made.
    pub(super) fn insert(&mut self, made: Made) {
        let Made(entry) = made;
        let (id, memory) = (entry.copied.id, entry.memory());
        if memory > self.limit / 2 {
            return;
        }
        self.forget(id);
        while self.bytes + memory > self.limit {
            let Some(oldest) = self.queue.pop_front() else { break };
            let entry = self.entries.get_mut(&oldest);
            match entry.is_some_and(|entry| std::mem::take(&mut entry.was_used)) {
                true => self.queue.push_back(oldest),
                false => self.forget(oldest),
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

    /// Drops the copy of the response `id`.
    pub(super) fn forget(&mut self, id: u64) {
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

fn states(directory: &Path, id: u64) -> Option<[FileState; 2]> {
    let state = |kind| {
        let file = std::fs::symlink_metadata(path(directory, id, kind)).ok()?;
        Some((file.len(), file.modified().ok()?))
    };
    let one = state(SMALL);
    one.map_or_else(|| Some([state("head")?, state("body")?]), |one| Some([one, one]))
}
