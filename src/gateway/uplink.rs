//! Proves, without servers to probe, that a gateway for any destination has a way out, and notices its loss.
//!
//! The proof is an answer from beyond the network of its clients: from a destination that a client asked for, or from a name
//! server. An accepted connection is none, because captive portals and boxes that split TCP accept any. `way_out.rs` decides;
//! this file collects the results and asks the witnesses: for a connection, or for data where connections are made and carry
//! nothing. Once the way out is lost, it goes on asking until the way out is proved again.
//!
//! A machine with one network and no route beyond it has no way out, whoever answers (`uplink/one_network.rs`).

pub mod one_network;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};

use self::one_network::OneNetwork;
use super::dialer::Dialer;
use super::egress::{DialResult, Egress, Outcome};
use super::probe::exchange::{self, Ask, Reply};
use super::served::ServedLinks;
use super::silence::NOTHING;
use super::tls::ServerTls;
use super::way_out::{Answer, Around, Others, Seen, WayOut};
use crate::dns::conf::Conf;
use crate::limited;
use crate::limits::lines::NOBODY;
use crate::net;
use crate::peers::discovery::jitter;
use crate::telemetry::snapshot::Unreached;
use crate::trust::random::random;
use crate::wire::datagram::Reach;
use crate::wire::id::NodeId;
use crate::wire::target::{Host, Target};

/// Interval between two questions to a name server, unless `--probe-interval` says otherwise: about half a megabyte a day.
const PROOF_INTERVAL: Duration = Duration::from_secs(30);
/// Interval between two attempts to prove that a lost way out is there again.
const LOST_INTERVAL: Duration = Duration::from_millis(500);
/// That interval once the loss has lasted for [`LONG`], or if each attempt is an exchange of data.
const LONG_LOST_INTERVAL: Duration = Duration::from_secs(2);
/// After how long a lost way out counts as lost for long.
const LONG: Duration = Duration::from_secs(15);
/// Minimum time between two rounds of questions to the witnesses, however many connections of clients fail.
const MIN_ROUND_INTERVAL: Duration = Duration::from_millis(300);
/// Interval between two checks of a doubt, because other gateways may have lost their way out meanwhile.
const DOUBT_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum time between two rounds of questions that such a doubt causes.
const AGAIN: Duration = Duration::from_secs(5);
/// The deadline for one name server.
const DEADLINE: Duration = Duration::from_secs(2);
/// What status calls a name server that has proved the way out.
const NAME_SERVER: &str = "a name server";
/// Interval between two checks that a proxy of `--upstream` can be used, unless `--probe-interval` says otherwise.
const UPSTREAM_INTERVAL: Duration = Duration::from_secs(5);

/// How long the list of this machine's networks, with which each answer of a server is compared, is reused.
const NETWORKS: Duration = Duration::from_secs(1);

/// What the other gateways could do.
pub(super) type AskOthers = dyn Fn() -> Others + Send + Sync;

/// What is needed to ask for proof, and to judge it.
pub(super) struct Uplink {
    pub(super) egress: Arc<Egress>,
    pub(super) tls: Arc<ServerTls>,
    pub(super) served: ServedLinks,
    /// This node.
    pub(super) own: NodeId,
    /// Name servers are not asked.
    pub(super) asks_nobody: bool,
    pub(super) others: Box<AskOthers>,
    pub(super) networks: OwnNetworks,
}

/// The networks of this machine, and when they were read. Reading them asks the kernel for all interfaces and addresses.
#[derive(Default)]
pub(super) struct OwnNetworks(Mutex<Option<(Instant, Arc<[IpNet]>)>>);

impl OwnNetworks {
    /// The networks at `now`, from `read` unless they were read a moment ago. `None` when they cannot be read.
    fn at(&self, now: Instant, read: impl FnOnce() -> io::Result<Vec<IpNet>>) -> Option<Arc<[IpNet]>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, networks)) = &*known
            && now.saturating_duration_since(*since) < NETWORKS
        {
            return Some(networks.clone());
        }
        let networks: Arc<[IpNet]> = read().ok()?.into();
        *known = Some((now, networks.clone()));
        Some(networks)
    }
}

/// The result of asking the witnesses.
#[derive(Default)]
struct Round {
    answer: Option<Answer>,
    unreached: Vec<Unreached>,
    failed: Vec<Target>,
}

