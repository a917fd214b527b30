//! The pieces of large bodies that this node has fetched and keeps: its own apps get them again from here, and other members of
//! the group get them over links. Pieces are known by their hashes alone, so nobody has to be trusted for them.

mod keeping;
pub mod options;

pub use keeping::Keeping;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::cache::pieces::{self, Listed};
use crate::cache::store::calls::says_nothing;
use crate::cache::store::{Size, Store};
use crate::cache::stored::Stored;
use crate::memory::{Budget, Reserve};
use crate::wire::sharing::{self, PieceHash};

/// The directory of the pieces in the state directory.
pub const DIRECTORY: &str = "peer-cache";
/// The index may take one part in this many of `--memory-limit`, and so may the index of the store beneath it.
const INDEX_PART: usize = 32;
/// The memory that the index takes for each piece, in bytes.
const ENTRY_MEMORY: usize = 128;

/// How long a download whose pieces are asked for may take to begin.
const BEGINS: Duration = Duration::from_secs(2);

/// The pieces that this node keeps.
#[derive(Debug)]
pub struct Holdings {
    store: Arc<Store>,
    index: Mutex<Index>,
    most: usize,
    /// Wakes when a piece has arrived or a download has ended.
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Index {
    places: HashMap<PieceHash, Place>,
    /// The number of running downloads that may bring more pieces.
    growing: usize,
    memory: Reserve,
}

/// Where a piece is.
#[derive(Clone, Copy, Debug)]
struct Place {
    id: u64,
    start: u64,
    length: u64,
}

/// The result of waiting for a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// It is here.
    Here,
    /// A download may still bring it.
    NotYet,
    /// No download brings it.
    Missing,
}

impl Holdings {
    /// Opens the store in `directory` for at most `limit` bytes. What it holds is read by another thread. Its index counts in
    /// `memory`.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(directory: &Path, limit: u64, memory: &Budget) -> std::io::Result<Arc<Self>> {
        let most = memory.limit() / INDEX_PART;
        // Machines often share one image that is larger than everything else: it may take all there is.
        let store = Store::open_for(directory, (limit, limit), most as u64, memory.reserve())?;
        let index = Mutex::new(Index { memory: memory.reserve(), ..Index::default() });
        let most = (most / ENTRY_MEMORY).max(64);
        let holdings = Arc::new(Self { store, index, most, arrived: Notify::new() });
        let loading = holdings.clone();
        holdings.store.later(move |_| loading.load());
        Ok(holdings)
    }

    /// Finds what was kept by earlier runs.
    fn load(&self) {
        self.store.load();
        self.store.all(|id, stored| self.note(id, &stored, &stored.pieces));
    }

    /// The size of what is kept.
    pub fn size(&self) -> Size {
        self.store.size()
    }

    /// The store beneath.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Whether this node has this piece.
    pub fn has(&self, hash: &PieceHash) -> bool {
        self.index().places.contains_key(hash)
    }

    /// A piece, verified; `None` if this node does not have it, or no longer has it.
    pub async fn get(&self, hash: PieceHash) -> Option<Bytes> {
        let place = self.index().places.get(&hash).copied()?;
        let Place { id, start, length } = place;
        let read = self.store.blocking(move |store| {
            let piece = store.read_unchecked(id, start, length)?;
            Ok::<_, std::io::Error>((pieces::hash(&piece) == hash).then_some(piece))
        });
        match read.await.ok()? {
            Ok(Some(piece)) => return Some(piece),
            Ok(None) => {
                tracing::warn!("a piece that this node keeps was changed on the disk, and is forgotten")
            }
            // The piece is there all the same.
            Err(error) if says_nothing(&error) => return None,
            Err(_missing) => {}
        }
        let mut index = self.index();
        if index.places.get(&hash).is_some_and(|now| now.id == id) {
            index.places.remove(&hash);
        }
        None
    }

    /// Waits for at most `patience` until a piece has arrived, while a download runs that may bring it. The download may be about
    /// to begin: whoever asks may have heard of it earlier than this node.
    pub async fn until_here(&self, hash: &PieceHash, patience: Duration) -> Waited {
        let (deadline, begins) = (Instant::now() + patience, Instant::now() + BEGINS.min(patience));
        loop {
            let arrived = self.arrived.notified();
            let until = {
                let index = self.index();
                if index.places.contains_key(hash) {
                    return Waited::Here;
                }
                if index.growing == 0 { begins } else { deadline }
            };
            if timeout_at(until, arrived).await.is_err() {
                return if until == begins { Waited::Missing } else { Waited::NotYet };
            }
        }
    }

    /// Notes where pieces are.
    fn note(&self, id: u64, stored: &Stored, listed: &[Listed]) {
        let mut index = self.index();
        for &Listed { index: number, hash } in listed {
            let (start, end) = sharing::range(number, stored.total);
            if index.places.len() >= self.most {
                // What is not in the store any more goes first; if everything is, nothing new is noted.
                index.places.retain(|_, place| self.store.has(place.id) || place.id == id);
                if index.places.len() >= self.most {
                    break;
                }
            }
            index.places.insert(hash, Place { id, start, length: end - start });
        }
        let memory = index.places.len() * ENTRY_MEMORY;
        index.memory.set(memory);
        drop(index);
        self.arrived.notify_waiters();
    }

    /// Removes what was kept earlier of the same URI as `id`, if it was cut off or is the same content.
    fn forget_older(&self, id: u64, new: &Stored) {
        let mut old = Vec::new();
        let is_same = |other: &Stored| new.is_complete() && sorted(&other.pieces) == sorted(&new.pieces);
        self.store.each(&new.uri, |other, stored| {
            if other < id && (!stored.is_complete() || is_same(&stored)) {
                old.push(other);
            }
        });
        old.into_iter().for_each(|other| self.store.remove(other));
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sorted(pieces: &[Listed]) -> Vec<(u32, PieceHash)> {
    let mut pieces: Vec<_> = pieces.iter().map(|listed| (listed.index, listed.hash)).collect();
    pieces.sort_unstable();
    pieces
}
