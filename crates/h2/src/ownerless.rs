//! Which streams no longer have an owner, and since when the peer has taken nothing of them.

/// A stream without an owner is reset after this many ticks in which the peer takes nothing.
const MAX_STALLED: u32 = 6;

/// The streams whose owner is gone while something is still queued on them.
#[derive(Debug, Default)]
pub(super) struct Ownerless(Vec<Waiting>);

/// A stream without an owner.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) id: u32,
    /// The bytes that were queued at the last tick.
    queued: usize,
    /// The number of ticks since the peer has taken something.
    stalled: u32,
}

impl Ownerless {
    /// Adds a stream on which this many bytes are queued.
    pub(super) fn add(&mut self, id: u32, queued: usize) {
        self.0.push(Waiting { id, queued, stalled: 0 });
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes all of them out.
    pub(super) fn take(&mut self) -> Vec<Waiting> {
        std::mem::take(&mut self.0)
    }

    /// Puts back the streams that are not to be reset.
    pub(super) fn put_back(&mut self, waiting: Vec<Waiting>) {
        self.0 = waiting;
    }
}

impl Waiting {
    /// Counts a tick, at which this many bytes are queued. True when the peer has taken nothing for too long.
    pub(super) fn tick(&mut self, queued: usize) -> bool {
        self.stalled = if queued < self.queued { 0 } else { self.stalled + 1 };
        self.queued = queued;
        self.stalled >= MAX_STALLED
    }
}
