//! From a target to a connection: check the rules, resolve, check the addresses, dial. An upstream proxy resolves and
//! dials itself; then a name is checked only against the rules that name it, and an address only where the client
//! asked for an address.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::access::Access;
use super::dial::{Addresses, Dialled, LATE_PATIENCE, bounded, failure, interleave, more_telling, race};
use super::dns::{Found, Resolver};
use super::upstream::Upstream;
use crate::failure::{Failure, Kind, Side};
use crate::net;
use crate::own_addresses::OwnAddresses;
use crate::peers::directory::Directory;
use crate::shared::Shared;
use crate::sys::neighbour;
use crate::telemetry::snapshot::{RulesSeen, Unreached};
use crate::wire::target::{Host, Target};

/// Connects to destinations that the rules allow.
pub struct Dialer {
    settings: RwLock<Arc<Settings>>,
    resolver: Resolver,
    own: Arc<OwnAddresses>,
    /// Known gateways, whose links are not destinations.
    directory: Arc<Directory>,
    upstream: RwLock<Arc<Upstream>>,
}

/// What a reload changes. A connection is made under the settings that are in force when it begins.
struct Settings {
    access: Access,
    connect_timeout: Duration,
}

impl Dialer {
    /// A dialer under the rules of `access`. `connect_timeout` bounds all attempts for one target together. Connections to a
    /// port of this node, and to the links of gateways that it knows, are refused.
    pub(super) fn new(
        access: Access,
        resolver: Resolver,
        connect_timeout: Duration,
        upstream: Upstream,
        shared: &Shared,
    ) -> Self {
        let settings = RwLock::new(Arc::new(Settings { access, connect_timeout }));
        let (own, directory) = (shared.own.clone(), shared.directory.clone());
        Self { settings, resolver, own, directory, upstream: RwLock::new(Arc::new(upstream)) }
    }

