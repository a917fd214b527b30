//! The gateway's resolver: names to addresses, and answers to DNS queries.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::proto::op::{self, Message, OpCode};
use hickory_resolver::proto::rr::RecordType;
use hickory_resolver::{Hosts, system_conf};
use tokio::time::timeout;

use crate::dns::cache::Cache;
use crate::dns::runtime::Runtime;
use crate::dns::servers::NameServers;
use crate::failure::{Failure, Kind, Side};
use crate::wire::dns::Query;

/// The deadline for resolving one name, with all retries.
const DEADLINE: Duration = Duration::from_secs(10);
/// The deadline of one query to one name server.
const ATTEMPT: Duration = Duration::from_secs(3);
/// Maximum answers in the cache, and their size in bytes.
const CACHE_ENTRIES: u16 = 4096;
const CACHE_BYTES: usize = 4 << 20;
/// The port of the name servers in /etc/resolv.conf.
const PORT: u16 = 53;
/// The time to live of answers from /etc/hosts, in seconds: the file may change at any time.
const HOSTS_TTL: u32 = 5;

/// The files that configure the resolver.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// Interval between two checks of whether they changed: a machine that moves to another network gets other name servers.
const RELOAD_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// What is built from the machine's configuration.
#[derive(Clone)]
struct Parts {
    /// Resolves names to addresses to dial.
    resolver: hickory_resolver::Resolver<Runtime>,
    /// Answers queries that clients forward.
    servers: NameServers,
    hosts: Arc<Hosts>,
    cache: Arc<Cache>,
}

/// The addresses of a name.
pub(super) struct Found {
    /// Those that are known.
    pub(super) known: Vec<IpAddr>,
    /// Those of the other family, for which a name server has not answered yet (RFC 8305 §3).
    pub(super) later: Option<BoxFuture<'static, Vec<IpAddr>>>,
}

impl From<Vec<IpAddr>> for Found {
    fn from(known: Vec<IpAddr>) -> Self {
        Self { known, later: None }
    }
}

/// The machine's resolver, with a cache. It follows the machine's configuration.
pub struct Resolver(Mutex<Current>);

struct Current {
    parts: Parts,
    /// Addresses at which this node itself answers queries: asking them would loop.
    own: Vec<SocketAddr>,
    /// The modification times of [`FILES`] when they were read.
    modified: [Option<SystemTime>; 2],
    checked: Instant,
}

impl Resolver {
    /// A resolver as configured by /etc/resolv.conf and /etc/hosts. Without a readable /etc/resolv.conf it uses /etc/hosts
    /// alone, and logs that.
    ///
    /// # Errors
    /// A sentence, when no resolver can be built at all.
    pub fn system() -> Result<Self, String> {
        let (modified, checked) = (FILES.map(modification_time), Instant::now());
        let (parts, own) = (Parts::system(&[])?, Vec::new());
        Ok(Self(Mutex::new(Current { parts, own, modified, checked })))
    }

    /// Reads the configuration again, changed or not. If that fails, the old one stays in use.
    pub fn reload(&self) {
        self.lock().reload();
    }

    /// Excludes `address`, where this node itself answers queries, from the name servers.
    pub fn avoid(&self, address: SocketAddr) {
        if address.port() != PORT {
            return;
        }
        let mut current = self.lock();
        current.own.push(address);
        current.reload();
    }