impl Uplink {
    /// Publishes the verdict until `reach` has no receiver. `results` carries what the clients' connections met.
    pub(super) async fn run(
        self,
        interval: Option<Duration>,
        mut results: mpsc::Receiver<DialResult>,
        reach: watch::Sender<Reach>,
    ) {
        let upstream_interval = interval.unwrap_or(UPSTREAM_INTERVAL);
        let interval = interval.unwrap_or(PROOF_INTERVAL);
        let mut way = WayOut::new();
        let (mut next, mut asked_at) = (Instant::now(), None);
        let (mut is_long_lost, mut upstream) = (false, UpstreamState::default());
        let mut one_network = OneNetwork::default();
        while !reach.is_closed() {
            let (mut waiting, mut is_silence) = (None, false);
            let look = match way.is_suspicious(Instant::now()) {
                true => next.min(Instant::now() + DOUBT_INTERVAL),
                false => next,
            };
            let is_doubtful = tokio::select! {
                () = sleep_until(look.into()) => {
                    self.is_doubtful(&mut way, next <= Instant::now(), asked_at).await
                }
                Some(result) = results.recv() => {
                    waiting = result.verdict;
                    is_silence = matches!(result.outcome, Outcome::Silent { .. });
                    let seen = self.seen(result.outcome);
                    if let Seen::Answered(target, _) = &seen
                        && way.reach() != Reach::Unreachable
                    {
                        self.egress.note_proof(target);
                    }
                    way.note(seen, result.by, Instant::now())
                }
            };
            // The way out of a gateway with upstream proxies leads through one of them, whatever else is connected.
            if waiting.is_some() || next <= Instant::now() {
                upstream.check(self.egress.dialer()).await;
            }
            let is_due = asked_at.is_none_or(|at: Instant| at.elapsed() >= MIN_ROUND_INTERVAL);
            if is_doubtful && is_due && !upstream.is_lost() {
                let for_data = is_silence || way.is_mute();
                self.round(&mut way, for_data).await;
                asked_at = Some(Instant::now());
            }
            let lost_for = way.lost_for(Instant::now());
            let was_all = one_network.is_all();
            one_network.look(self.may_be_without(&way, &upstream));
            match one_network.is_all() {
                true => way.forget_proof(),
                // With a route, a name server may answer.
                false if was_all => next = Instant::now(),
                false => {}
            }
            self.egress.note_unrouted(one_network.unreached());
            if lost_for.is_none() {
                self.egress.note_unreached(Vec::new());
            }
            self.egress.set_mute(way.is_mute().then(|| self.served.networks()));
            let was_long_lost =
                std::mem::replace(&mut is_long_lost, lost_for.is_some_and(|time| time >= LONG));
            if is_long_lost && !was_long_lost {
                limited!(warn, NOBODY, "the way out stays lost: nothing that was asked since has answered");
            }
            self.publish(&way, &upstream, &one_network, &reach);
            // Fails if the connection was given up meanwhile.
            let _ = waiting.map(|waiting| waiting.send(*reach.borrow()));
            let pause = match lost_for {
                _ if upstream.is_lost() => LOST_INTERVAL,
                None if one_network.is_all() => LONG_LOST_INTERVAL,
                None if upstream.usable.is_some() => interval.min(upstream_interval),
                None => interval,
                Some(_) if is_long_lost || way.is_mute() => LONG_LOST_INTERVAL,
                Some(_) => LOST_INTERVAL,
            };
            let due = Instant::now() + pause.mul_f64(jitter());
            next = if next <= Instant::now() { due } else { next.min(due) };
        }
    }

    /// Whether this machine's routes tell about the way out: no destination does, it serves any, and connects to them itself.
    fn may_be_without(&self, way: &WayOut, upstream: &UpstreamState) -> bool {
        let serves_any = self.egress.dialer().rules().allows_any;
        way.is_untold() && serves_any && upstream.usable.is_none() && !self.asks_nobody
    }

    /// Whether to ask the witnesses although no connection has met anything: the way out is lost, a name server is silent, which
    /// is a reason to ask, or a destination was not reached and others have lost their way out.
    async fn is_doubtful(&self, way: &mut WayOut, is_due: bool, asked_at: Option<Instant>) -> bool {
        if is_due && !self.asks_nobody {
            let has_answered = name_server_answers().await;
            if has_answered == Some(true) {
                self.egress.note_proof(NAME_SERVER);
                way.note(Seen::Named, self.own, Instant::now());
            }
            if has_answered == Some(false) && way.reach() == Reach::Reachable {
                return true;
            }
        }
        way.reach() == Reach::Unreachable
            || way.is_suspicious(Instant::now())
                && asked_at.is_none_or(|at| at.elapsed() >= AGAIN)
                && (self.others)() == Others::HaveLost
    }

