//! Streams that have closed (RFC 9113 §5.1), and why a frame may still arrive on one.

/// How many of the streams that closed last are remembered one by one.
const REMEMBERED: usize = 64;

/// How a stream came to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum ClosedBy {
    /// Both ends have sent END_STREAM.
    Ends = 1,
    /// The peer's RST_STREAM: it sends nothing more.
    Peer = 2,
    /// This end's RST_STREAM: frames that the peer sent before it knew of that may still arrive.
    Us = 3,
}

/// Why a frame arrives on a closed stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// It may have been sent before the peer knew that the stream is closed.
    InFlight,
    /// The peer knows that the stream was reset.
    AfterReset,
    /// The peer had ended the stream itself.
    AfterEnd,
    /// The stream closed long ago, or was never opened.
    Unknown,
}

/// The closed streams of one connection, in a fixed size: the last ones, and whether the peer knows of all resets.
#[derive(Debug)]
pub(super) struct Closed {
    /// Number and [`ClosedBy`] of each stream; 0 for none.
    recent: [u32; REMEMBERED],
    next: usize,
    /// Whether a stream was reset after the last PING was sent.
    is_unseen: bool,
    /// Whether a stream was reset before the PING that waits for its answer.
    is_asked: bool,
}

impl Closed {
    /// Before any stream has closed.
    pub(super) fn new() -> Self {
        Self { recent: [0; REMEMBERED], next: 0, is_unseen: false, is_asked: false }
    }

    /// Notes that a stream has closed.
    pub(super) fn add(&mut self, id: u32, by: ClosedBy) {
        // All numbers are odd, so that two bits are free.
        self.recent[self.next] = (id >> 1) << 2 | by as u32;
        self.next = (self.next + 1) % REMEMBERED;
        self.is_unseen |= by == ClosedBy::Us;
    }

    /// Notes that a PING is sent.
    pub(super) fn asked(&mut self) {
        self.is_asked |= std::mem::take(&mut self.is_unseen);
    }

    /// Notes that it was answered: the peer has read every RST_STREAM that was sent before it.
    pub(super) fn answered(&mut self) {
        self.is_asked = false;
    }

    /// Why a frame arrives on this stream, which is closed.
    pub(super) fn late(&self, id: u32) -> Late {
        let found = self.recent.iter().find(|entry| **entry != 0 && **entry >> 2 == id >> 1);
        let by = found.map(|entry| entry & 3);
        match by {
            Some(by) if by == ClosedBy::Ends as u32 => Late::AfterEnd,
            Some(by) if by == ClosedBy::Peer as u32 => Late::AfterReset,
            _ if self.is_unseen || self.is_asked => Late::InFlight,
            Some(_) => Late::AfterReset,
            None => Late::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_on_a_stream_that_this_end_reset_are_in_flight_until_a_later_ping_is_answered() {
        let mut closed = Closed::new();
        closed.asked();
        closed.add(5, ClosedBy::Us);
        closed.answered();
        assert_eq!(closed.late(5), Late::InFlight, "that PING was sent before the reset");
        closed.asked();
        closed.add(7, ClosedBy::Us);
        closed.answered();
        assert_eq!(
            [5, 7].map(|id| closed.late(id)),
            [Late::InFlight; 2],
            "7 was reset after the second PING"
        );
        closed.asked();
        closed.answered();
        assert_eq!([5, 7].map(|id| closed.late(id)), [Late::AfterReset; 2]);
    }

    #[test]
    fn only_the_last_streams_are_remembered_and_how_each_was_closed() {
        let mut closed = Closed::new();
        closed.add(1, ClosedBy::Ends);
        closed.add(3, ClosedBy::Peer);
        assert_eq!([1, 3, 5].map(|id| closed.late(id)), [Late::AfterEnd, Late::AfterReset, Late::Unknown]);
        for id in 0..u32::try_from(REMEMBERED).unwrap() {
            closed.add(5 + 2 * id, ClosedBy::Ends);
        }
        assert_eq!([1, 3, 5].map(|id| closed.late(id)), [Late::Unknown, Late::Unknown, Late::AfterEnd]);
    }
}
