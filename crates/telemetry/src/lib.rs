//! What the operator sees: logs, the access line of each connection, and what the node counts and records while it runs.

pub mod display_names;
pub mod failed;
pub mod history;
pub mod journal;
pub mod ledger;
pub mod log;
pub mod other_groups;
pub mod record;
pub mod refusal;
pub mod report;
pub mod snapshot;
pub mod tally;
pub mod traffic;

use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use journal::Happening;
use laneway_limits::lines::{self, Permit};
use refusal::RefusalReason;
use tally::{Count, Tally};

/// What the parts of a node count and record; read together as a [`snapshot::Snapshot`].
// fields: each is a counter of its own, written by another part and read once
#[derive(Debug, Default)]
pub struct Telemetry {
    /// The names of other nodes.
    pub names: display_names::DisplayNames,
    /// Connections of this machine's own apps.
    pub apps: Arc<ledger::Ledger>,
    /// Connections that this node carries for others, as a gateway.
    pub served: Arc<ledger::Ledger>,
    /// The rates of both in the last two minutes.
    pub history: std::sync::Arc<history::History>,
    /// The latest events.
    pub journal: journal::Journal,
    /// Why the last reload refused the configuration.
    refused_configuration: Mutex<Option<String>>,
    /// Events so far, by kind.
    pub happened: Tally<Happening>,
    /// Connections so far, by the dialect of the app.
    pub connections: Tally<&'static str>,
    /// Connections that failed, by kind of failure and side.
    pub failures: Tally<(&'static str, &'static str)>,
    /// The latest failed connections of this machine's own apps.
    pub failed: failed::Failed,
    /// Connections that continued over another gateway, by how: `replayed`, `repeated` or `resumed`.
    pub rescued: Tally<&'static str>,
    /// Connections of apps that were reset before their end for which neither the app nor the server was to blame, by why:
    /// `gateway` (its link was lost) or `way-out` (the gateway's way to the server was).
    pub cut: Tally<&'static str>,
    /// Downloads of apps that came over several gateways at the same time, and their bytes.
    pub spread: (Count, Count),
    /// Requests of apps that were refused whatever their destination, by dialect and reason.
    pub refused: Tally<(&'static str, RefusalReason)>,
    /// UDP datagrams that were dropped, by reason: those of apps, and those of clients on a gateway.
    pub udp_dropped: Tally<&'static str>,
    /// Queries to the local name server, by transport: `udp` or `tcp`.
    pub questions: Tally<&'static str>,
    /// Its answers, by response code and source: `cache`, `asked` (of a gateway or a name server), or `here`.
    pub answers: Tally<(&'static str, &'static str)>,
    /// Plain requests at this gateway that its cache took part in, by what became of them: `hit`, `miss`, `collapsed`,
    /// `validated` or `passed`.
    pub cache: Tally<&'static str>,
    /// Bytes of bodies that clients got without a transfer from the server.
    pub cache_saved: Count,
    /// Pieces of bodies that this node asked other members for, or they asked it for, by what became of them: `received`,
    /// `served`, `own` (it had it), `late` (another source was faster), `missing`, `gone` or `wrong`.
    pub pieces: Tally<&'static str>,
    /// Bytes of bodies that this machine's apps got from other members.
    pub peer_received: Count,
    /// Bytes of bodies that other members got from this node.
    pub peer_served: Count,
    /// Files that fronts have passed on or cut off, by registry and result: `verified` or `poisoned`.
    pub fronts: Tally<(&'static str, &'static str)>,
    /// Datagrams of discovery, sent and received.
    pub discovery: Datagrams,
}

/// Datagrams of discovery, by type.
#[derive(Debug, Default)]
pub struct Datagrams {
    /// Queries sent.
    pub queries: Count,
    /// Beacons sent.
    pub beacons: Count,
    /// Offers sent.
    pub offers: Count,
    /// Queries received.
    pub queries_heard: Count,
    /// Beacons received.
    pub beacons_heard: Count,
    /// Offers received.
    pub offers_heard: Count,
    /// Datagrams that were dropped without an answer, by reason.
    pub dropped: Tally<&'static str>,
    /// Signatures verified, of the authority and of members.
    pub signatures: Count,
    /// The machines of other groups.
    pub other_groups: other_groups::OtherGroups,
}

impl Telemetry {
    /// Why the last reload refused the configuration; `None` if it did not.
    #[must_use]
    pub fn refused_configuration(&self) -> Option<String> {
        self.refused_configuration.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a reload of the configuration, and why it was refused, if it was.
    pub fn note_reload(&self, refused: Option<String>) {
        *self.refused_configuration.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// Counts an event that somebody else can cause again and again, and records it in the journal unless events of its kind
    /// about the same subject fill it already. See [`laneway_limits::lines`].
    pub fn note_about(
        &self,
        about: impl Hash,
        what: Happening,
        who: impl AsRef<str>,
        text: impl Into<String>,
    ) {
        self.happened.one(what);
        if let Some(Permit { left_out }) = lines::permit(what.word(), about) {
            let before = match left_out {
                None => String::new(),
                Some(1) => ", and once before".to_owned(),
                Some(count) => format!(", and {count} times before"),
            };
            self.journal.note(what, who, text.into() + &before);
        }
    }

    /// Records an event in the journal and counts it.
    pub fn note(&self, what: Happening, who: impl AsRef<str>, text: impl AsRef<str>) {
        self.happened.one(what);
        self.journal.note(what, who, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_one_subject_causes_again_and_again_leave_room_for_those_of_others() {
        let telemetry = Telemetry::default();
        telemetry.note_about("a subject of this test", Happening::LinkUp, "one", "at first");
        for _ in 0..10_000 {
            telemetry.note_about("another one", Happening::LinkUp, "two", "again");
        }
        let events = telemetry.journal.latest(usize::MAX);
        assert_eq!((events.len(), events[0].who.as_str()), (11, "one"));
    }
}
