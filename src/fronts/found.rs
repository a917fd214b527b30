//! What one index names. An index may be as large as its author likes; this is bounded.

use crate::cache::digest::Digest;

use super::url::Url;

/// Maximum number of files: the index of Debian's main section names 70,000.
const MOST: usize = 100_000;
/// The most memory, in bytes. Those 70,000 take 15 MiB.
const MOST_MEMORY: usize = 16 * 1024 * 1024;
/// What a file takes besides its URL: its digest, and what the allocator adds.
const COST: usize = 96;

/// The digests of files.
#[derive(Debug, Default)]
pub struct FileDigests {
    files: Vec<(Url, Digest)>,
    memory: usize,
}

impl FileDigests {
    /// Adds a file, unless there are too many: its digest is not known then.
    pub fn push(&mut self, url: Url, digest: Digest) {
        if !self.is_full() {
            self.memory += size_of::<(Url, Digest)>() + url.path.len() + COST;
            self.files.push((url, digest));
        }
    }

    /// Whether it takes no more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.files.len() >= MOST || self.memory >= MOST_MEMORY
    }

    /// The memory that it takes, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// The files.
    #[must_use]
    pub fn into_files(self) -> Vec<(Url, Digest)> {
        self.files
    }
}
