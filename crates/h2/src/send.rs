//! Sending DATA within the windows that the peer gives (RFC 9113 §5.2): of one stream, and of the connection.

use std::collections::VecDeque;
use std::collections::vec_deque;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use laneway_limits::memory::Tally;

use super::Reason;
use super::frame::MAX_WINDOW;
use super::piece_queue::reserve_first;
use super::waker::{register, wake};
use laneway_limits::buffer_pool::memory_of;

/// Once this many streams wait for the connection's window, those among them that have gone are looked for.
const FEW_STARVED: usize = 16;

/// The sending direction of one stream.
#[derive(Debug)]
pub(super) struct SendHalf {
    /// How many bytes the peer accepts; less than 0 after it has made its windows smaller.
    window: i64,
    /// What is queued, each piece with the memory that it holds as long as anything of it is left.
    queue: VecDeque<(Bytes, usize)>,
    /// The bytes in `queue`.
    queued: usize,
    /// The memory of `queue`.
    pub(super) memory: Tally,
    /// Whether nothing follows what is queued.
    pub(super) is_ending: bool,
    /// END_STREAM was sent, or the stream was reset.
    pub(super) has_ended: bool,
    /// The RST_STREAM that follows what is queued.
    pub(super) reset_after: Option<Reason>,
    is_in_line: bool,
    /// Whether it waits for the connection's window, not for its own.
    is_starved: bool,
    capacity_wanted: Option<Waker>,
}

impl SendHalf {
    /// A half with the peer's initial window.
    pub(super) fn new(window: u32) -> Self {
        Self {
            window: window.into(),
            queue: VecDeque::new(),
            queued: 0,
            memory: Tally::default(),
            is_ending: false,
            has_ended: false,
            reset_after: None,
            is_in_line: false,
            is_starved: false,
            capacity_wanted: None,
        }
    }

    /// Whether nothing waits to be sent.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether something waits to be sent and the window permits it.
    fn may_send(&self) -> bool {
        !self.has_ended
            && if self.queue.is_empty() {
                self.is_ending || self.reset_after.is_some()
            } else {
                self.window > 0
            }
    }

    /// Changes the window (RFC 9113 §6.9.2).
    ///
    /// # Errors
    /// When it becomes larger than any window may be.
    pub(super) fn widen(&mut self, change: i64) -> Result<(), Reason> {
        self.window += change;
        if self.window > i64::from(MAX_WINDOW) {
            return Err(Reason::FLOW_CONTROL_ERROR);
        }
        self.wake();
        Ok(())
    }

    /// Drops what is queued: the stream is over. Returns how many bytes that were.
    pub(super) fn abort(&mut self) -> usize {
        self.has_ended = true;
        self.queue = VecDeque::new();
        self.memory.set(0);
        self.wake();
        std::mem::take(&mut self.queued)
    }

    /// The bytes that are queued.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// The memory of the queue, piece by piece.
    pub(super) fn walk(&self) -> usize {
        debug_assert_eq!(self.queue.iter().map(|(piece, _)| piece.len()).sum::<usize>(), self.queued);
        self.queue.iter().map(|(_, memory)| memory).sum()
    }

    /// Wakes the task that waits for capacity.
    pub(super) fn wake(&mut self) {
        wake(&mut self.capacity_wanted);
    }

    /// Wakes that task because the connection's window has room again.
    pub(super) fn feed(&mut self) {
        self.is_starved = false;
        self.wake();
    }
}

/// The sending direction of a connection: streams take turns, one frame at a time.
///
/// `queued` is the sum of the bytes that all streams have queued. Capacity is only given for as much as `window` exceeds
/// it, so whatever is queued fits into the connection's window.
#[derive(Debug)]
pub(super) struct SendFlow {
    /// How many bytes the peer accepts on all streams together.
    window: i64,
    queued: i64,
    /// The streams that may send, each once.
    line: VecDeque<u32>,
    /// The streams that wait for room in the connection's window, and some that have gone.
    starved: VecDeque<u32>,
    /// With more than this many of them, those that have gone are forgotten.
    most_starved: usize,
}

