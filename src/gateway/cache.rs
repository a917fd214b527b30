//! The gateway's cache: what is stored, and what is being fetched now. One fetch serves everybody who asks for the same while
//! it runs (RFC 9111 §4).

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, Hasher as _, RandomState};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

use crate::cache::digest::Digest;
use crate::cache::growing::Growing;
use crate::cache::policy;
use crate::cache::store::Store;
use crate::cache::store::calls::says_nothing;
use crate::cache::stored::Stored;
use crate::failure::Failure;
use crate::memory::{Account, Tally};
use crate::wire::http::{RequestHead, ResponseHead};
use crate::wire::id::NodeId;

/// How long requests for a URI are not shared after a response that could not be.
const ALONE: Duration = Duration::from_secs(60);
/// How long fetches for a URI, or by a member, are not shared with requests for the same content at another URI after one brought
/// other content or stalled; and how long a URI's response counts as depending on who asks.
const APART: Duration = Duration::from_secs(600);
/// How long after each part a URI counts as fetched in parts over several gateways.
const SPREAD: Duration = Duration::from_secs(5);
/// Minimum time between two comparisons of a URI's server with a fetch at another URI.
const TRIED: Duration = Duration::from_secs(60);
/// How long a stored response counts as right after its bytes were compared with its digest, and how long it is not hashed again
/// by the same algorithm.
const VERIFIED: Duration = Duration::from_secs(60);
/// How long a stored response waits for others to be hashed first. Without its digest it is not used.
const TURN: Duration = Duration::from_secs(10);
/// Maximum number of entries in one `Remembered`.
const MOST_REMEMBERED: usize = 4096;

/// The cache of one gateway.
pub struct Cache {
    /// What is stored.
    pub store: Arc<Store>,
    fetches: Mutex<HashMap<String, Running>>,
    /// URIs whose last response could not be shared.
    alone: Mutex<Remembered>,
    /// URIs whose last response depended on who had asked, as far as is known.
    personal: Mutex<Remembered>,
    /// URIs that a client fetches parts of over several gateways.
    spread: Mutex<Remembered>,
    /// URIs whose fetches are not shared with those who ask for the same content by another URI.
    apart: Mutex<Remembered>,
    /// Members whose fetches are not shared with those either, whatever URI they name.
    liars: Mutex<Remembered>,
    /// URIs whose servers were recently compared with a fetch at another URI.
    tried: Mutex<Remembered>,
    /// Stored responses whose bytes were recently compared with their digest, or are being compared.
    verified: Mutex<Remembered>,
    /// Held while a stored response is hashed.
    hashing: tokio::sync::Mutex<()>,
    hasher: RandomState,
}

/// Hashes of URIs, members or response ids, with the time at which each entry expires.
type Remembered = HashMap<u64, Instant>;

/// A fetch.
struct Running {
    /// The hash of the URI that is fetched.
    uri: u64,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// The outcome of a fetch for all who wait for it.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// There is a connection to the server, and no response yet.
    Connected,
    /// A response whose body is still coming, and whose request had this [identity](Cache::identity).
    Growing(Arc<Growing>, u64),
    /// The stored response is valid, for a request with this identity.
    Valid(u64, Arc<Stored>, u64),
    /// No fetch was needed: the response has been stored meanwhile.
    Stored,
    /// The response is only for whoever asked first.
    Alone,
    /// There is no response.
    Failed(Failure),
}

/// The fetching side of a shared fetch.
pub(super) struct Lead {
    cache: Arc<Cache>,
    key: String,
    outcome: watch::Sender<Option<Outcome>>,
}

/// The role of one request in a shared fetch.
pub(super) enum Part {
    /// To fetch.
    Lead(Lead, watch::Receiver<Option<Outcome>>),
    /// To wait for another request's fetch; the flag says that it is of another URI.
    Follow(watch::Receiver<Option<Outcome>>, bool),
    /// To ask the server without sharing.
    Alone,
}

