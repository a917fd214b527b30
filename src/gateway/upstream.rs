//! The upstream proxies of a gateway (`--upstream`): the parent proxies that it connects through, by HTTP CONNECT or
//! SOCKS5.
//!
//! Such a proxy resolves names itself, so this gateway cannot check the addresses behind them; [`super::egress`] says
//! what it checks instead. Nothing is read beyond the proxy's reply: what follows it belongs to the tunnel.

mod connect;
mod exchange;
mod proxy;
mod socks;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::access::Rule;
use super::dial::{Addresses, bounded, race};
use super::dns::{Found, Resolver};
use crate::failure::{Failure, Kind, Side};
use crate::limited;
use crate::own_addresses::OwnAddresses;
use crate::telemetry::snapshot::Unreached;
use crate::wire::target::{Host, Target};
use exchange::UpstreamRefusal;
use proxy::Dialect;
pub use proxy::{ProxyError, UpstreamProxy};

/// The deadline for the TCP connection to one proxy; after it the next one is tried. Shorter than a probe's deadline,
/// so that a probe reaches the second proxy.
const CONNECT_DEADLINE: Duration = Duration::from_millis(1500);

/// The upstream proxies, tried in this order, and the destinations that are reached without them.
#[derive(Default)]
pub struct Upstream {
    proxies: Vec<Parent>,
    except: Vec<Rule>,
}

/// One upstream proxy.
struct Parent {
    proxy: UpstreamProxy,
    /// Whether it was logged that the proxy rejects the login; reset when it accepts it.
    login_failure_logged: AtomicBool,
    /// Why the proxy is not reached, as it was logged; `None` when it is.
    fault: Mutex<Option<String>>,
}

/// Whether no upstream proxy was reached or accepted the login: then none of the servers can be reached.
pub(super) fn is_unreachable(failure: &Failure) -> bool {
    matches!((failure.kind, failure.side), (Kind::NetworkUnreachable | Kind::UpstreamLogin, Side::Gateway))
}

impl Upstream {
    /// Connects through `proxies`, except to destinations that a rule of `except` covers.
    pub fn new(proxies: Vec<UpstreamProxy>, except: Vec<Rule>) -> Self {
        Self { proxies: proxies.into_iter().map(Parent::new).collect(), except }
    }

    /// Whether connections to this target go through an upstream proxy.
    pub(super) fn carries(&self, target: &Target) -> bool {
        !self.proxies.is_empty() && !self.except.iter().any(|rule| rule.covers(target))
    }

    /// The proxies that were not reached when they were last tried.
    pub(super) fn unreached(&self) -> Vec<Unreached> {
        let fault = |parent: &Parent| {
            let reason = parent.fault().clone()?;
            Some(Unreached { server: format!("--upstream {}", parent.proxy), reason })
        };
        self.proxies.iter().filter_map(fault).collect()
    }

    /// Whether any proxy is reached; `None` when there is none. Logs which are not.
    pub(super) async fn check(&self, resolver: &Resolver, own: &OwnAddresses) -> Option<bool> {
        let results = self.proxies.iter().map(async |parent| {
            let reached = reach(&parent.proxy.address, resolver, own).await;
            parent.note(&reached);
            reached.is_ok()
        });
        let results = join_all(results).await;
        (!results.is_empty()).then(|| results.contains(&true))
    }

    /// Connects through the first proxy that can be reached and accepts the login, within `limit` in all.
    pub(super) async fn connect(
        &self,
        target: &Target,
        limit: Duration,
        resolver: &Resolver,
        own: &OwnAddresses,
    ) -> Result<TcpStream, Failure> {
        let until = Instant::now() + limit;
        let none = "the gateway has no upstream proxy";
        let mut last = Failure::new(Kind::NetworkUnreachable, Side::Gateway, none);
        for parent in &self.proxies {
            let reached = timeout_at(until, reach(&parent.proxy.address, resolver, own)).await;
            let reached = reached.unwrap_or_else(|_late| Err("no answer".into()));
            parent.note(&reached);
            match reached {
                Ok(stream) => match parent.connect(stream, target, until, limit).await {
                    // The next proxy may be tried: the destination has seen nothing yet.
                    Err(failure) if failure.kind == Kind::UpstreamLogin => last = failure,
                    outcome => return outcome,
                },
                Err(why) => {
                    let proxy = &parent.proxy;
                    let sentence = format!("the gateway cannot reach its upstream proxy {proxy}: {why}");
                    last = Failure::new(Kind::NetworkUnreachable, Side::Gateway, sentence);
                }
            }
        }
        Err(last)
    }
}

