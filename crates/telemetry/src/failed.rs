//! The latest failed connections of this machine's apps, with the reasons. Many apps do not show them: of a refused CONNECT
//! they only say that it was refused.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::journal::unix_millis;
use super::snapshot::FailedSeen;
use laneway_wire::failure::printable;

/// Maximum number of destinations and reasons that are kept.
const MOST: usize = 8;

/// The latest failed connections, the last one first.
#[derive(Debug, Default)]
pub struct Failed(Mutex<VecDeque<FailedSeen>>);

impl Failed {
    /// Notes a failed connection to `target`.
    pub fn note(&self, target: &str, reason: &str) {
        let (target, reason) = (printable(target), printable(reason));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = all.iter().position(|seen| seen.target == target && seen.reason == reason);
        let count = same.and_then(|place| all.remove(place)).map_or(0, |seen| seen.count) + 1;
        all.truncate(MOST - 1);
        all.push_front(FailedSeen { target, reason, at: unix_millis(), count });
    }

    /// All of them.
    pub fn latest(&self) -> Vec<FailedSeen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_failures_are_counted_and_the_latest_ones_stay() {
        let failed = Failed::default();
        for number in 0..100 {
            failed.note(&format!("h{number}:443"), "refused");
        }
        failed.note("h95:443", "refused");
        failed.note("h95:443", "no\ndns");
        let latest = failed.latest();
        assert_eq!(latest.len(), MOST);
        assert_eq!((latest[0].reason.as_str(), latest[0].count), ("no?dns", 1));
        assert_eq!((latest[1].target.as_str(), latest[1].count), ("h95:443", 2));
    }
}
