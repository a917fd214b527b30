//! PING (RFC 9113 §6.7) as proof that the peer is alive.

use std::task::{Context, Poll, Waker};

use super::waker::{register, wake};

/// The payload that asks whether the peer is alive.
pub(super) const ALIVE: [u8; 8] = *b"laneway?";
/// The payload whose answer ends the first step of a drain: the peer has read the GOAWAY before it.
pub(super) const DRAINED: [u8; 8] = *b"drained?";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    Sent,
    Answered,
}

/// PING, at most one question at a time.
#[derive(Debug, Default)]
pub(super) struct Ping {
    stage: Stage,
    waiting: Option<Waker>,
}

impl Ping {
    /// Waits for the answer. Calls `send` when the question has to be sent first.
    pub(super) fn poll(&mut self, cx: &Context<'_>, send: impl FnOnce()) -> Poll<()> {
        if self.stage == Stage::Answered {
            self.stage = Stage::Idle;
            return Poll::Ready(());
        }
        register(&mut self.waiting, cx);
        if self.stage == Stage::Idle {
            self.stage = Stage::Sent;
            send();
        }
        Poll::Pending
    }

    /// Takes an answer. False when it answers nothing.
    pub(super) fn answered(&mut self, payload: [u8; 8]) -> bool {
        let is_expected = payload == ALIVE && self.stage == Stage::Sent;
        if is_expected {
            self.stage = Stage::Answered;
            self.wake();
        }
        is_expected
    }

    /// Wakes the waiting task.
    pub(super) fn wake(&mut self) {
        wake(&mut self.waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_question_is_sent_and_only_its_answer_counts_once() {
        let (mut ping, cx) = (Ping::default(), Context::from_waker(Waker::noop()));
        assert!(!ping.answered(ALIVE), "nothing was asked");
        let mut sent = 0;
        assert!(ping.poll(&cx, || sent += 1).is_pending());
        assert!(ping.poll(&cx, || sent += 1).is_pending());
        assert_eq!(sent, 1);
        assert!(!ping.answered(DRAINED));
        assert!(ping.answered(ALIVE) && !ping.answered(ALIVE));
        assert!(ping.poll(&cx, || unreachable!("it was answered")).is_ready());
        assert!(ping.poll(&cx, || sent += 1).is_pending());
        assert_eq!(sent, 2);
    }
}