    fn seen(&self, outcome: Outcome) -> Seen {
        match outcome {
            Outcome::Connected(target) => Seen::Connected(target),
            Outcome::Slow(target) => Seen::Slow(target),
            Outcome::Failed { target, no_route } => Seen::Failed { target, no_route },
            Outcome::Wanted(target) => Seen::Wanted(target),
            // An answer from the clients' own network proves nothing about what is beyond it.
            Outcome::Answered { target, from, speech } if self.is_beyond(from.ip()) => {
                Seen::Answered(target, speech)
            }
            Outcome::Answered { target, .. } if self.egress.dialer().carries(&target) => Seen::Nothing,
            Outcome::Answered { target, .. } => Seen::AnsweredInside(target),
            Outcome::Silent { target, speech, is_acknowledged } => {
                Seen::Silent { target, speech, is_acknowledged }
            }
        }
    }

    /// Whether an address is beyond the clients' own networks.
    fn is_beyond(&self, ip: IpAddr) -> bool {
        let networks = self.networks.at(Instant::now(), net::own_networks);
        networks.is_some_and(|networks| is_beyond(ip, &networks, |network| self.served.come_from(network)))
    }

    /// Asks the witnesses and the name servers, and concludes.
    async fn round(&self, way: &mut WayOut, for_data: bool) {
        // While the way out is lost, name servers are asked at their own interval.
        let is_lost = way.reach() == Reach::Unreachable;
        let (round, is_named) = {
            let mut asking = pin!(self.ask(way, for_data));
            let mut named =
                pin!(async { !is_lost && !self.asks_nobody && name_server_answers().await == Some(true) });
            tokio::select! {
                round = &mut asking => {
                    let is_named = round.answer.is_none() && named.await;
                    (round, is_named)
                }
                is_named = &mut named => match is_named && !for_data {
                    true => (Round::default(), true),
                    false => (asking.await, is_named),
                },
            }
        };
        let Round { answer, mut unreached, failed } = round;
        let answer = answer.or_else(|| (is_named && !for_data).then_some(Answer::NameServer));
        match &answer {
            Some(Answer::Data(target)) => self.egress.note_proof(target),
            Some(Answer::NameServer) => self.egress.note_proof(NAME_SERVER),
            Some(Answer::Connection(_)) | None => {}
        }
        let around = Around { others: (self.others)(), busy: self.served.busy(), is_named };
        // What cannot be asked for data has shown that it gets none.
        for target in way.unacknowledging().into_iter().filter(|target| !failed.contains(target)) {
            unreached.push(Unreached { server: target.to_string(), reason: NOTHING.into() });
        }
        way.concluded(answer.as_ref(), &failed, for_data, &around, Instant::now());
        if way.reach() == Reach::Unreachable && !unreached.is_empty() {
            self.egress.note_unreached(unreached);
        }
    }

    /// Asks the witnesses until one answers. With `for_data`, a refused connection is not an answer.
    async fn ask(&self, way: &WayOut, for_data: bool) -> Round {
        let questions = way.questions(for_data);
        let attempt = async |(target, ask): &(Target, Ask)| {
            (target.clone(), *ask, exchange::run(self.egress.dialer(), &self.tls, target, *ask).await)
        };
        let mut attempts: FuturesUnordered<_> = questions.iter().map(attempt).collect();
        let mut round = Round::default();
        while let Some((target, ask, reply)) = attempts.next().await {
            match reply {
                Reply::Answered(from) if self.is_proof(&target, from) => match (ask, from) {
                    (Ask::Connection, _) | (_, None) if for_data => {}
                    (Ask::Connection, _) | (_, None) => {
                        round.answer = Some(Answer::Connection(target));
                        return round;
                    }
                    (Ask::Data(_) | Ask::Acknowledgement, Some(_)) => {
                        round.answer = Some(Answer::Data(target));
                        return round;
                    }
                },
                Reply::Answered(_) | Reply::NotAsked => {}
                Reply::Nothing(reason) => {
                    round.unreached.push(Unreached { server: target.to_string(), reason });
                    round.failed.push(target);
                }
            }
        }
        round
    }

    /// Whether an answer of `target`, at `from`, came over the way out.
    fn is_proof(&self, target: &Target, from: Option<SocketAddr>) -> bool {
        let ip = match (from, &target.host) {
            _ if self.egress.dialer().carries(target) => None,
            (Some(from), _) => Some(from.ip().to_canonical()),
            (None, Host::Address(ip)) => Some(*ip),
            (None, Host::Name(_)) => None,
        };
        ip.is_none_or(|ip| self.is_beyond(ip))
    }

    fn publish(
        &self,
        way: &WayOut,
        upstream: &UpstreamState,
        one_network: &OneNetwork,
        reach: &watch::Sender<Reach>,
    ) {
        let is_lost = upstream.is_lost() || one_network.is_all();
        let verdict = if is_lost { Reach::Unreachable } else { way.reach() };
        reach.send_if_modified(|now| {
            let before = std::mem::replace(now, verdict);
            if before != verdict && way.lost_for(Instant::now()).is_none() && one_network.is_all() {
                one_network.log();
            } else if before != verdict {
                self.log(before, way, upstream);
            }
            before != verdict
        });
    }

