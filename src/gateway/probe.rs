//! Whether this machine reaches the group's servers: from a periodic TCP connection to each, and from the results of the
//! connections that clients ask for. `--probe` replaces the servers. A client's connection that fails or is slow causes a probe
//! at once.
//!
//! A server that accepts connections and answers nothing counts as not reached if its machine does not even acknowledge what it
//! is sent, or if several servers are so silent. Then only an exchange of data counts, or in an unknown protocol an
//! acknowledgement.

mod check;
pub(super) mod exchange;
pub mod subject;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep_until, timeout};

use self::exchange::{Ask, Reply};
use super::egress::{DialResult, Egress, Outcome};
use super::served::ServedLinks;
use super::silence::{NOTHING, Speech};
use super::tls::ServerTls;
use crate::failure::Kind;
use crate::limited;
use crate::limits::lines::NOBODY;
use crate::peers::discovery::jitter;
use crate::telemetry::snapshot::Unreached;
use crate::wire::datagram::Reach;
use crate::wire::target::Target;
use subject::{Expected, Probe};

/// Interval between two probes, unless `--probe-interval` says otherwise.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Interval between two probes while a result is in doubt or no server is reached, so that both withdrawal and return
/// are quick.
const PROBE_INTERVAL_IN_DOUBT: Duration = Duration::from_millis(500);
/// The deadline of one probe's connection.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);
/// Minimum time between two runs of `--probe` that failed client connections cause: each costs bytes on the uplink.
const PROMPT_INTERVAL: Duration = Duration::from_secs(5);
/// Number of equal results in a row that change the verdict on a server.
const RESULTS_TO_CHANGE: u32 = 2;
/// How long the silence of a server counts.
const SILENCE_WINDOW: Duration = Duration::from_secs(20);
/// Failed dials of clients within this time count as one result: a hundred at once are one event.
const DIAL_FAILURE_WINDOW: Duration = Duration::from_millis(300);

/// Probes until `reach` has no receiver. It is [`Reach::Reachable`] when at least one server is. `dials` carries the
/// results of the connections that clients asked for.
pub async fn run(
    (egress, tls, served): (Arc<Egress>, Arc<ServerTls>, ServedLinks),
    interval: Option<Duration>,
    mut servers: watch::Receiver<Vec<Target>>,
    mut dials: mpsc::Receiver<DialResult>,
    reach: watch::Sender<Reach>,
) {
    let mut probed = servers.borrow_and_update().clone();
    let mut verdicts = vec![ServerVerdict::default(); probed.len()];
    while !reach.is_closed() {
        let probes = probed.iter().zip(&verdicts);
        let probes = probes.map(|(server, verdict)| probe(&egress, &tls, server, verdict.silence.as_ref()));
        let results = join_all(probes).await;
        let probed_at = Instant::now();
        egress.note_unreached(unreached(&probed, &results));
        for ((server, verdict), result) in probed.iter().zip(&mut verdicts).zip(results) {
            if result.is_ok() {
                egress.note_proof(server);
            }
            note(server, verdict, result);
        }
        let is_mute = overall(&verdicts) == Reach::Unreachable && verdicts.iter().any(ServerVerdict::is_mute);
        egress.set_mute(is_mute.then(|| served.networks()));
        let pause = |reached| interval_after(reached, interval);
        let mut next_probe = Instant::now() + pause(publish(&verdicts, &reach)).mul_f64(jitter());
        loop {
            tokio::select! {
                () = sleep_until(next_probe.into()) => break,
                Ok(()) = servers.changed() => {
                    probed = servers.borrow_and_update().clone();
                    verdicts = vec![ServerVerdict::default(); probed.len()];
                    break;
                }
                Some(dial) = dials.recv() => {
                    let now = Instant::now();
                    let place = |of: &Target| probed.iter().position(|server| server == of);
                    match dial.outcome {
                        Outcome::Answered { target, .. } => {
                            let Some(place) = place(&target) else { continue };
                            // A late report may be older than the verdict, and a probe follows soon.
                            if verdicts[place].reach == Reach::Unreachable {
                                continue;
                            }
                            verdicts[place].silence = None;
                            verdicts[place].note(true);
                        }
                        Outcome::Silent { target, speech, is_acknowledged } => {
                            let Some(place) = place(&target) else { continue };
                            verdicts[place].note_silence(speech, is_acknowledged, now);
                            several_are_silent(&probed, &mut verdicts, now);
                            next_probe = next_probe.min(probed_at + PROBE_INTERVAL_IN_DOUBT);
                        }
                        Outcome::Connected(target) => {
                            let Some(place) = place(&target) else { continue };
                            if verdicts[place].is_mute() {
                                continue;
                            }
                            verdicts[place].note(true);
                        }
                        Outcome::Failed { target, .. } => {
                            let Some(place) = place(&target) else { continue };
                            verdicts[place].note_failed_dial(now);
                        }
                        Outcome::Slow(target) => {
                            let Some(place) = place(&target) else { continue };
                            verdicts[place].doubt();
                            next_probe = next_probe.min(probed_at + PROBE_INTERVAL_IN_DOUBT);
                        }
                        // Unreachable servers are all probed twice a second anyway.
                        Outcome::Wanted(_) => continue,
                    }
                    next_probe = next_probe.min(now + pause(publish(&verdicts, &reach)));
                }
            }
        }
    }
}