impl Cache {
    /// A cache over this store.
    pub fn new(store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self {
            store,
            fetches: Mutex::default(),
            alone: Mutex::default(),
            personal: Mutex::default(),
            spread: Mutex::default(),
            apart: Mutex::default(),
            liars: Mutex::default(),
            tried: Mutex::default(),
            verified: Mutex::default(),
            hashing: tokio::sync::Mutex::default(),
            hasher: RandomState::new(),
        })
    }

    /// Takes part in the fetch for `key`, of `uri` or of the same content.
    pub(super) fn join(self: &Arc<Self>, uri: &str, key: String) -> Part {
        let (mut fetches, hash) = (lock(&self.fetches), self.hasher.hash_one(uri));
        if let Some(running) = fetches.get(&key) {
            return Part::Follow(running.outcome.clone(), running.uri != hash);
        }
        // What cannot be stored is not shared either.
        if self.is_known_for_one(uri) || self.store.is_hung() {
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

    /// A hash of the fields by which a server may tell who asks; 0 when there are none.
    pub(super) fn identity(&self, request: &RequestHead) -> u64 {
        let mut fields = policy::personal(request).peekable();
        if fields.peek().is_none() {
            return 0;
        }
        let mut hasher = self.hasher.build_hasher();
        fields.for_each(|field| field.hash(&mut hasher));
        hasher.finish()
    }

    /// Whether the last response for `uri` could be shared only by requests with the same identity, a short while ago.
    pub(super) fn is_personal(&self, uri: &str) -> bool {
        self.counts(&self.personal, uri)
    }

    /// Notes that the response for `uri` could be shared only by requests with the same identity.
    pub(super) fn note_personal(&self, uri: &str) {
        self.remember(&self.personal, uri, APART);
    }

    /// Notes that a client fetches parts of `uri` over several gateways now.
    pub(super) fn note_spread(&self, uri: &str) {
        self.remember(&self.spread, uri, SPREAD);
    }

    /// Whether a client fetches parts of `uri` so now.
    pub(super) fn is_spread(&self, uri: &str) -> bool {
        self.counts(&self.spread, uri)
    }

    /// Whether a fetch for `uri` by `member` may be shared with those who ask for the same content by another URI.
    pub(super) fn may_cross(&self, uri: &str, member: NodeId) -> bool {
        !self.counts(&self.apart, uri) && !self.counts(&self.liars, member)
    }

    /// Notes that a fetch for `uri` did not bring the content asked for at other URIs.
    pub(super) fn keep_apart(&self, uri: &str) {
        self.remember(&self.apart, uri, APART);
    }

    /// Notes that the content `member` fetched at `uri` was not what it had claimed.
    pub(super) fn was_wrong(&self, uri: &str, member: NodeId) {
        // The fetches of a known liar are not shared anyway.
        if !self.counts(&self.liars, member) {
            self.keep_apart(uri);
        }
        self.remember(&self.liars, member, APART);
    }

    /// Whether fetches for `uri` are not shared with those who ask for the same content by another URI.
    pub(super) fn is_apart(&self, uri: &str) -> bool {
        self.counts(&self.apart, uri)
    }

    /// Whether the server of `uri` may be compared with a fetch by another URI now: once in a while.
    pub(super) fn tries(&self, uri: &str) -> bool {
        self.begins(&self.tried, uri, TRIED)
    }

    fn counts(&self, remembered: &Mutex<Remembered>, what: impl Hash) -> bool {
        let remembered = lock(remembered);
        !remembered.is_empty()
            && remembered.get(&self.hasher.hash_one(what)).is_some_and(|until| Instant::now() < *until)
    }

    /// Adds an entry, which replaces another one if the table is full.
    fn remember(&self, remembered: &Mutex<Remembered>, what: impl Hash, time: Duration) {
        let mut remembered = lock(remembered);
        if !self.note(&mut remembered, &what, time) {
            let displaced = remembered.keys().next().copied();
            displaced.map(|displaced| remembered.remove(&displaced));
            self.note(&mut remembered, what, time);
        }
    }

    /// Adds an entry; false if there is a valid one already, or the table is full.
    fn begins(&self, remembered: &Mutex<Remembered>, what: impl Hash, time: Duration) -> bool {
        let (mut remembered, hash) = (lock(remembered), self.hasher.hash_one(&what));
        let counts = remembered.get(&hash).is_some_and(|until| Instant::now() < *until);
        !counts && self.note(&mut remembered, what, time)
    }

    /// Adds an entry; false if the table is full.
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

    /// Removes what is stored for `uri`, because it was not the expected file, with this `digest` if that is known. A response
    /// that was proved to have its digest stays, unless its bytes have changed since.
    pub(super) async fn discard(self: &Arc<Self>, uri: &str, digest: Option<Digest>) {
        let uri = uri.to_owned();
        lock(&self.fetches).retain(|key, _| !is_of(key, &uri));
        let find = move |store: &Arc<Store>| {
            let (proved, others): (Vec<_>, Vec<_>) =
                store.find(&uri).into_iter().partition(|(_, stored)| stored.is_proved());
            others.into_iter().for_each(|(id, _)| store.remove(id));
            match digest {
                Some(digest) => Vec::from_iter(store.proved(&digest)),
                None => proved,
            }
        };
        // Fails when the disk hangs.
        for (id, stored) in self.store.blocking(find).await.unwrap_or_default() {
            self.verify(id, &stored).await;
        }
    }

    /// The response `id` if its whole body has this `digest`, which is then noted. Each response is hashed once by each
    /// algorithm, or at most once a minute if the result cannot be noted.
    pub(super) async fn prove(&self, id: u64, digest: &Digest) -> Option<Stored> {
        let _one = timeout(TURN, self.hashing.lock()).await.ok()?;
        // Another request may have had it hashed or removed meanwhile.
        let stored = self.store.blocking(move |store| store.stored(id)).await.ok()??;
        if let Some(known) = stored.digest(digest.algorithm) {
            return (known == digest).then_some(stored);
        }
        if !self.begins(&self.verified, (id, digest.algorithm), VERIFIED) {
            return None;
        }
        let found = match self.hash(id, &stored, digest).await? {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "a stored response cannot be proved, and is removed");
                self.store.blocking(move |store| store.remove(id)).await.ok();
                return None;
            }
        };
        let is_right = found == *digest;
        let noted = self.store.blocking(move |store| store.prove(id, found)).await.ok()?;
        // The result holds even if it cannot be written.
        let stored = noted.unwrap_or_else(|_error| Stored { digests: vec![digest.clone()], ..stored });
        is_right.then_some(stored)
    }

    /// Removes the response `id` if it no longer has the digest that was proved. Each is hashed at most once a minute.
    async fn verify(&self, id: u64, stored: &Stored) {
        let Some(digest) = stored.digests.iter().max_by_key(|digest| digest.algorithm) else { return };
        if !self.begins(&self.verified, id, VERIFIED) {
            return;
        }
        let Ok(_one) = timeout(TURN, self.hashing.lock()).await else { return };
        let Some(found) = self.hash(id, stored, digest).await else { return };
        if found.is_ok_and(|found| found == *digest) {
            return;
        }
        self.store.blocking(move |store| store.remove(id)).await.ok();
    }

    /// The digest of the whole body of the response `id`, by the algorithm of `like`, hashed in steps between which others get
    /// the disk; `None` when it cannot be read for now. One at a time: the caller holds `hashing`.
    async fn hash(&self, id: u64, stored: &Stored, like: &Digest) -> Option<io::Result<Digest>> {
        let (kept, mut hasher, mut at) = (stored.clone(), like.hasher(), 0);
        let body = match self.store.blocking(move |store| store.body(id, &kept)).await.ok()? {
            Ok(body) => Arc::new(body),
            Err(error) if says_nothing(&error) => return None,
            Err(error) => return Some(Err(error)),
        };
        loop {
            let body = body.clone();
            let step = self.store.blocking(move |_| {
                let next = body.hash(&mut hasher, at);
                (hasher, next)
            });
            match step.await.ok()? {
                (now, Ok(Some(next))) => (hasher, at) = (now, next),
                (now, Ok(None)) => return Some(Ok(now.finish())),
                (_, Err(error)) => return Some(Err(error)),
            }
        }
    }

    /// Removes what is stored for `uri` that is not what the server has now, as the response to a HEAD shows (RFC 9111 §4.3.5).
    /// Memory held while waiting for the disk counts for `account`.
    pub(super) async fn compare(
        self: &Arc<Self>,
        uri: String,
        request: &RequestHead,
        response: &ResponseHead,
        account: &Arc<Account>,
    ) {
        if !self.store.may_have(&uri) {
            return;
        }
        let mut held = Tally::of(account);
        held.set(request.fields.memory() + response.fields.memory());
        let (request, response) = (request.clone(), response.clone());
        let compare = move |store: &Arc<Store>| {
            // Held until the copies are dropped.
            let _held = held;
            for (id, stored) in store.find(&uri) {
                let is_meant = policy::selects(&request, &stored.selecting, &stored.fields);
                if is_meant && policy::is_outdated_by(&stored, &response) {
                    store.release(id);
                }
            }
        };
        // Fails when the disk hangs: then nothing stored is used.
        self.store.blocking(compare).await.ok();
    }

    /// Removes what is stored for these URIs, and lets nobody join a fetch of them that has begun. A response with a proved
    /// digest stays, under that digest alone.
    pub(super) async fn invalidate(self: &Arc<Self>, uris: Vec<String>) {
        lock(&self.fetches).retain(|key, _| !uris.iter().any(|uri| is_of(key, uri)));
        let all = uris.clone();
        let removed = self.store.blocking(move |store| {
            all.iter().for_each(|uri| _ = store.remove_uri(uri));
        });
        if removed.await.is_err() {
            // The disk hangs.
            uris.iter().for_each(|uri| self.store.withdraw(uri));
        }
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

    /// The cache that this fetch is for.
    pub(super) fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// The store of that cache.
    pub(super) fn store(&self) -> Arc<Store> {
        self.cache.store.clone()
    }

    /// Ends the sharing and storing of this fetch, as when the server's content has changed.
    pub(super) fn leave(&self) {
        if self.is_current() {
            lock(&self.cache.fetches).remove(&self.key);
        }
    }

    /// Whether anybody waits for the outcome.
    pub(super) fn is_awaited(&self) -> bool {
        // One receiver belongs to the table.
        self.outcome.receiver_count() > usize::from(self.is_current())
    }

    /// Whether others may still join, and what was fetched may be stored.
    pub(super) fn is_current(&self) -> bool {
        let fetches = lock(&self.cache.fetches);
        fetches.get(&self.key).is_some_and(|running| running.outcome.same_channel(&self.outcome.subscribe()))
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.leave();
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::cache::draft::Draft;
    use crate::memory::Budget;

    /// A cache with one response, and the id and the digests of that.
    fn lab(directory: &tempfile::TempDir) -> (Arc<Cache>, u64, [Digest; 2]) {
        let reserve = Budget::new(1 << 30).reserve();
        let store = Store::open(&directory.path().join("cache"), 1 << 30, 1 << 20, reserve).unwrap();
        let body = b"some bytes".repeat(100_000);
        let mut draft = Draft::new(&store).unwrap();
        draft.append(&body).unwrap();
        let stored = Stored::of_body("http://h/f".into(), body.len() as u64, SystemTime::now());
        let (id, _) = draft.store(stored).unwrap();
        let digests = [("sha256", 64), ("sha512", 128)].map(|(algorithm, digits)| {
            let mut hasher = Digest::parse(&format!("{algorithm}:{}", "0".repeat(digits))).unwrap().hasher();
            hasher.add(&body);
            hasher.finish()
        });
        (Cache::new(store), id, digests)
    }

    #[tokio::test]
    async fn a_stored_response_is_hashed_once_by_each_algorithm_whatever_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let (cache, id, [sha256, sha512]) = lab(&directory);
        let wrong = Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
        assert!(cache.prove(id, &wrong).await.is_none());
        // If it were read again, it would be removed.
        let body = std::fs::read_dir(directory.path().join("cache")).unwrap().find_map(|folder| {
            std::fs::read_dir(folder.ok()?.path()).ok()?.find_map(|file| {
                let path = file.ok()?.path();
                path.extension().is_some_and(|extension| extension == "body").then_some(path)
            })
        });
        std::fs::write(body.unwrap(), vec![0; 1_000_000]).unwrap();
        for digest in [&sha256, &wrong, &sha256] {
            assert_eq!(cache.prove(id, digest).await.is_some(), digest == &sha256);
        }
        assert!(cache.prove(id, &sha512).await.is_none() && !cache.store.has(id));
    }

    /// The copies used to count for nobody.
    #[tokio::test]
    async fn what_is_compared_counts_while_the_disk_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let (cache, id, _) = lab(&directory);
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        for _ in 0..16 {
            let gate = gate.clone();
            cache.store.later(move |_| _ = lock(&gate).recv());
        }
        let long = "x".repeat(10_000);
        let request =
            RequestHead::parse(format!("HEAD /f HTTP/1.1\r\nHost: h\r\nA: {long}\r\n\r\n").as_bytes());
        let response = format!("HTTP/1.1 200 OK\r\nA: {long}\r\nContent-Length: 7\r\n\r\n");
        let response = ResponseHead::parse(response.as_bytes(), &http::Method::HEAD);
        let (request, response) = (request.unwrap(), response.unwrap());
        let account = Budget::new(1 << 24).account();
        {
            let mut compared =
                std::pin::pin!(cache.compare("http://h/f".into(), &request, &response, &account));
            let waker = std::task::Waker::noop();
            assert!(compared.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
            assert!(account.held() >= 2 * long.len(), "{}", account.held());
            drop(open);
            compared.await;
        }
        assert!(account.held() == 0 && !cache.store.has(id));
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_is_hashed_holds_nobody_up_for_long() {
        let directory = tempfile::tempdir().unwrap();
        let (cache, id, [sha256, _]) = lab(&directory);
        let turn = cache.hashing.lock().await;
        assert!(cache.prove(id, &sha256).await.is_none() && cache.store.has(id));
        drop(turn);
        // The disk takes its time.
        tokio::time::resume();
        assert!(cache.prove(id, &sha256).await.is_some());
    }
}