    /// Changes the rules and the time limit for new connections.
    pub(super) fn change(&self, access: Access, connect_timeout: Duration) {
        let settings = Arc::new(Settings { access, connect_timeout });
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Changes the upstream proxies for new connections.
    pub fn set_upstream(&self, upstream: Upstream) {
        *self.upstream.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(upstream);
    }

    /// Whether any upstream proxy is reached and accepts the login; `None` without one. Logs failures before clients meet them.
    pub async fn check_upstream(&self) -> Option<bool> {
        self.upstream().check(&self.resolver, &self.own).await
    }

    /// Whether any upstream proxy was reached and accepted the login when it was last used.
    pub fn upstream_may_work(&self) -> bool {
        self.upstream().may_work()
    }

    fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn upstream(&self) -> Arc<Upstream> {
        self.upstream.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether `target` is reached through an upstream proxy.
    pub(super) fn carries(&self, target: &Target) -> bool {
        self.upstream().carries(target)
    }

    /// Why nothing comes back from `target`, as far as this machine can tell. Behind an upstream proxy it cannot.
    pub(super) fn why_silent(&self, target: &Target) -> Option<String> {
        target.address().filter(|_| !self.carries(target)).and_then(neighbour::silence)
    }

    /// The upstream proxies that are not reached, or reject the login.
    pub(super) fn unreached_upstreams(&self) -> Vec<Unreached> {
        self.upstream().unreached()
    }

    /// What is shown of the rules that are in force.
    pub fn rules(&self) -> RulesSeen {
        self.settings().access.seen()
    }

    /// Reads the machine's resolver configuration again.
    pub fn reload_names(&self) {
        self.resolver.reload();
    }

    /// The machine's resolver.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Checks a DNS query by the name or address that it asks about.
    ///
    /// # Errors
    /// [`Kind::NameForbidden`].
    pub fn judge_question(&self, subject: &Host) -> Result<(), Failure> {
        self.settings().access.judge_question(subject)
    }

    /// Checks what is stored of `target`, which came from `source`, as a connection to `source` would be.
    ///
    /// # Errors
    /// Those of [`Dialer::dial`] that come from the rules.
    pub fn judge_stored(&self, target: &Target, source: SocketAddr) -> Result<(), Failure> {
        let settings = self.settings();
        if self.upstream().carries(target) {
            return self.judge_for_upstream(target, &settings);
        }
        settings.access.judge_name(target)?;
        self.judge(target, &settings, vec![source.ip()]).map(drop)
    }

    /// The machine's own addresses, and the ports of this node.
    pub fn own(&self) -> &Arc<OwnAddresses> {
        &self.own
    }

    /// Refuses this node's own ports: a connection to one of them would loop.
    fn judge_loop(&self, target: &Target, ip: IpAddr) -> Result<(), Failure> {
        if !self.own.is_this_node(SocketAddr::new(ip, target.port)) {
            return Ok(());
        }
        let sentence = format!(
            "the gateway refuses {target}: it is a port of laneway there, so the connection would loop"
        );
        Err(Failure::new(Kind::Loop, Side::Gateway, sentence))
    }

    /// Refuses the links of other gateways, see [`Access::judge_link`].
    fn judge_link(&self, target: &Target, ip: IpAddr, settings: &Settings) -> Result<(), Failure> {
        let address = net::plain(SocketAddr::new(ip, target.port));
        if !self.directory.has_link_at(address) && !self.own.is_like_own_link(address) {
            return Ok(());
        }
        settings.access.judge_link(target, ip)
    }

    /// The addresses of `target` that the rules allow.
    async fn allowed<'a>(
        &'a self,
        target: &'a Target,
        settings: &'a Settings,
    ) -> Result<Addresses<'a>, Failure> {
        settings.access.judge_name(target)?;
        let Found { known, later } = match &target.host {
            Host::Address(ip) => Found::from(vec![*ip]),
            Host::Name(name) => self.resolver.find(name).await?,
        };
        let known = self.judge(target, settings, known);
        match (known, later) {
            (known, None) => known.map(|known| Addresses { known, later: None }),
            (Ok(known), Some(later)) => {
                let later = async { self.judge(target, settings, later.await).unwrap_or_default() };
                Ok(Addresses { known, later: Some(Box::pin(later)) })
            }
            (Err(refusal), Some(later)) => {
                let later = timeout(LATE_PATIENCE, later).await.unwrap_or_default();
                let known = self.judge(target, settings, later)?;
                if known.is_empty() { Err(refusal) } else { Ok(Addresses { known, later: None }) }
            }
        }
    }

    /// The addresses of `target` that the rules allow; if there are none, why the last one is refused.
    fn judge(
        &self,
        target: &Target,
        settings: &Settings,
        found: Vec<IpAddr>,
    ) -> Result<Vec<SocketAddr>, Failure> {
        let own = self.own.addresses().map_err(|error| failure(target, &error))?;
        let (mut allowed, mut refusal) = (Vec::new(), None);
        for ip in bounded(found) {
            let judged = settings
                .access
                .judge_address(target, ip)
                .and_then(|()| settings.access.judge_own(target, ip, &own))
                .and_then(|()| self.judge_loop(target, ip))
                .and_then(|()| self.judge_link(target, ip, settings));
            match judged {
                Ok(()) => allowed.push(SocketAddr::new(ip, target.port)),
                Err(failure) => refusal = Some(failure),
            }
        }
        match refusal {
            Some(refusal) if allowed.is_empty() => Err(refusal),
            _ => Ok(allowed),
        }
    }

