//! Which lines of the log are written. Anyone who can cause a line again and again must neither fill a disk with it nor
//! hide the lines about others.
//!
//! The first lines are always written, so that no change goes unseen; after that one a minute, with the number of those left
//! out before it. The lines left out are at the level of debug.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::rate::{PerSource, Rate};

/// The lines of one place in the code about one subject.
const LINES: Rate = Rate::new(10, Duration::from_secs(60));

/// The lines of this process: all its parts share one log.
static WRITTEN: LazyLock<Lines> = LazyLock::new(|| Lines::new(LINES));

/// The subject of a line that is about nobody in particular.
pub const NOBODY: () = ();

/// A line that may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    /// How many were left out since the last one that was written, if any were.
    pub left_out: Option<u64>,
}

/// Lines at a rate of their own for each place in the code and subject. The subjects that have been silent longest are
/// forgotten.
#[derive(Debug)]
pub struct Lines {
    used: Mutex<PerSource<u64>>,
    /// Subjects are told apart by a hash with a random key, so nobody can choose two that count as one.
    hasher: RandomState,
}

impl Lines {
    /// Lines at this rate, none written yet.
    pub fn new(rate: Rate) -> Self {
        Self { used: Mutex::new(PerSource::new(rate)), hasher: RandomState::new() }
    }

    /// Whether a line of this place about this subject may be written now.
    pub fn permit(&self, place: &str, about: impl Hash, now: Instant) -> Option<Permit> {
        let subject = self.hasher.hash_one((place, about));
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = used.take_counted(subject, now)?;
        Some(Permit { left_out: (left_out > 0).then_some(left_out) })
    }
}

/// Whether a line of this place about this subject may be written to the log now.
pub fn permit(place: &'static str, about: impl Hash) -> Option<Permit> {
    WRITTEN.permit(place, about, Instant::now())
}

/// Logs a line that somebody else can cause again and again: `limited!(info, about, fields…, "message")`. What `about` is
/// tells the lines apart that share a limit: the id of a node, or [`NOBODY`]. It must be nothing that
/// one sender can change at will, such as a port.
#[macro_export]
macro_rules! limited {
    ($level:ident, $about:expr, $($line:tt)+) => {
        match $crate::lines::permit(concat!(file!(), ":", line!()), $about) {
            Some(permit) => tracing::$level!(left_out = permit.left_out, $($line)+),
            None => tracing::debug!($($line)+),
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_are_written_then_one_a_minute_with_the_number_left_out() {
        let (lines, start) = (Lines::new(LINES), Instant::now());
        let written = (0..10_000).filter_map(|_| lines.permit("here", "peer", start)).collect::<Vec<_>>();
        assert_eq!(written, [Permit { left_out: None }; 10]);
        let later = start + Duration::from_secs(60);
        assert_eq!(lines.permit("here", "peer", later), Some(Permit { left_out: Some(9_990) }));
        assert_eq!(lines.permit("here", "peer", later), None);
        let quiet = later + Duration::from_secs(3600);
        assert_eq!(lines.permit("here", "peer", quiet), Some(Permit { left_out: Some(1) }));
        assert_eq!(lines.permit("here", "peer", quiet), Some(Permit { left_out: None }));
    }

    #[test]
    fn the_lines_of_one_subject_hide_neither_those_of_others_nor_other_lines() {
        let (lines, now) = (Lines::new(LINES), Instant::now());
        (0..1000).for_each(|_| _ = lines.permit("here", 1, now));
        assert_eq!(lines.permit("here", 1, now), None);
        assert!(lines.permit("here", 2, now).is_some() && lines.permit("there", 1, now).is_some());
    }
}
