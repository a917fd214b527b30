//! The output of a connection, as pieces for gathered writes.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use super::frame::HEAD;
use super::streams::{Outgoing, Streams};
use laneway_limits::buffer_pool::memory_of;

/// How many bytes are taken from the streams at a time: whole frames, until they are more than this. The bytes are still
/// in the processor's cache when they are written.
const BATCH: usize = 64 * 1024;
/// How many pieces one gathered write takes at most.
pub const MAX_PIECES: usize = 32;

/// Frames that are being written.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pieces: VecDeque<Piece>,
    /// The memory of the pieces, in bytes.
    memory: usize,
}

#[derive(Debug)]
enum Piece {
    /// The header of a frame, and how many of its bytes are written.
    Head([u8; HEAD], usize),
    /// Bytes, and the memory that they occupy as long as any of them is left.
    Bytes(Bytes, usize),
}

impl Piece {
    fn rest(&self) -> &[u8] {
        match self {
            Self::Head(bytes, written) => &bytes[*written..],
            Self::Bytes(bytes, _) => bytes,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Head(_, written) => *written += count,
            Self::Bytes(bytes, _) => bytes.advance(count),
        }
    }
}

impl Writer {
    /// Whether all that was taken from the streams is written.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Takes the next batch from the streams.
    pub(super) fn refill(&mut self, streams: &mut Streams) {
        let mut size = 0;
        while size < BATCH && self.pieces.len() + 2 <= MAX_PIECES {
            match streams.outgoing() {
                Some(Outgoing::Control(frames)) => {
                    size += frames.len();
                    let memory = frames.capacity();
                    self.push(frames.into(), memory);
                }
                Some(Outgoing::Data(head, data)) => {
                    size += data.len();
                    self.pieces.push_back(Piece::Head(head.bytes(), 0));
                    if !data.is_empty() {
                        let memory = memory_of(data.len());
                        self.push(data, memory);
                    }
                }
                None => return,
            }
        }
    }

    fn push(&mut self, bytes: Bytes, memory: usize) {
        self.memory += memory;
        self.pieces.push_back(Piece::Bytes(bytes, memory));
    }

    /// The memory of what is being written, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// The same memory, piece by piece.
    pub(super) fn walk(&self) -> usize {
        let memory = |piece: &Piece| if let Piece::Bytes(_, memory) = piece { *memory } else { 0 };
        self.pieces.iter().map(memory).sum()
    }

    /// Puts the pieces to be written next into `slices`, and returns their number.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_PIECES]) -> usize {
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece.rest());
        }
        self.pieces.len().min(MAX_PIECES)
    }

    /// Drops `count` bytes that were written.
    pub(super) fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.pieces.front_mut() {
            let length = first.rest().len();
            if length > count {
                return first.advance(count);
            }
            count -= length;
            if let Some(Piece::Bytes(_, memory)) = self.pieces.pop_front() {
                self.memory -= memory;
            }
        }
    }
}
