//! How soon the first byte comes through after both sides are started.

use super::measure::{Measure, Metric, Subject};
use anyhow::Result;

pub(super) const FIRST_BYTE: Measure = Measure {
    name: "start",
    title: "From the start of both sides to the first byte that comes back through them",
    quick: false,
    take: first_byte,
};

fn first_byte(subject: &mut Subject<'_>) -> Result<()> {
    if !subject.has_processes() {
        return Ok(());
    }
    subject.restart()?;
    let took = subject.running.first_byte.as_secs_f64() * 1000.0;
    subject.found(Metric::new("first byte", "ms", 0), took);
    Ok(())
}
