//! The upstream proxies of a gateway (`--upstream`): the parent proxies that it connects through, by HTTP CONNECT or
//! SOCKS5.
//!
//! Such a proxy resolves names itself, so this gateway cannot check the addresses behind them; [`super::dialer`] says
//! what it checks instead. Nothing is read beyond the proxy's reply: what follows it belongs to the tunnel.

mod connect;
mod exchange;
mod proxy;
mod socks;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::access::Rule;
use super::dial::{Addresses, Dialled, bounded, race};
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

/// How many connections to one destination may wait for the proxies at a time. A proxy that leads back to this gateway would
/// otherwise make one request take every socket: neither SOCKS nor a CONNECT says which nodes it has passed.
const MAX_WAITING: usize = 1024;

/// The upstream proxies, tried in this order, and the destinations that are reached without them.
#[derive(Default)]
pub struct Upstream {
    proxies: Vec<Parent>,
    except: Vec<Rule>,
    /// How many connections wait for the proxies, by destination.
    waiting: Mutex<HashMap<Target, usize>>,
}

/// A connection that waits for the proxies.
struct Waiting<'a> {
    upstream: &'a Upstream,
    target: &'a Target,
}

/// What to do about a proxy that requires a login, where none is configured and where one is.
const NO_LOGIN_HINT: &str = "give it as --upstream with USER:PASSWORD@ in front of the host";
const LOGIN_HINT: &str =
    "correct USER:PASSWORD@ in --upstream, where '@', ':' and '/' of a password are written %40, %3A and %2F";

/// The shortest time between two checks whether a proxy that rejected the login accepts it now. Each one counts there as
/// another wrong password, and many systems lock an account after a few.
const LOGIN_INTERVAL: Duration = Duration::from_secs(60);
/// The deadline for such a check.
const LOGIN_DEADLINE: Duration = Duration::from_secs(2);

/// One upstream proxy.
struct Parent {
    proxy: UpstreamProxy,
    login: Mutex<LoginState>,
    /// Why the proxy is not reached, as it was logged; `None` when it is.
    fault: Mutex<Option<String>>,
}

/// Whether the proxy accepts the login. Some proxies require one for some destinations only, so a destination that was
/// accepted before decides.
#[derive(Default)]
struct LoginState {
    /// The last destination that was connected to.
    accepted: Option<Target>,
    /// The destination for which the login was rejected. `None` once it is accepted.
    rejected: Option<Target>,
    /// When it was last checked, and whether the proxy then rejected the login.
    checked: Option<(Instant, bool)>,
}

impl LoginState {
    fn is_rejected(&self) -> bool {
        self.rejected.is_some() && self.checked.is_some_and(|(_, is_rejected)| is_rejected)
    }

    /// The destination to check the login with now, if a check is due.
    fn due(&mut self, now: Instant) -> Option<Target> {
        let is_recent = self.checked.is_some_and(|(checked, _)| now < checked + LOGIN_INTERVAL);
        let due = self.accepted.as_ref().or(self.rejected.as_ref());
        due.filter(|_| self.rejected.is_some() && !is_recent).cloned()
    }

    /// Notes the proxy's answer for `target`. `true` when it changes whether the login is accepted.
    fn note(&mut self, target: &Target, is_accepted: bool, now: Instant) -> bool {
        let was_rejected = self.rejected.is_some();
        let decides = self.accepted.as_ref().is_none_or(|accepted| accepted == target);
        if is_accepted {
            self.rejected = None;
        } else {
            self.rejected = Some(target.clone());
        }
        if is_accepted || decides {
            self.checked = Some((now, !is_accepted));
        }
        was_rejected == is_accepted
    }
}

/// Whether no upstream proxy was reached or accepted the login: then none of the servers can be reached.
pub(super) fn is_unreachable(failure: &Failure) -> bool {
    matches!((failure.kind, failure.side), (Kind::NetworkUnreachable | Kind::UpstreamLogin, Side::Gateway))
}

impl Upstream {
    /// Connects through `proxies`, except to destinations that a rule of `except` covers.
    pub fn new(proxies: Vec<UpstreamProxy>, except: Vec<Rule>) -> Self {
        let proxies = proxies.into_iter().map(Parent::new).collect();
        Self { proxies, except, waiting: Mutex::default() }
    }

    /// Whether connections to this target go through an upstream proxy.
    pub(super) fn carries(&self, target: &Target) -> bool {
        !self.proxies.is_empty() && !self.except.iter().any(|rule| rule.covers(target))
    }

    /// The proxies that were not reached when they were last tried, or that reject the login.
    pub(super) fn unreached(&self) -> Vec<Unreached> {
        let fault = |parent: &Parent| {
            let rejected = parent.login().is_rejected().then(|| match parent.proxy.login {
                Some(_) => "it does not accept the login".to_owned(),
                None => "it requires a login".to_owned(),
            });
            let reason = parent.fault().clone().or(rejected)?;
            Some(Unreached { server: format!("--upstream {}", parent.proxy), reason })
        };
        self.proxies.iter().filter_map(fault).collect()
    }

    /// Whether any proxy was reached and accepted the login when it was last used.
    pub(super) fn may_work(&self) -> bool {
        self.proxies.iter().any(|parent| parent.fault().is_none() && !parent.login().is_rejected())
    }

