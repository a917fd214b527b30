//! What a line measures, and whether it is good enough.

use std::fmt::Display;
use std::time::Duration;

/// The scale of a measurement, and the figures that are not good enough.
pub(crate) struct Report {
    pub(super) scale: f64,
    /// Whether times are judged: not when other trials run at the same time.
    pub(super) alone: bool,
    short: Vec<String>,
}

impl Report {
    /// An empty report at this scale; `alone` when no other trial runs at the same time.
    pub(super) fn new(scale: f64, alone: bool) -> Self {
        Self { scale, alone, short: Vec::new() }
    }

    /// The figures that are not good enough.
    pub(super) fn short(&self) -> &[String] {
        &self.short
    }

    /// A number of things, at this scale.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are small")]
    pub(super) fn count(&self, whole: u32) -> usize {
        (f64::from(whole) * self.scale).ceil().max(1.0) as usize
    }

    /// A time, at this scale.
    pub(super) fn time(&self, seconds: u32) -> Duration {
        Duration::from_secs_f64((f64::from(seconds) * self.scale).max(1.0))
    }

    /// Prints a figure that is not judged.
    pub(super) fn figure(&self, name: &str, value: impl Display) {
        eprintln!("    {name}: {value}");
    }

    /// Prints a figure, and whether it is good enough.
    pub(super) fn must(&mut self, name: &str, value: impl Display, bound: &str, holds: bool) {
        let line = format!("{name}: {value} ({bound})");
        eprintln!("  {} {line}", if holds { "ok" } else { "!!" });
        if !holds {
            self.short.push(line);
        }
    }

    /// Shows the end of a log when a figure is not good enough.
    pub(super) fn explain(&self, name: &str, log: &str) {
        if !self.short.is_empty() {
            eprintln!("--- the end of the log of {name}");
            let lines: Vec<_> = log.lines().collect();
            lines[lines.len().saturating_sub(40)..].iter().for_each(|line| eprintln!("    {line}"));
        }
    }

    /// A number of errors, which must be zero.
    pub(super) fn none(&mut self, name: &str, count: usize) {
        self.must(name, count, "none", count == 0);
    }

    /// A time in milliseconds that may be at most `limit`.
    pub(super) fn within(&mut self, name: &str, time: Duration, limit: Duration) {
        let bound = format!("at most {} ms", limit.as_millis());
        let bound = if self.alone { &bound } else { "not judged" };
        self.must(name, format_args!("{} ms", time.as_millis()), bound, !self.alone || time <= limit);
    }
}

/// The value that only one in `one_in` values exceeds.
pub(super) fn percentile(values: &mut [Duration], one_in: usize) -> Duration {
    values.sort();
    values.len().checked_sub(1 + values.len() / one_in).map_or(Duration::ZERO, |index| values[index])
}
