//! Received bytes that wait for their reader.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use laneway_limits::buffer_pool::memory_of;

/// Pieces below this size are copied together, in bytes: each piece of its own would keep the whole buffer alive that it
/// was read into, and cost many times its bytes.
const SMALL: usize = 2048;

/// A queue of bytes in the pieces in which they arrived.
#[derive(Debug, Default)]
pub struct PieceQueue {
    pieces: VecDeque<Piece>,
    /// Small pieces that follow `pieces`, copied together.
    small: BytesMut,
    /// The memory of `small`, in bytes.
    small_memory: usize,
    /// The memory of all pieces, in bytes.
    memory: usize,
}

#[derive(Debug)]
struct Piece {
    rest: Bytes,
    /// The memory that the piece occupies, in bytes, as long as any byte of it is left.
    memory: usize,
}

/// Makes room in a new queue for one item instead of the usual four: in most tunnels no more than one ever waits.
pub(super) fn reserve_first<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() == 0 {
        queue.reserve_exact(1);
    }
}

impl PieceQueue {
    /// Appends a piece.
    pub fn push(&mut self, piece: Bytes) {
        if !self.is_empty() && piece.len() < SMALL {
            self.small.extend_from_slice(&piece);
            let memory = self.small_memory.max(self.small.capacity());
            self.memory += memory - self.small_memory;
            self.small_memory = memory;
            return;
        }
        if !self.small.is_empty() {
            // The pieces that follow share its memory.
            let rest = self.small.split().freeze();
            self.pieces.push_back(Piece { rest, memory: std::mem::take(&mut self.small_memory) });
        }
        let memory = memory_of(piece.len());
        self.memory += memory;
        reserve_first(&mut self.pieces);
        self.pieces.push_back(Piece { rest: piece, memory });
    }

    /// Removes the first piece.
    pub fn pop(&mut self) -> Option<Bytes> {
        if let Some(Piece { rest, memory }) = self.pieces.pop_front() {
            self.memory -= memory;
            return Some(rest);
        }
        let small = self.take_small();
        (!small.is_empty()).then(|| small.freeze())
    }

    fn take_small(&mut self) -> BytesMut {
        self.memory -= std::mem::take(&mut self.small_memory);
        std::mem::take(&mut self.small)
    }

    /// Removes `count` bytes from the front; no more than are queued.
    pub fn consume(&mut self, mut count: usize) {
        while let Some(front) = self.pieces.front_mut() {
            if front.rest.len() > count {
                front.rest.advance(count);
                return;
            }
            count -= front.rest.len();
            self.memory -= front.memory;
            self.pieces.pop_front();
        }
        self.small.advance(count);
        if self.small.is_empty() {
            self.take_small();
        }
    }

    /// The first pieces, as one gathered write takes them, and how many of the slices they fill.
    pub fn slices<const MAX: usize>(&self) -> ([IoSlice<'_>; MAX], usize) {
        let mut slices = [IoSlice::new(&[]); MAX];
        let mut count = 0;
        for piece in self.pieces.iter().map(|piece| &piece.rest[..]).chain(std::iter::once(&self.small[..])) {
            if count < MAX && !piece.is_empty() {
                slices[count] = IoSlice::new(piece);
                count += 1;
            }
        }
        (slices, count)
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.small.is_empty()
    }

    /// How many bytes are queued.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(|piece| piece.rest.len()).sum::<usize>() + self.small.len()
    }

    /// The memory of the queue, in bytes.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Drops all that is queued, with its memory.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is put in comes out in order, by whichever way it is taken.
        #[test]
        fn what_goes_in_comes_out(steps in prop::collection::vec((0usize..5000, 0usize..6000, any::<bool>()), 1..50)) {
            let mut queue = PieceQueue::default();
            let (mut written, mut read) = (0usize, 0usize);
            let byte = |at: usize| (at % 251).to_le_bytes()[0];
            for (put, take, pops) in steps {
                if put > 0 {
                    queue.push((written..written + put).map(byte).collect());
                    written += put;
                }
                if pops {
                    for got in queue.pop().unwrap_or_default() {
                        prop_assert_eq!(got, byte(read));
                        read += 1;
                    }
                } else {
                    let (slices, count) = queue.slices::<4>();
                    let take = take.min(slices[..count].iter().map(|slice| slice.len()).sum());
                    for got in slices[..count].iter().flat_map(|slice| slice.iter()).take(take) {
                        prop_assert_eq!(*got, byte(read));
                        read += 1;
                    }
                    queue.consume(take);
                }
                prop_assert_eq!(queue.len(), written - read);
                prop_assert_eq!(queue.is_empty(), written == read);
                let memory = queue.pieces.iter().map(|piece| piece.memory).sum::<usize>();
                prop_assert_eq!(queue.memory(), memory + queue.small_memory);
                prop_assert!(queue.memory() >= queue.len() && (queue.memory() == 0) == queue.is_empty());
            }
        }
    }

    #[test]
    fn small_pieces_share_memory_and_large_ones_are_not_copied() {
        let mut queue = PieceQueue::default();
        let large = Bytes::from(vec![1; SMALL]);
        queue.push(large.clone());
        for _ in 0..100 {
            queue.push(Bytes::from_static(b"x"));
        }
        queue.push(large.clone());
        let pieces: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [SMALL, 100, SMALL]);
        assert!(pieces[0].as_ptr() == large.as_ptr() && pieces[2].as_ptr() == large.as_ptr());
    }
}
