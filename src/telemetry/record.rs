//! The access line: one for each connection, written when its record is dropped, whatever ended it. What it says is
//! counted too, and its bytes while they pass.

use std::sync::Arc;
use std::time::Instant;

use super::Telemetry;
use super::journal::Happening;
use super::ledger::{Entry, Ledger};
use super::refusal::Refusal;
use super::traffic::Traffic;
use crate::copy::Moved;
use crate::failure::Failure;

/// What is known of one connection.
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
    sent: u64,
    received: u64,
    outcome: String,
    failed: bool,
    since: Instant,
}

impl Record {
    /// Begins the record of a connection of an app of this machine, which speaks `dialect`.
    pub fn of_app(telemetry: &Arc<Telemetry>, id: u64, dialect: &'static str, from: String) -> Self {
        Self::new(telemetry, &telemetry.apps, id, dialect, from)
    }

    /// Begins the record of a connection that is carried for the client called `from`.
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
            sent: 0,
            received: 0,
            outcome: "dropped".into(),
            failed: false,
            since: Instant::now(),
        }
    }

    /// Notes where it wants to go: it counts among the connections to there until it is dropped.
    pub fn aims_at(&mut self, target: impl ToString) {
        self.target = target.to_string();
        self.entry = Some(self.ledger.open(&self.target));
    }

    /// Notes what it is for, where that is no destination.
    pub fn is_for(&mut self, what: &str) {
        self.target = what.to_owned();
    }

    /// Where its bytes are to be counted while they pass.
    pub fn traffic(&self) -> Arc<Traffic> {
        self.entry.as_ref().map_or_else(|| self.ledger.traffic.clone(), |entry| entry.traffic().clone())
    }

    /// Adds bytes that passed, towards the server and from it. They have been counted while they did.
    pub fn moved(&mut self, moved: Moved) {
        self.sent += moved.sent;
        self.received += moved.received;
    }

    /// Notes that it goes on over another gateway: `how` is `replayed`, `repeated` or `resumed`.
    pub fn rescued(&self, how: &'static str) {
        self.telemetry.rescued.one(how);
        self.telemetry.note(Happening::Resumed, "", format!("{how} on the next gateway: {}", self.target));
    }

    /// Notes how it ended.
    pub fn ended(&mut self, outcome: impl Into<String>) {
        (self.outcome, self.failed) = (outcome.into(), false);
    }

    /// Notes that it was refused for what it is.
    pub fn refused(&mut self, reason: Refusal, outcome: impl Into<String>) {
        self.telemetry.refused.one((self.dialect, reason));
        self.ended(outcome);
    }

    /// Notes that it failed.
    pub fn failed(&mut self, failure: &Failure) {
        self.telemetry.failures.one((failure.kind.token(), failure.side.token()));
        self.entry.iter().for_each(Entry::failed);
        self.outcome = format!("{} ({}): {}", failure.kind.token(), failure.side.token(), failure.sentence);
        self.failed = true;
    }

    /// Whether the last thing that was noted is a failure.
    pub fn has_failed(&self) -> bool {
        self.failed
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let conn = format_args!("{:016x}", self.id);
        let millis = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Self { dialect, from, target, gateway, sent, received, outcome, .. } = self;
        tracing::info!(%conn, dialect, from, target, gateway, sent, received, millis, outcome, "connection");
    }
}
