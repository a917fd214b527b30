//! What must hold under failure, load and attack, one line of a table each: `scripts/reliability.sh` runs them.
//!
//! A line prints its figures and fails when one falls short. Most take minutes, so they are ignored unless asked for by
//! name; [`Line::short`] is the scale at which a line runs among the other trials all the same. Times are judged here,
//! which is why nothing else should keep the machine busy meanwhile.

mod apps;
mod churn;
mod clock;
mod crowd;
mod cuts;
mod handshakes;
mod idle;
mod partitions;
mod scarcity;
mod servers;
mod soak;
mod stalled;
mod takeover;
mod usage;
mod weather;
mod wire;

use crate::lab::Lab;
use std::env;
use std::fmt::Display;
use std::time::Duration;

/// One line of the table.
pub(crate) struct Line {
    /// Its number, and what it is about.
    pub(crate) name: &'static str,
    pub(crate) measure: fn(&Lab, &mut Report),
    /// The scale at which it is cheap enough to run each time.
    pub(crate) short: Option<f64>,
}

/// All of them.
pub(crate) const LINES: &[Line] = &[
    Line { name: "01_idle_tunnels", measure: idle::idle_tunnels, short: Some(0.01) },
    Line { name: "02_killed_under_load", measure: takeover::killed_under_load, short: Some(0.05) },
    Line { name: "03_hung_and_cut", measure: cuts::hung_and_cut, short: None },
    Line { name: "04_all_gone", measure: cuts::all_gone, short: Some(0.1) },
    Line { name: "05_rolling_restart", measure: takeover::rolling_restart, short: Some(0.05) },
    Line { name: "06_kill_cycles", measure: churn::kill_cycles, short: None },
    Line { name: "07_bad_networks", measure: weather::bad_networks, short: None },
    Line { name: "08_random_partitions", measure: partitions::random_partitions, short: Some(0.02) },
    Line { name: "09_tunnels_and_aborts", measure: churn::tunnels_and_aborts, short: Some(0.005) },
    Line { name: "10_stalled_readers", measure: stalled::stalled_readers, short: None },
    Line { name: "11_half_made_handshakes", measure: handshakes::half_made, short: None },
    Line { name: "12_scarcity", measure: scarcity::scarcity, short: None },
    Line { name: "13_wrong_clocks", measure: clock::wrong_clocks, short: None },
    Line { name: "14_all_at_once", measure: crowd::all_at_once, short: Some(0.02) },
    Line { name: "15_soak", measure: soak::soak, short: None },
    Line { name: "16_broken_inputs", measure: wire::broken_inputs, short: Some(0.005) },
];

/// What was measured, and what fell short.
pub(crate) struct Report {
    scale: f64,
    /// Whether times are judged: not where other trials run beside this one.
    alone: bool,
    short: Vec<String>,
}

impl Line {
    /// Measures at the scale that was asked for, `LANEWAY_SCALE`; 1 is the table's own numbers.
    pub(crate) fn in_full(&self) {
        let scale = env::var("LANEWAY_SCALE").ok().and_then(|scale| scale.parse().ok());
        self.run(scale.unwrap_or(1.0), true);
    }

    /// Measures at this scale and judges everything but times.
    pub(crate) fn in_short(&self, scale: f64) {
        self.run(scale, false);
    }

    fn run(&self, scale: f64, alone: bool) {
        eprintln!("\n== {} (scale {scale})", self.name);
        let mut report = Report { scale, alone, short: Vec::new() };
        (self.measure)(&Lab::new(), &mut report);
        let verdict = if report.short.is_empty() { "PASS" } else { "FAIL" };
        eprintln!("{verdict} {}", self.name);
        assert!(report.short.is_empty(), "{} falls short: {:#?}", self.name, report.short);
    }
}

impl Report {
    /// A number of things, at this scale.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are small")]
    fn count(&self, whole: u32) -> usize {
        (f64::from(whole) * self.scale).ceil().max(1.0) as usize
    }

    /// A time, at this scale.
    fn time(&self, seconds: u32) -> Duration {
        Duration::from_secs_f64((f64::from(seconds) * self.scale).max(1.0))
    }

    /// Tells a figure that nothing depends on.
    fn figure(&self, name: &str, value: impl Display) {
        eprintln!("    {name}: {value}");
    }

    /// Tells a figure, and whether it is as good as it must be.
    fn must(&mut self, name: &str, value: impl Display, bound: &str, holds: bool) {
        let line = format!("{name}: {value} ({bound})");
        eprintln!("  {} {line}", if holds { "ok" } else { "!!" });
        if !holds {
            self.short.push(line);
        }
    }

    /// Shows the end of a log when something has fallen short.
    fn explain(&self, name: &str, log: &str) {
        if !self.short.is_empty() {
            eprintln!("--- the end of the log of {name}");
            let lines: Vec<_> = log.lines().collect();
            lines[lines.len().saturating_sub(40)..].iter().for_each(|line| eprintln!("    {line}"));
        }
    }

    /// A number of things that went wrong, which must be none.
    fn none(&mut self, name: &str, count: usize) {
        self.must(name, count, "none", count == 0);
    }

    /// A time in milliseconds that may be at most `limit`.
    fn within(&mut self, name: &str, time: Duration, limit: Duration) {
        let bound = format!("at most {} ms", limit.as_millis());
        let bound = if self.alone { &bound } else { "not judged" };
        self.must(name, format_args!("{} ms", time.as_millis()), bound, !self.alone || time <= limit);
    }
}

/// The value that all but one in `one_in` are at most.
fn percentile(values: &mut [Duration], one_in: usize) -> Duration {
    values.sort();
    values.len().checked_sub(1 + values.len() / one_in).map_or(Duration::ZERO, |index| values[index])
}
