//! Which of several failed dials tell the user why there is no link. Without I/O.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::link::client::DialError;
use crate::wire::id::NodeId;

/// Maximum number of failed dials that are kept.
const MAX_ATTEMPTS: usize = 64;
/// What starts the node of a gateway again: without its options it may be none.
pub(super) const START_THERE: &str = "'laneway up' there, with its --server or --role gateway,";
/// How long a failed dial counts: twice the longest pause between two dials of one address.
const VALIDITY: Duration = Duration::from_secs(600);

/// Why a dial failed. The most telling cause comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// The group has removed this node: no other gateway will accept it either.
    Removed,
    /// One of the two does not accept the other as a member of its group.
    Distrust,
    /// Something else listens there, or another version.
    Protocol,
    /// It accepts no links, by its own word.
    NoGateway,
    /// The connection was made, and then nothing came, or it was cut.
    Silent,
    /// The machine is up, and nothing listens there.
    Refused,
    /// Nothing answers: the machine is down, or a firewall drops.
    Unanswered,
    /// This machine may not send there, or has no route: often an address that only gateways reach.
    NoRoute,
}

/// A dial that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) address: SocketAddr,
    /// The gateway that should be there, if that is known.
    pub(super) gateway: Option<NodeId>,
    pub(super) cause: Cause,
    /// A gateway should be there: it announces itself or did so before, or the user named it.
    pub(super) is_expected: bool,
    /// What the user reads.
    pub(super) sentence: String,
    pub(super) at: Instant,
}

/// The last failed dial of each address, and the link that was lost last, since a link came up.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    failed: Vec<Attempt>,
    lost: Option<Lost>,
}

/// A link that was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// The name of its gateway.
    pub(super) gateway: String,
    pub(super) reason: String,
    pub(super) at: Instant,
}

impl Cause {
    pub(super) fn of(error: &DialError) -> Self {
        match error {
            DialError::Removed(..) => Self::Removed,
            DialError::Trust(..)
            | DialError::Certificate(..)
            | DialError::Refused(..)
            | DialError::Unproved(..)
            | DialError::Left(..) => Self::Distrust,
            DialError::Protocol(..) => Self::Protocol,
            DialError::NotAGateway(..) => Self::NoGateway,
            DialError::Late(..) | DialError::Cut(..) => Self::Silent,
            DialError::Connect(_, error) => match error.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Self::Refused,
                io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable => Self::Unanswered,
                _ => Self::NoRoute,
            },
        }
    }
}

impl Attempts {
    /// Notes a failed dial in place of the last one of that address.
    pub(super) fn add(&mut self, attempt: Attempt) {
        self.failed.retain(|old| old.address != attempt.address);
        if self.failed.len() >= MAX_ATTEMPTS {
            self.failed.remove(0);
        }
        self.failed.push(attempt);
    }

    /// Whether the last dial of this address failed.
    pub(super) fn knows(&self, address: SocketAddr) -> bool {
        self.failed.iter().any(|attempt| attempt.address == address)
    }

    /// Whether nothing but an address that accepts no links was found there.
    pub(super) fn found_no_gateway(&self, address: SocketAddr) -> bool {
        let says_so = |attempt: &Attempt| attempt.address == address && attempt.cause == Cause::NoGateway;
        self.failed.iter().any(says_so)
    }

    /// Notes that a link was lost.
    pub(super) fn note_lost(&mut self, lost: Lost) {
        self.lost = Some(lost);
    }

    /// The link that was lost last, if none has come up since.
    pub(super) fn lost(&self) -> Option<&Lost> {
        self.lost.as_ref()
    }

    /// Forgets which link was lost: none was needed meanwhile.
    pub(super) fn forget_lost(&mut self) {
        self.lost = None;
    }

    /// Whether the last dial of this address failed later than at this time.
    pub(super) fn has_failed_since(&self, address: SocketAddr, time: Instant) -> bool {
        self.failed.iter().any(|attempt| attempt.address == address && attempt.at > time)
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.failed.clear();
        self.lost = None;
    }

