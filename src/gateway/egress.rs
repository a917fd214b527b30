//! From a target to a connection: judge, resolve, judge again, dial. Behind another proxy that one resolves and dials;
//! then names are judged by the rules that name them, and addresses where they were asked for as such.

mod upstream;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::access::Access;
use super::dns::Resolver;
use crate::failure::{Failure, Kind, Side};
use crate::mark;
use crate::net;
use crate::own::Own;
use crate::wire::target::{Host, Target};
use upstream::Upstream;

/// Connection attempts to one server start so far apart (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The most addresses of one name that are tried.
const MOST_ADDRESSES: usize = 16;

/// What became of a connection to one of the group's servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Which of the servers, counted from 0 in the order in which they are configured.
    pub server: usize,
    /// It was reached.
    pub reached: bool,
}

/// Successes that follow one another are told so often: a result wakes another thread.
const RETOLD: Duration = Duration::from_millis(500);

/// The way out of this machine.
pub struct Egress {
    terms: RwLock<Arc<Terms>>,
    resolver: Resolver,
    dials: mpsc::Sender<Dial>,
    own: Arc<Own>,
    upstream: RwLock<Arc<Upstream>>,
}

/// What a reload changes; a connection is made under the terms of its beginning.
struct Terms {
    access: Access,
    connect_timeout: Duration,
    servers: Vec<Server>,
}

struct Server {
    target: Target,
    /// When a success was told, unless a failure was told since.
    told: Mutex<Option<Instant>>,
}

impl Terms {
    fn new(access: Access, connect_timeout: Duration, servers: Vec<Target>) -> Self {
        let servers = servers.into_iter().map(|target| Server { target, told: Mutex::default() }).collect();
        Self { access, connect_timeout, servers }
    }
}

impl Server {
    /// Whether this result is to be told now.
    fn is_news(&self, reached: bool, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if reached && told.is_some_and(|told| now < told + RETOLD) {
            return false;
        }
        *told = reached.then_some(now);
        true
    }
}

impl Egress {
    /// A way out under these rules. `connect_timeout` bounds all attempts of one target together. What becomes
    /// of connections to `servers`, and to no other target, is told to `dials`.
    pub fn new(
        access: Access,
        resolver: Resolver,
        connect_timeout: Duration,
        servers: Vec<Target>,
        dials: mpsc::Sender<Dial>,
    ) -> Self {
        let terms = RwLock::new(Arc::new(Terms::new(access, connect_timeout, servers)));
        Self { terms, resolver, dials, own: Arc::default(), upstream: RwLock::default() }
    }

    /// Changes the rules, the time limit and the servers for all connections from now on.
    pub fn change(&self, access: Access, connect_timeout: Duration, servers: Vec<Target>) {
        let terms = Arc::new(Terms::new(access, connect_timeout, servers));
        *self.terms.write().unwrap_or_else(PoisonError::into_inner) = terms;
    }

