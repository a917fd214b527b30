//! Whether a source adds anything: for a moment it gets nothing new, and what the others deliver then is compared with what all
//! of them delivered before. Where all sources share one line, the others take what it leaves.

use std::time::{Duration, Instant};

/// Interval between two checks.
pub(super) const CHECK: Duration = Duration::from_millis(500);
/// How long nothing is tried after a source was added or given up.
const QUIET: Duration = Duration::from_secs(3);
/// How long one of the two measurements takes.
const MEASURED: Duration = Duration::from_secs(1);
/// How long the others may take to use what the paused one leaves.
const SETTLED: Duration = Duration::from_millis(500);
/// The time after which a source that adds something is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// How many trials in a row have to say that a source adds nothing.
const STRIKES: u32 = 2;
/// All sources together deliver hardly more than the first one alone: less than this multiple.
const HARDLY_MORE: f64 = 1.2;
/// A download that ends within this time is not worth a trial.
const WORTH: f64 = 8.0;

/// What follows for one source, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    /// It gets nothing new.
    Pause(usize),
    /// It gets pieces again.
    GoOn(usize),
    /// It adds nothing.
    GiveUp(usize),
}

#[derive(Debug, Default)]
pub(super) struct Trial {
    stage: Stage,
    /// What one source delivered alone, in bytes per second.
    alone: f64,
    /// The bytes that came from all sources in the measurement.
    bytes: u64,
    /// The app was slower than the sources at some time of the measurement.
    is_spoilt: bool,
    not_before: Option<Instant>,
    /// When sources were tried last, and how many trials in a row said that they add nothing.
    tried: Vec<(usize, Instant, u32)>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    #[default]
    Waiting,
    /// All of them deliver.
    With { source: usize, since: Instant },
    /// The source finishes what it was asked for.
    Ending { source: usize, rate: f64, own: f64 },
    /// The others take what it leaves.
    Settling { source: usize, rate: f64, own: f64, since: Instant },
    /// The others deliver.
    Without { source: usize, rate: f64, own: f64, since: Instant },
}

impl Trial {
    /// The sources have changed: what was measured says nothing any more.
    pub(super) fn put_off(&mut self, now: Instant) {
        self.not_before = Some(now + QUIET);
    }

    /// What one source delivered alone, in bytes per second.
    pub(super) fn alone(&mut self, rate: f64) {
        self.alone = rate;
    }

    /// The app is slower than the sources now.
    pub(super) fn spoil(&mut self) {
        self.is_spoilt = true;
    }

    pub(super) fn add(&mut self, count: u64) {
        self.bytes += count;
    }

    /// The source that is paused.
    pub(super) fn of(&self) -> Option<usize> {
        match self.stage {
            Stage::Waiting | Stage::With { .. } => None,
            Stage::Ending { source, .. } | Stage::Settling { source, .. } | Stage::Without { source, .. } => {
                Some(source)
            }
        }
    }

    /// The next step. `rates` are the sources in use with their bytes per second, the slowest first; `left` is what the app
    /// still lacks, in bytes; `lanes` the number of requests of the paused source.
    pub(super) fn step(&mut self, rates: &[(usize, f64)], left: u64, lanes: usize, now: Instant) -> Step {
        let is_used = |source: usize| rates.iter().any(|(other, _)| *other == source);
        let is_changed = self.not_before.is_some_and(|at| now < at);
        if let Some(source) = self.of().filter(|source| is_changed || !is_used(*source)) {
            self.stage = Stage::Waiting;
            return if is_used(source) { Step::GoOn(source) } else { Step::Nothing };
        }
        match self.stage {
            Stage::Waiting => {
                if let Some(source) = self.candidate(rates, left, now).filter(|_| !is_changed) {
                    self.begin(Stage::With { source, since: now });
                }
                Step::Nothing
            }
            Stage::With { since, .. } if now < since + MEASURED => Step::Nothing,
            Stage::With { source, since } => {
                let own = rates.iter().find(|(other, _)| *other == source).map(|(_, rate)| *rate);
                match own.filter(|_| !is_changed && !self.is_spoilt) {
                    Some(own) => {
                        let rate = self.bytes as f64 / (now - since).as_secs_f64();
                        self.stage = Stage::Ending { source, rate, own };
                        Step::Pause(source)
                    }
                    None => {
                        self.stage = Stage::Waiting;
                        Step::Nothing
                    }
                }
            }
            Stage::Ending { .. } if lanes > 0 => Step::Nothing,
            Stage::Ending { source, rate, own } => {
                self.stage = Stage::Settling { source, rate, own, since: now };
                Step::Nothing
            }
            Stage::Settling { since, .. } if now < since + SETTLED => Step::Nothing,
            Stage::Settling { source, rate, own, .. } => {
                self.begin(Stage::Without { source, rate, own, since: now });
                Step::Nothing
            }
            Stage::Without { since, .. } if now < since + MEASURED => Step::Nothing,
            Stage::Without { source, rate, own, since } => {
                let without = self.bytes as f64 / (now - since).as_secs_f64();
                self.stage = Stage::Waiting;
                self.judge(source, without >= rate - own / 2.0 && !self.is_spoilt, now)
            }
        }
    }

    fn begin(&mut self, stage: Stage) {
        (self.stage, self.bytes, self.is_spoilt) = (stage, 0, false);
    }

    /// The slowest source that was not tried lately.
    fn candidate(&self, rates: &[(usize, f64)], left: u64, now: Instant) -> Option<usize> {
        let sum: f64 = rates.iter().map(|(_, rate)| rate).sum();
        if rates.len() < 2 || sum >= self.alone * HARDLY_MORE || left as f64 / sum.max(1.0) < WORTH {
            return None;
        }
        let is_due = |source: usize| {
            let tried = self.tried.iter().find(|(other, ..)| *other == source);
            tried.is_none_or(|(_, at, strikes)| *strikes > 0 || now >= *at + AGAIN)
        };
        // The fastest one stays.
        rates[..rates.len() - 1].iter().map(|(source, _)| *source).find(|source| is_due(*source))
    }

    fn judge(&mut self, source: usize, adds_nothing: bool, now: Instant) -> Step {
        let before =
            self.tried.iter().find(|(other, ..)| *other == source).map_or(0, |(_, _, strikes)| *strikes);
        let strikes = if adds_nothing { before + 1 } else { 0 };
        self.tried.retain(|(other, ..)| *other != source);
        self.tried.push((source, now, strikes));
        if strikes >= STRIKES { Step::GiveUp(source) } else { Step::GoOn(source) }
    }
}
