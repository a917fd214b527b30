//! The local name server: where the questions of apps arrive, by UDP and TCP, and which way each of them goes.
//!
//! `datagrams` and `streams` know how they come and how the answers go back; here they are answered: from the
//! cache, by the name server of a zone of its own, by this machine's name servers where it is a gateway itself, else
//! over a link (`ask`).

mod ask;
mod counts;
mod datagrams;
mod streams;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use hickory_resolver::proto::op::{Message, ResponseCode};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use self::counts::From;
use super::listener::Local;
use crate::dns::cache::Cache;
use crate::dns::servers::NameServers;
use crate::dns::zone::Zone;
use crate::wire::dns::{Key, Query, Reason, failure};

/// Answers kept, and so many bytes of them.
const CACHE: usize = 4096;
const CACHE_BYTES: usize = 4 << 20;
/// How many datagrams are being answered at a time.
const MOST_QUERIES: usize = 1024;
/// How many TCP connections there may be at a time; more wait in the listen queue.
const MOST_CONNECTIONS: usize = 256;

/// Asks this machine's own name servers.
pub type Own = dyn Fn(Query) -> BoxFuture<'static, Message> + Send + Sync;

/// The local name server.
pub struct Names {
    local: Arc<Local>,
    own: Box<Own>,
    zones: Vec<(Zone, NameServers)>,
    cache: Cache,
    /// The questions that somebody is being asked: who has the same one waits for the same answer.
    under_way: Mutex<HashMap<Key, watch::Receiver<Option<Message>>>>,
    queries: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// One address that is listened on, by both protocols.
pub struct Listener {
    /// By UDP.
    pub datagrams: UdpSocket,
    /// By TCP.
    pub streams: TcpListener,
}

impl Listener {
    /// Listens on `address`; with port 0 on any that is free for both.
    ///
    /// # Errors
    /// Why not.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let streams = crate::net::listen(address)?;
        let datagrams = UdpSocket::bind(streams.local_addr()?).await?;
        Ok(Self { datagrams, streams })
    }
}

impl Names {
    /// One whose questions leave by the ways of `local`, but those of `zones`. `own` asks this machine's name servers.
    ///
    /// # Errors
    /// A sentence, when a name server cannot be asked at all.
    pub fn new(local: Arc<Local>, own: Box<Own>, zones: &[Zone]) -> Result<Arc<Self>, String> {
        let servers = |zone: &Zone| Ok((zone.clone(), NameServers::one(zone.server)?));
        Ok(Arc::new(Self {
            local,
            own,
            zones: zones.iter().map(servers).collect::<Result<_, String>>()?,
            cache: Cache::new(CACHE, CACHE_BYTES),
            under_way: Mutex::default(),
            queries: Arc::new(Semaphore::new(MOST_QUERIES)),
            connections: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
        }))
    }

    /// Answers on these addresses until the node drains.
    pub async fn run(self: Arc<Self>, listeners: Vec<Listener>) {
        let mut serving = JoinSet::new();
        for Listener { datagrams, streams } in listeners {
            serving.spawn(self.clone().serve_datagrams(datagrams));
            serving.spawn(self.clone().serve_streams(streams));
        }
        while let Some(ended) = serving.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a part of the local name server failed");
            }
        }
    }

    /// The answer to `query`, if it is kept here.
    fn kept(&self, query: &Query) -> Option<Message> {
        self.cache.find(&query.key()).map(|found| self.noted(query.answer(&found), From::Cache))
    }

    /// The answer to `query`, in time for who waits for it.
    async fn answer(self: &Arc<Self>, query: Query) -> Message {
        if let Some(answer) = self.kept(&query) {
            return answer;
        }
        let mut asked = self.asked(&query);
        let found = match asked.wait_for(Option::is_some).await {
            Ok(found) => found.clone(),
            // Its task has failed, and said so.
            Err(_) => None,
        };
        let found = found.unwrap_or_else(|| failure(ResponseCode::ServFail, Reason::Other, "no answer"));
        self.noted(query.answer(&found), From::Asked)
    }

    /// Asks somebody, unless the same question is under way.
    fn asked(self: &Arc<Self>, query: &Query) -> watch::Receiver<Option<Message>> {
        let mut under_way = self.under_way();
        let key = query.key();
        if let Some(asked) = under_way.get(&key) {
            return asked.clone();
        }
        let (answered, asked) = watch::channel(None);
        under_way.insert(key.clone(), asked.clone());
        let (names, query) = (self.clone(), query.clone());
        self.local.tasks.spawn(async move {
            let place = UnderWay { names: &names, key: &key };
            let found = names.ask(&query).await;
            names.cache.keep(key.clone(), &found);
            drop(place);
            answered.send_replace(Some(found));
        });
        asked
    }

    async fn ask(&self, query: &Query) -> Message {
        if let Some(server) = Zone::of(&self.zones, query.question().name()) {
            return server.ask(query).await;
        }
        self.ask_a_gateway(query).await
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<Option<Message>>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question that is being asked, until it is dropped.
struct UnderWay<'a> {
    names: &'a Names,
    key: &'a Key,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.names.under_way().remove(self.key);
    }
}
