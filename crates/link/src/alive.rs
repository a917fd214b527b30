//! Proof that the peer of a link is alive: PING and its answer (RFC 9113 §6.7), each with a deadline. The system still
//! accepts TCP connections for a process that hangs, so only an answer of the application proves anything.
//!
//! There are two levels. A link whose ping is unanswered for a moment is *suspect*: new tunnels go elsewhere and the old ones
//! stay, so a wrong suspicion costs nothing. A link whose ping is unanswered until the full deadline, while nothing else
//! moves, is *dead*. Traffic counts because on a slow or lossy line a ping and its answer wait behind what was sent before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::flow::Flow;
use super::queue::Queue;
use laneway_h2::PingPong;

/// A ping that is unanswered for this long makes the link suspect.
const SUSPICION: Duration = Duration::from_millis(250);
/// How many answers in time, in a row, make a suspect link trusted again.
const TRUST: u32 = 4;
/// What arrives within a shorter round trip than this says little about the rate.
const BURSTS: Duration = Duration::from_millis(10);
/// The interval between two pings, and how long an answer may take, while tunnels are open.
const UNDER_TRAFFIC: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(3));
/// Both times for a link without tunnels. No answer may take longer than this, whatever else moves.
const IDLE: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(15));
/// An answer may take this many times as long as recent ones have taken; never longer than on an idle link.
const SLOW_LINE: u32 = 10;
/// The interval at which traffic is checked while a ping is unanswered. No more than this counts from one check to the next.
const TRAFFIC_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// A link is replaced after this many tunnels: there are 2^30 stream ids for them (RFC 9113 §5.1.1), and half of the ids are
/// left for the time that the replacement takes.
const MAX_TUNNELS: u32 = 1 << 29;

/// What is shared about one link: its open tunnels, its traffic, and whether it is suspect or has to be replaced.
#[derive(Debug)]
pub struct LinkState {
    flow: Flow,
    queue: Arc<Queue>,
    tunnels: AtomicU32,
    patient: bool,
    suspect: watch::Sender<bool>,
    proof_wanted: Notify,
    busy: Notify,
    /// How many tunnels it may still open before it has to be replaced.
    left: AtomicU32,
    exhausted: watch::Sender<bool>,
}

/// Counts one tunnel as open until it is dropped.
#[derive(Debug)]
pub struct OpenTunnel {
    link_state: Arc<LinkState>,
    counts: bool,
}

impl Default for LinkState {
    fn default() -> Self {
        Self {
            flow: Flow::default(),
            queue: Arc::default(),
            tunnels: AtomicU32::new(0),
            patient: false,
            suspect: watch::Sender::new(false),
            proof_wanted: Notify::new(),
            busy: Notify::new(),
            left: AtomicU32::new(MAX_TUNNELS),
            exhausted: watch::Sender::new(false),
        }
    }
}

impl LinkState {
    /// The state of a link with this `queue`.
    pub(super) fn of(queue: Arc<Queue>) -> Self {
        Self { queue, ..Self::default() }
    }

    /// The state of a link that always has the intervals of an idle one, because the other end pings more often.
    pub(super) fn patient(queue: Arc<Queue>) -> Self {
        Self { patient: true, ..Self::of(queue) }
    }

    /// The state of a link that is exhausted after `tunnels` tunnels.
    #[cfg(test)]
    fn limited_to(tunnels: u32) -> Self {
        Self { left: AtomicU32::new(tunnels), ..Self::default() }
    }

