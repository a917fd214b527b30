//! The local name server: takes the questions of apps by UDP and TCP and decides who answers each of them.
//!
//! `datagrams` and `streams` receive the questions and return the answers. An answer comes from the cache, from the name
//! server of a zone that has one of its own, from this machine's name servers while this node is a gateway, or else over
//! a link (`ask`).

mod ask;
mod counts;
mod datagrams;
pub mod options;
mod streams;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use hickory_proto::op::{Message, ResponseCode};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use self::counts::{Counts, Source};
use super::context::Local;
use crate::dns::cache::Cache;
use crate::dns::servers::NameServers;
use crate::dns::zone::Zone;
use crate::wire::dns::{Key, Query, Reason, failure};
use crate::wire::id::NodeId;

/// Maximum number of answers in the cache.
const CACHE: usize = 4096;
/// Maximum size of the cache, in bytes.
const CACHE_BYTES: usize = 4 << 20;
/// Maximum number of questions by UDP, and of those by TCP, that are being asked at a time.
const MOST_QUERIES: usize = 1024;
/// Maximum number of TCP connections at a time; further ones wait in the listen queue.
const MOST_CONNECTIONS: usize = 256;

/// Asks this machine's own name servers.
pub type SystemResolver = dyn Fn(Query) -> BoxFuture<'static, Message> + Send + Sync;

/// The zones that have name servers of their own.
pub type Zones = Vec<(Zone, NameServers)>;

/// The zones, each with its name server.
pub fn zones(zones: &[Zone]) -> Arc<Zones> {
    Arc::new(zones.iter().map(|zone| (zone.clone(), NameServers::one(zone.server))).collect())
}

/// The local name server.
pub struct NameServer {
    local: Arc<Local>,
    system: Box<SystemResolver>,
    zones: watch::Receiver<Arc<Zones>>,
    cache: Cache,
    counts: Counts,
    /// The questions that are being asked; the same question asked again waits for the same answer.
    pending: Mutex<HashMap<Key, watch::Receiver<Option<Message>>>>,
    /// Permits for questions by UDP, and for those by TCP.
    queries: Arc<Semaphore>,
    stream_queries: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// The sockets of one address.
pub struct Listener {
    /// For UDP.
    pub datagrams: UdpSocket,
    /// For TCP.
    pub streams: TcpListener,
}

impl Listener {
    /// Listens on `address` by both protocols; with port 0 on one that is free for both.
    ///
    /// # Errors
    /// The error of the system.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let streams = crate::net::listen(address)?;
        let datagrams = UdpSocket::bind(streams.local_addr()?).await?;
        Ok(Self { datagrams, streams })
    }

    /// The address that it is bound to.
    pub fn address(&self) -> Option<SocketAddr> {
        self.streams.local_addr().ok()
    }
}

impl NameServer {
    /// A name server whose questions leave by the routes of `local`, except those in `zones`. `system` asks this machine's
    /// name servers.
    pub fn new(
        local: Arc<Local>,
        system: Box<SystemResolver>,
        zones: watch::Receiver<Arc<Zones>>,
    ) -> Arc<Self> {
        let counts = Counts(local.telemetry.clone());
        Arc::new(Self {
            local,
            counts,
            system,
            zones,
            cache: Cache::new(CACHE, CACHE_BYTES),
            pending: Mutex::default(),
            queries: Arc::new(Semaphore::new(MOST_QUERIES)),
            stream_queries: Arc::new(Semaphore::new(MOST_QUERIES)),
            connections: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
        })
    }

    /// Answers on these sockets until the node drains.
    pub async fn run(self: Arc<Self>, listeners: Vec<Listener>) {
        let mut serving = JoinSet::new();
        for Listener { datagrams, streams } in listeners {
            serving.spawn(self.clone().serve_datagrams(datagrams));
            serving.spawn(self.clone().serve_streams(streams));
        }
        let mut zones = self.zones.clone();
        loop {
            tokio::select! {
                // Answers from the old name servers must not be given again.
                Ok(()) = zones.changed() => self.cache.clear(),
                ended = serving.join_next() => match ended {
                    Some(Err(error)) => tracing::error!(%error, "a part of the local name server failed"),
                    Some(Ok(())) => {}
                    // It has no sockets of its own, or none any more.
                    None => tokio::select! {
                        Ok(()) = zones.changed() => self.cache.clear(),
                        () = self.local.drain.cancelled() => return,
                    },
                },
            }
        }
    }

    /// The answer to `query`, if the cache has one.
    fn find_in_cache(&self, query: &Query) -> Option<Message> {
        let found = self.cache.find_unless(&query.key(), |id| self.local.routes.links.is_revoked(id))?;
        Some(self.counts.counted(query.answer(&found), Source::Cache))
    }

    /// The answer to a question for which there is no permit.
    fn excess(&self, query: &Query) -> Message {
        self.counts.excess();
        query.answer(&failure(ResponseCode::ServFail, Reason::Other, "too many questions at a time"))
    }

    /// The answer to `query`. There is always one, before apps give up. `place` is kept for as long as somebody waits for it or
    /// the question is being asked, whichever is longer.
    async fn answer(self: &Arc<Self>, query: Query, place: OwnedSemaphorePermit) -> Message {
        if let Some(answer) = self.find_in_cache(&query) {
            return answer;
        }
        let place = Arc::new(place);
        let mut answered = self.ask_once(&query, &place);
        let found = match answered.wait_for(Option::is_some).await {
            Ok(found) => found.clone(),
            // The task has panicked, which the runtime has reported.
            Err(_) => None,
        };
        let found = found.unwrap_or_else(|| failure(ResponseCode::ServFail, Reason::Other, "no answer"));
        self.counts.counted(query.answer(&found), Source::Asked)
    }

    /// Asks the question in a task, unless the same question is pending. Returns where the answer will appear.
    fn ask_once(
        self: &Arc<Self>,
        query: &Query,
        place: &Arc<OwnedSemaphorePermit>,
    ) -> watch::Receiver<Option<Message>> {
        let mut pending = self.pending();
        let key = query.key();
        if let Some(answered) = pending.get(&key) {
            return answered.clone();
        }
        let (answer, answered) = watch::channel(None);
        pending.insert(key.clone(), answered.clone());
        let (server, query, place) = (self.clone(), query.clone(), place.clone());
        self.local.tasks.spawn(async move {
            let entry = Pending { server: &server, key: &key };
            let zones = server.zones.borrow().clone();
            let (found, gateway) = server.ask(&query, &zones).await;
            if Arc::ptr_eq(&zones, &server.zones.borrow()) {
                server.cache.keep_of(key.clone(), &found, gateway);
            }
            drop((entry, place));
            answer.send_replace(Some(found));
        });
        answered
    }

    /// The answer, and the gateway that gave it.
    async fn ask(&self, query: &Query, zones: &Zones) -> (Message, Option<NodeId>) {
        match Zone::of(zones, query.question().name()) {
            Some(server) => (server.ask(query).await, None),
            None => self.ask_gateway(query).await,
        }
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<Option<Message>>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry of a pending question; dropping it removes the entry, also when the task panics.
struct Pending<'a> {
    server: &'a NameServer,
    key: &'a Key,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.server.pending().remove(self.key);
    }
}
