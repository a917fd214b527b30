//! What a connection has to say as pieces for gathered writes.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use super::frame::HEAD;
use super::streams::{Outgoing, Streams};

/// How many bytes are taken from the streams at a time: whole frames, until they are more than this. The bytes are still
/// in the processor's cache when they are written.
const BATCH: usize = 64 * 1024;
/// How many pieces one gathered write takes at most.
pub const MAX_PIECES: usize = 32;

/// Frames that are being written.
#[derive(Debug, Default)]
pub(super) struct Writer(VecDeque<Piece>);

#[derive(Debug)]
enum Piece {
    /// The header of a frame, and how many of its bytes are written.
    Head([u8; HEAD], usize),
    Bytes(Bytes),
}

impl Piece {
    fn rest(&self) -> &[u8] {
        match self {
            Self::Head(bytes, written) => &bytes[*written..],
            Self::Bytes(bytes) => bytes,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Head(_, written) => *written += count,
            Self::Bytes(bytes) => bytes.advance(count),
        }
    }
}

impl Writer {
    /// Whether all that was taken from the streams is written.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the next batch from the streams.
    pub(super) fn refill(&mut self, streams: &mut Streams) {
        let mut size = 0;
        while size < BATCH && self.0.len() + 2 <= MAX_PIECES {
            match streams.outgoing() {
                Some(Outgoing::Control(frames)) => {
                    size += frames.len();
                    self.0.push_back(Piece::Bytes(frames.into()));
                }
                Some(Outgoing::Data(head, data)) => {
                    size += data.len();
                    self.0.push_back(Piece::Head(head.bytes(), 0));
                    if !data.is_empty() {
                        self.0.push_back(Piece::Bytes(data));
                    }
                }
                None => return,
            }
        }
    }

    /// Puts the pieces to be written next into `slices`, and gives how many there are.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_PIECES]) -> usize {
        for (slice, piece) in slices.iter_mut().zip(&self.0) {
            *slice = IoSlice::new(piece.rest());
        }
        self.0.len().min(MAX_PIECES)
    }

    /// Drops `count` bytes that were written.
    pub(super) fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.0.front_mut() {
            let length = first.rest().len();
            if length > count {
                return first.advance(count);
            }
            count -= length;
            self.0.pop_front();
        }
    }
}
