//! The latest events, for people: a bounded ring.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use laneway_wire::failure::printable;

/// Maximum number of events in the ring.
const MOST_EVENTS: usize = 256;

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Happening {
    /// A query for gateways was sent to the LAN.
    Query,
    /// The first offer or beacon of a gateway arrived.
    Offer,
    /// A gateway, or this node, became active.
    Promoted,
    /// A gateway, or this node, is no longer active.
    Demoted,
    /// A gateway, or this node, cannot serve now: it stops, or it cannot reach the server.
    Withdrawn,
    /// A link came up.
    LinkUp,
    /// A link broke or ended.
    LinkLost,
    /// A gateway left a ping unanswered.
    Suspect,
    /// New connections use this gateway from now on.
    InUse,
    /// Connections or downloads continued over another gateway.
    Resumed,
    /// A connection of an app was reset because its gateway, or the gateway's way out, was lost.
    Cut,
    /// A gateway or a client was refused, or it refused this node.
    Refused,
    /// A file of a registry that came over this gateway was not the one that its index names.
    Poisoned,
    /// One more machine got a file that was downloaded once.
    Shared,
    /// A stored response was damaged, and was removed.
    Damaged,
    /// A download came over several gateways at the same time.
    Spread,
}

impl Happening {
    /// The word for it in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Offer => "offer",
            Self::Promoted => "promoted",
            Self::Demoted => "demoted",
            Self::Withdrawn => "withdrawn",
            Self::LinkUp => "link-up",
            Self::LinkLost => "link-lost",
            Self::Suspect => "suspect",
            Self::InUse => "in-use",
            Self::Resumed => "resumed",
            Self::Cut => "cut",
            Self::Refused => "refused",
            Self::Poisoned => "poisoned",
            Self::Shared => "shared",
            Self::Damaged => "damaged",
            Self::Spread => "spread",
        }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number; they begin at 1 and have no gaps.
    pub number: u64,
    /// Time in milliseconds since 1970 (UTC), by this machine's clock.
    pub at: u64,
    /// Its kind.
    pub what: Happening,
    /// The node that it is about, by name or by the first digits of its id; empty if it is about none.
    pub who: String,
    /// One sentence, in printable ASCII.
    pub text: String,
}

/// The latest events.
#[derive(Debug, Default)]
pub struct Journal(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    last: u64,
    events: VecDeque<Event>,
}

impl Journal {
    /// Adds an event. `text` may come from a peer: it is made printable and bounded.
    pub fn note(&self, what: Happening, who: impl AsRef<str>, text: impl AsRef<str>) {
        let (who, text) = (printable(who.as_ref()), printable(text.as_ref()));
        let mut ring = self.lock();
        ring.last += 1;
        let event = Event { number: ring.last, at: unix_millis(), what, who, text };
        if ring.events.len() >= MOST_EVENTS {
            ring.events.pop_front();
        }
        ring.events.push_back(event);
    }

    /// The latest `most` events, oldest first.
    pub fn latest(&self, most: usize) -> Vec<Event> {
        let ring = self.lock();
        ring.events.iter().skip(ring.events.len().saturating_sub(most)).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds since 1970; 0 before.
pub(super) fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_events_stay_and_text_from_a_peer_is_made_printable() {
        let journal = Journal::default();
        for number in 0..MOST_EVENTS + 10 {
            journal.note(Happening::Query, "", format!("{number}"));
        }
        journal.note(Happening::Refused, "<b>", "\u{1b}[2J\r\nfor\u{2028}ged");
        let events = journal.latest(usize::MAX);
        assert_eq!(events.len(), MOST_EVENTS);
        assert!(events.windows(2).all(|pair| pair[0].number + 1 == pair[1].number));
        let last = journal.latest(1).remove(0);
        assert_eq!((last.number, last.text.as_str()), (MOST_EVENTS as u64 + 11, "?[2J??for?ged"));
    }
}
