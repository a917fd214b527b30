//! Stored responses as files: `ID.head` is the metadata ([`Stored`]), `ID.body` the body, and `ID.small` is both of a small one.
//! The index is in memory and is made from the files at each start, so it cannot be wrong about them.
//!
//! A response exists once its head does: that is written to a temporary name and renamed. A small one exists once it was
//! fetched, and is written later (`store/writing.rs`). Nothing is synced to the disk. A response that a loss of power has cut
//! short has wrong checksums and is dropped when it is read, like one that was changed later. All functions here block, except
//! [`Store::blocking`] and its like (`store/calls.rs`), which run them on threads of the store.

mod body;
pub mod calls;
mod disk;
mod eviction;
mod fault;
mod hot;
mod layout;
mod unwritten;
mod uses;
mod writing;

pub use body::Body;
pub(crate) use body::{end_of, hash as hash_body, read_blocks, read_into};
pub use hot::Copied;
use layout::path;
pub(crate) use layout::{exists, ids, read_head, remove_files};
pub(crate) use uses::read as read_uses;
pub use uses::{MostUsed, Used};
pub(crate) use writing::MAX_SMALL;
pub use writing::Room;

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use laneway_limits::memory::Reserve;
use laneway_sys::{files, net};
use laneway_wire::http::Fields;
use laneway_wire::id::NodeId;

use crate::digest::Digest;
use crate::stored::Stored;
use disk::Disk;
use eviction::Queues;
use hot::Hot;
use unwritten::Unwritten;
use uses::Uses;

/// Bytes of the limit for each possible entry: this bounds the memory of the index.
const BYTES_PER_ENTRY: u64 = 8 * 1024;
/// Maximum number of entries.
const MOST_ENTRIES: u64 = 200_000;
/// The memory that the index takes for each entry, in bytes.
pub const ENTRY_MEMORY: u64 = 384;
/// Copies of small responses may take the memory of the index divided by this, in addition to it.
const HOT_PART: u64 = 4;
/// Maximum number of responses for one URI that differ by what Vary names; the oldest one leaves.
const MOST_VARIANTS: usize = 16;
/// Maximum number of digests of one response: one by each strong algorithm.
const MOST_DIGESTS: usize = 3;
/// What a file takes besides its bytes.
const FILE_COST: u64 = 4096;

/// The store of one node.
// fields: its bounds, its index, what is in memory, and what its threads share
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    limit: u64,
    /// The most bytes that one body may take.
    largest: u64,
    most_entries: u64,
    hasher: RandomState,
    next_id: AtomicU64,
    /// The first id of this run: smaller ones were there before.
    first_id: u64,
    /// How often a response was stored, completed or validated.
    changes: AtomicU64,
    index: Mutex<Index>,
    hot: Mutex<Hot>,
    unwritten: Mutex<Unwritten>,
    /// Ends the writing thread's wait for more.
    hurry: Condvar,
    /// Held while a file of the store is written.
    writing: Mutex<()>,
    /// How often responses were removed from the index alone, because the disk hung.
    withdrawn: AtomicU64,
    disk: Arc<Disk>,
    /// Why the last write failed, if it did.
    fault: Mutex<Option<String>>,
    /// Held while the store is open: the system releases it with the process.
    lock: Mutex<File>,
}

#[derive(Debug, Default)]
struct Index {
    queues: Queues,
    /// The ids of the responses of each URI, by its hash, the oldest first.
    ids: HashMap<u64, Vec<u64>>,
    /// The ids of bodies with a proved digest, by its hash. Some may have been evicted.
    proved: HashMap<u64, u64>,
    /// The bytes of bodies that are being written.
    growing: u64,
    uses: Uses,
    /// The memory of the index.
    memory: Reserve,
}

/// The size of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// The number of stored responses.
    pub entries: usize,
    /// The bytes that they take on the disk.
    pub bytes: u64,
    /// The bytes that they may take.
    pub limit: u64,
    /// The disk does not answer: nothing is stored, and nothing stored is used.
    pub is_hung: bool,
}

