//! Proves by itself that a gateway for any destination reaches the outside, and notices when it does not any more.
//!
//! The proof is an answer from beyond the network of its clients: of a destination that a client asked for, or of a name
//! server. An accepted connection is none, because captive portals and boxes that split TCP accept any. `way_out.rs`
//! decides; this file collects the results and asks the witnesses: for a connection, or for data where connections are made and carry
//! nothing.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};

use super::beyond::ClientInterfaces;
use super::egress::{DialResult, Egress, Outcome};
use super::probe::exchange;
use super::served::ServedLinks;
use super::tls::ServerTls;
use super::way_out::{RETRY, Seen, WayOut};
use crate::dns::conf::Conf;
use crate::failure::Kind;
use crate::limited;
use crate::limits::lines::NOBODY;
use crate::net;
use crate::peers::discovery::jitter;
use crate::telemetry::snapshot::Unreached;
use crate::trust::random::random;
use crate::wire::datagram::Reach;
use crate::wire::target::Target;

/// Interval between two questions to a name server, unless `--probe-interval` says otherwise: about half a megabyte a day.
const PROOF_INTERVAL: Duration = Duration::from_secs(30);
/// Interval between two attempts to reach a witness while the way out is lost.
const LOST_INTERVAL: Duration = Duration::from_millis(500);
/// The same once it has been lost for longer than [`RETRY`], which happens only where nothing else is connected, and where each
/// attempt is an exchange of data.
const LONG_LOST_INTERVAL: Duration = Duration::from_secs(2);
/// Minimum time between two rounds of questions to the witnesses, however many connections of clients fail.
const MIN_ROUND_INTERVAL: Duration = Duration::from_millis(300);
/// The deadline for one witness or name server.
const DEADLINE: Duration = Duration::from_secs(2);

/// Interval between two checks that a proxy of `--upstream` can be used, unless `--probe-interval` says otherwise.
const UPSTREAM_INTERVAL: Duration = Duration::from_secs(5);

/// Whether no other gateway could serve instead of this one.
pub(super) type IsAlone = dyn Fn() -> bool + Send + Sync;

/// Publishes the verdict until `reach` has no receiver. `results` carries what the clients' connections met. Name servers
/// are not asked if it `asks_nobody`.
pub(super) async fn run(
    (egress, tls): (Arc<Egress>, Arc<ServerTls>),
    interval: Option<Duration>,
    asks_nobody: bool,
    served: ServedLinks,
    mut results: mpsc::Receiver<DialResult>,
    reach: watch::Sender<Reach>,
    is_alone: Box<IsAlone>,
) {
    let upstream_interval = interval.unwrap_or(UPSTREAM_INTERVAL);
    let interval = interval.unwrap_or(PROOF_INTERVAL);
    let mut way = WayOut::new();
    let mut next = Instant::now();
    let mut asked_at: Option<Instant> = None;
    let mut clients = ClientInterfaces::default();
    let (mut is_long_lost, mut upstream) = (false, UpstreamState::default());
    while !reach.is_closed() {
        let (mut waiting, mut is_silence) = (None, false);
        let is_doubtful = tokio::select! {
            () = sleep_until(next.into()) => {
                let has_answered = if asks_nobody { None } else { name_server_answers().await };
                if has_answered == Some(true) {
                    way.note(Seen::Named, Instant::now());
                }
                // A name server that is silent is a reason to look at the witnesses.
                has_answered == Some(false) && way.reach() == Reach::Reachable || way.reach() == Reach::Unreachable
            }
            Some(result) = results.recv() => {
                waiting = result.verdict;
                is_silence = matches!(result.outcome, Outcome::Silent { .. });
                way.note(seen(result.outcome, &served), Instant::now())
            }
        };
        // The way out of a gateway with upstream proxies leads through one of them, whatever else is connected.
        if waiting.is_some() || next <= Instant::now() {
            upstream.check(&egress).await;
        }
        let is_doubtful = is_doubtful && !upstream.is_lost();
        if is_doubtful && asked_at.is_none_or(|asked_at| asked_at.elapsed() >= MIN_ROUND_INTERVAL) {
            let for_data = is_silence || way.is_mute();
            let (unreached, failed) = match for_data {
                true => exchanges_with_any(&egress, &tls, &way).await,
                false => (reaches_any(&egress, &way, asks_nobody).await, Vec::new()),
            };
            let (any, has_path) = (unreached.is_none(), clients.has_path_beyond(&served));
            match for_data {
                true => way.exchanged(any, &failed, is_alone(), has_path, Instant::now()),
                false => way.asked(any, is_alone(), has_path, Instant::now()),
            }
            asked_at = Some(Instant::now());
            if let Some(unreached) = unreached.filter(|_| way.reach() == Reach::Unreachable) {
                egress.note_unreached(unreached);
            }
        }
        let lost_for = way.lost_for(Instant::now());
        if lost_for.is_none() {
            egress.note_unreached(Vec::new());
        }
        let was_long_lost = std::mem::replace(&mut is_long_lost, lost_for.is_some_and(|time| time >= RETRY));
        if is_long_lost && !was_long_lost {
            limited!(warn, NOBODY, "the way out stays lost: only the network of the clients is connected");
        }
        publish(&way, &upstream, &reach);
        // The connection was given up meanwhile.
        let _ = waiting.map(|waiting| waiting.send(*reach.borrow()));
        let pause = match lost_for {
            _ if upstream.is_lost() => LOST_INTERVAL,
            None if upstream.usable.is_some() => interval.min(upstream_interval),
            None => interval,
            Some(_) if is_long_lost || way.is_mute() => LONG_LOST_INTERVAL,
            Some(_) => LOST_INTERVAL,
        };
        let due = Instant::now() + pause.mul_f64(jitter());
        next = if next <= Instant::now() { due } else { next.min(due) };
    }
}