    /// Counts one more open tunnel.
    pub fn tunnel(self: &Arc<Self>) -> OpenTunnel {
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) == Ok(1) {
            self.mark_exhausted();
        }
        if self.tunnels.fetch_add(1, Ordering::Relaxed) == 0 {
            self.busy.notify_one();
        }
        self.queue.steps().expect_small();
        OpenTunnel { link_state: self.clone(), counts: true }
    }

    /// A stream that does not count as a tunnel: it changes neither the ping intervals nor the windows.
    pub(super) fn aside(self: &Arc<Self>) -> OpenTunnel {
        OpenTunnel { link_state: self.clone(), counts: false }
    }

    /// The windows and the traffic of the link.
    pub(super) fn flow(&self) -> &Flow {
        &self.flow
    }

    /// What waits to be sealed and sent on the link.
    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Notes that the link has to be replaced before its stream ids run out. Open tunnels stay, and more can be opened
    /// until the new link is up.
    pub fn mark_exhausted(&self) {
        self.exhausted.send_replace(true);
    }

    /// Whether the link has to be replaced.
    pub fn is_exhausted(&self) -> bool {
        *self.exhausted.borrow()
    }

    /// Whether the link has to be replaced, and its changes.
    pub fn exhausted(&self) -> watch::Receiver<bool> {
        self.exhausted.subscribe()
    }

    /// The bytes of tunnels and of group updates that were sent on the link, and that were received.
    pub fn moved(&self) -> (u64, u64) {
        (self.flow.sent(), self.flow.received())
    }

    /// The last round trip of a ping.
    pub fn round_trip(&self) -> Option<Duration> {
        self.flow.round_trip()
    }

    /// How long the link has been up.
    pub fn age(&self) -> Duration {
        self.flow.age()
    }

    /// How many tunnels are open.
    pub fn tunnels(&self) -> u32 {
        self.tunnels.load(Ordering::Relaxed)
    }

    /// Asks for a ping now, because something expected has not arrived.
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

    /// How long an answer may take when the slowest recent one took `slowest`.
    fn patience(&self, slowest: Duration) -> Duration {
        self.rhythm().1.max((slowest * SLOW_LINE).min(IDLE.1))
    }
}