/// Connects to a server; exchanges data with one that was silent.
async fn probe(
    egress: &Egress,
    tls: &ServerTls,
    server: &Target,
    silence: Option<&Silence>,
) -> Result<(), String> {
    if let Some(silence) = silence.filter(|silence| silence.counts) {
        let ask = match silence.speech {
            Speech::Other => Ask::Acknowledgement,
            speech => Ask::Data(speech),
        };
        return match exchange::run(egress.dialer(), tls, server, ask).await {
            Reply::Answered(_) | Reply::NotAsked => Ok(()),
            Reply::Nothing(reason) => Err(reason),
        };
    }
    match timeout(PROBE_DEADLINE, egress.dialer().dial(server, PROBE_DEADLINE)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(failure)) if failure.kind == Kind::ConnectTimeout => {
            Err(egress.dialer().why_silent(server).unwrap_or_else(|| failure.said_here()))
        }
        Ok(Err(failure)) => Err(failure.said_here()),
        Err(_) => Err(egress.dialer().why_silent(server).unwrap_or_else(|| check::LATE.into())),
    }
}

/// What these results did not reach, as status and page show it.
fn unreached(probed: &[impl fmt::Display], results: &[Result<(), String>]) -> Vec<Unreached> {
    let failed =
        probed.iter().zip(results).filter_map(|(server, result)| Some((server, result.as_ref().err()?)));
    failed.map(|(server, reason)| Unreached { server: server.to_string(), reason: reason.clone() }).collect()
}

/// Notes the result of one probe, and logs what has changed.
fn note(probed: &impl fmt::Display, verdict: &mut ServerVerdict, result: Result<(), String>) {
    let before = verdict.reach;
    verdict.note(result.is_ok());
    match result {
        _ if verdict.reach == before => {}
        Ok(()) => limited!(info, probed.to_string(), server = %probed, "server reached"),
        Err(reason) => {
            limited!(warn, probed.to_string(), server = %probed, reason, "server not reached")
        }
    }
}