fn seen(outcome: Outcome, served: &ServedLinks) -> Seen {
    match outcome {
        Outcome::Connected(target) => Seen::Connected(target),
        Outcome::Slow(target) => Seen::Slow(target),
        Outcome::Failed { target, no_route } => Seen::Failed { target, no_route },
        // An answer from the clients' own network proves nothing about what is beyond it.
        Outcome::Answered { target, from, speech }
            if is_beyond(from.ip(), |network| served.come_from(network)) =>
        {
            Seen::Answered(target, speech)
        }
        Outcome::Answered { .. } => Seen::Nothing,
        Outcome::Silent { target, speech, is_acknowledged } => {
            Seen::Silent { target, speech, is_acknowledged }
        }
    }
}

/// `None` if any witness is reached, or a name server beyond this machine's networks, which no client has chosen. Else why not.
async fn reaches_any(egress: &Egress, way: &WayOut, asks_nobody: bool) -> Option<Vec<Unreached>> {
    let mut witnesses = pin!(any_reached(egress, way));
    let mut name_servers = pin!(async { !asks_nobody && name_server_answers().await == Some(true) });
    tokio::select! {
        unreached = &mut witnesses => match unreached {
            Some(unreached) => (!name_servers.await).then_some(unreached),
            None => None,
        },
        is_reached = &mut name_servers => if is_reached { None } else { witnesses.await },
    }
}

/// `None` if any destination exchanges data, of those that were silent and those that answered before. Else which ones do not, and
/// which of them were asked now.
async fn exchanges_with_any(
    egress: &Egress,
    tls: &ServerTls,
    way: &WayOut,
) -> (Option<Vec<Unreached>>, Vec<Target>) {
    let speakers = way.speakers();
    let attempt = async |(target, speech)| (target, exchange::run(egress, tls, target, speech).await);
    let mut attempts: FuturesUnordered<_> =
        speakers.iter().map(|(target, speech)| attempt((target, *speech))).collect();
    let (mut unreached, mut failed) = (Vec::new(), Vec::new());
    while let Some((target, ended)) = attempts.next().await {
        match ended {
            Some(Ok(())) => return (None, Vec::new()),
            Some(Err(reason)) => {
                unreached.push(Unreached { server: target.to_string(), reason });
                failed.push(target.clone());
            }
            None => {}
        }
    }
    // What cannot be asked for data has shown that it gets none.
    for target in way.unacknowledging().into_iter().filter(|target| !failed.contains(target)) {
        unreached.push(Unreached { server: target.to_string(), reason: exchange::NOTHING.into() });
    }
    (Some(unreached), failed)
}

