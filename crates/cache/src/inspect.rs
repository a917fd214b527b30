//! A store's files, read from outside the node that uses them: for commands. Files are never changed in place, except for
//! parts that no metadata names yet, so what is read here is whole, or was removed meanwhile.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use laneway_sys::files;

use crate::store::{self, Body, Used};
use crate::stored::Stored;

/// How many blocks of a body are read at a time.
const BLOCKS: u64 = 16;

/// The directory of a store.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

/// The result of a check.
#[derive(Debug)]
pub enum Checked {
    /// Everything is as it was stored.
    Sound(Box<Stored>),
    /// It is not.
    Damaged {
        /// The URI, if the metadata can be read.
        uri: Option<String>,
        /// What is wrong.
        why: &'static str,
    },
    /// It was removed meanwhile.
    Gone,
}

impl Directory {
    /// The store at this path, which need not exist.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Locks the store: no process can open it while the returned file is kept. `None` when one has it open already.
    ///
    /// # Errors
    /// The system's, as when this user may not read it.
    pub fn lock(&self) -> io::Result<Option<std::fs::File>> {
        let lock = files::open(&self.0.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// The ids of all stored responses, the oldest first.
    #[must_use]
    pub fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> =
            store::ids(&self.0).filter(|(_, is_head)| *is_head).map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    /// The metadata of the response `id`; `None` when it is damaged, or was removed.
    #[must_use]
    pub fn stored(&self, id: u64) -> Option<Stored> {
        store::read_head(&self.0, id).ok()
    }

    /// How the responses were used, as the node saved it last.
    #[must_use]
    pub fn uses(&self) -> HashMap<u64, Used> {
        store::read_uses(&self.0)
    }

    /// Checks all checksums of the response `id`.
    #[must_use]
    pub fn check(&self, id: u64) -> Checked {
        let Some(stored) = self.stored(id) else {
            return match store::exists(&self.0, id) {
                true => Checked::Damaged { uri: None, why: "its metadata is damaged, or of another version" },
                false => Checked::Gone,
            };
        };
        match self.body(id, &stored) {
            Ok(()) => Checked::Sound(Box::new(stored)),
            // It may have been replaced, or removed, while it was read.
            Err(_) if self.stored(id).as_ref() != Some(&stored) => match store::exists(&self.0, id) {
                true => self.check(id),
                false => Checked::Gone,
            },
            Err(error) => {
                let why = match error.kind() {
                    io::ErrorKind::NotFound => "its body is missing",
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => "its body was changed",
                    _ => "its body cannot be read",
                };
                Checked::Damaged { uri: Some(stored.uri), why }
            }
        }
    }

    fn body(&self, id: u64, stored: &Stored) -> io::Result<()> {
        let body = Body::open(&self.0, id, stored)?;
        for part in &stored.parts {
            let mut at = part.start;
            while at < part.end {
                at += body.read(at, part.end, BLOCKS)?.len() as u64;
            }
        }
        match stored.digests.iter().max_by_key(|digest| digest.algorithm) {
            Some(digest) if body.digest(digest)? != *digest => Err(io::ErrorKind::InvalidData.into()),
            _ => Ok(()),
        }
    }

    /// Removes the response `id` from a store that no process has open.
    ///
    /// # Errors
    /// When a file of it cannot be removed.
    pub fn remove(&self, id: u64) -> io::Result<()> {
        store::remove_files(&self.0, id)
    }
}