/// Runs the probes of `--probe` until `reach` has no receiver. It is [`Reach::Reachable`] when at least one succeeds. `dials`
/// carries the results of the connections that clients asked for: one that fails has all of them run at once.
pub async fn run_checks(
    (egress, served): (Arc<Egress>, ServedLinks),
    interval: Option<Duration>,
    (probes, expected): (Vec<Probe>, Option<Expected>),
    mut dials: mpsc::Receiver<DialResult>,
    reach: watch::Sender<Reach>,
) {
    let mut verdicts = vec![ServerVerdict::default(); probes.len()];
    let mut prompted_at: Option<Instant> = None;
    let (mut waiting, mut for_data) = (Vec::new(), false);
    while !reach.is_closed() {
        let results = join_all(
            probes.iter().map(|probe| check::run(probe, egress.dialer(), expected.as_ref(), for_data)),
        )
        .await;
        for_data &= !results.iter().any(Result::is_ok);
        egress.note_unreached(unreached(&probes, &results));
        let is_nothing = |result: &Result<(), String>| matches!(result, Err(why) if why == NOTHING);
        let is_mute = results.iter().any(is_nothing);
        for ((probe, verdict), result) in probes.iter().zip(&mut verdicts).zip(results) {
            if result.is_ok() {
                egress.note_proof(probe);
            }
            note(probe, verdict, result);
        }
        let is_mute = is_mute && overall(&verdicts) == Reach::Unreachable;
        egress.set_mute(is_mute.then(|| served.networks()));
        let pause = interval_after(publish(&verdicts, &reach), interval);
        for verdict in waiting.drain(..) {
            // Fails if the connection was given up meanwhile.
            let _ = oneshot::Sender::send(verdict, *reach.borrow());
        }
        let next = Instant::now() + pause.mul_f64(jitter());
        loop {
            tokio::select! {
                () = sleep_until(next.into()) => break,
                Some(dial) = dials.recv() => {
                    // A server that acknowledges what it is sent may be slow, and each probe costs bytes on the uplink.
                    let fails = matches!(
                        dial.outcome,
                        Outcome::Slow(_) | Outcome::Failed { .. } | Outcome::Silent { is_acknowledged: false, .. }
                    );
                    for_data |= matches!(dial.outcome, Outcome::Silent { is_acknowledged: false, .. });
                    let is_due = prompted_at.is_none_or(|at| at.elapsed() >= PROMPT_INTERVAL);
                    if fails && is_due && *reach.borrow() == Reach::Reachable {
                        prompted_at = Some(Instant::now());
                        verdicts.iter_mut().for_each(ServerVerdict::doubt);
                        waiting.extend(dial.verdict);
                        break;
                    }
                    // Fails if the connection was given up meanwhile.
                    let _ = dial.verdict.map(|verdict| verdict.send(*reach.borrow()));
                }
                () = reach.closed() => return,
            }
        }
    }
}

/// The time until the next probe.
fn interval_after(is_certain: bool, interval: Option<Duration>) -> Duration {
    let interval = interval.unwrap_or(PROBE_INTERVAL);
    if is_certain { interval } else { PROBE_INTERVAL_IN_DOUBT.min(interval) }
}

/// Publishes the overall verdict if it has changed. Returns whether a server is reached, beyond doubt.
fn publish(verdicts: &[ServerVerdict], reach: &watch::Sender<Reach>) -> bool {
    let overall = overall(verdicts);
    reach.send_if_modified(|now| {
        let changed = *now != overall;
        if changed {
            limited!(info, NOBODY, reach = overall.word(), "servers");
        }
        *now = overall;
        changed
    });
    let in_doubt = verdicts.iter().any(|verdict| verdict.contradictions > 0);
    !in_doubt && overall == Reach::Reachable
}

/// Reachable when one server is; unreachable only when all are known to be.
fn overall(verdicts: &[ServerVerdict]) -> Reach {
    let any = |reach| verdicts.iter().any(|verdict| verdict.reach == reach);
    match () {
        () if any(Reach::Reachable) => Reach::Reachable,
        () if any(Reach::Unknown) => Reach::Unknown,
        () => Reach::Unreachable,
    }
}

/// Lets the silence of servers on several hosts count, although each may only be slow, where an exchange of data could refute it.
fn several_are_silent(probed: &[Target], verdicts: &mut [ServerVerdict], now: Instant) {
    let mut hosts = probed.iter().zip(&*verdicts).filter(|(_, verdict)| verdict.is_silent(now));
    let Some((first, _)) = hosts.next() else { return };
    if !hosts.any(|(other, _)| other.host != first.host) {
        return;
    }
    for verdict in verdicts.iter_mut().filter(|verdict| verdict.is_silent(now)) {
        if let Some(silence) = verdict.silence.as_mut().filter(|silence| silence.speech != Speech::Other) {
            silence.counts = true;
            verdict.doubt();
        }
    }
}

