//! The gateway's cache: what is stored, and what is being fetched now. One fetch serves everybody who asks for the same while
//! it runs (RFC 9111 §4).

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::cache::digest::Digest;
use crate::cache::growing::Growing;
use crate::cache::store::Store;
use crate::cache::stored::Stored;
use crate::failure::Failure;
use crate::wire::id::NodeId;

/// How long nobody waits for another's response after one that could not be shared.
const ALONE: Duration = Duration::from_secs(60);
/// How long a fetch for a URI, or by a member, is not shared with those who ask for the same content by another URI, after one
/// that brought something else or stood still.
const APART: Duration = Duration::from_secs(600);
/// How long the bytes of a stored response count as right after they were compared with its digest.
const VERIFIED: Duration = Duration::from_secs(60);
/// Maximum number of URIs, members and responses for which that is remembered.
const MOST_REMEMBERED: usize = 4096;

/// The cache of one gateway.
pub struct Cache {
    /// What is stored.
    pub store: Arc<Store>,
    fetches: Mutex<HashMap<String, Running>>,
    /// URIs whose last response could not be shared.
    alone: Mutex<Remembered>,
    /// URIs and members whose fetches are not shared with those who ask for the same content by another URI.
    apart: Mutex<Remembered>,
    /// Stored responses whose bytes were compared with their digest a short while ago, or are now.
    verified: Mutex<Remembered>,
    /// Held while one of them is hashed.
    verifying: tokio::sync::Mutex<()>,
    hasher: RandomState,
}

/// Hashes of URIs, of members and of ids, and until when something counts for them.
type Remembered = HashMap<u64, Instant>;

