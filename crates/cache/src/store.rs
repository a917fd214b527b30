//! Stored responses as files: `ID.head` is the metadata ([`Stored`]), `ID.body` the body. The index is in memory and is made
//! from the files at each start, so it cannot be wrong about them.
//!
//! A response exists once its head does: that is written to a temporary name and renamed. Nothing is synced to the disk. What
//! a loss of power leaves behind has wrong checksums and is dropped when it is read, like anything that was changed since.
//! All functions here block, except [`Store::blocking`], which runs them elsewhere.

mod eviction;

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use laneway_sys::files;
use tokio::sync::Semaphore;

use crate::stored::{BLOCK, MAX_METADATA, Stored};
use eviction::Queues;

/// How many directories the files are spread over.
const FOLDERS: u64 = 64;
/// Maximum number of threads that wait for the disk at a time.
const MOST_WAITING: usize = 8;
/// The bytes of the limit for each entry that may exist: the memory of the index is bounded with the disk.
const BYTES_PER_ENTRY: u64 = 8 * 1024;
/// Maximum number of entries. The index takes about 150 bytes for each.
const MOST_ENTRIES: u64 = 200_000;
/// Maximum number of responses for one URI that differ by what Vary names; the oldest one leaves.
const MOST_VARIANTS: usize = 16;
/// What files take besides their bytes.
const FILE_COST: u64 = 4096;

/// The store of one node.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    limit: u64,
    most_entries: u64,
    hasher: RandomState,
    next_id: AtomicU64,
    /// The first id of this run: smaller ones were there before.
    first_id: u64,
    index: Mutex<Index>,
    disk: Arc<Semaphore>,
    /// Held while the store is open: the system releases it with the process.
    _lock: File,
}

#[derive(Debug, Default)]
struct Index {
    queues: Queues,
    /// The ids of the responses of each URI, by its hash, the oldest first.
    ids: HashMap<u64, Vec<u64>>,
    /// The bytes of bodies that are being written.
    growing: u64,
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
}

impl Store {
    /// Opens the store in `directory`, which is created if it does not exist, for at most `limit` bytes. What was stored
    /// before is found after [`Store::load`].
    ///
    /// # Errors
    /// When the directory cannot be used, or another process uses it.
    pub fn open(directory: &Path, limit: u64) -> io::Result<Arc<Self>> {
        files::private_directory(directory)?;
        let lock = match files::open(&directory.join("lock")) {
            Ok(lock) => lock,
            Err(_) => files::create(&directory.join("lock"))?,
        };
        lock.try_lock().map_err(io::Error::from)?;
        for folder in 0..FOLDERS {
            files::private_directory(&directory.join(format!("{folder:02x}")))?;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let newest = ids(directory).map(|(id, _)| id).max().unwrap_or(0);
        // Ids grow with time, so that the oldest entries come first after a restart too.
        let first_id = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2).max(newest + 1);
        Ok(Arc::new(Self {
            directory: directory.to_owned(),
            limit,
            most_entries: (limit / BYTES_PER_ENTRY).clamp(16, MOST_ENTRIES),
            hasher: RandomState::new(),
            next_id: AtomicU64::new(first_id),
            first_id,
            index: Mutex::default(),
            disk: Arc::new(Semaphore::new(MOST_WAITING)),
            _lock: lock,
        }))
    }

    /// Makes the index from the files of earlier runs, and removes those that are damaged, incomplete or too many.
    pub fn load(&self) {
        let mut before: Vec<(u64, bool)> =
            ids(&self.directory).filter(|(id, _)| *id < self.first_id).collect();
        before.sort_unstable();
        before.dedup_by_key(|(id, _)| *id);
        for (id, _) in before {
            match self.read(id) {
                Some(stored) => self.insert(id, &stored),
                None => self.remove_files(id),
            }
        }
    }

