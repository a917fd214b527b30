//! From a target to a connection: check the rules, resolve, check the addresses, dial. An upstream proxy resolves and
//! dials itself; then a name is checked only against the rules that name it, and an address only where the client
//! asked for an address.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::access::Access;
use super::dial::{Addresses, LATE_PATIENCE, bounded, failure, interleave, more_telling, race};
use super::dns::{Found, Resolver};
use super::options::Options;
use super::silence::{Facts, NOTHING, Reported, Speech};
use super::upstream::{self, Upstream};
use crate::failure::{Failure, Kind, Side};
use crate::net;
use crate::own_addresses::OwnAddresses;
use crate::peers::directory::Directory;
use crate::problem::Problem;
use crate::shared::Shared;
use crate::telemetry::snapshot::{Proof, RulesSeen, Unreached};
use crate::wire::datagram::Reach;
use crate::wire::id::NodeId;
use crate::wire::target::{Host, Target};

/// Minimum time between two reports that a server was reached: each report wakes another thread.
const MIN_REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// How long a client's failed connection waits for the verdict on this gateway's way out.
const VERDICT_DEADLINE: Duration = Duration::from_secs(3);
/// How long a connection may take before that is reported: until a lost SYN is sent again (RFC 6298 §2.1). Few servers are that
/// slow, so it is time to prove the way out. It is tried for that long, too, while this machine has none: a server on the LAN
/// may answer.
const SLOW: Duration = Duration::from_secs(1);
/// Maximum number of reported results that wait for the probe.
const MAX_RESULTS: usize = 64;

/// What a connection for a client met. Reported for the group's servers, or for every destination if there are none.
#[derive(Debug)]
pub struct DialResult {
    /// What it met.
    pub outcome: Outcome,
    /// The member that it was made for.
    pub by: NodeId,
    /// Receives the verdict on this gateway's way out that follows from a failure.
    pub verdict: Option<oneshot::Sender<Reach>>,
}

/// What a connection for a client met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The destination accepted the connection.
    Connected(Target),
    /// The host at this address sent something.
    Answered {
        /// Which destination it is.
        target: Target,
        /// Its address.
        from: SocketAddr,
        /// The protocol in which it is spoken to.
        speech: Speech,
    },
    /// The destination accepted a connection, and has answered nothing since.
    Silent {
        /// Which one.
        target: Target,
        /// The protocol in which it is spoken to.
        speech: Speech,
        /// Its machine acknowledges what it is sent.
        is_acknowledged: bool,
    },
    /// The destination has had time to answer, and has not answered yet.
    Slow(Target),
    /// The destination was not reached.
    Failed {
        /// Which one.
        target: Target,
        /// This machine has no route to it.
        no_route: bool,
    },
    /// The destination was refused, because connections prove nothing while the way out is lost.
    Wanted(Target),
}

/// Connects to destinations on behalf of clients, and of this node's own apps while it is a gateway.
pub struct Egress {
    settings: RwLock<Arc<Settings>>,
    resolver: Resolver,
    results: mpsc::Sender<DialResult>,
    own: Arc<OwnAddresses>,
    /// The gateways that are known, whose links are no destinations.
    directory: Arc<Directory>,
    upstream: RwLock<Arc<Upstream>>,
    /// Whether this machine reaches the outside, as its probe finds out.
    reach: watch::Sender<Reach>,
    unreached: Mutex<Vec<Unreached>>,
    /// Set while the way out is lost although connections are made: the networks that are on this side of it.
    mute: Mutex<Option<Vec<IpNet>>>,
    proved: Mutex<Option<(String, std::time::Instant)>>,
}

/// What a reload changes. A connection is made under the settings that are in force when it begins.
struct Settings {
    access: Access,
    connect_timeout: Duration,
    servers: Vec<Server>,
}

