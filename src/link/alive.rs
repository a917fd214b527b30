//! Proof that the peer of a link lives: PING and its answer (RFC 9113 §6.7), each with a deadline. A process
//! that is stopped still accepts TCP connections; only an answer of the application proves anything.
//!
//! Two steps. A link whose ping is unanswered for a moment is *suspect*: new tunnels go elsewhere, the old ones
//! stay, so that being wrong costs nothing. One whose ping is unanswered for the full deadline, while nothing else moves,
//! is *dead*: on a slow or lossy line a ping and its answer wait behind what was sent before them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::flow::Flow;
use super::http2::PingPong;
use super::queue::Queue;

/// A ping unanswered for so long makes the link suspect.
const SUSPICION: Duration = Duration::from_millis(250);
/// So many answers in time, one after the other, make a suspect trusted again.
const TRUST: u32 = 4;
/// What arrives within a round trip of less than this says little about the rate.
const BURSTS: Duration = Duration::from_millis(10);
/// Between two pings, and how long the answer may take, while tunnels are open.
const UNDER_TRAFFIC: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(3));
/// The same of a link without tunnels. Whatever moves, no answer takes longer.
const IDLE: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(15));
/// On a line where pings took long lately, so many times that is waited; never longer than on an idle link.
const SLOW_LINE: u32 = 10;
/// While a ping is unanswered it is looked so often whether anything else moves.
const LOOK: Duration = Duration::from_millis(250);

/// A link is replaced after so many tunnels: there are 2^30 ids for them (RFC 9113 §5.1.1), and half of them are left
/// for the time that this takes.
const MOST_TUNNELS: u32 = 1 << 29;

/// The open tunnels of one link, what arrives on it, and whether it is suspect.
#[derive(Debug)]
pub struct Pulse {
    flow: Flow,
    queue: Arc<Queue>,
    tunnels: AtomicU32,
    patient: bool,
    suspect: watch::Sender<bool>,
    proof_wanted: Notify,
    busy: Notify,
    /// Tunnels that it may still carry before it should be replaced.
    left: AtomicU32,
    worn: watch::Sender<bool>,
}

/// Counts one tunnel as open until it is dropped.
#[derive(Debug)]
pub struct OpenTunnel {
    pulse: Arc<Pulse>,
    counts: bool,
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            flow: Flow::default(),
            queue: Arc::default(),
            tunnels: AtomicU32::new(0),
            patient: false,
            suspect: watch::Sender::new(false),
            proof_wanted: Notify::new(),
            busy: Notify::new(),
            left: AtomicU32::new(MOST_TUNNELS),
            worn: watch::Sender::new(false),
        }
    }
}

impl Pulse {
    /// Of the link with this `queue`.
    pub(super) fn of(queue: Arc<Queue>) -> Self {
        Self { queue, ..Self::default() }
    }

    /// The same, pinging at the idle rhythm whatever is open: the other end's does the rest.
    pub(super) fn patient(queue: Arc<Queue>) -> Self {
        Self { patient: true, ..Self::of(queue) }
    }

    /// One that is worn after so many tunnels.
    #[cfg(test)]
    fn lasting(tunnels: u32) -> Self {
        Self { left: AtomicU32::new(tunnels), ..Self::default() }
    }

    /// Notes one more open tunnel.
    pub fn tunnel(self: &Arc<Self>) -> OpenTunnel {
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) == Ok(1) {
            self.wear_out();
        }
        if self.tunnels.fetch_add(1, Ordering::Relaxed) == 0 {
            self.busy.notify_one();
        }
        self.queue.steps().hurry();
        OpenTunnel { pulse: self.clone(), counts: true }
    }

    /// A stream that is no tunnel: it changes neither the rhythm nor the windows.
    pub(super) fn aside(self: &Arc<Self>) -> OpenTunnel {
        OpenTunnel { pulse: self.clone(), counts: false }
    }

    /// What arrives on the link.
    pub(super) fn flow(&self) -> &Flow {
        &self.flow
    }

    /// What waits to be sent on the link.
    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Says that the link should be replaced before its stream ids run out. What is open stays, and until the new one
    /// stands more can be opened.
    pub fn wear_out(&self) {
        self.worn.send_replace(true);
    }

    /// Whether the link should be replaced.
    pub fn is_worn(&self) -> bool {
        *self.worn.borrow()
    }

    /// The same, and its change.
    pub fn worn(&self) -> watch::Receiver<bool> {
        self.worn.subscribe()
    }

    /// Bytes of tunnels and of news that were sent on the link, and that arrived on it.
    pub fn moved(&self) -> (u64, u64) {
        (self.flow.sent(), self.flow.received())
    }

    /// The last round trip of a ping.
    pub fn round_trip(&self) -> Option<Duration> {
        self.flow.round_trip()
    }

    /// How long the link stands.
    pub fn age(&self) -> Duration {
        self.flow.age()
    }

    /// How many tunnels are open.
    pub fn tunnels(&self) -> u32 {
        self.tunnels.load(Ordering::Relaxed)
    }

    /// Asks for a ping now: something that should have come did not.
    pub fn want_proof(&self) {
        self.proof_wanted.notify_one();
    }

    /// Whether the link is suspect, and its changes.
    pub fn suspect(&self) -> watch::Receiver<bool> {
        self.suspect.subscribe()
    }

    /// Waits until the link is suspect.
    pub async fn suspected(&self) {
        let mut suspect = self.suspect();
        if suspect.wait_for(|suspect| *suspect).await.is_err() {
            std::future::pending().await
        }
    }

    fn set_suspect(&self, suspect: bool) -> bool {
        self.suspect.send_if_modified(|now| std::mem::replace(now, suspect) != suspect)
    }

    fn rhythm(&self) -> (Duration, Duration) {
        if self.tunnels() > 0 && !self.patient { UNDER_TRAFFIC } else { IDLE }
    }

    /// How long an answer may take where the slowest of the latest ones took so long.
    fn patience(&self, slowest: Duration) -> Duration {
        self.rhythm().1.max((slowest * SLOW_LINE).min(IDLE.1))
    }
}