impl SendFlow {
    /// A connection with the window that every connection begins with.
    pub(super) fn new(window: u32) -> Self {
        let (line, starved) = (VecDeque::new(), VecDeque::new());
        Self { window: window.into(), queued: 0, line, starved, most_starved: FEW_STARVED }
    }

    /// How many bytes of `wanted` a stream may queue now, at least one, so that no more than `max_queued` wait on it.
    pub(super) fn poll_capacity(
        &mut self,
        id: u32,
        half: &mut SendHalf,
        wanted: usize,
        max_queued: usize,
        cx: &Context<'_>,
    ) -> Poll<usize> {
        let window = usize::try_from(half.window).unwrap_or(0);
        let own = window.min(max_queued).saturating_sub(half.queued).min(wanted);
        let shared = usize::try_from(self.window - self.queued).unwrap_or(0);
        if own.min(shared) > 0 {
            return Poll::Ready(own.min(shared));
        }
        register(&mut half.capacity_wanted, cx);
        if own > 0 && !std::mem::replace(&mut half.is_starved, true) {
            self.starved.push_back(id);
        }
        Poll::Pending
    }

    /// Queues bytes for which there was capacity. True when a stream has joined the line.
    pub(super) fn push(&mut self, id: u32, half: &mut SendHalf, data: Bytes) -> bool {
        half.queued += data.len();
        self.queued += i64::try_from(data.len()).unwrap_or(i64::MAX);
        if !data.is_empty() {
            let memory = memory_of(data.len());
            half.memory.add(memory);
            reserve_first(&mut half.queue);
            half.queue.push_back((data, memory));
        }
        self.schedule(id, half)
    }

    /// Puts a stream in line if it has something to send. True when it was not in line before.
    pub(super) fn schedule(&mut self, id: u32, half: &mut SendHalf) -> bool {
        let joins = !half.is_in_line && half.may_send();
        if joins {
            half.is_in_line = true;
            self.line.push_back(id);
        }
        joins
    }

    /// Takes the first stream off the line.
    pub(super) fn next(&mut self) -> Option<u32> {
        self.line.pop_front()
    }

    /// Notes that a stream was taken off the line. Whether it may still send.
    pub(super) fn leave_line(half: &mut SendHalf) -> bool {
        half.is_in_line = false;
        half.may_send()
    }

    /// Takes the next bytes of a stream that may send, at most `max` and at least one, and puts it back in line if it has
    /// more. Notes the end of the stream when they are its last.
    pub(super) fn take(&mut self, id: u32, half: &mut SendHalf, max: u32) -> Bytes {
        let max = usize::try_from(half.window).unwrap_or(0).min(max as usize);
        let Some((first, memory)) = half.queue.front_mut() else { return Bytes::new() };
        let data = if first.len() > max { first.split_to(max) } else { std::mem::take(first) };
        if first.is_empty() {
            half.memory.remove(*memory);
            half.queue.pop_front();
        }
        let length = i64::try_from(data.len()).unwrap_or(i64::MAX);
        half.queued -= data.len();
        half.window -= length;
        self.window -= length;
        self.queued -= length;
        half.has_ended = half.is_ending && half.queue.is_empty();
        if half.window > i64::try_from(half.queued).unwrap_or(i64::MAX) {
            half.wake();
        }
        self.schedule(id, half);
        data
    }

    /// Notes that a stream has dropped what it had queued.
    pub(super) fn dropped(&mut self, count: usize) {
        self.queued -= i64::try_from(count).unwrap_or(i64::MAX);
    }