/// One of the group's servers.
struct Server {
    target: Target,
    /// When a success was last reported; `None` after a failure was.
    success_reported: Mutex<Option<Instant>>,
    /// It was silent when it was last reported.
    is_silent: AtomicBool,
}

impl Settings {
    fn new(access: Access, connect_timeout: Duration, servers: Vec<Target>) -> Self {
        let server =
            |target| Server { target, success_reported: Mutex::default(), is_silent: AtomicBool::default() };
        Self { access, connect_timeout, servers: servers.into_iter().map(server).collect() }
    }
}

impl Server {
    /// Whether to report this result now: every failure, and successes at intervals.
    fn should_report(&self, reached: bool, now: Instant) -> bool {
        let mut reported = self.success_reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reached && reported.is_some_and(|reported| now < reported + MIN_REPORT_INTERVAL) {
            return false;
        }
        *reported = reached.then_some(now);
        true
    }
}

/// Whether a failure may be due to a lost way out, and if so, whether this machine has no route, which is certain.
fn no_way_out(failure: &Failure) -> Option<bool> {
    match (failure.kind, failure.side) {
        (Kind::NetworkUnreachable, Side::Server) => Some(true),
        (Kind::HostUnreachable | Kind::ConnectTimeout | Kind::DnsTimeout, Side::Server) => Some(false),
        _ => None,
    }
}

/// A failure that is due to a lost way out.
fn lost(failure: &Failure) -> Failure {
    let sentence = format!("the gateway has lost its way out: {failure}");
    Failure::new(Kind::NoWayOut, Side::Gateway, sentence)
}

impl Egress {
    /// An egress under the rules of `access`. `connect_timeout` bounds all attempts for one target together. Results of
    /// connections to `servers`, and to no other target, are sent to `results`. Connections to a port of this node, and to
    /// the links of gateways that it knows, are refused.
    pub fn new(
        access: Access,
        resolver: Resolver,
        connect_timeout: Duration,
        servers: Vec<Target>,
        results: mpsc::Sender<DialResult>,
        shared: &Shared,
    ) -> Self {
        let settings = RwLock::new(Arc::new(Settings::new(access, connect_timeout, servers)));
        let (upstream, reach) = (RwLock::default(), watch::Sender::new(Reach::Unknown));
        let (own, directory) = (shared.own.clone(), shared.directory.clone());
        let (unreached, mute, proved) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { settings, resolver, results, own, directory, upstream, reach, unreached, mute, proved }
    }

    /// An egress with the options of a gateway, and the results of connections to its servers.
    ///
    /// # Errors
    /// When this machine's resolver configuration cannot be used.
    pub fn build(
        options: &Options,
        shared: &Shared,
    ) -> Result<(Arc<Self>, mpsc::Receiver<DialResult>), Problem> {
        let resolver = Resolver::system();
        let (results, received) = mpsc::channel(MAX_RESULTS);
        let access = Access::new(&options.server, &options.allow, &options.deny);
        let egress =
            Self::new(access, resolver, options.connect_timeout, options.server.clone(), results, shared);
        egress.set_upstream(options.upstream());
        Ok((Arc::new(egress), received))
    }

