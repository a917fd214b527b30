//! What is measured over a line of a given rate and round trip.

use super::cache;
use super::measure::{Metric, Subject};
use crate::line::Kind;
use crate::load::bulk::{Bulk, Direction};
use anyhow::Result;
use std::thread;
use std::time::{Duration, Instant};

/// A line, and what it is called on the command line and in the report.
pub(crate) struct Distance {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) kind: Kind,
    /// Adds to the subject's figures; what it has added stays when it fails.
    pub(crate) take: fn(&mut Subject<'_>, Kind) -> Result<()>,
}

const fn kind(milliseconds: u64, megabits: u32) -> Kind {
    Kind { round_trip: Duration::from_millis(milliseconds), megabits, buffers: None }
}

/// What is enough for the longest line: twice its bandwidth-delay product for the bytes under way, and as much again for the
/// kernel's own account of them.
const ENOUGH: u32 = 64 << 20;

/// All of them.
pub(crate) const ALL: &[Distance] = &[
    Distance {
        name: "20ms-100mbit",
        title: "20 ms round trip at 100 Mbit/s: share of the line's rate, downloads",
        kind: kind(20, 100),
        take: share,
    },
    Distance {
        name: "20ms-1gbit",
        title: "20 ms round trip at 1 Gbit/s: share of the line's rate, downloads",
        kind: kind(20, 1000),
        take: share,
    },
    Distance {
        name: "100ms-100mbit",
        title: "100 ms round trip at 100 Mbit/s: share of the line's rate, downloads",
        kind: kind(100, 100),
        take: share,
    },
    Distance {
        name: "100ms-1gbit",
        title: "100 ms round trip at 1 Gbit/s: share of the line's rate, downloads",
        kind: kind(100, 1000),
        take: share,
    },
    Distance {
        name: "cache-1gbit",
        title: "The cache on a LAN of 1 Gbit/s and 1 ms round trip",
        kind: kind(1, 1000),
        take: |subject, _| cache::hits_and_misses(subject),
    },
    Distance {
        name: "100ms-1gbit-buffers",
        title: "The same where tcp_rmem and tcp_wmem permit 64 MiB, as hosts on such lines are set",
        kind: Kind { buffers: Some(ENOUGH), ..kind(100, 1000) },
        take: share,
    },
];

/// How much of the line's rate reaches the app, in downloads by one tunnel and by sixteen.
fn share(subject: &mut Subject<'_>, kind: Kind) -> Result<()> {
    for tunnels in [1, 16] {
        let bulk =
            Bulk::start(&subject.site.client, subject.route(), subject.server, Direction::Down, tunnels)?;
        // Slow start takes ten round trips or so to fill the longest line, and windows may grow later still.
        thread::sleep(Duration::from_millis(500) + 15 * kind.round_trip);
        let (start, before) = (Instant::now(), bulk.bytes());
        thread::sleep(Duration::from_millis(500) + 10 * kind.round_trip);
        let rate = super::bulk::gigabytes(bulk.bytes() - before) / start.elapsed().as_secs_f64();
        bulk.unbroken()?;
        let line = f64::from(kind.megabits) / 8000.0;
        let name = if tunnels == 1 { "1 tunnel".to_owned() } else { format!("{tunnels} tunnels") };
        subject.found(Metric::new(name, "", 2), rate / line);
        drop(bulk);
        // What is under way still arrives.
        thread::sleep(2 * kind.round_trip);
    }
    Ok(())
}
