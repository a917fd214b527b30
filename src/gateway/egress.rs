//! Connections for members. Their results are reported to the probe of this gateway's way out, and its verdict decides what a
//! member is told of a failure. `dialer.rs` makes the connections.

use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::access::Access;
use super::dial::Dialled;
use super::dialer::Dialer;
use super::dns::Resolver;
use super::options::Options;
use super::silence::{Facts, NOTHING, Reported, Speech};
use super::upstream;
use crate::failure::{Failure, Kind, Side};
use crate::shared::Shared;
use crate::telemetry::snapshot::{Proof, Unreached};
use crate::wire::datagram::Reach;
use crate::wire::id::NodeId;
use crate::wire::target::Target;

/// Minimum time between two reports that a server was reached: each report wakes another thread.
const MIN_REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// How long a client's failed connection waits for the verdict on this gateway's way out.
const VERDICT_DEADLINE: Duration = Duration::from_secs(3);
/// How long a connection may take before it is reported as slow: until a lost SYN is sent again (RFC 6298 §2.1). Few servers take
/// that long, so the way out has to be proved. Without a way out, attempts last as long: a server on the LAN may answer.
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
        /// The protocol spoken with it.
        speech: Speech,
    },
    /// The destination accepted a connection, and has answered nothing since.
    Silent {
        /// Which one.
        target: Target,
        /// The protocol spoken with it.
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
    dialer: Dialer,
    servers: RwLock<Arc<[Server]>>,
    results: mpsc::Sender<DialResult>,
    /// Whether this machine reaches the outside, as its probe finds out.
    reach: watch::Sender<Reach>,
    unreached: Mutex<Vec<Unreached>>,
    /// What this machine has no route to, while it has none beyond its only network.
    unrouted: Mutex<Option<Unreached>>,
    /// Set while connections are made although the way out is lost: the networks on this side of it.
    mute: Mutex<Option<Vec<IpNet>>>,
    proved: Mutex<Option<(String, std::time::Instant)>>,
}

/// One of the group's servers.
struct Server {
    target: Target,
    /// When a success was last reported; `None` after a failure.
    success_reported: Mutex<Option<Instant>>,
    /// It was silent when it was last reported.
    is_silent: AtomicBool,
}

impl Server {
    fn all(targets: Vec<Target>) -> Arc<[Self]> {
        let server =
            |target| Self { target, success_reported: Mutex::default(), is_silent: AtomicBool::default() };
        targets.into_iter().map(server).collect()
    }

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

/// `Some` if a failure may be due to a lost way out; true if it surely is, for there is no route.
fn no_way_out(failure: &Failure) -> Option<bool> {
    match (failure.kind, failure.side) {
        (Kind::NetworkUnreachable, Side::Server) => Some(true),
        (Kind::HostUnreachable | Kind::ConnectTimeout | Kind::DnsTimeout, Side::Server) => Some(false),
        _ => None,
    }
}

/// How much longer an app waits for the verdict on the way out, after connecting has taken this long: the way out has been in
/// doubt since that became slow.
fn verdict_time(dialled: Duration) -> Duration {
    VERDICT_DEADLINE.saturating_sub(dialled.saturating_sub(SLOW))
}

/// A failure that is due to a lost way out.
fn lost(failure: &Failure) -> Failure {
    let sentence = format!("the gateway has no way out: {failure}");
    Failure::new(Kind::NoWayOut, Side::Gateway, sentence)
}

impl Egress {
    /// An egress with the options of a gateway, and the results of connections to its servers, or to every destination without
    /// any.
    pub fn build(options: &Options, shared: &Shared) -> (Arc<Self>, mpsc::Receiver<DialResult>) {
        let (results, received) = mpsc::channel(MAX_RESULTS);
        let access = Access::new(&options.server, &options.allow, &options.deny);
        let upstream = options.upstream();
        let dialer = Dialer::new(access, Resolver::system(), options.connect_timeout, upstream, shared);
        let egress = Self {
            dialer,
            servers: RwLock::new(Server::all(options.server.clone())),
            results,
            reach: watch::Sender::new(Reach::Unknown),
            unreached: Mutex::default(),
            unrouted: Mutex::default(),
            mute: Mutex::default(),
            proved: Mutex::default(),
        };
        (Arc::new(egress), received)
    }

    /// Changes the rules, the time limit and the servers for new connections.
    pub fn change(&self, access: Access, connect_timeout: Duration, servers: Vec<Target>) {
        self.dialer.change(access, connect_timeout);
        *self.servers.write().unwrap_or_else(PoisonError::into_inner) = Server::all(servers);
    }

