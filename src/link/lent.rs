//! Buffers for large reads, which are used again and again: the one that was given back last is taken first, so its memory
//! is in the processor's cache still. An allocator goes round in megabytes, each of which costs the way to memory again:
//! with 16 tunnels that was a tenth of the throughput.

use std::cell::RefCell;

use bytes::Bytes;

use super::steps;

/// The sizes that there are.
const SIZES: [usize; 2] = [steps::SMALL as usize, steps::LARGE as usize];
/// A buffer's bytes begin so far behind the start of a page: from page to page, copies take half as long again on
/// some processors, which then wait for stores that only look like the ones they are about to load.
const OFFSET: usize = 1024;
/// There is so much room behind the largest read: a record is opened where it is to be, with a few bytes more.
const SLACK: usize = 1024;
/// Less than such a part of a buffer is copied out of it: what waits to be sent is not to hold many times its size.
const WORTH_A_BUFFER: usize = 4;
/// A thread keeps so many buffers of each size for the next reads.
const MOST_SPARE: usize = 6;

thread_local! {
    static SPARE: RefCell<[Vec<Vec<u8>>; SIZES.len()]> = const { RefCell::new([const { Vec::new() }; SIZES.len()]) };
}

/// A buffer, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Lent {
    bytes: Vec<u8>,
    size: usize,
    filled: usize,
}

impl Lent {
    /// The next buffer, empty, for a read of up to `most` bytes, which are no more than [`steps::LARGE`].
    pub(super) fn take(most: usize) -> Self {
        let size = usize::from(most > SIZES[0]);
        let spare = SPARE.with_borrow_mut(|spare| spare[size].pop());
        Self { bytes: spare.unwrap_or_else(|| vec![0; OFFSET + SIZES[size] + SLACK]), size, filled: 0 }
    }

    /// Room for what it was taken for, and a little more.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[OFFSET..]
    }

    /// The first `count` bytes of the room, which were filled.
    pub(super) fn fill(mut self, count: usize) -> Bytes {
        self.filled = count.min(SIZES[self.size]);
        if count < SIZES[self.size] / WORTH_A_BUFFER {
            Bytes::copy_from_slice(self.as_ref())
        } else {
            Bytes::from_owner(self)
        }
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[OFFSET..OFFSET + self.filled]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // A thread that is ending keeps none.
        let _ = SPARE.try_with(|spare| {
            let spare = &mut spare.borrow_mut()[self.size];
            if spare.len() < MOST_SPARE {
                spare.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(with: u8, count: usize) -> Bytes {
        let mut lent = Lent::take(count);
        lent.room()[..count].fill(with);
        lent.fill(count)
    }

    #[test]
    fn a_buffer_is_not_used_again_before_its_bytes_are_gone() {
        let counts = SIZES.into_iter().flat_map(|size| [size / 4 - 1, size / 4, size, 1, size + 1, size]);
        let counts: Vec<_> = counts.filter(|count| *count <= SIZES[1]).collect();
        let held: Vec<_> = (1..).zip(&counts).map(|(with, count)| filled(with, *count)).collect();
        for ((with, count), bytes) in (1..).zip(&counts).zip(&held) {
            assert!(bytes.len() == *count && bytes.iter().all(|byte| *byte == with));
        }
    }

    #[test]
    fn the_last_buffer_given_back_is_the_next_one_of_its_size_and_few_are_kept() {
        for (number, size) in SIZES.into_iter().enumerate() {
            let held: Vec<_> = (0..2 * MOST_SPARE).map(|_| filled(1, size)).collect();
            let last = held[MOST_SPARE - 1].as_ptr();
            drop(held);
            assert_eq!(SPARE.with_borrow(|spare| spare[number].len()), MOST_SPARE);
            assert_eq!(filled(2, size).as_ptr(), last);
        }
    }
}
