//! Notices that a server answers nothing of what it is sent; the gateway decides what follows. A connection that is still open
//! after a few seconds gets keepalives from then on; most are shorter, and save the system calls.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use laneway_sys::net;

/// How long an answer may take before the first check. A connection of this age gets keepalives.
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
    /// It has not answered.
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

/// Is told what was seen of one connection. Returns whether the connection is given up.
pub type Watch<'a> = dyn Fn(Seen<'_>) -> bool + Send + Sync + 'a;

/// What one connection waits for. It has a timer only while it waits, and in the beginning.
pub(crate) struct Waiting<'a> {
    watch: Option<&'a Watch<'a>>,
    /// Since when it waits, and how many bytes had come by then.
    since: Option<(Instant, u64)>,
    last: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    is_kept_alive: bool,
}

impl<'a> Waiting<'a> {
    /// The state of a connection on which nothing was sent.
    pub(crate) fn new(watch: Option<&'a Watch<'a>>) -> Self {
        Self { watch, since: None, last: None, timer: None, is_kept_alive: false }
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
        let Some(watch) = self.watch else { return Poll::Pending };
        if !self.is_kept_alive && self.timer.is_none() {
            self.timer = Some(Box::pin(sleep(FIRST_LOOK)));
        }
        while let Some(timer) = &mut self.timer {
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if !std::mem::replace(&mut self.is_kept_alive, true) {
                net::keep_alive(socket);
            }
            let (Some((since, before)), Some(last)) = (self.since, self.last) else {
                self.timer = None;
                break;
            };
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
            let first = since + FIRST_LOOK;
            timer.as_mut().reset(if waited < FIRST_LOOK { first } else { Instant::now() + INTERVAL });
        }
        Poll::Pending
    }
}

/// Turns on keepalives for a connection whose other direction has ended, some seconds later.
pub(crate) async fn keep_alive_later(socket: &TcpStream) {
    sleep(FIRST_LOOK).await;
    net::keep_alive(socket);
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use socket2::SockRef;
    use tokio::net::TcpListener;
    use tokio::time::advance;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (stream, listener.accept().await.unwrap().0)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_kept_alive_once_it_is_a_few_seconds_old_whether_it_was_used_or_not() {
        for is_used in [false, true] {
            let (stream, _server) = pair().await;
            let watch = |_: Seen<'_>| false;
            let mut waiting = Waiting::new(Some(&watch));
            let is_kept_alive = || SockRef::from(&stream).keepalive().unwrap();
            let look = async |waiting: &mut Waiting<'_>, received| {
                poll_fn(|cx| Poll::Ready(waiting.poll(&stream, received, cx).is_ready())).await
            };
            assert!(!look(&mut waiting, 0).await);
            if is_used {
                waiting.sent(b"?", 0);
            }
            advance(FIRST_LOOK / 2).await;
            assert!(!look(&mut waiting, 1).await && !is_kept_alive());
            advance(FIRST_LOOK).await;
            assert!(!look(&mut waiting, 1).await && is_kept_alive(), "used: {is_used}");
            assert!(waiting.timer.is_none(), "an idle connection has no timer");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_used_late_is_looked_at_when_its_answer_is_late() {
        let (stream, _server) = pair().await;
        let watch = |seen: Seen<'_>| matches!(seen, Seen::Nothing(_));
        let mut waiting = Waiting::new(Some(&watch));
        poll_fn(|cx| Poll::Ready(waiting.poll(&stream, 0, cx).is_ready())).await;
        advance(FIRST_LOOK * 3 / 4).await;
        let sent = Instant::now();
        waiting.sent(b"?", 0);
        poll_fn(|cx| waiting.poll(&stream, 0, cx)).await;
        assert!(sent.elapsed() >= FIRST_LOOK && sent.elapsed() < FIRST_LOOK + INTERVAL / 2);
    }
}