impl Parent {
    /// Logs once that the proxy is not reached, until it is reached again.
    fn note(&self, reached: &Result<TcpStream, String>) {
        let (proxy, fault) = (&self.proxy, reached.as_ref().err().cloned());
        let before = std::mem::replace(&mut *self.fault(), fault);
        match (reached, before) {
            (Err(why), None) => {
                limited!(warn, proxy.to_string(), %proxy, why, "the proxy of --upstream is not reached")
            }
            (Ok(_), Some(_)) => {
                limited!(info, proxy.to_string(), %proxy, "the proxy of --upstream is reached again")
            }
            _ => {}
        }
    }

    fn fault(&self) -> MutexGuard<'_, Option<String>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A TCP connection to the upstream proxy at `address`.
async fn reach(address: &Target, resolver: &Resolver, own: &OwnAddresses) -> Result<TcpStream, String> {
    let Found { known, later } = match &address.host {
        Host::Address(ip) => Found::from(vec![*ip]),
        Host::Name(name) => resolver.find(name).await.map_err(|failure| failure.sentence)?,
    };
    let with_port = |found: Vec<IpAddr>| -> Vec<_> {
        bounded(found).into_iter().map(|ip| SocketAddr::new(ip, address.port)).collect()
    };
    let known = with_port(known);
    if known.iter().any(|address| own.is_this_node(*address)) {
        return Err("it is this node itself".into());
    }
    let later = later.map(|later| -> BoxFuture<'_, _> {
        Box::pin(async move {
            let mut others = with_port(later.await);
            others.retain(|address| !own.is_this_node(*address));
            others
        })
    });
    race(Addresses { known, later }, CONNECT_DEADLINE).await.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => "no answer".to_owned(),
        _ => error.to_string(),
    })
}

impl Parent {
    fn new(proxy: UpstreamProxy) -> Self {
        Self { proxy, login_failure_logged: AtomicBool::default(), fault: Mutex::default() }
    }

    /// Asks the proxy at the other end of `stream` to connect to `target` by `until`, when `limit` has passed.
    ///
    /// # Errors
    /// What the proxy reports of the destination has [`Side::Server`]; a fault of the proxy has [`Side::Gateway`].
    async fn connect(
        &self,
        stream: TcpStream,
        target: &Target,
        until: Instant,
        limit: Duration,
    ) -> Result<TcpStream, Failure> {
        let login = self.proxy.login.as_ref();
        let exchange = async {
            match self.proxy.dialect {
                Dialect::Http => connect::request(&stream, target, login).await,
                Dialect::Socks5 => socks::request(&stream, target, login).await,
            }
        };
        match timeout_at(until, exchange).await {
            Ok(Ok(())) => {
                self.login_failure_logged.store(false, Relaxed);
                Ok(stream)
            }
            Ok(Err(refusal)) => Err(self.failure(target, refusal)),
            Err(_) => {
                let (proxy, seconds) = (&self.proxy, limit.as_secs());
                let sentence = format!("{target} was not connected to by {proxy} within {seconds} s");
                Err(Failure::new(Kind::ConnectTimeout, Side::Server, sentence))
            }
        }
    }

    /// The failure that an app is told. A rejected login is logged once, until the proxy accepts it again.
    fn failure(&self, target: &Target, refusal: UpstreamRefusal) -> Failure {
        let proxy = &self.proxy;
        match refusal {
            UpstreamRefusal::Login => {
                let hint = "give it as --upstream with USER:PASSWORD@ in front of the host";
                if !self.login_failure_logged.swap(true, Relaxed) {
                    let about = proxy.to_string();
                    limited!(warn, about, %proxy, hint, "the upstream proxy does not take this gateway's login");
                }
                let sentence =
                    format!("the gateway's upstream proxy {proxy} does not take its login: {hint} there");
                Failure::new(Kind::UpstreamLogin, Side::Gateway, sentence)
            }
            UpstreamRefusal::Broken(why) => {
                let sentence =
                    format!("the gateway's upstream proxy {proxy} does not answer as a proxy: {why}");
                Failure::new(Kind::BadResponse, Side::Gateway, sentence)
            }
            UpstreamRefusal::Destination(kind) => {
                let what = match kind {
                    Kind::NameForbidden => "is refused by",
                    Kind::NameNotFound => "is not found by",
                    Kind::Refused => "refused the connection, says",
                    Kind::ConnectTimeout => "did not answer, says",
                    _ => "cannot be connected to by",
                };
                let side = if kind == Kind::NameForbidden { Side::Gateway } else { Side::Server };
                Failure::new(kind, side, format!("{target} {what} the gateway's upstream proxy {proxy}"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
