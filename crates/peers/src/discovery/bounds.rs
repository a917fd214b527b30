//! How often datagrams make this node ask, report, and raise the number of its run.

use std::time::Duration;

use laneway_limits::Bucket;
use laneway_limits::rate::Rate;

/// Queries that ask whether a beacon is of its sender's current run.
pub(super) const ASKS: Rate = Rate::new(16, Duration::from_millis(50));
/// Offences that are reported in the log and in the journal; all are counted.
pub(super) const REPORTS: Rate = Rate::new(3, Duration::from_secs(60));
/// Raising the number of this run: two machines with the same identity would otherwise outbid each other all the time.
pub(super) const RISES: Rate = Rate::new(1, Duration::from_secs(10));

/// What has been used of these rates.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    pub(super) asks: Bucket,
    pub(super) reports: Bucket,
    pub(super) rises: Bucket,
}