    /// Forgets those of one gateway.
    pub(super) fn forget(&mut self, gateway: NodeId) {
        self.failed.retain(|attempt| attempt.gateway != Some(gateway));
    }

    /// The sentences that tell why there is no link, the most telling one first: that this node was removed, else one for each
    /// gateway that should be there. Among those the first [`Cause`] counts, and of one gateway's equal ones the latest. Left out
    /// are gateways of which something is `known` already, and beside other sentences those without a route: mostly addresses
    /// that only gateways reach.
    pub(super) fn telling(&self, known: &[NodeId], now: Instant) -> Vec<String> {
        let valid = self.valid(now);
        if let Some(first) = valid.first().filter(|first| first.cause == Cause::Removed) {
            return vec![first.sentence.clone()];
        }
        let mut told: Vec<&Attempt> = Vec::new();
        for attempt in valid.into_iter().filter(|attempt| attempt.is_expected) {
            let is_same = |other: &&Attempt| attempt.gateway.is_some() && other.gateway == attempt.gateway;
            let is_known = attempt.gateway.is_some_and(|id| known.contains(&id)) || told.iter().any(is_same);
            let is_alone = known.is_empty() && told.is_empty();
            if !is_known && (attempt.cause != Cause::NoRoute || is_alone) {
                told.push(attempt);
            }
        }
        // In an order that does not change with each attempt: an outage is counted by the words of all sentences.
        told.sort_by_key(|attempt| (rank(attempt), attempt.gateway, attempt.address));
        told.into_iter().map(|attempt| attempt.sentence.clone()).collect()
    }

    /// The sentence about an address where nobody expects a gateway: the last resort where nothing else tells why there is no
    /// link. What accepts no links by its own word is none that was missed.
    pub(super) fn guess(&self, now: Instant) -> Option<String> {
        let mut valid = self.valid(now).into_iter();
        let first = valid.find(|attempt| attempt.is_expected || attempt.cause != Cause::NoGateway)?;
        Some(first.sentence.clone())
    }

    /// The failed dials that still count, the most telling one first.
    fn valid(&self, now: Instant) -> Vec<&Attempt> {
        let is_valid = |attempt: &&Attempt| now.saturating_duration_since(attempt.at) < VALIDITY;
        let mut valid: Vec<_> = self.failed.iter().rev().filter(is_valid).collect();
        valid.sort_by_key(|attempt| rank(attempt));
        valid
    }
}

/// What makes one failed dial more telling than another: the smaller one is.
fn rank(attempt: &Attempt) -> (bool, bool, (Cause, bool)) {
    let telling = match attempt.cause {
        // A machine of another group, where nobody expects one of this group, says nothing about those.
        Cause::Distrust if !attempt.is_expected => (Cause::Unanswered, true),
        cause => (cause, false),
    };
    (attempt.cause != Cause::Removed, !attempt.is_expected, telling)
}