    /// A UDP socket connected to `target`, if the rules allow it: to the first address that this machine has a route to, since
    /// UDP does not tell which ones answer.
    ///
    /// # Errors
    /// Those of [`Dialer::dial`], except what only the server could report.
    pub async fn connect_udp(&self, target: &Target) -> Result<UdpSocket, Failure> {
        if self.upstream().carries(target) {
            let sentence = "the gateway's --upstream does not carry UDP; --upstream-except RULE there lets a destination bypass it";
            return Err(Failure::new(Kind::Unsupported, Side::Gateway, sentence));
        }
        let settings = self.settings();
        let Addresses { known, mut later } = self.allowed(target, &settings).await?;
        let (mut addresses, mut last) = (interleave(known), io::ErrorKind::AddrNotAvailable.into());
        loop {
            for address in addresses {
                match net::connect_udp(address).await.and_then(net::unless_reserved) {
                    Ok(socket) => {
                        let ends = socket.local_addr().and_then(|here| Ok((here, socket.peer_addr()?)));
                        judge_arrival(target, &settings, ends)?;
                        return Ok(socket);
                    }
                    Err(error) => last = more_telling(last, error),
                }
            }
            let Some(later) = later.take() else { return Err(failure(target, &last)) };
            addresses = interleave(later.await);
        }
    }

    /// Connects to `target` within `longest` if the rules allow it.
    ///
    /// # Errors
    /// Why there is no connection. Never a failure of the link: nothing here is held against the gateway.
    pub async fn dial(&self, target: &Target, longest: Duration) -> Result<Dialled, Failure> {
        let settings = self.settings();
        if self.upstream().carries(target) {
            self.judge_for_upstream(target, &settings)?;
            return self.dial_unjudged(target, longest).await;
        }
        let dialled = self.dial_addresses(target, self.allowed(target, &settings).await?, longest).await?;
        judge_arrival(target, &settings, dialled.stream.local_addr().map(|here| (here, dialled.peer)))?;
        Ok(dialled)
    }

    /// Connects to a target that the rules need not allow, because the administrator named it for a probe.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn dial_unjudged(&self, target: &Target, longest: Duration) -> Result<Dialled, Failure> {
        let upstream = self.upstream();
        if upstream.carries(target) {
            let limit = self.settings().connect_timeout.min(longest);
            return upstream.connect(target, limit, &self.resolver, &self.own).await;
        }
        let found = match &target.host {
            Host::Address(ip) => vec![*ip],
            Host::Name(name) => self.resolver.resolve(name).await?,
        };
        let known = bounded(found).into_iter().map(|ip| SocketAddr::new(ip, target.port)).collect();
        self.dial_addresses(target, Addresses { known, later: None }, longest).await
    }

    async fn dial_addresses(
        &self,
        target: &Target,
        addresses: Addresses<'_>,
        longest: Duration,
    ) -> Result<Dialled, Failure> {
        let limit = self.settings().connect_timeout.min(longest);
        match race(addresses, limit).await {
            Ok(dialled) => Ok(dialled),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let sentence = format!("{target} did not answer within {} s", limit.as_secs());
                Err(Failure::new(Kind::ConnectTimeout, Side::Server, sentence))
            }
            Err(error) => Err(failure(target, &error)),
        }
    }

    /// Checks a target that an upstream proxy resolves: a name without its addresses.
    fn judge_for_upstream(&self, target: &Target, settings: &Settings) -> Result<(), Failure> {
        match &target.host {
            Host::Name(_) => settings.access.judge_name_alone(target),
            Host::Address(ip) => {
                settings.access.judge_address(target, *ip)?;
                let own = self.own.addresses().map_err(|error| failure(target, &error))?;
                settings.access.judge_own(target, *ip, &own)?;
                self.judge_loop(target, *ip)?;
                self.judge_link(target, *ip, settings)
            }
        }
    }
}

/// Checks the two ends of a connection: both have the same address only on this machine itself. Routes may bring whole networks
/// here whose addresses no interface has (`local` in ip-route(8)).
fn judge_arrival(
    target: &Target,
    settings: &Settings,
    ends: io::Result<(SocketAddr, SocketAddr)>,
) -> Result<(), Failure> {
    let (here, there) = ends.map_err(|error| failure(target, &error))?;
    let (here, there) = (net::plain(here).ip(), net::plain(there).ip());
    if here != there {
        return Ok(());
    }
    settings.access.judge_own(target, there, &HashSet::from([there]))
}
