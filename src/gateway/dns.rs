//! The gateway's resolver: names to addresses, and answers to DNS queries, from the sources that this machine's C library
//! uses, in the same order.

mod c_library;
mod lookup;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use tokio::time::timeout;

use self::c_library::CLibrary;
pub(super) use self::lookup::Found;
use self::lookup::{DEADLINE, Lookup, NoAddress};
use crate::dns::cache::Cache;
use crate::dns::conf::{Conf, PORT};
use crate::dns::hosts::Hosts;
use crate::dns::servers::{NameServers, Unanswered};
use crate::dns::switch::{self, Service, Source};
use crate::failure::{Failure, Kind, Side};
use crate::mark;
use crate::sys::resolver;
use crate::wire::dns::{Query, ResponseCode};
use crate::wire::target::without_dot;

/// How much longer to wait for the second address family when both are wanted.
const PATIENCE: Duration = Duration::from_secs(1);
/// Maximum answers in the cache, and their size in bytes.
const CACHE_ENTRIES: usize = 4096;
const CACHE_BYTES: usize = 4 << 20;

/// Interval between two checks of the machine's configuration, which changes when it moves to another network.
const RELOAD_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// What is built from the machine's configuration.
#[derive(Clone)]
struct Parts {
    conf: Arc<Conf>,
    servers: NameServers,
    hosts: Arc<Hosts>,
    sources: Arc<[Source]>,
    /// Whether this node answers queries of this machine.
    answers_here: bool,
    cache: Arc<Cache>,
    c_library: CLibrary,
}

/// The machine's resolver, with a cache. It follows the machine's configuration.
pub struct Resolver(Mutex<Current>);

struct Current {
    parts: Parts,
    /// Addresses at which this node itself answers queries: asking them would loop.
    own: Vec<SocketAddr>,
    /// Whether others rely on this resolver.
    serves: bool,
    /// The version of the configuration that was read.
    version: resolver::Version,
    checked: Instant,
}

impl Resolver {
    /// A resolver as configured by /etc/resolv.conf, /etc/hosts and /etc/nsswitch.conf.
    pub fn system() -> Self {
        let (version, checked) = (resolver::version(), Instant::now());
        let (parts, own) = (Parts::system(&[], true), Vec::new());
        Self(Mutex::new(Current { parts, own, serves: true, version, checked }))
    }

    /// Reads the configuration again, changed or not.
    pub fn reload(&self) {
        self.lock().reload();
    }

    /// Excludes `address`, where this node itself answers queries, from the name servers. Only a node that `serves` needs another
    /// one: elsewhere the gateway resolves the names.
    pub fn avoid(&self, address: SocketAddr, serves: bool) {
        if address.port() != PORT {
            return;
        }
        let mut current = self.lock();
        current.serves = serves;
        current.own.push(address);
        current.reload();
    }

    fn current(&self) -> Parts {
        let mut current = self.lock();
        if current.checked.elapsed() >= RELOAD_CHECK_INTERVAL {
            current.checked = Instant::now();
            if current.version != resolver::version() {
                current.reload();
            }
        }
        current.parts.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses of `name`: at least one that is known. Those of the other family may follow.
    ///
    /// # Errors
    /// [`Kind::NameNotFound`] when it has no address, [`Kind::DnsTimeout`] when the name servers did not answer,
    /// [`Kind::DnsFailed`] when they answered that they cannot or will not.
    pub(super) async fn find(&self, name: &str) -> Result<Found, Failure> {
        let found = timeout(DEADLINE, self.current().find(name)).await;
        found.unwrap_or(Err(NoAddress::Unanswered(Unanswered::Silent))).map_err(|why| {
            tracing::debug!(name, ?why, "name not resolved");
            match why {
                NoAddress::NotFound => {
                    let sentence = format!("the gateway cannot find the name {name}");
                    Failure::new(Kind::NameNotFound, Side::Server, sentence)
                }
                NoAddress::Unanswered(Unanswered::NoServer) => {
                    let sentence = format!("the gateway has no name server to ask for {name}");
                    Failure::new(Kind::DnsFailed, Side::Server, sentence)
                }
                NoAddress::Unanswered(Unanswered::Silent) => {
                    let sentence = format!("the gateway's name servers did not answer for {name}");
                    Failure::new(Kind::DnsTimeout, Side::Server, sentence)
                }
                NoAddress::Unanswered(why @ Unanswered::Unreachable { .. }) => {
                    let sentence = format!("the gateway's name servers did not answer for {name}: {why}");
                    Failure::new(Kind::DnsTimeout, Side::Server, sentence)
                }
                NoAddress::Failed(ResponseCode::Refused) => {
                    let sentence = format!("the gateway's name servers refused to answer for {name}");
                    Failure::new(Kind::DnsFailed, Side::Server, sentence)
                }
                NoAddress::Failed(code) => {
                    let code = crate::wire::dns::word(code).to_ascii_uppercase();
                    let sentence = format!("the gateway's name servers answered {code} for {name}");
                    Failure::new(Kind::DnsFailed, Side::Server, sentence)
                }
            }
        })
    }

    /// The addresses of `name`; at least one. If the name servers take more than a second longer for one family, only those of
    /// the other.
    ///
    /// # Errors
    /// [`Kind::NameNotFound`], [`Kind::DnsTimeout`] or [`Kind::DnsFailed`].
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        let Found { mut known, later } = self.find(name).await?;
        if let Some(later) = later {
            known.extend(timeout(PATIENCE, later).await.unwrap_or_default());
        }
        Ok(known)
    }