/// The verdict on one server.
#[derive(Clone, Copy, Debug)]
struct ServerVerdict {
    reach: Reach,
    /// Results in a row that contradict `reach`.
    contradictions: u32,
    /// When a failed dial last counted.
    failed_dial: Option<Instant>,
    /// It was silent on connections that it had accepted.
    silence: Option<Silence>,
}

/// How a server was silent.
#[derive(Clone, Copy, Debug)]
struct Silence {
    speech: Speech,
    /// It acknowledged nothing at some time.
    is_unacknowledged: bool,
    /// How many connections were silent, and since when.
    times: u32,
    since: Instant,
    /// Connections alone prove nothing any more.
    counts: bool,
}

impl Default for ServerVerdict {
    fn default() -> Self {
        Self { reach: Reach::Unknown, contradictions: 0, failed_dial: None, silence: None }
    }
}

impl ServerVerdict {
    /// Notes one result.
    fn note(&mut self, reached: bool) {
        let observed = if reached { Reach::Reachable } else { Reach::Unreachable };
        self.contradictions = if observed == self.reach { 0 } else { self.contradictions + 1 };
        // The first success decides alone: waiting for a second one gains nothing.
        if self.contradictions >= RESULTS_TO_CHANGE || (reached && self.reach == Reach::Unknown) {
            (self.reach, self.contradictions) = (observed, 0);
        }
        if reached && self.reach == Reach::Reachable && self.is_mute() {
            self.silence = None;
        }
    }

    /// Notes that a client waits for a connection in vain. Together with a failed probe, that changes the verdict.
    fn doubt(&mut self) {
        if self.reach == Reach::Reachable {
            self.contradictions = self.contradictions.max(1);
        }
    }

    /// Notes that the server was silent on a connection. That counts if its machine acknowledged nothing, and an exchange of data
    /// can prove the opposite, or if that happened several times.
    fn note_silence(&mut self, speech: Speech, is_acknowledged: bool, now: Instant) {
        let first = Silence { speech, is_unacknowledged: false, times: 0, since: now, counts: false };
        let old = self.silence.filter(|silence| now < silence.since + SILENCE_WINDOW || silence.counts);
        let mut silence = old.unwrap_or(first);
        silence.times = silence.times.saturating_add(1);
        silence.is_unacknowledged |= !is_acknowledged;
        if silence.speech == Speech::Other {
            silence.speech = speech;
        }
        silence.counts |= silence.is_unacknowledged
            && (silence.speech != Speech::Other || silence.times >= RESULTS_TO_CHANGE);
        self.silence = Some(silence);
        if silence.counts {
            self.doubt();
        }
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.silence.is_some_and(|silence| now < silence.since + SILENCE_WINDOW)
    }

    /// Whether a connection alone proves nothing.
    fn is_mute(&self) -> bool {
        self.silence.is_some_and(|silence| silence.counts)
    }