    /// Whether any proxy is reached and accepts the login; `None` when there is none. Logs those that fail.
    pub(super) async fn check(&self, resolver: &Resolver, own: &OwnAddresses) -> Option<bool> {
        let results = self.proxies.iter().map(async |parent| {
            let reached = reach(&parent.proxy.address, resolver, own).await;
            parent.note(&reached);
            match reached {
                Ok(dialled) => parent.accepts_login(dialled.stream).await,
                Err(_) => false,
            }
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
    ) -> Result<Dialled, Failure> {
        let until = Instant::now() + limit;
        let _waiting = self.wait(target)?;
        let none = "the gateway has no upstream proxy";
        let mut last = Failure::new(Kind::NetworkUnreachable, Side::Gateway, none);
        for parent in &self.proxies {
            let reached = timeout_at(until, reach(&parent.proxy.address, resolver, own)).await;
            let reached = reached.unwrap_or_else(|_late| Err("no answer".into()));
            parent.note(&reached);
            match reached {
                Ok(Dialled { stream, peer }) => match parent.connect(stream, target, until, limit).await {
                    // The next proxy may be tried: the destination has seen nothing yet.
                    Err(failure) if failure.kind == Kind::UpstreamLogin => last = failure,
                    outcome => return outcome.map(|stream| Dialled { stream, peer }),
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

    /// Counts a connection that waits for the proxies.
    fn wait<'a>(&'a self, target: &'a Target) -> Result<Waiting<'a>, Failure> {
        let mut waiting = self.waiting();
        let count = waiting.entry(target.clone()).or_default();
        if *count >= MAX_WAITING {
            let sentence = format!(
                "{MAX_WAITING} connections to {target} wait for the gateway's upstream proxy: it does not answer, or leads back to this \
                 gateway"
            );
            return Err(Failure::new(Kind::LimitReached, Side::Gateway, sentence));
        }
        *count += 1;
        Ok(Waiting { upstream: self, target })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Target, usize>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.upstream.waiting();
        if let Some(count) = waiting.get_mut(self.target) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(self.target);
            }
        }
    }
}

impl Parent {
    /// Logs once that the proxy is not reached, until it is reached again.
    fn note(&self, reached: &Result<Dialled, String>) {
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

    /// Whether the proxy at the other end of `stream` accepts the login, as far as is known. A proxy that rejected it is asked
    /// again, once in [`LOGIN_INTERVAL`].
    async fn accepts_login(&self, stream: TcpStream) -> bool {
        let due = self.login().due(Instant::now());
        if let Some(target) = due {
            let asked = timeout_at(Instant::now() + LOGIN_DEADLINE, self.request(&stream, &target)).await;
            self.note_answer(&target, asked.as_ref().ok());
        }
        !self.login().is_rejected()
    }

    /// Notes whether the proxy accepted the login for `target`; `None` when it did not answer.
    fn note_answer(&self, target: &Target, answer: Option<&Result<(), UpstreamRefusal>>) {
        let (proxy, mut login) = (&self.proxy, self.login());
        let is_accepted = match answer {
            Some(Ok(()) | Err(UpstreamRefusal::Destination(_))) => true,
            Some(Err(UpstreamRefusal::Login)) => false,
            Some(Err(UpstreamRefusal::Broken(_))) | None => return,
        };
        if login.note(target, is_accepted, Instant::now()) {
            let about = proxy.to_string();
            match is_accepted {
                true => limited!(info, about, %proxy, "the upstream proxy takes this gateway's login again"),
                false => {
                    let hint = self.login_hint();
                    limited!(warn, about, %proxy, hint, "the upstream proxy does not take this gateway's login");
                }
            }
        }
        if answer.is_some_and(Result::is_ok) {
            login.accepted = Some(target.clone());
        }
    }

    fn login_hint(&self) -> &'static str {
        if self.proxy.login.is_some() { LOGIN_HINT } else { NO_LOGIN_HINT }
    }

    fn login(&self) -> MutexGuard<'_, LoginState> {
        self.login.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) -> MutexGuard<'_, Option<String>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A TCP connection to the upstream proxy at `address`.
async fn reach(address: &Target, resolver: &Resolver, own: &OwnAddresses) -> Result<Dialled, String> {
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
        Self { proxy, login: Mutex::default(), fault: Mutex::default() }
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
        let answer = timeout_at(until, self.request(&stream, target)).await;
        self.note_answer(target, answer.as_ref().ok());
        match answer {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(refusal)) => Err(self.failure(target, refusal)),
            Err(_) => {
                let (proxy, seconds) = (&self.proxy, limit.as_secs());
                let sentence = format!("{proxy} did not connect to {target} within {seconds} s");
                Err(Failure::new(Kind::ConnectTimeout, Side::Server, sentence))
            }
        }
    }

    /// Asks the proxy at the other end of `stream` to connect to `target`.
    async fn request(&self, stream: &TcpStream, target: &Target) -> Result<(), UpstreamRefusal> {
        let login = self.proxy.login.as_ref();
        match self.proxy.dialect {
            Dialect::Http => connect::request(stream, target, login).await,
            Dialect::Socks5 => socks::request(stream, target, login).await,
        }
    }

    /// The failure that an app is told.
    fn failure(&self, target: &Target, refusal: UpstreamRefusal) -> Failure {
        let proxy = &self.proxy;
        match refusal {
            UpstreamRefusal::Login => {
                let (what, hint) = match proxy.login {
                    Some(_) => ("does not take its login", LOGIN_HINT),
                    None => ("requires a login", NO_LOGIN_HINT),
                };
                let sentence = format!("the gateway's upstream proxy {proxy} {what}: on the gateway, {hint}");
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