    /// Runs `work` on a thread that may block. At most `MOST_WAITING` run at a time.
    pub async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> T + Send + 'static,
    ) -> io::Result<T> {
        let store = self.clone();
        let place = self.disk.clone().acquire_owned().await.map_err(io::Error::other)?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&store);
            drop(place);
            done
        });
        done.await.map_err(io::Error::other)
    }

    /// The stored responses for `uri`, the newest first. Damaged ones are removed.
    #[must_use]
    pub fn find(&self, uri: &str) -> Vec<(u64, Stored)> {
        let ids = self.index().ids.get(&self.hasher.hash_one(uri)).cloned().unwrap_or_default();
        let mut found = Vec::new();
        for id in ids.into_iter().rev() {
            match self.read(id) {
                Some(stored) if stored.uri == uri => found.push((id, stored)),
                // Another URI with the same hash.
                Some(_) => {}
                None => self.remove(id),
            }
        }
        found
    }

    /// Whether anything may be stored for `uri`. Does not block.
    #[must_use]
    pub fn may_have(&self, uri: &str) -> bool {
        self.index().ids.contains_key(&self.hasher.hash_one(uri))
    }

    /// Opens the body of the response `id`, and counts the use.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::InvalidData`] when the file has another length than `stored` says.
    pub fn body(&self, id: u64, stored: &Stored) -> io::Result<Body> {
        let file = files::open(&self.path(id, "body"))?;
        if file.metadata()?.len() < stored.length {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.index().queues.touch(id);
        Ok(Body { file, length: stored.length, checksums: stored.checksums.clone() })
    }

    /// Begins to store a body.
    ///
    /// # Errors
    /// The system's.
    pub fn draft(self: &Arc<Self>) -> io::Result<Draft> {
        let id = self.next_id.fetch_add(1, Relaxed);
        let file = Arc::new(files::create(&self.path(id, "body"))?);
        Ok(Draft {
            store: self.clone(),
            id,
            file,
            length: 0,
            checksums: Vec::new(),
            block: crc32fast::Hasher::new(),
            is_stored: false,
        })
    }

    /// Replaces the metadata of the response `id`, if it is still there.
    ///
    /// # Errors
    /// The system's.
    pub fn update(&self, id: u64, stored: &Stored) -> io::Result<()> {
        self.write_head(id, stored)?;
        if !self.index().ids.values().any(|ids| ids.contains(&id)) {
            self.remove_files(id);
        }
        Ok(())
    }

    /// Removes all responses for `uri`; gives how many.
    pub fn remove_uri(&self, uri: &str) -> usize {
        let found = self.find(uri);
        found.iter().for_each(|(id, _)| self.remove(*id));
        found.len()
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

    /// Whether a body of `length` bytes may be stored: one does not take more than half of the store.
    #[must_use]
    pub fn admits(&self, length: u64) -> bool {
        length <= self.limit / 2
    }

    /// How large the store is.
    #[must_use]
    pub fn size(&self) -> Size {
        let index = self.index();
        Size { entries: index.queues.len(), bytes: index.queues.bytes() + index.growing, limit: self.limit }
    }

    fn insert(&self, id: u64, stored: &Stored) {
        let key = self.hasher.hash_one(&stored.uri);
        let size = stored.length + 2 * FILE_COST;
        let mut leaving = Vec::new();
        {
            let mut index = self.index();
            // Before it is there, so that it does not leave at once.
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
            let oldest = (ids.len() > MOST_VARIANTS).then(|| ids[0]);
            if let Some(oldest) = oldest {
                index.queues.remove(oldest);
                index.forget(oldest, key);
                leaving.push(oldest);
            }
        }
        leaving.into_iter().for_each(|id| self.remove_files(id));
    }

    /// Takes room for `count` more bytes of a body that is being written.
    fn grow(&self, count: u64) -> io::Result<()> {
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

    fn read(&self, id: u64) -> Option<Stored> {
        let file = files::open(&self.path(id, "head")).ok()?;
        let length =
            usize::try_from(file.metadata().ok()?.len()).ok().filter(|length| *length <= MAX_METADATA)?;
        let mut bytes = vec![0; length];
        files::read_exact_at(&file, &mut bytes, 0).ok()?;
        Stored::decode(&bytes)
    }

    fn write_head(&self, id: u64, stored: &Stored) -> io::Result<()> {
        let number = self.next_id.fetch_add(1, Relaxed);
        let (temporary, path) = (self.path(number, "new"), self.path(id, "head"));
        let written = files::create(&temporary)
            .and_then(|file| files::write_all_at(&file, &stored.encode(), 0))
            .and_then(|()| std::fs::rename(&temporary, &path));
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }

    fn remove_files(&self, id: u64) {
        for kind in ["head", "body", "new"] {
            let _ = std::fs::remove_file(self.path(id, kind));
        }
    }

    fn path(&self, id: u64, kind: &str) -> PathBuf {
        self.directory.join(format!("{:02x}/{id:016x}.{kind}", id % FOLDERS))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn forget(&mut self, id: u64, key: u64) {
        if let Some(ids) = self.ids.get_mut(&key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.ids.remove(&key);
            }
        }
    }
}

/// The ids of all files in the store, and whether each is a head.
fn ids(directory: &Path) -> impl Iterator<Item = (u64, bool)> {
    let folders =
        (0..FOLDERS).filter_map(|folder| std::fs::read_dir(directory.join(format!("{folder:02x}"))).ok());
    folders.flatten().filter_map(|file| {
        let name = file.ok()?.file_name();
        let (id, kind) = name.to_str()?.split_once('.')?;
        Some((u64::from_str_radix(id, 16).ok()?, kind == "head"))
    })
}

/// The body of a stored response. It can be read to its end even if the response is removed meanwhile.
#[derive(Debug)]
pub struct Body {
    file: File,
    length: u64,
    checksums: Vec<u32>,
}

impl Body {
    /// The bytes from `start` on, at most up to `end`: the rest of the block in which `start` lies, and at most `blocks`
    /// blocks in all. Each block is verified before anything of it is returned.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::InvalidData`] when the file is not what was stored.
    pub fn read(&self, start: u64, end: u64, blocks: u64) -> io::Result<Bytes> {
        let block = BLOCK as u64;
        let end = end.min(self.length);
        let first = start / block;
        let until = ((first + blocks) * block).min(end.div_ceil(block) * block).min(self.length);
        if start >= end {
            return Ok(Bytes::new());
        }
        let count = usize::try_from(until - first * block).map_err(io::Error::other)?;
        let mut bytes = BytesMut::zeroed(count);
        files::read_exact_at(&self.file, &mut bytes, first * block)?;
        let mut expected = self.checksums.iter().skip(usize::try_from(first).map_err(io::Error::other)?);
        if !bytes.chunks(BLOCK).all(|piece| expected.next() == Some(&crc32fast::hash(piece))) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (from, to) = (start - first * block, end.min(until) - first * block);
        let as_index = |at: u64| usize::try_from(at).map_err(io::Error::other);
        Ok(bytes.freeze().slice(as_index(from)?..as_index(to)?))
    }
}

/// A body that is being written. It is removed unless it is stored.
#[derive(Debug)]
pub struct Draft {
    store: Arc<Store>,
    id: u64,
    file: Arc<File>,
    length: u64,
    checksums: Vec<u32>,
    block: crc32fast::Hasher,
    is_stored: bool,
}

impl Draft {
    /// The file, to read what was written.
    #[must_use]
    pub fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// The number of bytes that were written.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::StorageFull`] when this body alone is larger than the store may be.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.store.grow(bytes.len() as u64)?;
        if let Err(error) = files::write_all_at(&self.file, bytes, self.length) {
            self.store.index().growing -= bytes.len() as u64;
            return Err(error);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = BLOCK - self.in_block();
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.block.update(now);
            self.length += now.len() as u64;
            if self.in_block() == 0 {
                self.checksums.push(std::mem::take(&mut self.block).finalize());
            }
            rest = later;
        }
        Ok(())
    }

    /// The bytes of the last block.
    fn in_block(&self) -> usize {
        usize::try_from(self.length % BLOCK as u64).unwrap_or(0)
    }

    /// Stores the response whose body this is: `stored` with the body's length and checksums. Gives its id and what was
    /// stored.
    ///
    /// # Errors
    /// The system's; nothing is stored then.
    pub fn store(mut self, mut stored: Stored) -> io::Result<(u64, Stored)> {
        stored.length = self.length;
        stored.checksums = std::mem::take(&mut self.checksums);
        if self.in_block() > 0 {
            stored.checksums.push(std::mem::take(&mut self.block).finalize());
        }
        self.store.write_head(self.id, &stored)?;
        self.is_stored = true;
        self.release();
        self.store.insert(self.id, &stored);
        Ok((self.id, stored))
    }

    fn release(&mut self) {
        let mut index = self.store.index();
        index.growing = index.growing.saturating_sub(self.length);
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_stored {
            self.release();
            self.store.remove_files(self.id);
        }
    }
}

#[cfg(test)]
mod tests;