    fn current(&self) -> Parts {
        let mut current = self.lock();
        if current.checked.elapsed() >= RELOAD_CHECK_INTERVAL {
            current.checked = Instant::now();
            if current.modified != FILES.map(modification_time) {
                current.reload();
            }
        }
        current.parts.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses of `name`.
    ///
    /// # Errors
    /// As for [`Resolver::resolve`].
    pub(super) async fn find(&self, name: &str) -> Result<Found, Failure> {
        self.resolve(name).await.map(Found::from)
    }

    /// The addresses of `name`; at least one.
    ///
    /// # Errors
    /// [`Kind::NameNotFound`] when it has no address, [`Kind::DnsTimeout`] when the name servers did not answer.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        let no_answer = || {
            let sentence = format!("the gateway's name servers did not answer for {name}");
            Failure::new(Kind::DnsTimeout, Side::Server, sentence)
        };
        let not_found = || {
            Failure::new(Kind::NameNotFound, Side::Server, format!("the gateway cannot find the name {name}"))
        };
        match timeout(DEADLINE, self.current().resolver.lookup_ip(name)).await {
            Ok(Ok(found)) => {
                let addresses: Vec<_> = found.iter().collect();
                if addresses.is_empty() { Err(not_found()) } else { Ok(addresses) }
            }
            Ok(Err(error)) if error.is_no_records_found() || error.is_nx_domain() => Err(not_found()),
            Ok(Err(error)) => {
                tracing::debug!(name, %error, "name not resolved");
                Err(no_answer())
            }
            Err(_) => Err(no_answer()),
        }
    }

    /// The answer to `query`: from /etc/hosts, from the cache, or from the name servers.
    pub async fn answer(&self, query: &Query) -> Message {
        let parts = self.current();
        if let Some(answer) = from_hosts(&parts.hosts, query.question()) {
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
    fn system(own: &[SocketAddr]) -> Result<Self, String> {
        let (mut config, mut options) = system_conf::read_system_conf().unwrap_or_else(|error| {
            tracing::warn!(%error, "no usable resolver configuration: only /etc/hosts and addresses work");
            (ResolverConfig::from_parts(None, vec![], vec![]), ResolverOpts::default())
        });
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.timeout = ATTEMPT;
        options.attempts = 2;
        options.cache_size = CACHE_ENTRIES.into();
        let is_own = |ip: IpAddr| own.iter().any(|address| address.ip() == ip);
        let (domain, search, mut servers) = config.into_parts();
        let all = servers.len();
        servers.retain(|server| !is_own(server.ip));
        if servers.is_empty() && all > 0 {
            tracing::warn!(
                "the only name server of this machine is this node itself: as a gateway it resolves no names"
            );
        }
        config = ResolverConfig::from_parts(domain, search, servers.clone());
        let mut builder = hickory_resolver::Resolver::builder_with_config(config, Runtime::default());
        *builder.options_mut() = options.clone();
        Ok(Self {
            resolver: builder.build().map_err(|error| error.to_string())?,
            servers: NameServers::new(servers, options)?,
            hosts: Arc::new(Hosts::from_system().unwrap_or_default()),
            cache: Arc::new(Cache::new(CACHE_ENTRIES.into(), CACHE_BYTES)),
        })
    }
}

/// The answer from /etc/hosts, if the name is in it. A name with addresses of one family there has none of the other: a
/// name server asked for those could answer that the name does not exist.
fn from_hosts(hosts: &Hosts, question: &op::Query) -> Option<Message> {
    let of = |kind| hosts.lookup_static_host(&op::Query::query(question.name().clone(), kind));
    let answers = match (of(question.query_type()), question.query_type()) {
        (Some(found), _) => found.answers().to_vec(),
        (None, RecordType::A) => of(RecordType::AAAA).map(|_| Vec::new())?,
        (None, RecordType::AAAA) => of(RecordType::A).map(|_| Vec::new())?,
        _ => return None,
    };
    let mut message = Message::response(0, OpCode::Query);
    message.queries = vec![question.clone()];
    message.answers = answers;
    message.answers.iter_mut().for_each(|record| record.ttl = HOSTS_TTL);
    Some(message)
}

impl Current {
    fn reload(&mut self) {
        self.modified = FILES.map(modification_time);
        match Parts::system(&self.own) {
            Ok(parts) => {
                self.parts = parts;
                tracing::info!("resolver configuration read again");
            }
            Err(error) => {
                tracing::warn!(error, "cannot read the resolver configuration, the old one stays in use")
            }
        }
    }
}

/// When the file was last modified; `None` when there is no such file.
fn modification_time(file: &str) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}