impl OpenTunnel {
    /// The pulse of its link.
    pub fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        if self.counts {
            self.pulse.tunnels.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// An unanswered ping, and what else shows that the peer lives.
#[derive(Clone, Copy, Debug)]
struct Unanswered {
    sent: Instant,
    moved: (u64, u64),
    moved_at: Instant,
}

impl Unanswered {
    fn new(sent: Instant, moved: (u64, u64)) -> Self {
        Self { sent, moved, moved_at: sent }
    }

    /// Notes how much has moved by now.
    fn look(&mut self, moved: (u64, u64), now: Instant) {
        if moved != self.moved {
            (self.moved, self.moved_at) = (moved, now);
        }
    }

    /// When the link is dead if the answer does not come and nothing moves any more.
    fn dead_at(&self, patience: Duration) -> Instant {
        (self.moved_at + patience).min(self.sent + patience.max(IDLE.1))
    }
}

/// Pings until an answer is late by the full deadline, which is when it returns.
pub(super) async fn until_dead(mut ping: PingPong, pulse: Arc<Pulse>) {
    let (mut prompt_answers, mut slowest) = (0, Duration::ZERO);
    let mut before = (Instant::now(), 0);
    loop {
        let (sent, received) = (Instant::now(), pulse.flow.received());
        let mut unanswered = Unanswered::new(sent, pulse.moved());
        let answered = {
            let mut answer = std::pin::pin!(ping.ping());
            loop {
                let suspect = *pulse.suspect.borrow();
                tokio::select! {
                    biased;
                    answer = &mut answer => break answer.is_ok(),
                    () = sleep_until(sent + SUSPICION), if !suspect => {
                        pulse.set_suspect(true);
                        prompt_answers = 0;
                    }
                    // The deadline is another one once tunnels are open.
                    () = sleep_until(unanswered.dead_at(pulse.patience(slowest)).min(Instant::now() + LOOK)) => {
                        let now = Instant::now();
                        unanswered.look(pulse.moved(), now);
                        if now >= unanswered.dead_at(pulse.patience(slowest)) {
                            return;
                        }
                    }
                    () = pulse.proof_wanted.notified() => {}
                }
            }
        };
        if !answered {
            // The connection itself reports why it ended.
            return std::future::pending().await;
        }
        // Within a short round trip there is a burst or there is none: there, what counts is the rate since the ping before.
        let (since, by_then) = if sent.elapsed() < BURSTS { before } else { (sent, received) };
        pulse.flow.measured(pulse.flow.received() - by_then, since.elapsed(), sent.elapsed());
        before = (sent, received);
        slowest = sent.elapsed().max(slowest * 7 / 8);
        prompt_answers = if sent.elapsed() < SUSPICION { prompt_answers + 1 } else { 0 };
        if prompt_answers >= TRUST {
            pulse.set_suspect(false);
        }
        let answered = Instant::now();
        loop {
            let pause = if *pulse.suspect.borrow() { UNDER_TRAFFIC.0 } else { pulse.rhythm().0 };
            tokio::select! {
                () = sleep_until(answered + pause) => break,
                () = pulse.proof_wanted.notified() => break,
                // The pause is a shorter one from the first tunnel on.
                () = pulse.busy.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unanswered_ping_is_the_end_when_nothing_moves_and_in_any_case_after_a_while() {
        let sent = Instant::now();
        let after = |seconds| sent + Duration::from_secs(seconds);
        let mut unanswered = Unanswered::new(sent, (7, 7));
        unanswered.look((7, 7), after(2));
        assert_eq!(unanswered.dead_at(UNDER_TRAFFIC.1), after(3), "nothing has moved");
        unanswered.look((7, 8), after(2));
        assert_eq!(unanswered.dead_at(UNDER_TRAFFIC.1), after(5), "something has arrived");
        unanswered.look((8, 8), after(14));
        assert_eq!(
            unanswered.dead_at(UNDER_TRAFFIC.1),
            after(15),
            "it takes what is sent, and answers nothing"
        );
        assert_eq!(unanswered.dead_at(IDLE.1), after(15));
    }

    #[test]
    fn a_slow_line_is_given_more_time_and_never_more_than_an_idle_one() {
        let pulse = Arc::new(Pulse::default());
        let _tunnel = pulse.tunnel();
        let patience = |millis| pulse.patience(Duration::from_millis(millis)).as_secs();
        assert_eq!([0, 20, 300, 500, 5000].map(patience), [3, 3, 3, 5, 15]);
    }

    #[test]
    fn a_link_is_worn_after_so_many_tunnels_however_few_are_open() {
        let pulse = Arc::new(Pulse::lasting(3));
        for worn in [false, false, true, true] {
            drop(pulse.tunnel());
            assert_eq!(pulse.is_worn(), worn);
        }
    }
}
