//! Datagrams of an association that were lost here: counted for its access line, and for all of them together.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::telemetry::Telemetry;

/// Why a datagram is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It is a part of a larger one.
    Fragment,
    /// It is shorter than its header.
    Truncated,
    /// It names no destination.
    Malformed,
    /// It is from somebody else than the app.
    Foreign,
    /// It was the oldest that waited when there were too many, or nobody would take it.
    Unsent,
    /// The app's socket did not take it.
    Undelivered,
    /// There was no memory for another destination.
    Memory,
}

/// In the order of [`Why`]: the word for the count of all, and for the access line.
const WORDS: [(&str, &str); 7] = [
    ("fragment", "fragments"),
    ("truncated", "truncated"),
    ("malformed", "malformed"),
    ("foreign", "from others"),
    ("unsent", "unsent"),
    ("undelivered", "undelivered"),
    ("memory", "refused for want of memory"),
];

/// How many datagrams were dropped, and why.
#[derive(Debug)]
pub(super) struct Drops {
    telemetry: Arc<Telemetry>,
    counts: [AtomicU64; WORDS.len()],
}

impl Drops {
    /// None yet; those that come count in `telemetry` too.
    pub(super) fn new(telemetry: &Arc<Telemetry>) -> Self {
        Self { telemetry: telemetry.clone(), counts: Default::default() }
    }

    /// One more.
    pub(super) fn one(&self, why: Why) {
        self.many(why, 1);
    }

    /// So many more.
    pub(super) fn many(&self, why: Why, count: u64) {
        if count > 0 {
            self.counts[why as usize].fetch_add(count, Relaxed);
            self.telemetry.udp_dropped.many(WORDS[why as usize].0, count);
        }
    }
}

impl fmt::Display for Drops {
    /// Nothing, or what to put behind an outcome.
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
        one.one(Why::Fragment);
        one.many(Why::Memory, 3);
        one.many(Why::Foreign, 0);
        other.one(Why::Memory);
        assert_eq!(one.to_string(), "; dropped: 1 fragments, 3 refused for want of memory");
        assert_eq!(telemetry.udp_dropped.values(), [("fragment", 1), ("memory", 4)]);
    }
}
