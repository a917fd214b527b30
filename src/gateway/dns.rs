//! Names to addresses, at the gateway.

use std::net::IpAddr;
use std::time::Duration;

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

/// The machine's resolver, with a cache.
#[derive(Clone)]
pub struct Resolver {
    resolver: TokioResolver,
}

impl Resolver {
    /// A resolver as /etc/resolv.conf and /etc/hosts say. Without a readable configuration it knows
    /// /etc/hosts only, and says so.
    ///
    /// # Errors
    /// A sentence, when no resolver can be made at all.
    pub fn system() -> Result<Self, String> {
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
        let resolver = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { resolver })
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
        match timeout(DEADLINE, self.resolver.lookup_ip(name)).await {
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
