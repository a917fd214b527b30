//! The bytes that have come before the app has taken those in front of them.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::local::pieces::PIECE;
use crate::memory::{Account, Tally};

/// The memory of one piece, in bytes.
const MEMORY: usize = 1 << 20;
const _: () = assert!(MEMORY as u64 == PIECE);

/// The pieces from the one that the app takes bytes of on. They are copied into memory of their own: the buffers in which bytes
/// arrive on a slow line are several times as large.
pub(super) struct Ahead {
    first: u64,
    pieces: VecDeque<BytesMut>,
    memory: Tally,
}

impl Ahead {
    /// Starts empty, with the app at the piece `first`. The memory is charged to `account`.
    pub(super) fn new(first: u64, account: &Arc<Account>) -> Self {
        Self { first, pieces: VecDeque::new(), memory: Tally::of(account) }
    }

    /// Appends bytes to a piece.
    pub(super) fn push(&mut self, piece: u64, bytes: &[u8]) {
        let Some(place) = piece.checked_sub(self.first).and_then(|place| usize::try_from(place).ok()) else {
            return;
        };
        if bytes.is_empty() {
            return;
        }
        if self.pieces.len() <= place {
            self.pieces.resize_with(place + 1, BytesMut::new);
        }
        let piece = &mut self.pieces[place];
        if piece.capacity() == 0 {
            piece.reserve(MEMORY);
            self.memory.add(MEMORY);
        }
        piece.extend_from_slice(bytes);
    }

    /// The bytes that the app takes next, up to the end of a piece.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let front = self.pieces.front_mut().filter(|front| !front.is_empty())?;
        Some(front.split().freeze())
    }

    /// Notes that the app has all pieces before `first`.
    pub(super) fn passed(&mut self, first: u64) {
        while self.first < first {
            self.first += 1;
            if self.pieces.pop_front().is_some() {
                self.memory.remove(MEMORY);
            }
        }
    }
}
