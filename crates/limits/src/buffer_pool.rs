//! Buffers for the payload of large DATA frames, in both directions. The buffer that was returned last is used first, so
//! its memory is still in the processor's cache. An allocator cycles through megabytes instead, each of which has to be
//! fetched from memory again: with 16 tunnels that cost a tenth of the throughput.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use bytes::Bytes;

/// The size of a small buffer, in bytes.
pub const SMALL: u32 = 64 * 1024;
/// The size of the largest buffer, in bytes.
pub const LARGEST: u32 = 256 * 1024;
/// The sizes that there are.
const SIZES: [usize; 2] = [SMALL as usize, LARGEST as usize];
/// A buffer's bytes begin this far behind the start of a page: copies between page starts take half as long again on some
/// processors (4K aliasing of loads and stores).
const OFFSET: usize = 1024;
/// Room behind the largest read: a TLS record is opened in place, with a few bytes more than its payload.
const SLACK: usize = 1024;
/// A payload below a small buffer's size divided by this counts by its length: it is copied out of any buffer.
const MIN_PART: usize = 4;
/// How many buffers of each size a thread keeps for the next reads.
const MAX_SPARE: usize = 6;

/// The cost of one piece in a queue besides its bytes, in bytes: its entry there, and the reference count of its memory.
const PIECE: usize = 128;

/// The memory, in bytes, that a piece of `length` bytes holds at most: with its whole buffer, if it was too long to be copied out
/// of it.
pub fn memory_of(length: usize) -> usize {
    match length {
        0 => 0,
        _ if length < SIZES[0] / MIN_PART => length + PIECE,
        _ if length <= SIZES[0] => OFFSET + SIZES[0] + SLACK,
        _ => OFFSET + SIZES[1].max(length) + SLACK,
    }
}

/// `part` of a buffer of `size` bytes, copied out of it if its length counts for less memory than the buffer has, so that a few
/// queued bytes do not keep all of it.
pub fn detached(part: Bytes, size: usize) -> Bytes {
    match memory_of(part.len()) < memory_of(size) {
        true => Bytes::copy_from_slice(&part),
        false => part,
    }
}

thread_local! {
    static SPARE: RefCell<[Vec<Vec<u8>>; SIZES.len()]> = const { RefCell::new([const { Vec::new() }; SIZES.len()]) };
    static KEEPS: Cell<bool> = const { Cell::new(true) };
}

/// Has this thread keep no buffers from now on: it takes none, and would only collect those of others.
pub fn keep_none() {
    KEEPS.set(false);
}

/// A buffer that returns to the pool of its thread when it is dropped.
#[derive(Debug)]
pub struct PooledBuffer {
    bytes: Vec<u8>,
    size: usize,
    filled: Range<usize>,
}

impl PooledBuffer {
    /// An empty buffer for a read of up to `most` bytes, which are no more than [`LARGEST`].
    pub fn take(most: usize) -> Self {
        debug_assert!(most <= SIZES[1], "{most}");
        let size = usize::from(most > SIZES[0]);
        let spare = SPARE.with_borrow_mut(|spare| spare[size].pop());
        Self { bytes: spare.unwrap_or_else(|| vec![0; OFFSET + SIZES[size] + SLACK]), size, filled: 0..0 }
    }

    /// Room for the bytes that it was taken for, and a few more.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[OFFSET..]
    }

    /// The memory of the buffer, in bytes.
    pub fn memory(&self) -> usize {
        self.bytes.len()
    }

    /// The first `count` bytes of the room, which were filled.
    pub fn fill(self, count: usize) -> Bytes {
        self.part(0..count)
    }

    /// These bytes of the room, which were filled: copied if their length counts for less memory than the buffer has.
    pub fn part(mut self, range: Range<usize>) -> Bytes {
        self.filled = range.start..range.end.min(SIZES[self.size]);
        if memory_of(self.filled.len()) < self.memory() {
            Bytes::copy_from_slice(self.as_ref())
        } else {
            Bytes::from_owner(self)
        }
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[OFFSET..][self.filled.clone()]
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // A thread that is ending keeps none.
        let _ = SPARE.try_with(|spare| {
            let spare = &mut spare.borrow_mut()[self.size];
            if spare.len() < MAX_SPARE && KEEPS.get() {
                spare.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(with: u8, count: usize) -> Bytes {
        let mut buffer = PooledBuffer::take(count);
        buffer.room()[..count].fill(with);
        buffer.fill(count)
    }

    #[test]
    fn a_buffer_is_not_reused_before_its_bytes_are_dropped() {
        let counts = SIZES.into_iter().flat_map(|size| [size / 4 - 1, size / 4, size, 1, size + 1, size]);
        let counts: Vec<_> = counts.filter(|count| *count <= SIZES[1]).collect();
        let held: Vec<_> = (1..).zip(&counts).map(|(with, count)| filled(with, *count)).collect();
        for ((with, count), bytes) in (1..).zip(&counts).zip(&held) {
            assert!(bytes.len() == *count && bytes.iter().all(|byte| *byte == with));
        }
    }

    #[test]
    fn the_buffer_returned_last_is_used_first_and_few_are_kept() {
        for (number, size) in SIZES.into_iter().enumerate() {
            let held: Vec<_> = (0..2 * MAX_SPARE).map(|_| filled(1, size)).collect();
            let last = held[MAX_SPARE - 1].as_ptr();
            drop(held);
            assert_eq!(SPARE.with_borrow(|spare| spare[number].len()), MAX_SPARE);
            assert_eq!(filled(2, size).as_ptr(), last);
        }
    }

    /// One byte at the end of a buffer kept all of it, and a frame's padding made a piece count for a quarter of its buffer.
    #[test]
    fn what_a_part_keeps_in_memory_is_no_more_than_its_length_counts_for() {
        for (number, size) in SIZES.into_iter().enumerate() {
            for length in [1, SIZES[0] / 4 - 1, SIZES[0] / 4, SIZES[0] - 255, SIZES[0], size - 1, size] {
                SPARE.with_borrow_mut(|spare| spare[number].clear());
                let buffer = PooledBuffer::take(size);
                let memory = buffer.memory();
                let part = buffer.part(size - length..size);
                let is_free = SPARE.with_borrow(|spare| !spare[number].is_empty());
                assert_eq!(part.len(), length);
                assert!(is_free || memory_of(length) == memory, "{length} of {size}");

                let whole = Bytes::from(vec![7; size]);
                let part = detached(whole.slice(size - length..), size);
                assert_eq!(part.len(), length);
                let is_free = !whole.as_ptr_range().contains(&part.as_ptr());
                assert!(is_free || memory_of(length) == memory_of(size), "{length} of {size}");
            }
        }
    }

    #[test]
    fn a_thread_that_only_fills_buffers_of_others_keeps_none_of_them() {
        let buffer = PooledBuffer::take(1);
        let kept = std::thread::spawn(move || {
            keep_none();
            drop(buffer);
            SPARE.with_borrow(|spare| spare[0].len())
        });
        assert_eq!(kept.join().unwrap(), 0);
    }
}