    /// Notes that a client's connection failed. Failures within [`DIAL_FAILURE_WINDOW`] count once.
    fn note_failed_dial(&mut self, now: Instant) {
        if self.failed_dial.is_none_or(|last| now >= last + DIAL_FAILURE_WINDOW) {
            self.failed_dial = Some(now);
            self.note(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_result_changes_nothing_except_the_first_success() {
        let mut verdict = ServerVerdict::default();
        verdict.note(false);
        assert_eq!(verdict.reach, Reach::Unknown);
        verdict.note(true);
        assert_eq!(verdict.reach, Reach::Reachable);
        for reached in [false, true, false, true, false] {
            verdict.note(reached);
            assert_eq!(verdict.reach, Reach::Reachable);
        }
        verdict.note(false);
        assert_eq!(verdict.reach, Reach::Unreachable);
        verdict.note(true);
        assert_eq!(verdict.reach, Reach::Unreachable);
        verdict.note(true);
        assert_eq!(verdict.reach, Reach::Reachable);
    }

    #[test]
    fn a_hundred_dials_failing_at_once_are_one_result() {
        let (mut verdict, now) = (ServerVerdict::default(), Instant::now());
        verdict.note(true);
        for _ in 0..100 {
            verdict.note_failed_dial(now);
        }
        assert_eq!(verdict.reach, Reach::Reachable);
        verdict.note_failed_dial(now + DIAL_FAILURE_WINDOW);
        assert_eq!(verdict.reach, Reach::Unreachable);
    }

    #[test]
    fn connections_that_are_slow_decide_together_with_a_failed_probe_and_never_alone() {
        let mut verdict = ServerVerdict::default();
        verdict.note(true);
        (0..10).for_each(|_| verdict.doubt());
        assert_eq!(verdict.reach, Reach::Reachable);
        verdict.note(true);
        verdict.note(false);
        assert_eq!(verdict.reach, Reach::Reachable, "the probe that succeeded ended the doubt");
        verdict.note(true);
        verdict.doubt();
        verdict.note(false);
        assert_eq!(verdict.reach, Reach::Unreachable);
        verdict.doubt();
        verdict.note(true);
        assert_eq!(verdict.reach, Reach::Unreachable, "the way back takes as long as before");
    }

    #[test]
    fn a_server_whose_machine_acknowledges_nothing_is_asked_for_data_and_a_slow_one_is_not() {
        let (mut verdict, now) = (ServerVerdict::default(), Instant::now());
        verdict.note(true);
        for _ in 0..10 {
            verdict.note_silence(Speech::Http, true, now);
            assert!(!verdict.is_mute(), "it may be slow");
        }
        verdict.note_silence(Speech::Http, false, now);
        assert!(verdict.is_mute());
        verdict.note(false);
        assert_eq!(verdict.reach, Reach::Unreachable);
        verdict.note(true);
        assert!(verdict.is_mute());
        verdict.note(true);
        assert_eq!((verdict.reach, verdict.is_mute()), (Reach::Reachable, false));
    }

    #[test]
    fn silence_in_an_unknown_protocol_counts_when_it_is_repeated_and_until_it_is_disproved() {
        let (mut verdict, now) = (ServerVerdict::default(), Instant::now());
        verdict.note(true);
        verdict.note_silence(Speech::Other, false, now);
        assert!(!verdict.is_mute());
        verdict.note_silence(Speech::Other, false, now);
        assert!(verdict.is_mute());
        verdict.note_silence(Speech::Other, true, now + SILENCE_WINDOW);
        assert!(verdict.is_mute(), "time disproves nothing");
        verdict.note(true);
        assert!(!verdict.is_mute());
    }

    #[test]
    fn servers_on_several_hosts_that_are_silent_are_asked_for_data() {
        let (probed, now) = (["10.0.0.1:80", "10.0.0.1:81", "10.0.0.2:80"], Instant::now());
        let probed: Vec<Target> = probed.iter().map(|server| server.parse().unwrap()).collect();
        let mut verdicts = vec![ServerVerdict::default(); 3];
        for place in 0..2 {
            verdicts[place].note_silence(Speech::Http, true, now);
            several_are_silent(&probed, &mut verdicts, now);
        }
        assert!(!verdicts.iter().any(ServerVerdict::is_mute), "one host");
        verdicts[2].note_silence(Speech::Other, true, now);
        several_are_silent(&probed, &mut verdicts, now);
        assert_eq!(verdicts.iter().map(ServerVerdict::is_mute).collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn one_reachable_server_is_enough() {
        let verdict = |reach| ServerVerdict { reach, ..ServerVerdict::default() };
        let [up, down, unknown] = [Reach::Reachable, Reach::Unreachable, Reach::Unknown].map(verdict);
        assert_eq!(overall(&[down, up, unknown]), Reach::Reachable);
        assert_eq!(overall(&[down, unknown]), Reach::Unknown);
        assert_eq!(overall(&[down, down]), Reach::Unreachable);
    }
}
