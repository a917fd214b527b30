//! Which of several failed dials tells the user most about why there is no link. Without I/O.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::link::client::DialError;

/// Maximum number of failed dials that are kept.
const MAX_ATTEMPTS: usize = 64;
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
    pub(super) cause: Cause,
    /// A gateway should be there: it announces itself, or the user named it.
    pub(super) is_expected: bool,
    /// What the user reads.
    pub(super) sentence: String,
    pub(super) at: Instant,
}

/// The last failed dial of each address.
#[derive(Debug, Default)]
pub(super) struct Attempts(Vec<Attempt>);

impl Cause {
    pub(super) fn of(error: &DialError) -> Self {
        match error {
            DialError::Removed(..) => Self::Removed,
            DialError::Trust(..)
            | DialError::Certificate(..)
            | DialError::Refused(..)
            | DialError::Unproved(..)
            | DialError::Left(..) => Self::Distrust,
            DialError::Protocol(..) | DialError::NotAGateway(..) => Self::Protocol,
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
        self.0.retain(|old| old.address != attempt.address);
        if self.0.len() >= MAX_ATTEMPTS {
            self.0.remove(0);
        }
        self.0.push(attempt);
    }

    /// Whether the last dial of this address failed.
    pub(super) fn knows(&self, address: SocketAddr) -> bool {
        self.0.iter().any(|attempt| attempt.address == address)
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The sentence of the most telling one: that this node was removed, else of a gateway that should be there, else of
    /// any; among those the first [`Cause`], and among equal ones the latest.
    pub(super) fn most_telling(&self, now: Instant) -> Option<String> {
        let valid = self.0.iter().filter(|attempt| now.saturating_duration_since(attempt.at) < VALIDITY);
        let rank = |attempt: &&Attempt| {
            let telling = match attempt.cause {
                // A machine of another group, where nobody expects one of this group, says nothing about those.
                Cause::Distrust if !attempt.is_expected => (Cause::Unanswered, true),
                cause => (cause, false),
            };
            (attempt.cause != Cause::Removed, !attempt.is_expected, telling)
        };
        // Of equal ones `min_by_key` gives the first.
        valid.rev().min_by_key(rank).map(|attempt| attempt.sentence.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_telling_reason_of_several_failed_dials_is_shown() {
        use Cause::{Distrust, NoRoute, Protocol, Refused, Removed, Silent, Unanswered};
        // Each attempt: its cause, and whether a gateway should be there. The last number is the one to show.
        type Row = (&'static [(Cause, bool)], Option<usize>);
        let table: [Row; 11] = [
            (&[], None),
            (&[(Removed, true), (NoRoute, false)], Some(0)),
            (&[(Removed, false), (Refused, true), (NoRoute, true)], Some(0)),
            (&[(NoRoute, false), (Unanswered, true)], Some(1)),
            (&[(Unanswered, true), (NoRoute, true)], Some(0)),
            // A remembered address that another machine has now says less than the gateway that is heard.
            (&[(Distrust, false), (Unanswered, true)], Some(1)),
            (&[(Distrust, false), (Unanswered, false)], Some(1)),
            (&[(Refused, true), (Silent, true), (Unanswered, true)], Some(1)),
            (&[(Distrust, false), (Protocol, false)], Some(1)),
            (&[(Distrust, false), (NoRoute, false)], Some(0)),
            (&[(Refused, true), (Refused, true)], Some(1)),
        ];
        let now = Instant::now();
        for (failed, shown) in table {
            let mut attempts = Attempts::default();
            for (number, (cause, is_expected)) in failed.iter().enumerate() {
                let address = SocketAddr::from(([10, 0, 0, u8::try_from(number).unwrap()], 7420));
                let (cause, is_expected) = (*cause, *is_expected);
                attempts.add(Attempt { address, cause, is_expected, sentence: number.to_string(), at: now });
            }
            assert_eq!(attempts.most_telling(now), shown.map(|number| number.to_string()), "{failed:?}");
        }
    }

    #[test]
    fn a_later_dial_of_an_address_replaces_the_earlier_one_and_an_old_one_does_not_count() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let attempt = |cause, sentence: &str, at| Attempt {
            address: SocketAddr::from(([10, 0, 0, 1], 7420)),
            cause,
            is_expected: true,
            sentence: sentence.into(),
            at,
        };
        attempts.add(attempt(Cause::Distrust, "distrust", now));
        attempts.add(attempt(Cause::NoRoute, "no route", now));
        assert_eq!(attempts.most_telling(now).as_deref(), Some("no route"));
        assert_eq!(attempts.most_telling(now + VALIDITY), None);
        attempts.clear();
        assert_eq!(attempts.most_telling(now), None);
    }

    #[test]
    fn attempts_are_bounded() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for port in 1..1000 {
            let address = SocketAddr::from(([10, 0, 0, 1], port));
            let (cause, sentence) = (Cause::NoRoute, String::new());
            attempts.add(Attempt { address, cause, is_expected: false, sentence, at: now });
        }
        assert_eq!(attempts.0.len(), MAX_ATTEMPTS);
    }
}