    /// What makes the connections. Those requested from it directly are not reported.
    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    fn group_servers(&self) -> Arc<[Server]> {
        self.servers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connects to `target` for a member if the rules allow it, and reports the result if it is one of the group's servers.
    /// Keepalive is up to the caller ([`crate::net::keep_alive`]).
    ///
    /// Why there is no connection. Never a failure of the link: nothing here is held against the gateway.
    pub async fn connect(&self, target: &Target, by: NodeId) -> Result<Dialled, Failure> {
        let (servers, begun) = (self.group_servers(), Instant::now());
        let connected = self.dial_watching(target, by).await;
        if let Ok(dialled) = &connected
            && self.is_lost()
        {
            self.refuse_mute(target, dialled.peer, by)?;
        }
        match (&connected, servers.is_empty()) {
            (_, false) => {
                self.report_servers(target, by, &connected, &servers);
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
                self.doubt(failure, (target, by), no_route, begun).await.and(connected)
            }
            (Err(failure), true) => match no_way_out(failure) {
                Some(no_route) => self.doubt(failure, (target, by), no_route, begun).await.and(connected),
                None => connected,
            },
        }
    }

    /// Refuses a connection beyond a way out that carries nothing: the app would get no answer.
    fn refuse_mute(&self, target: &Target, peer: SocketAddr, by: NodeId) -> Result<(), Failure> {
        let mute = self.mute.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(inside) = &*mute else { return Ok(()) };
        let ip = peer.ip().to_canonical();
        let is_inside = ip.is_loopback() || inside.iter().any(|network| network.contains(&ip));
        if !self.dialer.carries(target) && is_inside {
            return Ok(());
        }
        self.report(Outcome::Wanted(target.clone()), by, None);
        let unreached = self.unreached();
        let seen = unreached.iter().find(|fault| fault.reason == NOTHING).map(|fault| &fault.server);
        let seen = seen.map_or_else(|| target.to_string(), Clone::clone);
        let sentence = format!("{seen} accepts connections, and then nothing comes back");
        Err(lost(&Failure::new(Kind::ConnectTimeout, Side::Server, sentence)))
    }

    /// As [`Dialer::dial`], but reports a slow attempt, and gives it up once there is no way out: another gateway may have one.
    async fn dial_watching(&self, target: &Target, by: NodeId) -> Result<Dialled, Failure> {
        let mut dial = pin!(self.dialer.dial(target, Duration::MAX));
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
        let servers = self.group_servers();
        if servers.is_empty() || servers.iter().any(|server| server.target.is_same(target)) {
            self.report(Outcome::Slow(target.clone()), by, None);
        }
    }

    /// Reports a result that concerns one of the group's servers, or all of them.
    fn report_servers(
        &self,
        target: &Target,
        by: NodeId,
        connected: &Result<Dialled, Failure>,
        servers: &[Server],
    ) {
        let refused = matches!(
            connected.as_ref().map_err(|failure| failure.kind),
            Err(Kind::NameForbidden | Kind::AddressForbidden | Kind::Loop)
        );
        // Without its upstream proxy the gateway reaches none of the servers.
        let upstream_failed = connected.as_ref().is_err_and(upstream::is_unreachable);
        for server in servers {
            if (upstream_failed || server.target.is_same(target) && !refused)
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

    /// Reports that `target`, dialled since `begun`, was not reached, and waits for the verdict on this gateway's way out.
    ///
    /// # Errors
    /// When it has lost its way out: then another gateway may reach the target.
    async fn doubt(
        &self,
        failure: &Failure,
        (target, by): (&Target, NodeId),
        no_route: bool,
        begun: Instant,
    ) -> Result<(), Failure> {
        let (verdict, reached) = oneshot::channel();
        self.report(Outcome::Failed { target: target.clone(), no_route }, by, Some(verdict));
        match timeout(verdict_time(begun.elapsed()), reached).await {
            Ok(Ok(Reach::Unreachable)) => Err(lost(failure)),
            _ => Ok(()),
        }
    }

    /// Notes that `target`, the host at `from`, has sent something to a member, which speaks `speech` with it.
    pub fn answered(&self, (target, by): (&Target, NodeId), from: SocketAddr, speech: Speech) {
        let servers = self.group_servers();
        let mut asked = servers.iter().filter(|server| server.target.is_same(target));
        // That a server answers is news only after it was silent.
        let is_news = servers.is_empty() || asked.any(|server| server.is_silent.swap(false, Relaxed));
        if is_news {
            self.report(Outcome::Answered { target: target.clone(), from, speech }, by, None);
        }
    }

    /// Notes that `target` has not answered on a connection. Returns whether to give the connection up.
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
        let servers = self.group_servers();
        let mut asked = servers.iter().filter(|server| server.target.is_same(target));
        let is_server = asked.next().map(|server| server.is_silent.store(true, Relaxed)).is_some();
        if servers.is_empty() || is_server {
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
        self.group_servers().iter().map(|server| server.target.clone()).collect()
    }

    /// What the last probe did not reach, and the upstream proxies that are not reached.
    pub fn unreached(&self) -> Vec<Unreached> {
        let mut unreached = self.dialer.unreached_upstreams();
        unreached.extend(self.unrouted.lock().unwrap_or_else(PoisonError::into_inner).clone());
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

    /// Notes what this machine has no route to, if it has none beyond its only network.
    pub(super) fn note_unrouted(&self, unrouted: Option<Unreached>) {
        *self.unrouted.lock().unwrap_or_else(PoisonError::into_inner) = unrouted;
    }

    /// Whether this machine reaches the outside. Its probe writes it.
    pub fn reach(&self) -> &watch::Sender<Reach> {
        &self.reach
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_that_has_waited_long_for_a_connection_does_not_wait_as_long_again_for_the_verdict() {
        for (dialled, left) in [(0, 3000), (900, 3000), (1500, 2500), (4000, 0), (10_000, 0)] {
            let time = verdict_time(Duration::from_millis(dialled));
            assert_eq!(time, Duration::from_millis(left), "{dialled} ms");
        }
    }
}