    /// Changes the rules, the time limit and the servers for new connections.
    pub fn change(&self, access: Access, connect_timeout: Duration, servers: Vec<Target>) {
        let settings = Arc::new(Settings::new(access, connect_timeout, servers));
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Changes the upstream proxies for new connections.
    pub fn set_upstream(&self, upstream: Upstream) {
        *self.upstream.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(upstream);
    }

    /// Whether any upstream proxy is reached and accepts the login; `None` without one. Logs which are not, before a client meets it.
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

    /// Connects to `target` for a member if the rules allow it, and reports the result if it is one of the group's servers.
    ///
    /// # Errors
    /// Why not. Never a failure of the link: nothing here is held against the gateway.
    pub async fn connect(&self, target: &Target, by: NodeId) -> Result<TcpStream, Failure> {
        let settings = self.settings();
        let connected = self.dial_watching(target, by).await;
        if let Ok(stream) = &connected
            && self.is_lost()
        {
            self.refuse_mute(target, stream, by)?;
        }
        match (&connected, settings.servers.is_empty()) {
            (_, false) => {
                self.report_servers(target, by, &connected, &settings);
                match connected {
                    Err(failure) if self.is_lost() && no_way_out(&failure).is_some() => Err(lost(&failure)),
                    connected => connected,
                }
            }
            (Ok(_), true) => {
                self.report(Outcome::Connected(target.clone()), by, None);
                connected
            }
            // Without its upstream proxy the gateway reaches nothing.
            (Err(failure), true) if upstream::is_unreachable(failure) => {
                let no_route = failure.kind == Kind::NetworkUnreachable;
                self.doubt(failure, (target, by), no_route).await.and(connected)
            }
            (Err(failure), true) => match no_way_out(failure) {
                Some(no_route) => self.doubt(failure, (target, by), no_route).await.and(connected),
                None => connected,
            },
        }
    }

    /// Refuses what was connected to beyond a way out that carries nothing: an app that waited there for an answer would get none.
    fn refuse_mute(&self, target: &Target, stream: &TcpStream, by: NodeId) -> Result<(), Failure> {
        let mute = self.mute.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(inside) = &*mute else { return Ok(()) };
        let is_inside = |peer: SocketAddr| {
            let ip = peer.ip().to_canonical();
            ip.is_loopback() || inside.iter().any(|network| network.contains(&ip))
        };
        if !self.upstream().carries(target) && stream.peer_addr().is_ok_and(is_inside) {
            return Ok(());
        }
        self.report(Outcome::Wanted(target.clone()), by, None);
        let unreached = self.unreached();
        let seen = unreached.iter().find(|fault| fault.reason == NOTHING).map(|fault| &fault.server);
        let seen = seen.map_or_else(|| target.to_string(), Clone::clone);
        let sentence = format!("{seen} accepts connections, and then nothing comes back");
        Err(lost(&Failure::new(Kind::ConnectTimeout, Side::Server, sentence)))
    }

    /// As [`Egress::dial`]. A slow one is reported, and given up once this machine has no way out: another gateway may have one.
    async fn dial_watching(&self, target: &Target, by: NodeId) -> Result<TcpStream, Failure> {
        let mut dial = pin!(self.dial(target, Duration::MAX));
        tokio::select! {
            biased;
            connected = &mut dial => return connected,
            () = sleep(SLOW) => {}
        }
        self.is_slow(target, by);
        let mut reach = self.reach.subscribe();
        tokio::select! {
            biased;
            connected = dial => connected,
            Ok(_) = reach.wait_for(|reach| *reach == Reach::Unreachable) => {
                let sentence = format!("{target} did not answer");
                Err(lost(&Failure::new(Kind::ConnectTimeout, Side::Server, sentence)))
            }
        }
    }

    /// Notes that `target` has had time to answer, and has not.
    pub fn is_slow(&self, target: &Target, by: NodeId) {
        let settings = self.settings();
        if settings.servers.is_empty() || settings.servers.iter().any(|server| server.target == *target) {
            self.report(Outcome::Slow(target.clone()), by, None);
        }
    }

    /// Reports a result that concerns one of the group's servers, or all of them.
    fn report_servers(
        &self,
        target: &Target,
        by: NodeId,
        connected: &Result<TcpStream, Failure>,
        settings: &Settings,
    ) {
        let refused = matches!(
            connected.as_ref().map_err(|failure| failure.kind),
            Err(Kind::NameForbidden | Kind::AddressForbidden | Kind::Loop)
        );
        // Without its upstream proxy the gateway reaches none of the servers.
        let upstream_failed = connected.as_ref().is_err_and(upstream::is_unreachable);
        for server in &settings.servers {
            if (upstream_failed || server.target == *target && !refused)
                && server.should_report(connected.is_ok(), Instant::now())
            {
                let target = server.target.clone();
                self.report(
                    match connected {
                        Ok(_) => Outcome::Connected(target),
                        Err(_) => Outcome::Failed { target, no_route: false },
                    },
                    by,
                    None,
                );
            }
        }
    }

    /// Reports that `target` was not reached, and waits for what follows for this gateway as a whole.
    ///
    /// # Errors
    /// When it has lost its way out: then another gateway may reach the target.
    async fn doubt(
        &self,
        failure: &Failure,
        (target, by): (&Target, NodeId),
        no_route: bool,
    ) -> Result<(), Failure> {
        let (verdict, reached) = oneshot::channel();
        self.report(Outcome::Failed { target: target.clone(), no_route }, by, Some(verdict));
        match timeout(VERDICT_DEADLINE, reached).await {
            Ok(Ok(Reach::Unreachable)) => Err(lost(failure)),
            _ => Ok(()),
        }
    }

    /// Notes that `target`, the host at `from`, has sent something to a member, which speaks `speech` with it.
    pub fn answered(&self, (target, by): (&Target, NodeId), from: SocketAddr, speech: Speech) {
        let settings = self.settings();
        let mut servers = settings.servers.iter().filter(|server| server.target == *target);
        // That a server answers is news only after it was silent.
        let is_news =
            settings.servers.is_empty() || servers.any(|server| server.is_silent.swap(false, Relaxed));
        if is_news {
            self.report(Outcome::Answered { target: target.clone(), from, speech }, by, None);
        }
    }

    /// Notes that `target` has not answered on a connection. Gives whether that is given up.
    pub(super) fn unanswered(
        &self,
        (target, by): (&Target, NodeId),
        speech: Speech,
        facts: Facts,
        reported: &Reported,
    ) -> bool {
        if let Some(is_acknowledged) = facts.silence()
            && reported.is_due(std::time::Instant::now())
        {
            self.is_silent((target, by), speech, is_acknowledged);
        }
        facts.gives_up()
    }

    /// Notes that `target` answers nothing, though it has accepted a connection.
    pub(super) fn is_silent(&self, (target, by): (&Target, NodeId), speech: Speech, is_acknowledged: bool) {
        let settings = self.settings();
        let mut servers = settings.servers.iter().filter(|server| server.target == *target);
        let is_server = servers.next().map(|server| server.is_silent.store(true, Relaxed)).is_some();
        if settings.servers.is_empty() || is_server {
            self.report(Outcome::Silent { target: target.clone(), speech, is_acknowledged }, by, None);
        }
    }

    /// Whether this machine has lost its way out.
    pub(super) fn is_lost(&self) -> bool {
        *self.reach.borrow() == Reach::Unreachable
    }

    /// A full channel holds enough results: this one may be lost.
    fn report(&self, outcome: Outcome, by: NodeId, verdict: Option<oneshot::Sender<Reach>>) {
        let _ = self.results.try_send(DialResult { outcome, by, verdict });
    }

    /// Whether `target` is reached through an upstream proxy.
    pub(super) fn is_carried(&self, target: &Target) -> bool {
        self.upstream().carries(target)
    }

    /// Sets whether the way out is lost although connections are made beyond these networks.
    pub(super) fn set_mute(&self, inside: Option<Vec<IpNet>>) {
        *self.mute.lock().unwrap_or_else(PoisonError::into_inner) = inside;
    }

    /// Notes that something beyond this machine has answered.
    pub(super) fn note_proof(&self, by: impl fmt::Display) {
        let proof = (by.to_string(), std::time::Instant::now());
        *self.proved.lock().unwrap_or_else(PoisonError::into_inner) = Some(proof);
    }

    /// What has answered last.
    pub fn proof(&self) -> Option<Proof> {
        let proved = self.proved.lock().unwrap_or_else(PoisonError::into_inner);
        let (by, at) = proved.as_ref()?;
        Some(Proof { by: by.clone(), ago: at.elapsed().as_secs_f64() })
    }

    /// The group's servers, as configured now.
    pub fn servers(&self) -> Vec<Target> {
        self.settings().servers.iter().map(|server| server.target.clone()).collect()
    }

    /// What the last probe did not reach, and the upstream proxies that are not.
    pub fn unreached(&self) -> Vec<Unreached> {
        let mut unreached = self.upstream().unreached();
        unreached.extend_from_slice(&self.unreached.lock().unwrap_or_else(PoisonError::into_inner));
        unreached
    }

    /// Why this machine has no way out, as a sentence that begins with "it"; `None` while it has one, or may have one.
    pub fn fault(&self) -> Option<String> {
        if !self.is_lost() {
            return None;
        }
        let unreached = self.unreached();
        let reasons =
            unreached.iter().take(2).map(|Unreached { server, reason }| format!("{server} ({reason})"));
        let reasons: Vec<_> = reasons.collect();
        Some(match reasons.is_empty() {
            true => "its uplink is down".into(),
            false => format!("it does not reach {}", reasons.join(" and ")),
        })
    }

    /// Notes what a probe did not reach.
    pub fn note_unreached(&self, unreached: Vec<Unreached>) {
        *self.unreached.lock().unwrap_or_else(PoisonError::into_inner) = unreached;
    }

    /// What is shown of the rules that are in force.
    pub fn rules(&self) -> RulesSeen {
        self.settings().access.seen()
    }

    /// Reads the machine's resolver configuration again.
    pub fn reload_names(&self) {
        self.resolver.reload();
    }

    /// Whether this machine reaches the outside. Its probe writes it.
    pub fn reach(&self) -> &watch::Sender<Reach> {
        &self.reach
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

    /// Checks what is stored of `target`, which came from `source`, as a connection to there would be.
    ///
    /// # Errors
    /// Those of [`Egress::connect`] that come from the rules.
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

    /// Those of the addresses that `target` resolves to that the rules allow. With none of them, why the last one is
    /// refused.
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

    /// A UDP socket connected to `target`, if the rules allow it: to the first of its addresses that this machine has a
    /// route to, since UDP itself does not tell whether the others answer.
    ///
    /// # Errors
    /// Those of [`Egress::connect`], except what only the server could report.
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
                match net::connect_udp(address).await {
                    Ok(socket) => return Ok(socket),
                    Err(error) => last = more_telling(last, error),
                }
            }
            let Some(later) = later.take() else { return Err(failure(target, &last)) };
            addresses = interleave(later.await);
        }
    }

    /// As [`Egress::connect`], without reporting the result, and within `longest`. Used by probes.
    ///
    /// # Errors
    /// Those of [`Egress::connect`].
    pub async fn dial(&self, target: &Target, longest: Duration) -> Result<TcpStream, Failure> {
        let settings = self.settings();
        if self.upstream().carries(target) {
            self.judge_for_upstream(target, &settings)?;
            return self.dial_unjudged(target, longest).await;
        }
        self.dial_addresses(target, self.allowed(target, &settings).await?, longest).await
    }

    /// Connects to a target that the rules need not allow, because the administrator named it for a probe.
    ///
    /// # Errors
    /// Why not.
    pub async fn dial_unjudged(&self, target: &Target, longest: Duration) -> Result<TcpStream, Failure> {
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
    ) -> Result<TcpStream, Failure> {
        let limit = self.settings().connect_timeout.min(longest);
        match race(addresses, limit).await {
            Ok(stream) => Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let sentence = format!("{target} did not answer within {} s", limit.as_secs());
                Err(Failure::new(Kind::ConnectTimeout, Side::Server, sentence))
            }
            Err(error) => Err(failure(target, &error)),
        }
    }

    /// Checks a target that an upstream proxy resolves: a name by itself alone.
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
