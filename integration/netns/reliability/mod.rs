//! What must hold under failure, load and attack, one line of a table each: `scripts/reliability.sh` runs them.
//!
//! A line prints its figures, and fails when one is not good enough. Most take minutes, so they run only when asked for by
//! name; [`Line::short`] is the scale at which a line also runs among the other trials. In full, times are judged too, so
//! nothing else should run on the machine meanwhile.

mod apps;
mod churn;
mod clock;
mod crowd;
mod cuts;
mod downloads;
mod handshakes;
mod idle;
mod lies;
mod members;
mod partitions;
mod report;
mod scarcity;
mod servers;
mod several;
mod soak;
mod stalled;
mod takeover;
mod usage;
mod weather;
mod wire;

use crate::lab::Lab;
use report::Report;
use std::env;

/// One line of the table.
pub(crate) struct Line {
    /// Its number, and what it is about.
    pub(crate) name: &'static str,
    pub(crate) measure: fn(&Lab, &mut Report),
    /// The scale at which it is cheap enough to run each time.
    pub(crate) short: Option<f64>,
}

/// All lines.
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
    Line { name: "17_one_download_for_all", measure: downloads::one_download_for_all, short: None },
    Line { name: "18_killed_at_random", measure: downloads::killed_at_random, short: None },
    Line { name: "19_one_file_over_three_lines", measure: several::one_file_over_three_lines, short: None },
    Line { name: "20_one_narrow_leg_for_all", measure: members::one_narrow_leg_for_all, short: None },
    Line {
        name: "21_nothing_wrong_is_complete",
        measure: lies::nothing_wrong_is_complete,
        short: Some(0.005),
    },
];

impl Line {
    /// Measures at the scale `LANEWAY_SCALE`; 1 gives the numbers of the table.
    pub(crate) fn in_full(&self) {
        let scale = env::var("LANEWAY_SCALE").ok().and_then(|scale| scale.parse().ok());
        self.run(scale.unwrap_or(1.0), true);
    }

    /// Measures at this scale, and judges everything except times.
    pub(crate) fn in_short(&self, scale: f64) {
        self.run(scale, false);
    }

    fn run(&self, scale: f64, alone: bool) {
        eprintln!("\n== {} (scale {scale})", self.name);
        let mut report = Report::new(scale, alone);
        (self.measure)(&Lab::new(), &mut report);
        let verdict = if report.short().is_empty() { "PASS" } else { "FAIL" };
        eprintln!("{verdict} {}", self.name);
        assert!(report.short().is_empty(), "{} falls short: {:#?}", self.name, report.short());
    }
}
