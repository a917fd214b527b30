//! Bytes in large amounts: how many, what they cost, and whether tunnels share fairly.

use super::measure::{Measure, Metric, Subject};
use crate::accounting::processor_seconds;
use crate::load::bulk::{Bulk, Direction};
use crate::statistics::jain;
use anyhow::{Result, ensure};
use std::thread;
use std::time::{Duration, Instant};

pub(super) const DOWN: Measure = Measure {
    name: "down",
    title: "Downloads: GB/s, processor seconds of both sides for each GB, Jain's index of 16",
    quick: true,
    take: |subject| with_tunnels(subject, Direction::Down),
};

pub(super) const UP: Measure = Measure {
    name: "up",
    title: "Uploads: GB/s, processor seconds of both sides for each GB",
    quick: true,
    take: |subject| with_tunnels(subject, Direction::Up),
};

const TUNNELS: [usize; 3] = [1, 16, 64];
/// Before the clock runs: windows grow, buffers are made.
pub(super) const WARM_UP: Duration = Duration::from_millis(300);

fn with_tunnels(subject: &mut Subject<'_>, direction: Direction) -> Result<()> {
    let mut busy = Duration::ZERO;
    for tunnels in TUNNELS {
        let went = window(subject, direction, tunnels)?;
        subject.found(Metric::new(format!("{tunnels}"), "GB/s", 2), went.rate);
        if subject.has_processes() {
            subject.found(Metric::new(format!("cost of {tunnels}"), "s/GB", 2), went.cost);
        }
        if tunnels == 16 && direction == Direction::Down {
            subject.found(Metric::new("fairness of 16", "Jain", 3).not_compared(), went.fairness);
        }
        busy = busy.max(subject.settle());
    }
    if subject.has_processes() {
        subject.found(Metric::new("busy afterwards", "ms", 0).not_compared(), busy.as_secs_f64() * 1000.0);
    }
    Ok(())
}

/// How much came through in one window.
pub(super) struct Went {
    /// GB/s.
    pub(super) rate: f64,
    /// Processor seconds for each GB.
    cost: f64,
    fairness: f64,
}

/// Moves data through `tunnels` tunnels for a window.
pub(super) fn window(subject: &Subject<'_>, direction: Direction, tunnels: usize) -> Result<Went> {
    let bulk = Bulk::start(&subject.site.client, subject.route(), subject.server, direction, tunnels)?;
    thread::sleep(WARM_UP);
    let processes = subject.running.processes();
    let (start, bytes, each) = (Instant::now(), bulk.bytes(), bulk.each());
    let spent = processor_seconds(&processes);
    thread::sleep(subject.window);
    let (took, bytes_after, each_after) = (start.elapsed(), bulk.bytes(), bulk.each());
    let spent = processor_seconds(&processes) - spent;
    bulk.unbroken()?;

    let gigabytes = gigabytes(bytes_after - bytes);
    ensure!(gigabytes > 0.0, "nothing came through {tunnels} tunnels");
    let shares: Vec<_> =
        each_after.iter().zip(each).map(|(after, before)| self::gigabytes(after - before)).collect();
    Ok(Went { rate: gigabytes / took.as_secs_f64(), cost: spent / gigabytes, fairness: jain(&shares) })
}

/// Bytes as GB, 10^9.
#[allow(clippy::cast_precision_loss, reason = "exact up to 2^53")]
pub(super) fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}