    /// The answer to `query`: from /etc/hosts, from the cache, or from the name servers.
    pub async fn answer(&self, query: &Query) -> Message {
        let parts = self.current();
        if let Some(answer) = parts.hosts.answer(query.question()) {
            return answer;
        }
        let key = query.key();
        if let Some(answer) = parts.cache.find(&key) {
            return answer;
        }
        let answer = parts.servers.ask(query).await;
        parts.cache.keep(key, &answer);
        answer
    }
}

impl Parts {
    fn system(own: &[SocketAddr], serves: bool) -> Self {
        let mut conf = Conf::system();
        let all = conf.servers.len();
        conf.servers.retain(|server| !own.contains(server));
        if conf.servers.is_empty() && all > 0 && serves {
            tracing::warn!(
                "/etc/resolv.conf names no name server but this node's own (--dns): as a gateway it cannot resolve names for clients"
            );
        } else if conf.servers.is_empty() && all > 0 {
            tracing::info!(
                "/etc/resolv.conf names no name server but this node's own (--dns): gateways resolve the names"
            );
        }
        Self {
            servers: NameServers::new(&conf),
            conf: Arc::new(conf),
            hosts: Arc::new(Hosts::system()),
            sources: switch::system().into(),
            answers_here: !own.is_empty(),
            cache: Arc::new(Cache::new(CACHE_ENTRIES, CACHE_BYTES)),
            c_library: CLibrary::default(),
        }
    }

    /// Asks the sources in order until one knows the name. Sources that only the C library knows come last, except for names that
    /// name servers must not be asked for. So if such a source is slow, queries for nonexistent names may take all threads of the
    /// C library, but never delay a name in DNS.
    async fn find(&self, name: &str) -> Result<Found, NoAddress> {
        let (mut last, plain) = (NoAddress::NotFound, without_dot(name));
        let is_other = |source: &&Source| matches!(source.service, Service::Other(_));
        // Where this node answers the machine's questions, or redirects its connections, the C library would ask this node.
        let has_other = self.sources.iter().any(|source| is_other(&source));
        let has_other = has_other && !self.answers_here && !mark::is_marking();
        let other_first = has_other && self.sources.iter().any(|source| source.service.has_precedence(plain));
        if other_first && let Ok(found) = self.c_library.find(name).await {
            return Ok(found.into());
        }
        for source in self.sources.iter().filter(|source| !is_other(source)) {
            let found = match source.service {
                Service::Files => {
                    self.hosts.find(name).map(|found| found.to_vec().into()).ok_or(NoAddress::NotFound)
                }
                // It is never asked for in DNS (RFC 6761 §6.3).
                _ if plain == "localhost" || plain.ends_with(".localhost") => Ok(lookup::localhost().into()),
                _ => Lookup { conf: &self.conf, servers: &self.servers, cache: &self.cache }.find(name).await,
            };
            match found {
                Ok(found) => return Ok(found),
                Err(NoAddress::NotFound) if source.ends_if_unknown => break,
                Err(NoAddress::NotFound) => {}
                Err(why) => {
                    last = why;
                    if source.ends_if_unavailable {
                        break;
                    }
                }
            }
        }
        if has_other && !other_first {
            return self.c_library.find(name).await.map(Found::from).map_err(|_unknown| last);
        }
        Err(last)
    }
}

impl Current {
    fn reload(&mut self) {
        self.version = resolver::version();
        self.parts = Parts::system(&self.own, self.serves);
        tracing::info!("resolver configuration read again");
    }
}