    /// Whether connections are made beyond this machine, over which nothing comes back.
    fn carries_nothing(&self) -> bool {
        self.egress.unreached().iter().any(|fault| fault.reason == NOTHING)
    }

    /// Logs a new verdict.
    fn log(&self, before: Reach, way: &WayOut, upstream: &UpstreamState) {
        let by = self.egress.proof().map(|proof| proof.by).unwrap_or_default();
        let witnesses = || way.lost_to().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match way.reach() {
            _ if upstream.is_lost() => {
                limited!(warn, NOBODY, "the way out is lost: no proxy of --upstream can be used");
            }
            Reach::Reachable if before == Reach::Unreachable => {
                limited!(info, NOBODY, by, "a way out is there again");
            }
            Reach::Reachable => {
                limited!(
                    info,
                    NOBODY,
                    by,
                    "the way out is proved: a host beyond this machine's networks answers"
                );
            }
            Reach::Unknown => {
                limited!(info, NOBODY, "a way out is there again, but nothing has answered yet");
            }
            Reach::Unreachable if self.carries_nothing() => {
                limited!(
                    warn,
                    NOBODY,
                    witnesses = witnesses(),
                    "the way out is lost: these accept connections, and then nothing comes back"
                );
            }
            Reach::Unreachable => {
                limited!(
                    warn,
                    NOBODY,
                    witnesses = witnesses(),
                    "the way out is lost: none of these is reached"
                );
            }
        }
    }
}

/// Whether a name server of this machine that is beyond its networks answers. `None` when there is no such server.
async fn name_server_answers() -> Option<bool> {
    let networks = net::own_networks().ok()?;
    let servers = Conf::system().servers.into_iter();
    let servers = servers.filter(|server| is_beyond(server.ip(), &networks, |_| true));
    let mut questions: FuturesUnordered<_> =
        servers.map(|server| timeout(DEADLINE, answers(server))).collect();
    if questions.is_empty() {
        return None;
    }
    while let Some(answered) = questions.next().await {
        if matches!(answered, Ok(Ok(true))) {
            return Some(true);
        }
    }
    Some(false)
}

/// Asks for a name that does not exist. A server that invents an address for it is a captive portal's.
async fn answers(server: SocketAddr) -> std::io::Result<bool> {
    let label: String = random::<8>().iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    let name = Name::from_ascii(format!("{label}.")).map_err(std::io::Error::other)?;
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name, RecordType::A));
    let socket = net::connect_udp(server).await?;
    socket.send(&question.to_vec().map_err(std::io::Error::other)?).await?;
    let mut buffer = [0; 1232];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Ok(answer) = Message::from_vec(&buffer[..length])
            && answer.metadata.id == question.metadata.id
            && answer.queries == question.queries
        {
            return Ok(answer.metadata.response_code == ResponseCode::NXDomain);
        }
    }
}

/// Whether an address is beyond those of this machine's `networks` that are inside.
fn is_beyond(ip: IpAddr, networks: &[IpNet], is_inside: impl Fn(&IpNet) -> bool) -> bool {
    let contains = |network: &IpNet| network.contains(&ip) && is_inside(network);
    !ip.is_loopback() && !networks.iter().any(contains)
}

/// Whether the upstream proxies can be used.
#[derive(Default)]
struct UpstreamState {
    /// Whether any can; `None` when there is none.
    usable: Option<bool>,
    checked: Option<Instant>,
}

impl UpstreamState {
    fn is_lost(&self) -> bool {
        self.usable == Some(false)
    }

    /// Checks the proxies. If that was done a moment ago, only what connections have met since counts.
    async fn check(&mut self, dialer: &Dialer) {
        if self.usable == Some(true) && !dialer.upstream_may_work() {
            self.usable = Some(false);
        }
        if self.checked.is_none_or(|checked| checked.elapsed() >= MIN_ROUND_INTERVAL) {
            self.usable = dialer.check_upstream().await;
            self.checked = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel was asked for all interfaces at each answer of a server.
    #[test]
    fn the_networks_of_this_machine_are_read_once_a_second_at_most() {
        let (known, mut reads, start) = (OwnNetworks::default(), 0, Instant::now());
        let lan: IpNet = "10.0.0.0/24".parse().unwrap();
        assert_eq!(known.at(start, || Err(io::ErrorKind::OutOfMemory.into())), None);
        for (late, count) in [(0, 1), (500, 1), (999, 1), (1000, 2), (1500, 2)] {
            let networks = known.at(start + Duration::from_millis(late), || {
                reads += 1;
                Ok(vec![lan])
            });
            assert_eq!((networks.as_deref(), reads), (Some(&[lan][..]), count), "after {late} ms");
        }
    }
}