impl OpenTunnel {
    /// The state of its link.
    pub fn link_state(&self) -> &Arc<LinkState> {
        &self.link_state
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        if self.counts {
            self.link_state.tunnels.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// An unanswered ping, and the traffic since it was sent. Time in which this node itself did not run is left out: it might
/// have been stopped or starved, and the answer waits in its socket.
#[derive(Clone, Copy, Debug)]
struct Unanswered {
    sent: Instant,
    moved: (u64, u64),
    moved_at: Instant,
    checked: Instant,
}

impl Unanswered {
    fn new(sent: Instant, moved: (u64, u64)) -> Self {
        Self { sent, moved, moved_at: sent, checked: sent }
    }

    /// Notes how many bytes have moved until `now`.
    fn check(&mut self, moved: (u64, u64), now: Instant) {
        let did_not_run = (now - self.checked).saturating_sub(TRAFFIC_CHECK_INTERVAL);
        self.sent += did_not_run;
        self.moved_at += did_not_run;
        self.checked = now;
        if moved != self.moved {
            (self.moved, self.moved_at) = (moved, now);
        }
    }

    /// When the link is dead unless the answer arrives or something moves.
    fn dead_at(&self, patience: Duration) -> Instant {
        (self.moved_at + patience).min(self.sent + patience.max(IDLE.1))
    }
}

/// Pings until an answer is missing at the full deadline, and returns then.
pub(super) async fn until_dead(mut ping: PingPong, link_state: Arc<LinkState>) {
    let (mut prompt_answers, mut slowest) = (0, Duration::ZERO);
    let mut before = (Instant::now(), 0);
    loop {
        let (sent, received) = (Instant::now(), link_state.flow.received());
        let mut unanswered = Unanswered::new(sent, link_state.moved());
        let answered = {
            let mut answer = std::pin::pin!(ping.ping());
            loop {
                let now = Instant::now();
                unanswered.check(link_state.moved(), now);
                let dead_at = unanswered.dead_at(link_state.patience(slowest));
                if now >= dead_at {
                    return;
                }
                let suspect = *link_state.suspect.borrow();
                tokio::select! {
                    biased;
                    answer = &mut answer => break answer.is_ok(),
                    () = sleep_until(sent + SUSPICION), if !suspect => {
                        link_state.set_suspect(true);
                        prompt_answers = 0;
                    }
                    // The deadline changes with the first tunnel.
                    () = sleep_until(dead_at.min(now + TRAFFIC_CHECK_INTERVAL)) => {}
                    () = link_state.proof_wanted.notified() => {}
                }
            }
        };
        if !answered {
            // The connection has ended, and reports why itself.
            return std::future::pending().await;
        }
        // A short round trip sees a whole burst or none of it, so there the rate is measured since the ping before.
        let (since, bytes_then) = if sent.elapsed() < BURSTS { before } else { (sent, received) };
        link_state.flow.measured(link_state.flow.received() - bytes_then, since.elapsed(), sent.elapsed());
        before = (sent, received);
        slowest = sent.elapsed().max(slowest * 7 / 8);
        prompt_answers = if sent.elapsed() < SUSPICION { prompt_answers + 1 } else { 0 };
        if prompt_answers >= TRUST {
            link_state.set_suspect(false);
        }
        let answered = Instant::now();
        loop {
            let pause = if *link_state.suspect.borrow() { UNDER_TRAFFIC.0 } else { link_state.rhythm().0 };
            tokio::select! {
                () = sleep_until(answered + pause) => break,
                () = link_state.proof_wanted.notified() => break,
                // The pause is shorter from the first tunnel on.
                () = link_state.busy.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unanswered_ping_ends_the_link_when_nothing_moves_and_in_any_case_after_a_while() {
        let sent = Instant::now();
        let after = |quarters| sent + TRAFFIC_CHECK_INTERVAL * quarters;
        let mut unanswered = Unanswered::new(sent, (7, 7));
        (1..=8).for_each(|quarter| unanswered.check((7, 7), after(quarter)));
        assert_eq!(unanswered.dead_at(UNDER_TRAFFIC.1), after(4 * 3), "nothing has moved");
        unanswered.check((7, 8), after(9));
        assert_eq!(unanswered.dead_at(UNDER_TRAFFIC.1), after(9 + 4 * 3), "something has arrived");
        (10..=56).for_each(|quarter| unanswered.check((u64::from(quarter), 8), after(quarter)));
        assert_eq!(
            unanswered.dead_at(UNDER_TRAFFIC.1),
            after(4 * 15),
            "it receives what is sent, and answers nothing"
        );
        assert_eq!(unanswered.dead_at(IDLE.1), after(4 * 15));
    }

    #[test]
    fn time_in_which_this_node_itself_was_stopped_does_not_make_a_link_dead() {
        let (sent, mut now) = (Instant::now(), Instant::now() + Duration::from_secs(3600));
        let mut unanswered = Unanswered::new(sent, (7, 7));
        unanswered.check((7, 7), now);
        let mut checks = 0;
        while now < unanswered.dead_at(UNDER_TRAFFIC.1) {
            now += TRAFFIC_CHECK_INTERVAL;
            unanswered.check((7, 7), now);
            checks += 1;
        }
        assert_eq!(checks, 11, "three seconds less the first interval");
    }

    #[test]
    fn a_slow_line_is_given_more_time_and_never_more_than_an_idle_one() {
        let link_state = Arc::new(LinkState::default());
        let _tunnel = link_state.tunnel();
        let patience = |millis| link_state.patience(Duration::from_millis(millis)).as_secs();
        assert_eq!([0, 20, 300, 500, 5000].map(patience), [3, 3, 3, 5, 15]);
    }

    #[test]
    fn a_link_is_exhausted_after_its_number_of_tunnels_however_few_are_open() {
        let link_state = Arc::new(LinkState::limited_to(3));
        for exhausted in [false, false, true, true] {
            drop(link_state.tunnel());
            assert_eq!(link_state.is_exhausted(), exhausted);
        }
    }
}
