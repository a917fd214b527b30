//! What a node remembers of the indexes that it has passed on: which digest each file must have. Bounded; the oldest is
//! forgotten.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use super::token::Tokens;
use super::url::Url;
use crate::cache::digest::Digest;
use crate::memory::{Budget, Reserve};

/// Maximum number of files whose digests are remembered: the index of Debian's main section has 70,000.
const MOST_FILES: usize = 1 << 17;
/// The memory of one of them, in bytes.
const FILE: usize = 144;
/// The part of the memory limit that they take at most: one in this many bytes.
const MOST_OF_LIMIT: usize = 8;
/// Maximum number of indexes that are remembered to have been read.
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
    most_files: usize,
    /// A turn for each index that is read beside being passed on.
    pub reading: Arc<Semaphore>,
    /// The anonymous tokens of OCI registries.
    pub tokens: Tokens,
}

#[derive(Default)]
struct State {
    digests: Recent<Key, Named>,
    /// The memory of the digests.
    memory: Reserve,
    indexes: Recent<Key, ()>,
    wrong: Recent<Key, ()>,
    /// Where the files of a sparse index are, by the URL of the registry.
    downloads: Recent<Key, String>,
}

/// What indexes say of a file.
enum Named {
    /// What it must hash to, by the word of this index.
    Once(Digest, Key),
    /// Several indexes contradict each other, such as those of two packages. Neither may break what the other one names.
    Contested,
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

    fn len(&self) -> usize {
        self.young.len() + self.old.len()
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
        Self { state: Mutex::default(), most_files: MOST_FILES, reading, tokens: Tokens::default() }
    }
}

impl Known {
    /// What a node with this much memory remembers.
    #[must_use]
    pub fn within(memory: &Budget) -> Self {
        let state = State { memory: memory.reserve(), ..State::default() };
        let most_files = (memory.limit() / MOST_OF_LIMIT / FILE).min(MOST_FILES);
        Self { state: Mutex::new(state), most_files, ..Self::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the digests of files that the index at `index` of this front names. One front's indexes say nothing about
    /// another's files, and a file that two indexes name differently has no digest that counts.
    pub fn learn(&self, front: &str, index: &Url, files: Vec<(Url, Digest)>) {
        let by = key(front, index);
        // Hashed before anybody has to wait for it.
        let files: Vec<_> = files.into_iter().map(|(url, digest)| (key(front, &url), digest)).collect();
        let mut state = self.state();
        for (key, digest) in files {
            let named = match state.digests.get(&key) {
                Some(Named::Contested) => Named::Contested,
                Some(Named::Once(other, of)) if *of != by && *other != digest => Named::Contested,
                _ => Named::Once(digest, by),
            };
            state.digests.insert(key, named, self.most_files);
        }
        let memory = FILE * state.digests.len();
        state.memory.set(memory);
    }

    /// Notes that all files that the index at `index` of this front names are known.
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
        match self.state().digests.get(&key(front, url))? {
            Named::Once(digest, _) => Some(digest.clone()),
            Named::Contested => None,
        }
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
    use crate::cache::digest::Algorithm;

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_is_forgotten() {
        let mut recent = Recent::default();
        for number in 0..100 {
            recent.insert(number, number, 10);
        }
        assert!(recent.len() <= 10);
        assert_eq!((recent.get(&99), recent.get(&0)), (Some(&99), None));
        assert!(recent.remove(&99) && !recent.remove(&99));
    }

    #[test]
    fn digests_take_an_eighth_of_the_memory_and_count() {
        let memory = Budget::new(1 << 20);
        let known = Known::within(&memory);
        let base = Url::parse("https://registry.example/").unwrap();
        let hex = "a".repeat(64);
        let file = |number: usize| {
            let url = Url { path: format!("/{number}"), ..base.clone() };
            (url, Digest::from_hex(Algorithm::Sha256, &hex).unwrap())
        };
        for number in 0..2000 {
            known.learn("a", &base, vec![file(number)]);
            assert!(memory.used() <= memory.limit() / 8);
        }
        assert!(memory.used() >= memory.limit() / 16);
        assert!(known.digest("a", &file(1999).0).is_some() && known.digest("a", &file(0).0).is_none());
    }

    #[test]
    fn an_index_may_correct_itself_and_not_another_one() {
        let known = Known::default();
        let url = |path: &str| Url::parse(&format!("https://npm.example/{path}")).unwrap();
        let digest = |digit: &str| Digest::from_hex(Algorithm::Sha256, &digit.repeat(64)).unwrap();
        let file = url("good/-/good-1.0.0.tgz");
        let learn =
            |index: &str, digit| known.learn("/npm/", &url(index), vec![(file.clone(), digest(digit))]);
        learn("good", "1");
        learn("good", "2");
        learn("other", "2");
        assert_eq!(known.digest("/npm/", &file), Some(digest("2")));
        learn("evil", "3");
        assert_eq!(known.digest("/npm/", &file), None);
        learn("good", "2");
        assert_eq!(known.digest("/npm/", &file), None);
    }
}
