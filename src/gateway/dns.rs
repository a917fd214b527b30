//! Names to addresses, at the gateway.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::time::timeout;

use crate::failure::{Failure, Kind, Side};

/// The deadline of one name, with all retries.
const DEADLINE: Duration = Duration::from_secs(10);
/// One question to one name server.
const ATTEMPT: Duration = Duration::from_secs(3);
/// Answers kept.
const CACHE: u64 = 4096;

/// What the resolver is made from.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// Between two looks at whether they have changed: a machine that moves to another network gets other name servers.
const LOOK: Duration = Duration::from_secs(2);

/// The machine's resolver, with a cache. It follows the machine's configuration.
pub struct Resolver(Mutex<Current>);

struct Current {
    resolver: TokioResolver,
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
        Ok(Self(Mutex::new(Current { resolver: Self::build()?, changed, looked })))
    }

    /// Reads the configuration again, changed or not. Where that fails the old one goes on.
    pub fn reload(&self) {
        self.lock().reload();
    }

    fn current(&self) -> TokioResolver {
        let mut current = self.lock();
        if current.looked.elapsed() >= LOOK {
            current.looked = Instant::now();
            if current.changed != FILES.map(changed) {
                current.reload();
            }
        }
        current.resolver.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn build() -> Result<TokioResolver, String> {
        let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "no usable resolver configuration: only /etc/hosts and addresses work");
            let none = ResolverConfig::from_parts(None, vec![], vec![]);
            TokioResolver::builder_with_config(none, TokioRuntimeProvider::default())
        });
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.timeout = ATTEMPT;
        options.attempts = 2;
        options.cache_size = CACHE;
        builder.build().map_err(|error| error.to_string())
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
        match timeout(DEADLINE, self.current().lookup_ip(name)).await {
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
}

impl Current {
    fn reload(&mut self) {
        self.changed = FILES.map(changed);
        match Resolver::build() {
            Ok(resolver) => {
                self.resolver = resolver;
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