/// A failed dial in words for the user. The `name` of the gateway, if known, says more than its address.
pub(super) fn in_words(name: Option<&str>, error: &DialError, reason: &str) -> String {
    let Some(name) = name else { return reason.to_owned() };
    match error {
        DialError::Connect(_, error) if error.kind() == io::ErrorKind::ConnectionRefused => format!(
            "gateway {name} refuses connections: no node runs there ({START_THERE} starts one), or a firewall rejects them"
        ),
        DialError::Connect(_, error) => format!("gateway {name} cannot be connected to: {error}"),
        DialError::Late(_) => format!("gateway {name} does not answer"),
        _ => format!("gateway {name}: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_telling_reasons_of_several_failed_dials_are_shown() {
        use Cause::{Distrust, NoGateway, NoRoute, Protocol, Refused, Removed, Silent, Unanswered};
        // Each attempt: its cause, and whether a gateway should be there. The last numbers are those to show, in this order.
        type Row = (&'static [(Cause, bool)], &'static [usize]);
        let table: [Row; 15] = [
            (&[], &[]),
            (&[(Removed, true), (NoRoute, false)], &[0]),
            (&[(Removed, false), (Refused, true), (NoRoute, true)], &[0]),
            (&[(NoRoute, false), (Unanswered, true)], &[1]),
            (&[(Unanswered, true), (NoRoute, true)], &[0]),
            (&[(NoRoute, true), (NoRoute, true)], &[1]),
            // A remembered address that another machine has now says less than a gateway that is heard.
            (&[(Distrust, false), (Unanswered, true)], &[1]),
            (&[(Refused, true), (Silent, true), (Unanswered, true)], &[1, 0, 2]),
            (&[(Distrust, false), (Unanswered, false)], &[1]),
            (&[(Distrust, false), (Protocol, false)], &[1]),
            (&[(Distrust, false), (NoRoute, false)], &[0]),
            (&[(Refused, true), (Refused, true)], &[0, 1]),
            // The machine that admitted this one is remembered, and need not be a gateway.
            (&[(NoGateway, false)], &[]),
            (&[(NoGateway, false), (NoRoute, false)], &[1]),
            (&[(NoGateway, true)], &[0]),
        ];
        let now = Instant::now();
        for (failed, shown) in table {
            let mut attempts = Attempts::default();
            for (number, (cause, is_expected)) in failed.iter().enumerate() {
                let address = SocketAddr::from(([10, 0, 0, u8::try_from(number).unwrap()], 7420));
                let (cause, is_expected) = (*cause, *is_expected);
                attempts.add(Attempt {
                    address,
                    gateway: None,
                    cause,
                    is_expected,
                    sentence: number.to_string(),
                    at: now,
                });
            }
            let shown: Vec<_> = shown.iter().map(ToString::to_string).collect();
            let mut told = attempts.telling(&[], now);
            if told.is_empty() {
                told.extend(attempts.guess(now));
            }
            assert_eq!(told, shown, "{failed:?}");
        }
    }

    #[test]
    fn each_gateway_has_one_sentence_and_none_if_something_else_is_known_of_it() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let ids = [1, 2, 3].map(|n| NodeId([n; 16]));
        let failed = [(0, Cause::NoRoute), (0, Cause::Refused), (1, Cause::Unanswered), (2, Cause::Silent)];
        for (port, (gateway, cause)) in (1..).zip(failed) {
            attempts.add(Attempt {
                address: SocketAddr::from(([10, 0, 0, 1], port)),
                gateway: Some(ids[gateway]),
                cause,
                is_expected: true,
                sentence: port.to_string(),
                at: now,
            });
        }
        assert_eq!(attempts.telling(&[], now), ["4", "2", "3"]);
        assert_eq!(attempts.telling(&ids[..1], now), ["4", "3"]);
        attempts.forget(ids[2]);
        assert_eq!(attempts.telling(&[], now), ["2", "3"]);
        attempts.failed.iter_mut().for_each(|attempt| attempt.is_expected = false);
        assert!(attempts.telling(&[], now).is_empty(), "an old address beside what is known");
        assert_eq!((attempts.guess(now).as_deref(), attempts.guess(now + VALIDITY)), (Some("2"), None));
    }

    #[test]
    fn a_later_dial_of_an_address_replaces_the_earlier_one_and_an_old_one_does_not_count() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let attempt = |cause, sentence: &str, at| Attempt {
            address: SocketAddr::from(([10, 0, 0, 1], 7420)),
            gateway: None,
            cause,
            is_expected: true,
            sentence: sentence.into(),
            at,
        };
        attempts.add(attempt(Cause::Distrust, "distrust", now));
        attempts.add(attempt(Cause::NoRoute, "no route", now));
        let told = |attempts: &Attempts, now| attempts.telling(&[], now);
        assert_eq!(told(&attempts, now), ["no route"]);
        assert!(told(&attempts, now + VALIDITY).is_empty());
        attempts.clear();
        assert!(told(&attempts, now).is_empty());
    }

    #[test]
    fn attempts_are_bounded() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for port in 1..1000 {
            let address = SocketAddr::from(([10, 0, 0, 1], port));
            let (cause, sentence) = (Cause::NoRoute, String::new());
            attempts.add(Attempt { address, gateway: None, cause, is_expected: false, sentence, at: now });
        }
        assert_eq!(attempts.failed.len(), MAX_ATTEMPTS);
    }
}
