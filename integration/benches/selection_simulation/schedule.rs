//! Events on a virtual clock, and random numbers that are the same in each run.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// In microseconds.
pub(crate) const MILLI: u64 = 1_000;

/// Events in the order of their times; those of one time in the order in which they were added.
pub(crate) struct Schedule<Event> {
    /// The time, in microseconds.
    pub(crate) now: u64,
    order: u64,
    times: BinaryHeap<Reverse<(u64, u64)>>,
    events: HashMap<u64, Event>,
}

impl<Event> Default for Schedule<Event> {
    fn default() -> Self {
        Self { now: 0, order: 0, times: BinaryHeap::new(), events: HashMap::new() }
    }
}

impl<Event> Schedule<Event> {
    /// Adds an event.
    pub(crate) fn at(&mut self, time: u64, event: Event) {
        self.order += 1;
        self.events.insert(self.order, event);
        self.times.push(Reverse((time, self.order)));
    }

    /// The next event until `end`, with the clock advanced to it; to `end` when there is none.
    pub(crate) fn next(&mut self, end: u64) -> Option<Event> {
        let due = self.times.peek().is_some_and(|Reverse((time, _))| *time <= end);
        let Some(Reverse((time, order))) = due.then(|| self.times.pop()).flatten() else {
            self.now = end;
            return None;
        };
        self.now = self.now.max(time);
        self.events.remove(&order)
    }
}

/// A counter that is mixed (SplitMix64).
#[derive(Default)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 += 1;
        let mut mixed = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
