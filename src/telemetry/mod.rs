//! What the operator sees: logs, the access line of each connection, and what is counted and noted while the node runs.

pub mod history;
pub mod journal;
pub mod ledger;
pub mod log;
pub mod names;
pub mod record;
pub mod refusal;
pub mod report;
pub mod snapshot;
pub mod tally;
pub mod traffic;

use std::sync::Arc;

use journal::Happening;
use refusal::Refusal;
use tally::{Count, Tally};

/// What a node counts and notes, by those who do it; read together in a [`snapshot::Snapshot`].
#[derive(Debug, Default)]
pub struct Telemetry {
    /// What other nodes are called.
    pub names: names::Names,
    /// Connections of this machine's own apps.
    pub apps: Arc<ledger::Ledger>,
    /// Connections that this node carries for others, as a gateway.
    pub served: Arc<ledger::Ledger>,
    /// Their rates in the last two minutes.
    pub history: history::History,
    /// What happened lately.
    pub journal: journal::Journal,
    /// How often each thing has happened.
    pub happened: Tally<Happening>,
    /// Connections so far, by the dialect that they came in.
    pub connections: Tally<&'static str>,
    /// Connections that failed, by what went wrong and on whose side.
    pub failures: Tally<(&'static str, &'static str)>,
    /// Connections that went on over another gateway, by how: `replayed`, `repeated` or `resumed`.
    pub rescued: Tally<&'static str>,
    /// Requests of apps that were refused for what they are, by dialect and reason.
    pub refused: Tally<(&'static str, Refusal)>,
    /// Datagrams of UDP that were dropped, by reason: for apps, and as a gateway.
    pub udp_dropped: Tally<&'static str>,
    /// Questions to the local name server, by how they came: `udp` or `tcp`.
    pub questions: Tally<&'static str>,
    /// Its answers, by their code and by where they are from: `cache`, `asked` of somebody, or `here`.
    pub answers: Tally<(&'static str, &'static str)>,
    /// What discovery said and heard.
    pub discovery: Datagrams,
}

/// Datagrams of discovery, by what they were.
#[derive(Debug, Default)]
pub struct Datagrams {
    /// Queries sent.
    pub queries: Count,
    /// Beacons sent.
    pub beacons: Count,
    /// Offers sent.
    pub offers: Count,
    /// Queries heard.
    pub queries_heard: Count,
    /// Beacons heard.
    pub beacons_heard: Count,
    /// Offers heard.
    pub offers_heard: Count,
    /// Datagrams that were dropped without an answer: forged, repeated, or not of this group.
    pub dropped: Count,
}

impl Telemetry {
    /// Notes an event: in the journal and in its count.
    pub fn note(&self, what: Happening, who: impl AsRef<str>, text: impl AsRef<str>) {
        self.happened.one(what);
        self.journal.note(what, who, text);
    }
}