/// A fetch.
struct Running {
    /// The hash of the URI that is fetched.
    uri: u64,
    outcome: watch::Receiver<Option<Outcome>>,
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
    /// There is no fetch: what it would have brought has been stored meanwhile.
    Stored,
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
    /// To wait for what another one fetches; whether that is by another URI.
    Follow(watch::Receiver<Option<Outcome>>, bool),
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
            apart: Mutex::default(),
            verified: Mutex::default(),
            verifying: tokio::sync::Mutex::default(),
            hasher: RandomState::new(),
        })
    }

    /// Takes part in the fetch for `key`, of `uri` or of the same content.
    pub(super) fn join(self: &Arc<Self>, uri: &str, key: String) -> Part {
        let (mut fetches, hash) = (lock(&self.fetches), self.hasher.hash_one(uri));
        if let Some(running) = fetches.get(&key) {
            return Part::Follow(running.outcome.clone(), running.uri != hash);
        }
        if self.is_known_for_one(uri) {
            return Part::Alone;
        }
        let (sender, receiver) = watch::channel(None);
        fetches.insert(key.clone(), Running { uri: hash, outcome: receiver.clone() });
        Part::Lead(Lead { cache: self.clone(), key, outcome: sender }, receiver)
    }

    /// The fetch for `key` that is running.
    pub(super) fn running(&self, key: &str) -> Option<watch::Receiver<Option<Outcome>>> {
        lock(&self.fetches).get(key).map(|running| running.outcome.clone())
    }

    /// Whether the last response for `uri` could not be shared, a short while ago.
    pub(super) fn is_known_for_one(&self, uri: &str) -> bool {
        self.counts(&self.alone, uri)
    }

    /// Notes that the response for `uri` could not be shared.
    pub(super) fn is_for_one(&self, uri: &str) {
        self.remember(&self.alone, uri, ALONE);
    }

    /// Whether a fetch for `uri` by `member` may be shared with those who ask for the same content by another URI.
    pub(super) fn may_cross(&self, uri: &str, member: NodeId) -> bool {
        !self.counts(&self.apart, uri) && !self.counts(&self.apart, member)
    }

    /// Notes that a fetch for `uri` did not bring the content that others ask for, too.
    pub(super) fn keep_apart(&self, uri: &str) {
        self.remember(&self.apart, uri, APART);
    }

    /// Notes that what `member` asked for at `uri` was something else than it said.
    pub(super) fn was_wrong(&self, uri: &str, member: NodeId) {
        self.keep_apart(uri);
        self.remember(&self.apart, member, APART);
    }

    fn counts(&self, remembered: &Mutex<Remembered>, what: impl Hash) -> bool {
        let remembered = lock(remembered);
        !remembered.is_empty()
            && remembered.get(&self.hasher.hash_one(what)).is_some_and(|until| Instant::now() < *until)
    }

    fn remember(&self, remembered: &Mutex<Remembered>, what: impl Hash, time: Duration) {
        self.note(&mut lock(remembered), what, time);
    }

    /// Notes that something counts from now on; false when it does already, or too much does.
    fn begins(&self, remembered: &Mutex<Remembered>, what: impl Hash, time: Duration) -> bool {
        let (mut remembered, hash) = (lock(remembered), self.hasher.hash_one(&what));
        let counts = remembered.get(&hash).is_some_and(|until| Instant::now() < *until);
        !counts && self.note(&mut remembered, what, time)
    }

    /// False when there is no room for it.
    fn note(&self, remembered: &mut Remembered, what: impl Hash, time: Duration) -> bool {
        let now = Instant::now();
        if remembered.len() >= MOST_REMEMBERED {
            remembered.retain(|_, until| now < *until);
        }
        let has_room = remembered.len() < MOST_REMEMBERED;
        if has_room {
            remembered.insert(self.hasher.hash_one(what), now + time);
        }
        has_room
    }

    /// Notes that the response for `uri` can be shared.
    pub(super) fn is_for_all(&self, uri: &str) {
        lock(&self.alone).remove(&self.hasher.hash_one(uri));
    }

    /// Removes what is stored for `uri`, because it was not the file that it should be: one with this `digest`, if that is known.
    /// What was proved to have a digest stays, whoever says otherwise, unless its bytes are others by now.
    pub(super) async fn discard(self: &Arc<Self>, uri: &str, digest: Option<Digest>) {
        let uri = uri.to_owned();
        lock(&self.fetches).retain(|key, _| !is_of(key, &uri));
        let find = move |store: &Arc<Store>| {
            let (proved, others): (Vec<_>, Vec<_>) =
                store.find(&uri).into_iter().partition(|(_, stored)| stored.digest.is_some());
            others.into_iter().for_each(|(id, _)| store.remove(id));
            match digest {
                Some(digest) => Vec::from_iter(store.proved(&digest)),
                None => proved,
            }
        };
        // Fails only when the node stops.
        for (id, stored) in self.store.blocking(find).await.unwrap_or_default() {
            self.verify(id, &stored).await;
        }
    }

    /// Removes the response `id` if it has no longer the digest that was proved. Each is hashed once a minute at most, one at a
    /// time, and in steps between which others get the disk.
    async fn verify(&self, id: u64, stored: &Stored) {
        let Some(digest) = &stored.digest else { return };
        if !self.begins(&self.verified, id, VERIFIED) {
            return;
        }
        let _one = self.verifying.lock().await;
        let (kept, mut step) = (stored.clone(), (digest.hasher(), 0));
        let Ok(body) = self.store.blocking(move |store| store.body(id, &kept)).await else { return };
        let is_right = match body.map(Arc::new) {
            Err(_) => false,
            Ok(body) => loop {
                let (body, (mut hasher, at)) = (body.clone(), step);
                let hashed = self.store.blocking(move |_| {
                    let next = body.hash(&mut hasher, at)?;
                    Ok::<_, std::io::Error>((hasher, next))
                });
                match hashed.await {
                    Ok(Ok((hasher, Some(next)))) => step = (hasher, next),
                    Ok(Ok((hasher, None))) => break digest.is_of(hasher),
                    Ok(Err(_)) => break false,
                    // The node stops.
                    Err(_) => return,
                }
            },
        };
        if !is_right {
            let _ = self.store.blocking(move |store| store.remove(id)).await;
        }
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
        fetches.get(&self.key).is_some_and(|running| running.outcome.same_channel(&self.outcome.subscribe()))
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
