//! The access line: one for each connection, written when its record is dropped, whatever ended it.

use std::time::Instant;

use crate::failure::Failure;

/// What is known of one connection.
#[derive(Debug)]
pub struct Record {
    id: u64,
    dialect: &'static str,
    from: String,
    /// Where it wanted to go; empty when it never said.
    pub target: String,
    /// The gateway that carried it.
    pub gateway: String,
    sent: u64,
    received: u64,
    outcome: String,
    failed: bool,
    since: Instant,
}

impl Record {
    /// Begins the record of a connection that speaks `dialect`.
    pub fn new(id: u64, dialect: &'static str, from: String) -> Self {
        Self {
            id,
            dialect,
            from,
            target: String::new(),
            gateway: String::new(),
            sent: 0,
            received: 0,
            outcome: "dropped".into(),
            failed: false,
            since: Instant::now(),
        }
    }

    /// Adds bytes that passed, towards the server and from it.
    pub fn moved(&mut self, sent: u64, received: u64) {
        self.sent += sent;
        self.received += received;
    }

    /// Notes how it ended.
    pub fn ended(&mut self, outcome: impl Into<String>) {
        (self.outcome, self.failed) = (outcome.into(), false);
    }

    /// Notes that it failed.
    pub fn failed(&mut self, failure: &Failure) {
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
