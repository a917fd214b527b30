//! How many queries this node answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use laneway_limits::Bucket;
use laneway_limits::rate::{PerSource, Rate};

/// Answers to one source address. Joiners are counted apart from members.
const PER_SOURCE: Rate = Rate::new(20, Duration::from_millis(100));
/// Answers to all sources together: 16 Mbit/s.
const IN_ALL: Rate = Rate::new(4000, Duration::from_micros(250));

/// What has been used of the limits.
pub(super) struct AnswerLimits {
    members: PerSource,
    joiners: PerSource,
    all: Bucket,
}

impl AnswerLimits {
    /// Whether a query of a member from this address may be answered.
    pub(super) fn admit_member(&mut self, source: SocketAddr, now: Instant) -> bool {
        self.members.take(source.ip(), now) && IN_ALL.take(&mut self.all, now)
    }

    /// Whether a query of a joiner from this address may be answered.
    pub(super) fn admit_joiner(&mut self, source: SocketAddr, now: Instant) -> bool {
        self.joiners.take(source.ip(), now) && IN_ALL.take(&mut self.all, now)
    }
}

impl Default for AnswerLimits {
    fn default() -> Self {
        Self {
            members: PerSource::new(PER_SOURCE),
            joiners: PerSource::new(PER_SOURCE),
            all: Bucket::default(),
        }
    }
}
