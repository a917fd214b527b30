//! The buffers between a socket and the record layer: large while a link is busy, small while it is not.

use super::steps::Steps;

/// The smallest size, in bytes.
const SMALLEST: usize = 4 * 1024;
/// By which factor a buffer grows each time it was full.
const GROWTH: usize = 4;
/// The largest size, in bytes: what one system call moves.
const LARGEST: usize = Steps::MAX_AT_ONCE;
/// A buffer shrinks after this many uses in a row of less than a quarter of it.
const QUIET_USES: u8 = 32;

/// A buffer that is read from the front and filled at the end.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    quiet: u8,
}

impl Buffer {
    /// The memory of the buffer, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// The bytes that wait to be read.
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The bytes that wait to be read, to be changed in place.
    pub(super) fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Drops `count` bytes from the front.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end, "no more than was filled");
    }

    /// Room for at least `least` bytes after what is filled, if need be by growing beyond [`LARGEST`].
    pub(super) fn room(&mut self, least: usize) -> &mut [u8] {
        if self.start == self.end {
            self.rewind();
        }
        if self.bytes.len() - self.end < least {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let needed = self.end + least;
            if self.bytes.len() < needed {
                self.bytes.resize(needed.next_power_of_two().max(SMALLEST), 0);
            }
        }
        &mut self.bytes[self.end..]
    }

    /// Notes that `count` bytes of the room were filled.
    pub(super) fn fill(&mut self, count: usize) {
        self.end += count;
        debug_assert!(self.end <= self.bytes.len(), "no more than there was room");
        if self.end == self.bytes.len() && self.bytes.len() < LARGEST {
            self.bytes.resize((self.bytes.len() * GROWTH).min(LARGEST), 0);
        }
    }

    /// Starts again at the front, and shrinks what has not been needed for a while.
    fn rewind(&mut self) {
        if self.end > self.bytes.len() / GROWTH || self.bytes.len() <= SMALLEST {
            self.quiet = 0;
        } else {
            self.quiet += 1;
            if self.quiet == QUIET_USES {
                self.quiet = 0;
                self.bytes = vec![0; (self.bytes.len() / GROWTH).max(SMALLEST)];
            }
        }
        (self.start, self.end) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is put in comes out in order, and the size stays in bounds.
        #[test]
        fn what_goes_in_comes_out(steps in prop::collection::vec((1usize..20_000, 0usize..30_000), 1..60)) {
            let mut buffer = Buffer::default();
            let (mut written, mut read) = (0u64, 0u64);
            for (put, take) in steps {
                for byte in &mut buffer.room(put)[..put] {
                    *byte = written.to_le_bytes()[0];
                    written += 1;
                }
                buffer.fill(put);
                let take = take.min(buffer.filled().len());
                for byte in &buffer.filled()[..take] {
                    prop_assert_eq!(*byte, read.to_le_bytes()[0]);
                    read += 1;
                }
                buffer.consume(take);
                prop_assert_eq!(buffer.filled().len() as u64, written - read);
            }
        }
    }

    #[test]
    fn it_grows_when_full_and_shrinks_when_quiet() {
        let mut buffer = Buffer::default();
        assert_eq!(buffer.bytes.capacity(), 0);
        for _ in 0..8 {
            let room = buffer.room(1).len();
            buffer.fill(room);
            buffer.consume(room);
        }
        assert_eq!(buffer.bytes.len(), LARGEST);
        for _ in 0..6 * usize::from(QUIET_USES) {
            buffer.room(1);
            buffer.fill(1);
            buffer.consume(1);
        }
        assert_eq!((buffer.bytes.len(), buffer.bytes.capacity()), (SMALLEST, SMALLEST));
    }
}