/// `None` if any witness accepts a connection or refuses it, which is an answer too. Else why none does.
async fn any_reached(egress: &Egress, way: &WayOut) -> Option<Vec<Unreached>> {
    let witnesses = way.witnesses();
    let attempt = async |witness| (witness, timeout(DEADLINE, egress.dial(witness, DEADLINE)).await);
    let mut attempts: FuturesUnordered<_> = witnesses.iter().map(attempt).collect();
    let mut unreached = Vec::new();
    while let Some((witness, ended)) = attempts.next().await {
        let reason = match ended {
            Ok(Ok(_)) => return None,
            Ok(Err(failure)) if failure.kind == Kind::Refused => return None,
            Ok(Err(failure)) => failure.said_here(),
            Err(_) => "no answer in time".into(),
        };
        unreached.push(Unreached { server: witness.to_string(), reason });
    }
    Some(unreached)
}

/// Whether a name server of this machine that is beyond its networks answers. `None` when there is no such server.
async fn name_server_answers() -> Option<bool> {
    let servers = Conf::system().servers.into_iter().filter(|server| is_beyond(server.ip(), |_| true));
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

/// Whether an address is beyond those networks of this machine that are `inside`.
fn is_beyond(ip: IpAddr, is_inside: impl Fn(&IpNet) -> bool) -> bool {
    let contains = |network: &IpNet| network.contains(&ip) && is_inside(network);
    !ip.is_loopback() && net::own_networks().is_ok_and(|networks| !networks.iter().any(contains))
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

    /// Checks them. If that was done a moment ago, only what connections have met since then counts.
    async fn check(&mut self, egress: &Egress) {
        if self.usable == Some(true) && !egress.upstream_may_work() {
            self.usable = Some(false);
        }
        if self.checked.is_none_or(|checked| checked.elapsed() >= MIN_ROUND_INTERVAL) {
            self.usable = egress.check_upstream().await;
            self.checked = Some(Instant::now());
        }
    }
}

fn publish(way: &WayOut, upstream: &UpstreamState, reach: &watch::Sender<Reach>) {
    let verdict = if upstream.is_lost() { Reach::Unreachable } else { way.reach() };
    reach.send_if_modified(|now| {
        let changed = *now != verdict;
        *now = verdict;
        if changed {
            match verdict {
                Reach::Unreachable if upstream.is_lost() => {
                    limited!(warn, NOBODY, "the way out is lost: no proxy of --upstream can be used");
                }
                Reach::Reachable => {
                    limited!(
                        info,
                        NOBODY,
                        "the way out is proved: a host beyond this machine's networks answers"
                    )
                }
                Reach::Unknown => {
                    limited!(info, NOBODY, "a way out is there again, but nothing has answered yet")
                }
                Reach::Unreachable if way.is_mute() => {
                    let silent = way.speakers().into_iter().map(|(target, _)| target);
                    let mut silent: Vec<_> =
                        silent.chain(way.unacknowledging()).map(|target| target.to_string()).collect();
                    silent.dedup();
                    limited!(
                        warn,
                        NOBODY,
                        witnesses = silent.join(", "),
                        "the way out is lost: these accept connections, and then nothing comes back"
                    );
                }
                Reach::Unreachable => {
                    let witnesses: Vec<_> = way.witnesses().iter().map(ToString::to_string).collect();
                    limited!(
                        warn,
                        NOBODY,
                        witnesses = witnesses.join(", "),
                        "the way out is lost: none of these is reached"
                    );
                }
            }
        }
        changed
    });
}
