//! Whether the role changes more often than the rules of honest candidates let it.
//!
//! An active candidate steps down when it hears another one that claims to be active later. A candidate that lies can
//! claim that again and again. So each node counts the changes that it sees, and while there are too many, active
//! candidates stay active. At worst several are active until the changes end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// From this number of changes in [`WINDOW`] on, an active candidate does not step down uncalled. A start of the whole
/// group, the death of a gateway and the end of a partition make one or two each.
pub(super) const MAX_CHANGES: usize = 6;
/// How long a change counts.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// The latest changes of the role that no holder announced by a call.
#[derive(Clone, Debug, Default)]
pub(super) struct Turbulence(VecDeque<Instant>);

impl Turbulence {
    /// Notes that the role went to another candidate without a call.
    pub(super) fn changed(&mut self, now: Instant) {
        self.0.truncate(MAX_CHANGES - 1);
        self.0.push_front(now);
    }

    /// Whether there have been too many changes.
    pub(super) fn is_now(&self, now: Instant) -> bool {
        self.0.len() == MAX_CHANGES && self.0.back().is_some_and(|oldest| now < *oldest + WINDOW)
    }
}
