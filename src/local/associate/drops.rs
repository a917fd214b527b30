//! Counts the datagrams that an association drops, for its access line and in the metrics.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::telemetry::Telemetry;

/// Why a datagram is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DropReason {
    /// It is a fragment of a larger one.
    Fragment,
    /// It is shorter than its header.
    Truncated,
    /// It names no destination.
    Malformed,
    /// It does not come from the app.
    Foreign,
    /// It was the oldest in a full queue, or could not be sent.
    Unsent,
    /// It exceeds the MTU of the path to its destination.
    TooLong,
    /// It could not be sent to the app.
    Undelivered,
    /// There was no memory for another destination.
    Memory,
}

/// In the order of [`DropReason`]: the label in the metrics, and the words in the access line.
const WORDS: [(&str, &str); 8] = [
    ("fragment", "fragments"),
    ("truncated", "truncated"),
    ("malformed", "malformed"),
    ("foreign", "from others"),
    ("unsent", "unsent"),
    ("too-long", "too long for the path"),
    ("undelivered", "undelivered"),
    ("memory", "refused for lack of memory"),
];

/// How many datagrams were dropped, and why.
#[derive(Debug)]
pub(super) struct Drops {
    telemetry: Arc<Telemetry>,
    counts: [AtomicU64; WORDS.len()],
}

impl Drops {
    /// Starts with no drops; they are also counted in `telemetry`.
    pub(super) fn new(telemetry: &Arc<Telemetry>) -> Self {
        Self { telemetry: telemetry.clone(), counts: Default::default() }
    }

    /// Counts one datagram.
    pub(super) fn one(&self, why: DropReason) {
        self.many(why, 1);
    }

    /// Counts `count` datagrams.
    pub(super) fn many(&self, why: DropReason, count: u64) {
        if count > 0 {
            self.counts[why as usize].fetch_add(count, Relaxed);
            self.telemetry.udp_dropped.many(WORDS[why as usize].0, count);
        }
    }
}

impl fmt::Display for Drops {
    /// Empty, or a suffix for the outcome in the access line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for (count, (_, what)) in self.counts.iter().zip(WORDS) {
            let count = count.load(Relaxed);
            if count > 0 {
                write!(text, "{} {count} {what}", if text.is_empty() { "; dropped:" } else { "," })?;
            }
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_is_said_for_one_association_and_counted_for_all() {
        let telemetry = Arc::default();
        let (one, other) = (Drops::new(&telemetry), Drops::new(&telemetry));
        assert_eq!(one.to_string(), "");
        one.one(DropReason::Fragment);
        one.many(DropReason::Memory, 3);
        one.many(DropReason::Foreign, 0);
        other.one(DropReason::Memory);
        assert_eq!(one.to_string(), "; dropped: 1 fragments, 3 refused for lack of memory");
        assert_eq!(telemetry.udp_dropped.values(), [("fragment", 1), ("memory", 4)]);
    }
}