    fn terms(&self) -> Arc<Terms> {
        self.terms.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connects to `target`, if the rules allow it.
    ///
    /// # Errors
    /// Why not. Never a failure of the link: nothing here is held against the gateway.
    pub async fn connect(&self, target: &Target) -> Result<TcpStream, Failure> {
        let connected = self.dial(target).await;
        let refused = matches!(
            connected.as_ref().map_err(|failure| failure.kind),
            Err(Kind::NameForbidden | Kind::AddressForbidden | Kind::Loop)
        );
        let is_cut_off = connected.as_ref().is_err_and(upstream::is_cut_off);
        let terms = self.terms();
        for (number, server) in terms.servers.iter().enumerate() {
            if (is_cut_off || server.target == *target && !refused)
                && server.is_news(connected.is_ok(), Instant::now())
            {
                // When there are more results than are looked at, some are enough.
                let _ = self.dials.try_send(Dial { server: number, reached: connected.is_ok() });
            }
        }
        connected
    }

    /// The group's servers, as they are now.
    pub fn servers(&self) -> Vec<Target> {
        self.terms().servers.iter().map(|server| server.target.clone()).collect()
    }

    /// Reads the machine's name servers and names again.
    pub fn reload_names(&self) {
        self.resolver.reload();
    }

    /// The machine's name servers.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Judges a question by what it is about.
    ///
    /// # Errors
    /// [`Kind::NameForbidden`].
    pub fn judge_question(&self, subject: &Host) -> Result<(), Failure> {
        self.terms().access.judge_question(subject)
    }

    /// What the machine and this node are themselves.
    pub fn own(&self) -> &Arc<Own> {
        &self.own
    }

    /// A connection to this node's own ports would come in where it went out.
    fn judge_loop(&self, target: &Target, ip: IpAddr) -> Result<(), Failure> {
        if !self.own.is_this_node(SocketAddr::new(ip, target.port)) {
            return Ok(());
        }
        let sentence = format!("{target} is a port of the gateway that would connect to it");
        Err(Failure::new(Kind::Loop, Side::Gateway, sentence))
    }

    /// The addresses of `target` that may be spoken to, in the resolver's order.
    async fn allowed(&self, target: &Target, terms: &Terms) -> Result<Vec<IpAddr>, Failure> {
        terms.access.judge_name(target)?;
        let found = match &target.host {
            Host::Address(ip) => vec![*ip],
            Host::Name(name) => self.resolver.resolve(name).await?,
        };
        let own = self.own.addresses().map_err(|error| failure(target, &error))?;
        let mut allowed = Vec::new();
        let mut refusal = None;
        for ip in found.into_iter().take(MOST_ADDRESSES) {
            let judged = terms
                .access
                .judge_address(target, ip)
                .and_then(|()| terms.access.judge_own(target, ip, &own))
                .and_then(|()| self.judge_loop(target, ip));
            match judged {
                Ok(()) => allowed.push(ip),
                Err(failure) => refusal = Some(failure),
            }
        }
        if let (true, Some(refusal)) = (allowed.is_empty(), refusal) {
            return Err(refusal);
        }
        Ok(allowed)
    }

    /// A UDP socket that is connected to `target`, if the rules allow it: to the first of its addresses that this machine
    /// has a way to, since UDP itself tells nothing of the others.
    ///
    /// # Errors
    /// Those of [`Egress::connect`], but for what only the server could say.
    pub async fn connect_udp(&self, target: &Target) -> Result<UdpSocket, Failure> {
        if self.upstream().is_for(target) {
            let sentence = "the gateway leaves by another proxy, which does not carry UDP";
            return Err(Failure::new(Kind::Unsupported, Side::Gateway, sentence));
        }
        let mut last = io::ErrorKind::AddrNotAvailable.into();
        for ip in self.allowed(target, &self.terms()).await? {
            match net::connect_udp(SocketAddr::new(ip, target.port)).await {
                Ok(socket) => return Ok(socket),
                Err(error) => last = more_telling(last, error),
            }
        }
        Err(failure(target, &last))
    }

    /// The same as [`Egress::connect`], without telling anybody: what a probe does.
    ///
    /// # Errors
    /// Those of [`Egress::connect`].
    pub async fn dial(&self, target: &Target) -> Result<TcpStream, Failure> {
        let terms = self.terms();
        let upstream = self.upstream();
        if upstream.is_for(target) {
            return self.dial_upstream(&terms, &upstream, target).await;
        }
        let allowed = self.allowed(target, &terms).await?;
        let addresses = interleave(allowed).into_iter().map(|ip| SocketAddr::new(ip, target.port));
        match timeout(terms.connect_timeout, race(addresses.collect())).await {
            Ok(Ok(stream)) => {
                // Fails only on a connection that is gone, which the first write tells.
                let _ = stream.set_nodelay(true);
                Ok(stream)
            }
            Ok(Err(error)) => Err(failure(target, &error)),
            Err(_) => {
                let seconds = terms.connect_timeout.as_secs();
                let sentence = format!("{target} did not answer within {seconds} s");
                Err(Failure::new(Kind::ConnectTimeout, Side::Server, sentence))
            }
        }
    }
}

/// Orders addresses so that the families alternate, beginning with the resolver's choice (RFC 8305 §4).
fn interleave(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (mut preferred, mut other): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|ip| ip.is_ipv6() == first_is_v6);
    let mut ordered = Vec::new();
    loop {
        let (a, b) = (preferred.pop_front(), other.pop_front());
        if a.is_none() && b.is_none() {
            return ordered;
        }
        ordered.extend(a);
        ordered.extend(b);
    }
}

/// Happy Eyeballs (RFC 8305 §5): the next address is tried when the last attempt failed or after a delay;
/// the first connection that stands wins.
async fn race(addresses: VecDeque<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses;
    let mut attempts = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address to try");
    loop {
        if let Some(address) = waiting.pop_front() {
            attempts.push(mark::connect(address));
        }
        let delay = sleep_until(Instant::now() + ATTEMPT_DELAY);
        tokio::select! {
            ended = attempts.next() => match ended {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => last = more_telling(last, error),
                None => return Err(last),
            },
            () = delay, if !waiting.is_empty() => {}
        }
    }
}

/// Out of descriptors, ports or memory: nothing that the destination could help.
fn is_own_shortage(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(
            Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOBUFS
                | Errno::ENOMEM
                | Errno::EADDRNOTAVAIL
                | Errno::EAGAIN
        )
    )
}

/// Of two reasons the one that says more: somebody's refusal before silence, silence before a missing route.
fn more_telling(one: io::Error, other: io::Error) -> io::Error {
    let weight = |error: &io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => 4,
        io::ErrorKind::TimedOut => 3,
        io::ErrorKind::HostUnreachable => 2,
        io::ErrorKind::AddrNotAvailable => 0,
        _ => 1,
    };
    if weight(&one) > weight(&other) { one } else { other }
}

fn failure(target: &Target, error: &io::Error) -> Failure {
    if is_own_shortage(error) {
        let sentence = format!("the gateway cannot open a connection to {target}: {error}");
        return Failure::new(Kind::LimitReached, Side::Gateway, sentence);
    }
    let (kind, what) = match error.kind() {
        io::ErrorKind::ConnectionRefused => (Kind::Refused, "refused the connection"),
        io::ErrorKind::TimedOut => (Kind::ConnectTimeout, "did not answer"),
        io::ErrorKind::NetworkUnreachable => (Kind::NetworkUnreachable, "is on a network without a route"),
        io::ErrorKind::HostUnreachable => (Kind::HostUnreachable, "cannot be reached on its network"),
        io::ErrorKind::ConnectionReset => (Kind::Terminated, "reset the connection"),
        _ => (Kind::HostUnreachable, "cannot be connected to"),
    };
    Failure::new(kind, Side::Server, format!("{target} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_alternate_beginning_with_the_resolvers_choice() {
        let mixed = ips(&["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        let expected = ips(&["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.3"]);
        assert_eq!(interleave(mixed), expected);
    }

    #[tokio::test]
    async fn a_refusing_address_does_not_hide_a_listening_one() {
        let listener = crate::net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let good = listener.local_addr().unwrap();
        let bad = SocketAddr::new("127.0.0.2".parse().unwrap(), good.port());
        let stream = race(VecDeque::from([bad, good])).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
        assert_eq!(race(VecDeque::from([bad])).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
