//! The access line: one for each connection, written when its record is dropped, whatever ended it. A record also counts
//! the connection, its outcome, and its bytes while they pass.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use super::Telemetry;
use super::journal::Happening;
use super::ledger::{Entry, Ledger};
use super::refusal::RefusalReason;
use super::report;
use super::traffic::{Moved, Traffic};
use laneway_limits::lines::{Lines, Permit};
use laneway_limits::rate::Rate;
use laneway_wire::failure::Failure;

/// The lines about connections of one client of this gateway, or of all apps of this machine. A member may open some
/// thousand connections a second, and their lines must not fill the disk.
static CARRIED: LazyLock<Lines> = LazyLock::new(|| Lines::new(Rate::new(5_000, Duration::from_millis(10))));
/// The lines about failed connections, for which nothing was carried.
static FAILED: LazyLock<Lines> = LazyLock::new(|| Lines::new(Rate::new(1_000, Duration::from_millis(100))));

/// The facts about one connection.
#[derive(Debug)]
pub struct Record {
    telemetry: Arc<Telemetry>,
    ledger: Arc<Ledger>,
    entry: Option<Entry>,
    id: u64,
    dialect: &'static str,
    from: String,
    /// The gateway that carried it.
    pub gateway: String,
    target: String,
    moved: Moved,
    outcome: String,
    failed: bool,
    since: Instant,
}

impl Record {
    /// Begins the record of a connection of a local app that speaks `dialect`.
    pub fn of_app(telemetry: &Arc<Telemetry>, id: u64, dialect: &'static str, from: String) -> Self {
        Self::new(telemetry, &telemetry.apps, id, dialect, from)
    }

    /// Begins the record of a connection that this gateway carries for the client called `from`.
    pub fn of_client(telemetry: &Arc<Telemetry>, id: u64, dialect: &'static str, from: String) -> Self {
        Self::new(telemetry, &telemetry.served, id, dialect, from)
    }

    fn new(
        telemetry: &Arc<Telemetry>,
        ledger: &Arc<Ledger>,
        id: u64,
        dialect: &'static str,
        from: String,
    ) -> Self {
        telemetry.connections.one(dialect);
        Self {
            telemetry: telemetry.clone(),
            ledger: ledger.clone(),
            entry: None,
            id,
            dialect,
            from,
            gateway: String::new(),
            target: String::new(),
            moved: Moved::default(),
            outcome: "dropped".into(),
            failed: false,
            since: Instant::now(),
        }
    }

    /// Sets the destination: the connection counts as open to it until the record is dropped.
    pub fn aims_at(&mut self, target: impl ToString) {
        self.target = target.to_string();
        self.entry = Some(self.ledger.open(&self.target));
    }

    /// Sets what the connection is for, where that is not a destination.
    pub fn is_for(&mut self, what: &str) {
        self.target = what.to_owned();
    }

    /// The counter for its bytes while they pass.
    pub fn traffic(&self) -> Arc<Traffic> {
        self.entry.as_ref().map_or_else(|| self.ledger.traffic.clone(), |entry| entry.traffic().clone())
    }

    /// Adds bytes that passed, to and from the server. They were counted in [`Record::traffic`] while they passed.
    pub fn moved(&mut self, moved: Moved) {
        self.moved.sent += moved.sent;
        self.moved.received += moved.received;
    }

    /// Records that it continues over another gateway: `how` is `replayed`, `repeated` or `resumed`.
    pub fn rescued(&self, how: &'static str) {
        self.telemetry.rescued.one(how);
        let text = format!("{how} on the next gateway: {}", self.target);
        self.telemetry.note_about(how, Happening::Resumed, "", text);
    }

    /// Records that it was reset because of this `gateway`: `by` is one of [`Telemetry::cut`].
    pub fn cut(&self, by: &'static str, gateway: &str, why: &str) {
        self.telemetry.cut.one(by);
        self.entry.iter().for_each(Entry::failed);
        self.telemetry.failed.note(&self.target, &format!("reset: {why}"));
        let text = format!("the connection to {} was reset: {why}", self.target);
        self.telemetry.note_about(by, Happening::Cut, gateway, text);
    }

    /// Records that a download came over several gateways at the same time: their names, and how many bytes came over each.
    pub fn came_over<'a>(&mut self, shares: impl Iterator<Item = (&'a str, u64)> + Clone) {
        self.gateway = shares.clone().map(|(name, _)| name).collect::<Vec<_>>().join("+");
        let (downloads, bytes) = &self.telemetry.spread;
        downloads.one();
        bytes.many(shares.clone().map(|(_, bytes)| bytes).sum());
        let each = shares.map(|(name, bytes)| format!("{name} ({})", report::bytes(bytes)));
        let text = format!("{} came over {}", self.target, each.collect::<Vec<_>>().join(", "));
        self.telemetry.note_about(&self.gateway, Happening::Spread, "", text);
    }

    /// Sets how it ended.
    pub fn ended(&mut self, outcome: impl Into<String>) {
        (self.outcome, self.failed) = (outcome.into(), false);
    }

    /// Sets that it was refused whatever its destination.
    pub fn refused(&mut self, reason: RefusalReason, outcome: impl Into<String>) {
        self.telemetry.refused.one((self.dialect, reason));
        self.ended(outcome);
    }

    /// Sets that it failed.
    pub fn failed(&mut self, failure: &Failure) {
        self.telemetry.failures.one((failure.kind.token(), failure.side.token()));
        self.entry.iter().for_each(Entry::failed);
        if Arc::ptr_eq(&self.ledger, &self.telemetry.apps) {
            self.telemetry.failed.note(&self.target, &failure.sentence);
        }
        self.outcome = format!("{} ({}): {}", failure.kind.token(), failure.side.token(), failure.sentence);
        self.failed = true;
    }

    /// Whether its outcome so far is a failure.
    pub fn has_failed(&self) -> bool {
        self.failed
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let conn = format_args!("{:016x}", self.id);
        let millis = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Self { dialect, from, target, gateway, outcome, .. } = self;
        let Moved { sent, received } = self.moved;
        let lines = if self.failed { &FAILED } else { &CARRIED };
        let client = Arc::ptr_eq(&self.ledger, &self.telemetry.served).then_some(&*from);
        match lines.permit("connection", client, Instant::now()) {
            Some(Permit { left_out }) => tracing::info!(
                %conn, dialect, from, target, gateway, sent, received, millis, outcome, left_out, "connection"
            ),
            None => tracing::debug!(
                %conn, dialect, from, target, gateway, sent, received, millis, outcome, "connection"
            ),
        }
    }
}