impl Store {
    /// Opens the store in `directory`, which is created if it does not exist, for at most `limit` bytes on the disk, of which one
    /// body takes at most half. Its index takes at most `memory` bytes, which count in `reserve`. What was stored before is found
    /// after [`Store::load`].
    ///
    /// # Errors
    /// When the directory cannot be used, or another process uses it.
    pub fn open(directory: &Path, limit: u64, memory: u64, reserve: Reserve) -> io::Result<Arc<Self>> {
        Self::open_for(directory, (limit, limit / 2), memory, reserve)
    }

    /// As [`Store::open`], for bodies of at most `largest` bytes each.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn open_for(
        directory: &Path,
        (limit, largest): (u64, u64),
        memory: u64,
        reserve: Reserve,
    ) -> io::Result<Arc<Self>> {
        files::private_directory(directory)?;
        let lock = match files::open(&directory.join("lock")) {
            Ok(lock) => lock,
            Err(_) => files::create(&directory.join("lock"))?,
        };
        lock.try_lock()?;
        layout::make_folders(directory)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let newest = ids(directory).map(|(id, _)| id).max().unwrap_or(0);
        // Ids grow with time, so that the oldest entries come first after a restart too.
        let first_id = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2).max(newest + 1);
        let most_hot = usize::try_from(memory / HOT_PART).unwrap_or(usize::MAX);
        Ok(Arc::new(Self {
            directory: directory.to_owned(),
            limit,
            largest,
            hot: Mutex::new(Hot::new(most_hot, reserve.beside())),
            unwritten: Mutex::new(Unwritten::new(
                usize::try_from(memory).unwrap_or(usize::MAX),
                reserve.beside(),
            )),
            hurry: Condvar::new(),
            writing: Mutex::default(),
            most_entries: (limit / BYTES_PER_ENTRY).min(memory / ENTRY_MEMORY).clamp(16, MOST_ENTRIES),
            hasher: RandomState::new(),
            next_id: AtomicU64::new(first_id),
            first_id,
            changes: AtomicU64::new(0),
            index: Mutex::new(Index { memory: reserve, ..Index::default() }),
            withdrawn: AtomicU64::new(0),
            disk: Disk::new(directory.to_owned()),
            fault: Mutex::default(),
            lock: Mutex::new(lock),
        }))
    }

    /// Makes the index from the files of earlier runs, and removes those that are damaged, incomplete or too many.
    pub fn load(&self) {
        let mut before: Vec<(u64, bool)> =
            ids(&self.directory).filter(|(id, _)| *id < self.first_id).collect();
        before.sort_unstable();
        before.dedup_by_key(|(id, _)| *id);
        let mut uses = uses::read(&self.directory);
        for (id, _) in before {
            match self.read_stored(id) {
                Ok(stored) => {
                    self.insert(id, &stored);
                    uses.remove(&id).into_iter().for_each(|used| self.index().uses.restore(id, used));
                }
                Err(error) if disk::says_nothing(&error) => {}
                Err(_damaged) => self.remove_files(id),
            }
        }
    }

    /// The stored responses for `uri`, the newest first. Damaged ones are removed.
    #[must_use]
    pub fn find(&self, uri: &str) -> Vec<(u64, Stored)> {
        let mut found = Vec::new();
        self.each(uri, |id, stored| found.push((id, stored)));
        found
    }

    /// Gives each of the stored responses for `uri` to `take`, the newest first. Damaged ones are removed.
    pub fn each(&self, uri: &str, mut take: impl FnMut(u64, Stored)) {
        let ids = self.index().ids.get(&self.hasher.hash_one(uri)).cloned().unwrap_or_default();
        for id in ids.into_iter().rev() {
            match self.read_stored(id) {
                Ok(stored) if stored.uri == uri => take(id, stored),
                // Another URI with the same hash.
                Ok(_) => {}
                Err(error) if disk::says_nothing(&error) => {}
                Err(_damaged) => self.remove(id),
            }
        }
    }

    /// The stored responses for `uri`, the newest first, if each is in memory: not written yet, or a copy that may be used.
    /// Counts as a use of each. Does not block.
    #[must_use]
    pub fn copies(&self, uri: &str) -> Option<Vec<Copied>> {
        let ids = self.index().ids.get(&self.hasher.hash_one(uri))?.clone();
        let copies = ids.iter().rev().map(|id| self.in_memory(*id)).collect::<Option<Vec<_>>>()?;
        let mut index = self.index();
        ids.iter().for_each(|id| index.queues.touch(*id));
        drop(index);
        copies.iter().all(|copied| copied.stored.uri == uri).then_some(copies)
    }

    fn in_memory(&self, id: u64) -> Option<Copied> {
        let unwritten = self.unwritten().get(id).cloned();
        unwritten.or_else(|| self.hot().get(id, || self.disk.is_hung()))
    }

    /// Copies a small response that was used before into memory.
    pub fn copy(&self, id: u64, stored: &Stored) {
        if stored.total > hot::MAX_BODY || !stored.is_complete() || !self.index().uses.was_used(id) {
            return;
        }
        let changes = self.hot().changes();
        if let Some(made) = hot::read(&self.directory, id) {
            self.hot().insert(made, changes);
        }
    }

    /// The whole response whose body was proved to have this digest, whatever its URI.
    #[must_use]
    pub fn proved(&self, digest: &Digest) -> Option<(u64, Stored)> {
        let id = self.proved_id(digest)?;
        let stored = self.stored(id)?;
        // Another digest may have the same hash.
        (stored.digests.contains(digest) && stored.is_complete()).then_some((id, stored))
    }

    /// As [`Store::proved`], if the response is in memory as in [`Store::copies`]. Counts as a use. Does not block.
    #[must_use]
    pub fn proved_copy(&self, digest: &Digest) -> Option<Copied> {
        let id = self.proved_id(digest)?;
        let copied = self.in_memory(id)?;
        self.index().queues.touch(id);
        copied.stored.digests.contains(digest).then_some(copied)
    }

    fn proved_id(&self, digest: &Digest) -> Option<u64> {
        let index = self.index();
        index.proved.get(&self.hasher.hash_one(digest)).copied().filter(|id| index.queues.contains(*id))
    }

    /// Notes that the whole body of the response `id` has this digest. Returns the response with it.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::NotFound`] when it was removed meanwhile.
    pub fn prove(&self, id: u64, digest: Digest) -> io::Result<Stored> {
        let mut stored = self.stored(id).ok_or(io::ErrorKind::NotFound)?;
        stored.digests.retain(|known| known.algorithm != digest.algorithm);
        stored.digests.push(digest);
        self.update(id, &stored)?;
        self.note_digests(id, &stored);
        Ok(stored)
    }

    fn note_digests(&self, id: u64, stored: &Stored) {
        if !stored.is_proved() {
            return;
        }
        let mut index = self.index();
        if index.proved.len() > MOST_DIGESTS * index.queues.len() + 64 {
            let Index { proved, queues, .. } = &mut *index;
            proved.retain(|_, id| queues.contains(*id));
        }
        for digest in &stored.digests {
            index.proved.insert(self.hasher.hash_one(digest), id);
        }
    }

    /// Removes the response `id` from its URI. Content with a proved digest stays, without its header fields and known by
    /// that digest alone: a change of the content at one URI must not take it from others.
    pub fn release(&self, id: u64) {
        let Some(stored) = self.stored(id) else { return self.remove(id) };
        let known_elsewhere = |digest: &Digest| self.proved_id(digest).is_some_and(|other| other != id);
        let Some(digest) = stored.digests.iter().find(|digest| !known_elsewhere(digest)) else {
            return self.remove(id);
        };
        let (uri, name) = (stored.uri.clone(), digest.shown());
        if uri == name {
            return;
        }
        let alone = Stored {
            uri: name,
            reason: b"OK".to_vec(),
            fields: Fields::default(),
            selecting: Vec::new(),
            ..stored
        };
        let (before, key) = (self.hasher.hash_one(&uri), self.hasher.hash_one(&alone.uri));
        if self.write_head(id, &alone).is_err() {
            return self.remove(id);
        }
        let is_there = self.index().rename(id, before, key);
        if !is_there {
            self.remove_files(id);
        }
    }

    /// The metadata of the response `id`; `None` when it is damaged or missing, or cannot be read for now.
    #[must_use]
    pub fn stored(&self, id: u64) -> Option<Stored> {
        self.read_stored(id).ok()
    }

    fn read_stored(&self, id: u64) -> io::Result<Stored> {
        let unwritten = self.unwritten().get(id).map(|copied| copied.stored.clone());
        unwritten.map_or_else(|| read_head(&self.directory, id), |stored| Ok((*stored).clone()))
    }

    /// Gives each stored response to `take`, the oldest first.
    pub fn all(&self, mut take: impl FnMut(u64, Stored)) {
        let mut all = self.index().queues.ids();
        all.sort_unstable();
        for id in all {
            if let Some(stored) = self.stored(id) {
                take(id, stored);
            }
        }
    }

    /// Bytes of the body of the response `id`, which may still be written, without their checksums: the caller verifies them.
    ///
    /// # Errors
    /// The system's.
    pub fn read_unchecked(&self, id: u64, start: u64, length: u64) -> io::Result<Bytes> {
        let file = files::open(&self.path(id, "body"))?;
        self.index().queues.touch(id);
        let mut bytes = BytesMut::zeroed(usize::try_from(length).map_err(io::Error::other)?);
        files::read_exact_at(&file, &mut bytes, start)?;
        Ok(bytes.freeze())
    }

    /// Whether anything may be stored for `uri`. Does not block.
    #[must_use]
    pub fn may_have(&self, uri: &str) -> bool {
        self.index().ids.contains_key(&self.hasher.hash_one(uri))
    }

    /// How often a response was stored, completed or validated since the store was opened.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// Opens the body of the response `id`, and counts the use.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::InvalidData`] when the file has another length than `stored` says.
    pub fn body(&self, id: u64, stored: &Stored) -> io::Result<Body> {
        let unwritten = self.unwritten().get(id).map(|copied| copied.body.clone());
        let body = match unwritten {
            Some(bytes) => Body::in_memory(bytes),
            None => Body::open(&self.directory, id, stored)?,
        };
        self.index().queues.touch(id);
        Ok(body)
    }

    /// Notes that `member` was sent the response `id` for `uri`, with the bytes `saved` if there was no transfer from the
    /// server. Returns the number of members that got it, if this one is new.
    pub fn served(&self, id: u64, uri: &str, member: NodeId, saved: Option<u64>) -> Option<u32> {
        self.index().uses.note(id, uri, member, saved)
    }

    /// The responses that have saved most bytes, the first one most.
    #[must_use]
    pub fn most_used(&self) -> Vec<MostUsed> {
        self.index().uses.top()
    }

    /// Saves how each response was used, for [`Store::load`] and for commands.
    ///
    /// # Errors
    /// The system's.
    pub fn save_uses(&self) -> io::Result<()> {
        let text = self.index().uses.text();
        uses::write(&self.directory, &text)
    }

    /// The id of a new response.
    pub(crate) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed)
    }

    /// The file of the body of the new response `id`.
    pub(crate) fn create(&self, id: u64) -> io::Result<File> {
        self.create_file(id, "body")
    }

    /// Creates a file, and the folders if somebody has removed them.
    fn create_file(&self, id: u64, kind: &str) -> io::Result<File> {
        let path = self.path(id, kind);
        let created = match files::create(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_again().and_then(|()| files::create(&path))
            }
            created => created,
        };
        // The body is then passed on without being stored.
        let created = created
            .and_then(|file| net::unless_crowded(file).inspect_err(|_| drop(std::fs::remove_file(&path))));
        // Whether a created file can be written is known only later.
        if let Err(error) = &created {
            self.note_fault(error);
        }
        created
    }

    /// Makes the directory and its folders again.
    fn make_again(&self) -> io::Result<()> {
        files::private_directory(&self.directory)?;
        if let Ok(lock) = files::create(&self.directory.join("lock")) {
            lock.try_lock()?;
            *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = lock;
        }
        layout::make_folders(&self.directory)
    }

    /// The file of the body of the response `id`, to complete it.
    pub(crate) fn reopen(&self, id: u64) -> io::Result<File> {
        let file = net::unless_crowded(files::open_to_write(&self.path(id, "body"))?)?;
        self.index().queues.touch(id);
        Ok(file)
    }

    /// Stores a response whose body was written, for which `grown` bytes of room were taken, since [`Store::withdrawn`] gave
    /// `since`.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::NotFound`] when it is not new and was removed meanwhile, or may have been withdrawn.
    pub(crate) fn complete(
        &self,
        id: u64,
        stored: &Stored,
        is_new: bool,
        (grown, since): (u64, u64),
    ) -> io::Result<()> {
        let written = self.write_head(id, stored);
        self.shrink(grown);
        written?;
        if since != self.withdrawn() {
            self.remove(id);
            return Err(io::ErrorKind::NotFound.into());
        }
        if is_new {
            self.insert(id, stored);
        } else if !self.index().queues.resize(id, stored.length() + 2 * FILE_COST) {
            self.remove_files(id);
            return Err(io::ErrorKind::NotFound.into());
        } else {
            self.note_digests(id, stored);
        }
        self.changes.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Removes a body that is not stored.
    pub(crate) fn discard(&self, id: u64) {
        self.index().uses.remove(id);
        let _call = self.disk.call();
        self.remove_files(id);
    }

    /// Gives room back that [`Store::grow`] has taken.
    pub(crate) fn shrink(&self, count: u64) {
        let mut index = self.index();
        index.growing = index.growing.saturating_sub(count);
    }

    /// Replaces the metadata of the response `id`, if it is still there.
    ///
    /// # Errors
    /// The system's.
    pub fn update(&self, id: u64, stored: &Stored) -> io::Result<()> {
        self.write_head(id, stored)?;
        if !self.has(id) {
            self.remove_files(id);
        }
        self.changes.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Removes all responses for `uri`, as [`Store::release`] does; returns how many.
    pub fn remove_uri(&self, uri: &str) -> usize {
        let found = self.find(uri);
        found.iter().for_each(|(id, _)| self.release(*id));
        found.len()
    }

    /// Removes all responses for `uri` from the index, proved ones too, and their files once the disk answers: for a disk that
    /// hangs. Responses for any URI that are being stored now will not be.
    pub fn withdraw(self: &Arc<Self>, uri: &str) {
        self.withdrawn.fetch_add(1, Relaxed);
        let key = self.hasher.hash_one(uri);
        let mut index = self.index();
        let ids = index.ids.get(&key).cloned().unwrap_or_default();
        for id in &ids {
            index.queues.remove(*id);
            index.forget(*id, key);
        }
        drop(index);
        // Work waits as long as the disk hangs, and members may ask for this again and again.
        if !ids.is_empty() {
            self.later(move |store| ids.into_iter().for_each(|id| store.discard(id)));
        }
    }

    /// How often [`Store::withdraw`] was called.
    pub(crate) fn withdrawn(&self) -> u64 {
        self.withdrawn.load(Relaxed)
    }

    /// Removes the response `id`.
    pub fn remove(&self, id: u64) {
        {
            let mut index = self.index();
            if let Some(entry) = index.queues.remove(id) {
                index.forget(id, entry.key);
            }
        }
        self.remove_files(id);
    }

    /// Whether a body of `length` bytes may be stored.
    #[must_use]
    pub fn admits(&self, length: u64) -> bool {
        length <= self.largest
    }

    /// Whether the disk has room for `length` more bytes.
    #[must_use]
    pub fn has_room(&self, length: u64) -> bool {
        files::free_space(&self.directory).is_ok_and(|free| free > length)
    }

    /// The size of the store.
    #[must_use]
    pub fn size(&self) -> Size {
        let is_hung = self.disk.is_hung();
        let index = self.index();
        let bytes = index.queues.bytes() + index.growing;
        Size { entries: index.queues.len(), bytes, limit: self.limit, is_hung }
    }

    fn insert(&self, id: u64, stored: &Stored) {
        let (leaving, oldest) = self.enter(id, stored);
        if let Some(oldest) = oldest {
            self.release(oldest);
        }
        leaving.into_iter().for_each(|id| self.remove_files(id));
    }

    /// Adds a response to the index. Returns the responses whose files have to be removed to make room, and the one that exceeds
    /// the number of variants of its URI.
    fn enter(&self, id: u64, stored: &Stored) -> (Vec<u64>, Option<u64>) {
        let key = self.hasher.hash_one(&stored.uri);
        let size = stored.length() + 2 * FILE_COST;
        let (mut leaving, mut oldest) = (Vec::new(), None);
        {
            let mut index = self.index();
            // Before the response is entered, so that it is not evicted at once.
            while index.queues.bytes() + index.growing + size > self.limit
                || index.queues.len() as u64 >= self.most_entries
            {
                let Some((id, entry)) = index.queues.evict() else { break };
                index.forget(id, entry.key);
                leaving.push(id);
            }
            index.queues.insert(id, key, size);
            let ids = index.ids.entry(key).or_default();
            ids.push(id);
            if ids.len() > MOST_VARIANTS {
                oldest = Some(ids[0]);
            }
            index.count();
        }
        self.note_digests(id, stored);
        (leaving, oldest)
    }

    /// Whether the response `id` is there.
    #[must_use]
    pub fn has(&self, id: u64) -> bool {
        self.index().queues.contains(id)
    }

    /// Takes room for `count` more bytes of a body that is being written.
    pub(crate) fn grow(&self, count: u64) -> io::Result<()> {
        let mut leaving = Vec::new();
        let fits = {
            let mut index = self.index();
            index.growing += count;
            loop {
                if index.queues.bytes() + index.growing <= self.limit {
                    break true;
                }
                let Some((id, entry)) = index.queues.evict() else {
                    index.growing -= count;
                    break false;
                };
                index.forget(id, entry.key);
                leaving.push(id);
            }
        };
        leaving.into_iter().for_each(|id| self.remove_files(id));
        if fits { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn write_head(&self, id: u64, stored: &Stored) -> io::Result<()> {
        if self.unwritten().update(id, stored) {
            return Ok(());
        }
        match layout::read_small(&self.directory, id)? {
            Some(body) => self.write_small(id, stored, &body),
            None => {
                let written = self.replace(&stored.encode(), &self.path(id, "head"));
                self.hot().forget(id);
                written
            }
        }
    }

    /// Writes a file under another name and renames it.
    fn replace(&self, bytes: &[u8], path: &Path) -> io::Result<()> {
        let id = self.new_id();
        let temporary = self.path(id, "new");
        let written = self
            .create_file(id, "new")
            .and_then(|file| self.write_to(&file, bytes, 0))
            .and_then(|()| std::fs::rename(&temporary, path));
        match &written {
            Ok(()) => self.note_written(),
            Err(_) => _ = std::fs::remove_file(&temporary),
        }
        written
    }

    fn remove_files(&self, id: u64) {
        self.unwritten().forget(id);
        if let Err(error) = remove_files(&self.directory, id) {
            tracing::debug!(%error, id, "a stored response cannot be removed");
        }
        self.hot().forget(id);
    }

    fn path(&self, id: u64, kind: &str) -> PathBuf {
        path(&self.directory, id, kind)
    }

    #[cfg(test)]
    pub(crate) fn path_of_body(&self, id: u64) -> PathBuf {
        self.path(id, "body")
    }

    fn hot(&self) -> MutexGuard<'_, Hot> {
        self.hot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An orderly end loses nothing, unless the disk takes no more.
impl Drop for Store {
    fn drop(&mut self) {
        if !self.disk.is_hung() {
            self.flush();
        }
    }
}

impl Index {
    /// Counts the memory that it takes.
    fn count(&mut self) {
        let entries = usize::try_from(ENTRY_MEMORY).unwrap_or(0) * self.queues.len();
        self.memory.set(entries + self.uses.memory());
    }

    /// Moves the response `id` from one URI to another, by their hashes; false when it is not there.
    fn rename(&mut self, id: u64, before: u64, key: u64) -> bool {
        if !self.queues.rename(id, key) {
            return false;
        }
        self.unlist(id, before);
        self.ids.entry(key).or_default().push(id);
        true
    }

    fn forget(&mut self, id: u64, key: u64) {
        self.uses.remove(id);
        self.unlist(id, key);
    }

    /// Takes the response `id` out of the list of a URI, by its hash.
    fn unlist(&mut self, id: u64, key: u64) {
        if let Some(ids) = self.ids.get_mut(&key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.ids.remove(&key);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
