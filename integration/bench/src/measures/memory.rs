//! The memory of tunnels that are open and idle.

use super::measure::{Measure, Metric, Subject};
use crate::accounting::memory;
use crate::load::held::Held;
use crate::peers::Running;
use anyhow::{Result, ensure};
use nix::sys::resource::{Resource, getrlimit};
use std::thread;
use std::time::Duration;

pub(super) const IDLE: Measure = Measure {
    name: "memory",
    title: "Memory of both sides (PSS): after the start, and for each idle tunnel that has carried a byte each way",
    quick: false,
    take: idle_tunnels,
};

const FEW: usize = 1000;
const MANY: usize = 10_000;
/// Descriptors that are not tunnels, in any process.
const OTHER_DESCRIPTORS: usize = 400;
/// Time to give back memory that was only for the opening.
const SETTLE: Duration = Duration::from_secs(1);

fn idle_tunnels(subject: &mut Subject<'_>) -> Result<()> {
    if !subject.has_processes() {
        return Ok(());
    }
    subject.restart()?;
    thread::sleep(SETTLE);
    let used = |running: &Running| memory(&running.processes());
    let base = used(subject.running)?;
    let mut held = Held::none();
    subject.found(Metric::new("after the start", "MiB", 1), base / 1024.0);
    for total in [FEW, permitted(MANY)?] {
        held.idle(&subject.site.client, subject.route(), total)?;
        thread::sleep(SETTLE);
        #[allow(clippy::cast_precision_loss, reason = "ten thousand")]
        let each = (used(subject.running)? - base) / total as f64;
        subject.found(Metric::new(format!("each of {total}"), "KiB", 1), each);
    }
    ensure!(held.are_open(), "tunnels were closed while they were idle");
    drop(held);
    // The cleanup of so many closed tunnels would disturb the next measure.
    subject.restart()?;
    Ok(())
}

/// At most as many as one process may have both ends of, as the bench and a relay do.
fn permitted(tunnels: usize) -> Result<usize> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = usize::try_from(limit)?.saturating_sub(OTHER_DESCRIPTORS) / 2;
    // In round numbers, for the heading.
    Ok(tunnels.min(limit / 100 * 100))
}
