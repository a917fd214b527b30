//! Names to addresses, at the gateway.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

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

/// The deadline of one name, with all retries.
const DEADLINE: Duration = Duration::from_secs(10);
/// One question to one name server.
const ATTEMPT: Duration = Duration::from_secs(3);
/// Answers kept, and so many bytes of them.
const CACHE: u16 = 4096;
const CACHE_BYTES: usize = 4 << 20;
/// Where /etc/resolv.conf means name servers to be.
const PORT: u16 = 53;
/// How long what /etc/hosts says is good, in seconds: it may be another file at any time.
const HOSTS_TTL: u32 = 5;

/// What the resolver is made from.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// Between two looks at whether they have changed: a machine that moves to another network gets other name servers.
const LOOK: Duration = Duration::from_secs(2);

/// What is made from the configuration.
#[derive(Clone)]
struct Parts {
    /// For addresses to dial.
    resolver: hickory_resolver::Resolver<Runtime>,
    /// For queries that are answered as they are.
    servers: NameServers,
    hosts: Arc<Hosts>,
    cache: Arc<Cache>,
}

/// The machine's resolver, with a cache. It follows the machine's configuration.
pub struct Resolver(Mutex<Current>);

struct Current {
    parts: Parts,
    /// Name servers that are this node itself: to ask them would be to ask for ever.
    own: Vec<SocketAddr>,
    changed: [Option<SystemTime>; 2],
    looked: Instant,
}

impl Resolver {
    /// A resolver as /etc/resolv.conf and /etc/hosts say. Without a readable configuration it knows
    /// /etc/hosts only, and says so.
    ///
    /// # Errors
    /// A sentence, when no resolver can be made at all.
    pub fn system() -> Result<Self, String> {
        let (changed, looked) = (FILES.map(changed), Instant::now());
        let (parts, own) = (Parts::system(&[])?, Vec::new());
        Ok(Self(Mutex::new(Current { parts, own, changed, looked })))
    }

    /// Reads the configuration again, changed or not. Where that fails the old one goes on.
    pub fn reload(&self) {
        self.lock().reload();
    }

    /// Says that this node answers queries at `address`: it is no name server to ask.
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
        if current.looked.elapsed() >= LOOK {
            current.looked = Instant::now();
            if current.changed != FILES.map(changed) {
                current.reload();
            }
        }
        current.parts.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses of `name`, in the resolver's order, at least one.
    ///
    /// # Errors
    /// [`Kind::NameNotFound`] when there is none, [`Kind::DnsTimeout`] when that cannot be known now.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        let late = || {
            let sentence = format!("the gateway's name servers did not answer for {name}");
            Failure::new(Kind::DnsTimeout, Side::Server, sentence)
        };
        let none = || {
            Failure::new(Kind::NameNotFound, Side::Server, format!("the gateway cannot find the name {name}"))
        };
        match timeout(DEADLINE, self.current().resolver.lookup_ip(name)).await {
            Ok(Ok(found)) => {
                let addresses: Vec<_> = found.iter().collect();
                if addresses.is_empty() { Err(none()) } else { Ok(addresses) }
            }
            Ok(Err(error)) if error.is_no_records_found() || error.is_nx_domain() => Err(none()),
            Ok(Err(error)) => {
                tracing::debug!(name, %error, "name not resolved");
                Err(late())
            }
            Err(_) => Err(late()),
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
        options.cache_size = CACHE.into();
        let is_own = |ip: IpAddr| own.iter().any(|address| address.ip() == ip);
        let (domain, search, mut servers) = config.into_parts();
        let all = servers.len();
        servers.retain(|server| !is_own(server.ip));
        if servers.is_empty() && all > 0 {
            tracing::warn!(
                "the only name server of this machine is this node: as a gateway it resolves nothing"
            );
        }
        config = ResolverConfig::from_parts(domain, search, servers.clone());
        let mut builder = hickory_resolver::Resolver::builder_with_config(config, Runtime::default());
        *builder.options_mut() = options.clone();
        Ok(Self {
            resolver: builder.build().map_err(|error| error.to_string())?,
            servers: NameServers::new(servers, options)?,
            hosts: Arc::new(Hosts::from_system().unwrap_or_default()),
            cache: Arc::new(Cache::new(CACHE.into(), CACHE_BYTES)),
        })
    }
}

/// What /etc/hosts says. A name that it has an address for has none of the other family but those it says: to ask for
/// that elsewhere could tell that the name does not exist.
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
        self.changed = FILES.map(changed);
        match Parts::system(&self.own) {
            Ok(parts) => {
                self.parts = parts;
                tracing::info!("resolver configuration read again");
            }
            Err(error) => tracing::warn!(error, "resolver configuration not read, the old one goes on"),
        }
    }
}

/// When the file was changed last; none where there is no such file.
fn changed(file: &str) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}
