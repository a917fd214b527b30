//! Frames that are sent before any DATA: everything but DATA.

use super::frame::{self, Kind};
use super::{Reason, Side};

/// How many answers to the peer's own frames may wait to be sent before no more frames are read.
const MAX_ANSWERS: usize = 1024;

/// How many bytes of frames a server lets wait before it reads no more requests: each request is answered with some. A
/// client always reads, because the server could otherwise wait for it in turn.
const MAX_BYTES: usize = 64 * 1024;

/// Encoded frames that wait to be written.
#[derive(Debug, Default)]
pub(super) struct ControlQueue {
    frames: Vec<u8>,
    /// How many of them the peer caused by frames of its own.
    answers: usize,
}

impl ControlQueue {
    /// Queues the connection preface of a client (RFC 9113 §3.4).
    pub(super) fn preface(&mut self) {
        self.frames.extend_from_slice(frame::PREFACE);
    }

    /// Queues a frame.
    pub(super) fn push(&mut self, kind: Kind, flags: u8, stream: u32, payload: &[u8]) {
        frame::write(&mut self.frames, kind, flags, stream, payload);
    }

    /// Queues SETTINGS.
    pub(super) fn settings(&mut self, settings: &frame::Settings) {
        settings.write(&mut self.frames);
    }

    /// Queues a header block, in frames of at most `max_frame_size` bytes.
    pub(super) fn headers(&mut self, stream: u32, block: &[u8], ends: bool, max_frame_size: u32) {
        let mut flags = if ends { frame::END_STREAM } else { 0 };
        let mut kind = Kind::Headers;
        let mut parts = block.chunks(max_frame_size as usize).peekable();
        while let Some(part) = parts.next() {
            let last = if parts.peek().is_none() { frame::END_HEADERS } else { 0 };
            self.push(kind, flags | last, stream, part);
            (kind, flags) = (Kind::Continuation, 0);
        }
    }

    /// Queues WINDOW_UPDATE.
    pub(super) fn window_update(&mut self, stream: u32, increment: u32) {
        self.push(Kind::WindowUpdate, 0, stream, &increment.to_be_bytes());
    }

    /// Queues RST_STREAM.
    pub(super) fn reset(&mut self, stream: u32, reason: Reason) {
        self.push(Kind::ResetStream, 0, stream, &reason.code().to_be_bytes());
    }

    /// Queues GOAWAY; `last` is the highest stream of the peer that is processed.
    pub(super) fn go_away(&mut self, last: u32, reason: Reason) {
        let [l0, l1, l2, l3] = last.to_be_bytes();
        let [r0, r1, r2, r3] = reason.code().to_be_bytes();
        self.push(Kind::GoAway, 0, 0, &[l0, l1, l2, l3, r0, r1, r2, r3]);
    }

    /// Counts an answer that a frame of the peer causes.
    pub(super) fn count_answer(&mut self) {
        self.answers += 1;
    }

    /// The peer does not read the answers to its frames: none of its frames are to be read until it does.
    pub(super) fn is_full(&self, side: Side) -> bool {
        self.answers >= MAX_ANSWERS || (side == Side::Server && self.frames.len() >= MAX_BYTES)
    }

    /// The memory of the frames, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.frames.capacity()
    }

    /// All frames that wait, to be written now.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        if self.frames.is_empty() {
            return None;
        }
        self.answers = 0;
        Some(std::mem::take(&mut self.frames))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{END_HEADERS, END_STREAM, HEAD, Head};

    #[test]
    fn a_long_header_block_goes_on_in_continuations_and_only_the_last_frame_ends_it() {
        let mut queue = ControlQueue::default();
        queue.headers(7, &[9; 25], true, 10);
        let frames = queue.take().unwrap();
        let mut rest = &frames[..];
        let mut seen = Vec::new();
        while let Some((head, tail)) = rest.split_first_chunk::<HEAD>() {
            let head = Head::parse(*head);
            rest = &tail[head.length as usize..];
            seen.push((head.kind, head.flags, head.length));
        }
        let expected = [
            (Kind::Headers, END_STREAM, 10),
            (Kind::Continuation, 0, 10),
            (Kind::Continuation, END_HEADERS, 5),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn unread_answers_fill_the_queue_until_they_are_taken() {
        let mut queue = ControlQueue::default();
        for _ in 0..MAX_ANSWERS {
            assert!(!queue.is_full(Side::Client));
            queue.count_answer();
            queue.push(Kind::Ping, frame::ACK, 0, &[0; 8]);
        }
        assert!(queue.is_full(Side::Client));
        assert!(queue.take().is_some() && queue.take().is_none());
        assert!(!queue.is_full(Side::Client));
    }
}
