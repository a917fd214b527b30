//! Notices that a server answers nothing of what it is sent. What follows from that is up to the gateway.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// How long an answer may take before the first check.
pub const FIRST_LOOK: Duration = Duration::from_secs(4);
/// Interval between two checks after that.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// What was seen of a server that was sent something.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// It is sent its first bytes, which tell the protocol.
    First(&'a [u8]),
    /// It has answered what it was sent some seconds ago, or later.
    Answer,
    /// It has not.
    Nothing(Unanswered<'a>),
}

/// For how long a server has answered nothing.
#[derive(Clone, Copy, Debug)]
pub struct Unanswered<'a> {
    /// The connection.
    pub socket: &'a TcpStream,
    /// Since it was first sent something that it has not answered.
    pub waited: Duration,
    /// Since it was last sent something.
    pub quiet: Duration,
    /// It has answered before.
    pub has_answered: bool,
}

/// Is told what was seen of one connection. Returns whether that is given up.
pub type Watch<'a> = dyn Fn(Seen<'_>) -> bool + Send + Sync + 'a;

/// What one connection waits for. It has a timer only while it waits.
pub(crate) struct Waiting<'a> {
    watch: Option<&'a Watch<'a>>,
    /// Since when, and how many bytes had come by then.
    since: Option<(Instant, u64)>,
    last: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<'a> Waiting<'a> {
    /// Of a connection on which nothing was sent.
    pub(crate) fn new(watch: Option<&'a Watch<'a>>) -> Self {
        Self { watch, since: None, last: None, timer: None }
    }

    /// Notes that `bytes` were sent when `received` bytes had come so far.
    pub(crate) fn sent(&mut self, bytes: &[u8], received: u64) {
        let Some(watch) = self.watch else { return };
        let now = Instant::now();
        if self.last.replace(now).is_none() {
            watch(Seen::First(bytes));
        }
        if self.since.is_none_or(|(_, before)| before != received) {
            self.since = Some((now, received));
        }
        if self.timer.is_none() {
            self.timer = Some(Box::pin(sleep_until(now + FIRST_LOOK)));
        }
    }

    /// Looks when it is time to, with `received` bytes so far. Ready when the connection is given up.
    pub(crate) fn poll(&mut self, socket: &TcpStream, received: u64, cx: &mut Context<'_>) -> Poll<()> {
        while let (Some(timer), Some(watch)) = (&mut self.timer, self.watch) {
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let (Some((since, before)), Some(last)) = (self.since, self.last) else { break };
            if received != before {
                (self.since, self.timer) = (None, None);
                watch(Seen::Answer);
                break;
            }
            let (waited, quiet) = (since.elapsed(), last.elapsed());
            let has_answered = received > 0;
            let unanswered = Unanswered { socket, waited, quiet, has_answered };
            if waited >= FIRST_LOOK && watch(Seen::Nothing(unanswered)) {
                return Poll::Ready(());
            }
            timer.as_mut().reset((Instant::now() + INTERVAL).max(since + FIRST_LOOK));
        }
        Poll::Pending
    }
}
