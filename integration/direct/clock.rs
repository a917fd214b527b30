//! A clock that a test moves by hand, together with real sockets.
//!
//! A paused tokio clock alone would not do: it jumps to the next deadline whenever all tasks wait, also while the kernel
//! carries bytes from one of them to another.

use std::fs;
use std::io::ErrorKind;
use std::sync::mpsc::{Sender, channel};
use std::thread::panicking;
use std::time::Duration;

use tokio::task::{spawn_blocking, yield_now};
use tokio::time::{advance, pause};

use crate::peer::{DEADLINE, Peer};

/// The stopped clock of a test's runtime.
pub(crate) struct Clock(Sender<()>);

impl Clock {
    /// Stops the clock, for at most the usual deadline of a step: a test that still waits then fails.
    #[expect(clippy::disallowed_methods, reason = "the runtime has to know of the thread")]
    pub(crate) fn stop() -> Self {
        pause();
        let (end, ended) = channel();
        // tokio's clock does not jump while a blocking task runs.
        spawn_blocking(move || ended.recv_timeout(DEADLINE));
        Self(end)
    }

    /// Lets this time pass, and runs all tasks whose deadlines are reached. What one task waits for from another must
    /// have been delivered.
    pub(crate) async fn pass(&self, time: Duration) {
        advance(time).await;
        settle().await;
    }

    /// Lets time pass up to a deadline that is `left` away, at which `peer` is disconnected, and not before.
    #[track_caller]
    pub(crate) fn pass_to_deadline(&self, left: Duration, peer: &Peer) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let moment = Duration::from_millis(1);
            delivered(peer).await;
            self.pass(left - moment).await;
            let early = peer.stream.try_read(&mut [0; 64]).map_err(|error| error.kind());
            assert_eq!(early, Err(ErrorKind::WouldBlock), "before the deadline, at {place}");
            // tokio rounds deadlines up to its ticks, which are a millisecond.
            self.pass(2 * moment).await;
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let was_stopped = self.0.send(()).is_ok();
        assert!(was_stopped || panicking(), "nothing happened while the clock was stopped");
    }
}

/// Lets all tasks run that can run now.
pub(crate) async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

/// Waits until the other end has received everything that `peer` has said, and has done with it what it can do now.
pub(crate) async fn delivered(peer: &Peer) {
    let port = format!(":{:04X}", peer.stream.local_addr().unwrap().port());
    // The kernel wakes the reader of a connection before it acknowledges the bytes.
    let unacknowledged = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (local, mut queues) = (words.next(), words.skip(2));
        local.is_some_and(|local| local.ends_with(&port))
            && queues.next().is_some_and(|queues| !queues.starts_with("00000000:"))
    };
    while fs::read_to_string("/proc/net/tcp").unwrap().lines().any(unacknowledged) {
        yield_now().await;
    }
    settle().await;
}
