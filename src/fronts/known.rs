//! What a node remembers of the indexes that it has passed on: which digest each file must have. Bounded; the oldest is
//! forgotten.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use super::token::Tokens;
use super::url::Url;
use crate::cache::digest::Digest;

/// Maximum number of files whose digests are remembered: the index of Debian's main section has 70,000. About 110 bytes each.
const MOST_FILES: usize = 1 << 17;
/// Maximum number of indexes that are known to be learnt.
const MOST_INDEXES: usize = 1 << 14;
/// Maximum number of files that are remembered to have been wrong.
const MOST_WRONG: usize = 1 << 10;

/// A URL, as it is compared: enough of its SHA-256 that nobody finds two with the same.
type Key = [u8; 16];

/// Maximum number of indexes that are read beside being passed on, at a time. Each has a thread until all of it has come.
const MOST_READING: usize = 64;

/// What fronts remember.
pub struct Known {
    state: Mutex<State>,
    /// A turn for each index that is read beside being passed on.
    pub reading: Arc<Semaphore>,
    /// The anonymous tokens of OCI registries.
    pub tokens: Tokens,
}

#[derive(Default)]
struct State {
    digests: Recent<Key, Digest>,
    indexes: Recent<Key, ()>,
    wrong: Recent<Key, ()>,
    /// Where the files of a sparse index are, by the URL of the registry.
    downloads: Recent<Key, String>,
}

/// A map of bounded size: half of it is forgotten at a time.
struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<K: Eq + Hash, V> Recent<K, V> {
    fn insert(&mut self, key: K, value: V, most: usize) {
        self.old.remove(&key);
        if self.young.len() >= most / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    fn remove(&mut self, key: &K) -> bool {
        self.young.remove(key).is_some() | self.old.remove(key).is_some()
    }
}

impl Default for Known {
    fn default() -> Self {
        let reading = Arc::new(Semaphore::new(MOST_READING));
        Self { state: Mutex::default(), reading, tokens: Tokens::default() }
    }
}

impl Known {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the digests of files that an index of this front names. One front's indexes say nothing about another's files.
    pub fn learn(&self, front: &str, files: Vec<(Url, Digest)>) {
        // Hashed before anybody has to wait for it.
        let files: Vec<_> = files.into_iter().map(|(url, digest)| (key(front, &url), digest)).collect();
        let mut state = self.state();
        for (key, digest) in files {
            state.digests.insert(key, digest, MOST_FILES);
        }
    }

    /// Notes that all files are known that the index at `index` of this front names.
    pub fn has_read(&self, front: &str, index: &Url) {
        self.state().indexes.insert(key(front, index), (), MOST_INDEXES);
    }

    /// Whether this node has read the index at `index` since its start.
    #[must_use]
    pub fn has_learnt(&self, front: &str, index: &Url) -> bool {
        self.state().indexes.get(&key(front, index)).is_some()
    }

    /// What the file at `url` must hash to.
    #[must_use]
    pub fn digest(&self, front: &str, url: &Url) -> Option<Digest> {
        self.state().digests.get(&key(front, url)).cloned()
    }

    /// Notes that what came for `url` was wrong.
    pub fn was_wrong(&self, front: &str, url: &Url) {
        self.state().wrong.insert(key(front, url), (), MOST_WRONG);
    }

    /// Whether what came last for `url` was wrong. Asking forgets it.
    #[must_use]
    pub fn take_wrong(&self, front: &str, url: &Url) -> bool {
        self.state().wrong.remove(&key(front, url))
    }

    /// Notes where the registry at `base` says that its crates are.
    pub fn crates_are_at(&self, base: &Url, template: String) {
        self.state().downloads.insert(key("", base), template, 64);
    }

    /// Where the crates of the registry at `base` are.
    #[must_use]
    pub fn crates_at(&self, base: &Url) -> Option<String> {
        self.state().downloads.get(&key("", base)).cloned()
    }
}

fn key(front: &str, url: &Url) -> Key {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("{front} {url}").as_bytes());
    let mut key = [0; 16];
    key.copy_from_slice(&hash.as_ref()[..16]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_is_forgotten() {
        let mut recent = Recent::default();
        for number in 0..100 {
            recent.insert(number, number, 10);
        }
        assert!(recent.young.len() + recent.old.len() <= 10);
        assert_eq!((recent.get(&99), recent.get(&0)), (Some(&99), None));
        assert!(recent.remove(&99) && !recent.remove(&99));
    }
}
