//! The gateway's cache: what is stored, and what is being fetched now. One fetch serves everybody who asks for the same while
//! it runs (RFC 9111 §4).

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::cache::growing::Growing;
use crate::cache::store::Store;
use crate::cache::stored::Stored;
use crate::failure::Failure;

/// How long nobody waits for another's response after one that could not be shared.
const ALONE: Duration = Duration::from_secs(60);
/// Maximum number of URIs for which that is remembered.
const MOST_ALONE: usize = 4096;

/// The cache of one gateway.
pub struct Cache {
    /// What is stored.
    pub store: Arc<Store>,
    fetches: Mutex<HashMap<String, watch::Receiver<Option<Outcome>>>>,
    /// URIs, as their hashes, whose last response could not be shared, and until when that counts.
    alone: Mutex<HashMap<u64, Instant>>,
    hasher: RandomState,
}

/// What a fetch has led to for all who wait for it.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// There is a connection to the server, and no response yet.
    Connected,
    /// A response whose body is still coming.
    Growing(Arc<Growing>),
    /// What was stored before is valid.
    Valid(u64, Arc<Stored>),
    /// The response is for the one alone who asked first.
    Alone,
    /// There is no response.
    Failed(Failure),
}

/// The part of the one who fetches.
pub(super) struct Lead {
    cache: Arc<Cache>,
    key: String,
    outcome: watch::Sender<Option<Outcome>>,
}

/// The part of one who asks.
pub(super) enum Part {
    /// To fetch.
    Lead(Lead, watch::Receiver<Option<Outcome>>),
    /// To wait for what another one fetches.
    Follow(watch::Receiver<Option<Outcome>>),
    /// To ask the server oneself.
    Alone,
}

impl Cache {
    /// A cache over this store.
    pub fn new(store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self {
            store,
            fetches: Mutex::default(),
            alone: Mutex::default(),
            hasher: RandomState::new(),
        })
    }

    /// Takes part in the fetch for `key`, which begins with `uri`.
    pub(super) fn join(self: &Arc<Self>, uri: &str, key: String) -> Part {
        let mut fetches = lock(&self.fetches);
        if let Some(outcome) = fetches.get(&key) {
            return Part::Follow(outcome.clone());
        }
        if self.is_known_for_one(uri) {
            return Part::Alone;
        }
        let (sender, receiver) = watch::channel(None);
        fetches.insert(key.clone(), receiver.clone());
        Part::Lead(Lead { cache: self.clone(), key, outcome: sender }, receiver)
    }

    /// The fetch for `key` that is running.
    pub(super) fn running(&self, key: &str) -> Option<watch::Receiver<Option<Outcome>>> {
        lock(&self.fetches).get(key).cloned()
    }

    /// Whether the last response for `uri` could not be shared, a short while ago.
    pub(super) fn is_known_for_one(&self, uri: &str) -> bool {
        let alone = lock(&self.alone);
        !alone.is_empty()
            && alone.get(&self.hasher.hash_one(uri)).is_some_and(|until| Instant::now() < *until)
    }

    /// Notes that the response for `uri` could not be shared.
    pub(super) fn is_for_one(&self, uri: &str) {
        let (now, mut alone) = (Instant::now(), lock(&self.alone));
        if alone.len() >= MOST_ALONE {
            alone.retain(|_, until| now < *until);
        }
        if alone.len() < MOST_ALONE {
            alone.insert(self.hasher.hash_one(uri), now + ALONE);
        }
    }

    /// Notes that the response for `uri` can be shared.
    pub(super) fn is_for_all(&self, uri: &str) {
        lock(&self.alone).remove(&self.hasher.hash_one(uri));
    }

    /// Removes what is stored for these URIs, and lets nobody join a fetch of them that has begun.
    pub(super) async fn invalidate(self: &Arc<Self>, uris: Vec<String>) {
        lock(&self.fetches).retain(|key, _| !uris.iter().any(|uri| is_of(key, uri)));
        // Fails only when the node stops.
        let _ = self
            .store
            .blocking(move |store| uris.iter().map(|uri| store.remove_uri(uri)).sum::<usize>())
            .await;
    }
}

/// Whether a key of a fetch is for `uri`: the URI, a line break, and the fields of the request that count.
fn is_of(key: &str, uri: &str) -> bool {
    key.strip_prefix(uri).is_some_and(|rest| rest.starts_with('\n'))
}

impl Lead {
    /// Tells all who wait.
    pub(super) fn resolve(&self, outcome: Outcome) {
        self.outcome.send_replace(Some(outcome));
    }

    /// The cache that this is a part of.
    pub(super) fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// What is stored.
    pub(super) fn store(&self) -> Arc<Store> {
        self.cache.store.clone()
    }

    /// Whether anybody waits for the outcome.
    pub(super) fn is_awaited(&self) -> bool {
        // One receiver is that of the table.
        self.outcome.receiver_count() > usize::from(self.is_current())
    }

    /// Whether others may still join: what was fetched may be stored.
    pub(super) fn is_current(&self) -> bool {
        let fetches = lock(&self.cache.fetches);
        fetches.get(&self.key).is_some_and(|running| running.same_channel(&self.outcome.subscribe()))
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let is_current = self.is_current();
        if is_current {
            lock(&self.cache.fetches).remove(&self.key);
        }
        self.outcome.send_if_modified(|outcome| {
            let is_open = matches!(outcome, None | Some(Outcome::Connected));
            if is_open {
                *outcome = Some(Outcome::Alone);
            }
            is_open
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