    /// Adds to the connection's window.
    ///
    /// # Errors
    /// When the increment is 0, or the window becomes larger than any may be.
    pub(super) fn widen(&mut self, increment: u32) -> Result<(), Reason> {
        self.window += i64::from(increment);
        match self.window {
            _ if increment == 0 => Err(Reason::PROTOCOL_ERROR),
            window if window > i64::from(MAX_WINDOW) => Err(Reason::FLOW_CONTROL_ERROR),
            _ => Ok(()),
        }
    }

    /// The streams that have waited for the connection's window, to be woken.
    pub(super) fn starved(&mut self) -> vec_deque::Drain<'_, u32> {
        self.starved.drain(..)
    }

    /// Forgets the waiting streams that have gone, if many wait: the peer may never widen the connection's window.
    pub(super) fn forget_starved(&mut self, is_there: impl Fn(u32) -> bool) {
        if self.starved.len() > self.most_starved {
            self.starved.retain(|id| is_there(*id));
            self.most_starved = 2 * self.starved.len() + FEW_STARVED;
        }
    }

    /// The memory of the numbers of streams, in bytes.
    pub(super) fn memory(&self) -> usize {
        (self.line.capacity() + self.starved.capacity()) * size_of::<u32>()
    }

    /// Nothing is sent any more.
    pub(super) fn clear(&mut self) {
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CX: Context<'static> = Context::from_waker(Waker::noop());

    fn capacity(flow: &mut SendFlow, id: u32, half: &mut SendHalf) -> Option<usize> {
        match flow.poll_capacity(id, half, 1000, 100, &CX) {
            Poll::Ready(count) => Some(count),
            Poll::Pending => None,
        }
    }

    #[test]
    fn capacity_is_the_least_of_the_windows_and_the_buffer() {
        let (mut flow, mut one, mut two) = (SendFlow::new(120), SendHalf::new(1000), SendHalf::new(50));
        assert_eq!(capacity(&mut flow, 1, &mut one), Some(100), "the buffer");
        assert_eq!(capacity(&mut flow, 3, &mut two), Some(50), "the stream's window");
        assert!(flow.push(1, &mut one, Bytes::from(vec![0; 100])));
        assert_eq!(capacity(&mut flow, 3, &mut two), Some(20), "the connection's window");
        assert!(flow.push(3, &mut two, Bytes::from(vec![0; 20])));
        assert_eq!(capacity(&mut flow, 3, &mut two), None);
        assert_eq!(flow.starved().collect::<Vec<_>>(), [3], "it waits for the connection alone");
    }

    #[test]
    fn streams_take_turns_and_the_last_piece_ends_one() {
        let (mut flow, mut one, mut two) = (SendFlow::new(1000), SendHalf::new(1000), SendHalf::new(7));
        flow.push(1, &mut one, Bytes::from_static(b"aaaabb"));
        one.is_ending = true;
        flow.push(3, &mut two, Bytes::from_static(b"cccccccc"));
        let mut sent = Vec::new();
        while let Some(id) = flow.next() {
            let half = if id == 1 { &mut one } else { &mut two };
            assert!(SendFlow::leave_line(half));
            sent.push((id, flow.take(id, half, 4).len()));
        }
        assert_eq!(sent, [(1, 4), (3, 4), (1, 2), (3, 3)], "the window of 3 is used up");
        assert!(one.has_ended && !two.has_ended);
        two.widen(1).unwrap();
        assert!(flow.schedule(3, &mut two));
        assert_eq!((two.abort(), SendFlow::leave_line(&mut two)), (1, false));
    }

    #[test]
    fn no_window_grows_beyond_its_bound() {
        let mut half = SendHalf::new(MAX_WINDOW);
        assert_eq!(half.widen(1), Err(Reason::FLOW_CONTROL_ERROR));
        let mut flow = SendFlow::new(MAX_WINDOW);
        assert_eq!(flow.widen(0), Err(Reason::PROTOCOL_ERROR));
        assert_eq!(flow.widen(1), Err(Reason::FLOW_CONTROL_ERROR));
    }
}
