//! Decides which announcements of gateways count: who may announce, whether the datagram is newer than the sender's
//! others, and whether the sender signed it. The checks that cost nothing come first, so that a replayed datagram or one of
//! a member that is not a gateway costs no signature. Nothing is remembered of a datagram before its signature is verified.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::keyring::Keyring;
use laneway_limits::Bucket;
use laneway_limits::rate::{PerSource, Rate};
use laneway_trust::certificate::Role;
use laneway_trust::statement::Statement;
use laneway_wire::datagram::{AnnouncedName, Datagram, STATEMENT_SIZE, Sequence, Unverified};
use laneway_wire::id::NodeId;

/// Maximum number of gateways that are remembered. Only a gateway's own signature adds it, and each adds itself only, so
/// no member can displace another one. Beyond that the one that was heard longest ago is forgotten.
const MAX_GATEWAYS: usize = 4096;
/// Maximum number of addresses of one gateway that may deliver the same beacon: one for each network that both are on.
const MAX_ADDRESSES: usize = 16;
/// Signatures of one source address that turn out wrong: above this rate its datagrams are dropped unverified.
const WRONG_PER_SOURCE: Rate = Rate::new(32, Duration::from_millis(20));
/// Wrong signatures that name a gateway but come from another address than that gateway's last datagram, of all sources
/// together: 2.5% of a core at 50 µs each.
const WRONG_FROM_ELSEWHERE: Rate = Rate::new(500, Duration::from_millis(2));
/// Interval between two queries to one gateway that ask whether a beacon is really of its current run.
const ASK_INTERVAL: Duration = Duration::from_millis(250);

/// Why an announcement does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    /// The sender was removed from the group.
    Revoked,
    /// The authority states that the sender is a client only.
    Role,
    /// The statement is malformed, about another node, or not signed by the authority.
    Statement,
    /// The sender did not sign it.
    Signature,
    /// It is of an earlier run of the sender.
    OldRun,
    /// It is not newer than another datagram of the same run.
    Replayed,
    /// Too many signatures from this source were wrong.
    Limited,
}

impl Refusal {
    /// The word for it in metrics.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Role => "role",
            Self::Statement => "statement",
            Self::Signature => "signature",
            Self::OldRun => "old-run",
            Self::Replayed => "replayed",
            Self::Limited => "limited",
        }
    }

    /// Whether only a member with the group's key can cause it, by an attack or a fault that the administrator should
    /// know of.
    pub(super) fn is_offence(self) -> bool {
        matches!(self, Self::Revoked | Self::Role | Self::Statement | Self::Signature)
    }
}

/// How an announcement arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// The address that it came from.
    pub(super) from: SocketAddr,
    /// For an offer: when the query was sent that it answers.
    pub(super) asked: Option<Instant>,
    /// The time now.
    pub(super) now: Instant,
}

/// An announcement that counts.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) datagram: Datagram,
    /// The sender's name, for which the authority vouches.
    pub(super) name: AnnouncedName,
    /// Whether the sender has answered a query of this node in this run of its own. A stranger can replay the datagrams of
    /// a run that is over, but it cannot answer.
    pub(super) is_confirmed: bool,
    /// Whether the sender started again with a smaller number than before.
    pub(super) went_back: bool,
}

/// The gateways that have announced themselves.
#[derive(Debug)]
pub(super) struct Verifier {
    gateways: HashMap<NodeId, Known>,
    wrong_by_source: PerSource,
    wrong_from_elsewhere: Bucket,
    signatures: u64,
}

/// What is remembered of one gateway.
#[derive(Debug)]
struct Known {
    /// Its statement, which has been verified.
    statement: [u8; STATEMENT_SIZE],
    /// Its name, which the statement covers.
    name: AnnouncedName,
    newest: Sequence,
    /// The addresses that have delivered the newest beacon.
    delivered: Vec<SocketAddr>,
    /// When its last datagram was accepted.
    heard: Instant,
    confirmed: Option<Confirmed>,
    /// When it was last asked whether a beacon is of its current run.
    asked: Option<Instant>,
}

/// The answer to the latest query that a gateway has answered.
#[derive(Clone, Copy, Debug)]
struct Confirmed {
    boot: u64,
    asked: Instant,
}

impl Default for Verifier {
    fn default() -> Self {
        Self {
            gateways: HashMap::new(),
            wrong_by_source: PerSource::new(WRONG_PER_SOURCE),
            wrong_from_elsewhere: Bucket::default(),
            signatures: 0,
        }
    }
}

impl Verifier {
    /// Verifies an announcement, and remembers it as the sender's newest.
    pub(super) fn verify(
        &mut self,
        unverified: Unverified,
        keyring: &Keyring,
        arrival: Arrival,
    ) -> Result<Verified, Refusal> {
        let group = &keyring.group;
        let (id, sequence, bytes) = (unverified.sender(), unverified.sequence(), *unverified.statement());
        if group.update.revokes(id) {
            return Err(Refusal::Revoked);
        }
        let statement = Statement::read(&bytes).ok().ok_or(Refusal::Statement)?;
        if statement.role != Role::Gateway {
            return Err(Refusal::Role);
        }
        if statement.id() != id {
            return Err(Refusal::Statement);
        }
        let known = self.gateways.get(&id);
        if let Some(known) = known {
            known.order(sequence, arrival)?;
        }
        let proved = known.filter(|known| known.statement == bytes).map(|known| known.name);
        let is_at_home = known.is_some_and(|known| known.delivered.contains(&arrival.from));
        self.begin_verification(arrival, is_at_home)?;
        let name = match proved {
            Some(name) => name,
            None => {
                self.signatures += 1;
                let name = unverified.name(keyring.keys(unverified.epoch()));
                Statement::verify(&bytes, &group.ca_key, name).ok().ok_or(Refusal::Statement)?;
                name
            }
        };
        self.signatures += 1;
        let datagram = unverified.verify(&statement.public_key).ok().ok_or(Refusal::Signature)?;
        self.end_verification(arrival.from.ip(), is_at_home);
        let (is_confirmed, went_back) = self.remember(id, (bytes, name), sequence, arrival);
        Ok(Verified { datagram, name, is_confirmed, went_back })
    }

    /// Whether to ask a gateway now if a datagram is of its current run: only if it was not asked just before, and
    /// nothing of it was accepted for `silent_for`.
    pub(super) fn may_ask(&mut self, id: NodeId, silent_for: Duration, now: Instant) -> bool {
        let Some(known) = self.gateways.get_mut(&id) else { return false };
        let is_silent = now.saturating_duration_since(known.heard) >= silent_for;
        let is_due = known.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= ASK_INTERVAL);
        if is_silent && is_due {
            known.asked = Some(now);
        }
        is_silent && is_due
    }

    /// The number of signatures verified so far, of the authority and of members.
    pub(super) fn signatures(&self) -> u64 {
        self.signatures
    }

    /// Takes what a verification costs if it fails.
    fn begin_verification(&mut self, arrival: Arrival, is_at_home: bool) -> Result<(), Refusal> {
        let Arrival { from, now, .. } = arrival;
        // A gateway at the address of its last datagram has a limit of its own: others cannot use it up without sending
        // from its address.
        let all = is_at_home || WRONG_FROM_ELSEWHERE.take(&mut self.wrong_from_elsewhere, now);
        if all && self.wrong_by_source.take(from.ip(), now) { Ok(()) } else { Err(Refusal::Limited) }
    }

    /// Gives that cost back after a success.
    fn end_verification(&mut self, from: IpAddr, is_at_home: bool) {
        self.wrong_by_source.give_back(from);
        if !is_at_home {
            self.wrong_from_elsewhere.give_back(WRONG_FROM_ELSEWHERE.interval);
        }
    }

    fn remember(
        &mut self,
        id: NodeId,
        (statement, name): ([u8; STATEMENT_SIZE], AnnouncedName),
        sequence: Sequence,
        arrival: Arrival,
    ) -> (bool, bool) {
        if self.gateways.len() >= MAX_GATEWAYS && !self.gateways.contains_key(&id) {
            let longest = self.gateways.iter().min_by_key(|(_, known)| known.heard).map(|(id, _)| *id);
            longest.map(|longest| self.gateways.remove(&longest));
        }
        let known = self.gateways.entry(id).or_insert_with(|| Known {
            statement,
            name,
            newest: sequence,
            delivered: Vec::new(),
            heard: arrival.now,
            confirmed: None,
            asked: None,
        });
        (known.statement, known.name) = (statement, name);
        let went_back = sequence < known.newest;
        if sequence != known.newest {
            known.delivered.clear();
        }
        if !known.delivered.contains(&arrival.from) {
            known.delivered.push(arrival.from);
        }
        (known.newest, known.heard) = (sequence, arrival.now);
        if let Some(asked) = arrival.asked {
            known.confirmed = Some(Confirmed { boot: sequence.boot, asked });
        }
        (known.confirmed.is_some_and(|confirmed| confirmed.boot == sequence.boot), went_back)
    }
}

impl Known {
    /// Whether an announcement with this sequence is new.
    fn order(&self, sequence: Sequence, arrival: Arrival) -> Result<(), Refusal> {
        let Some(asked) = arrival.asked else {
            // The same beacon comes over every network that both nodes are on.
            let is_repeated = self.delivered.contains(&arrival.from) || self.delivered.len() >= MAX_ADDRESSES;
            return match sequence.cmp(&self.newest) {
                std::cmp::Ordering::Greater => Ok(()),
                std::cmp::Ordering::Equal if !is_repeated => Ok(()),
                _ if sequence.boot < self.newest.boot => Err(Refusal::OldRun),
                _ => Err(Refusal::Replayed),
            };
        };
        // An offer was made after this node's query, so it is of the sender's current run, even if that has a smaller
        // number: its state directory was restored from a backup, or could not be written. It must only not be older
        // than the answer to a later query, or than a beacon that came since.
        if sequence >= self.newest {
            return Ok(());
        }
        if sequence.boot == self.newest.boot {
            return if asked > self.heard { Ok(()) } else { Err(Refusal::Replayed) };
        }
        let is_latest = self.confirmed.is_none_or(|confirmed| asked > confirmed.asked);
        if is_latest { Ok(()) } else { Err(Refusal::OldRun) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use laneway_wire::datagram::NAME_SIZE;

    const NOBODY: ([u8; STATEMENT_SIZE], AnnouncedName) =
        ([0; STATEMENT_SIZE], AnnouncedName([0; NAME_SIZE]));

    fn arrival(host: u32, now: Instant) -> Arrival {
        Arrival { from: SocketAddr::from((host.to_be_bytes(), 7420)), asked: None, now }
    }

    fn id(number: u128) -> NodeId {
        NodeId(number.to_be_bytes())
    }

    #[test]
    fn one_gateway_takes_one_place_and_the_longest_unheard_of_too_many_is_forgotten() {
        let (mut verifier, start) = (Verifier::default(), Instant::now());
        let mut note = |number, counter, host, after| {
            let sequence = Sequence { boot: 1, counter };
            let arrival = arrival(host, start + Duration::from_secs(after));
            verifier.remember(id(number), NOBODY, sequence, arrival);
            verifier.gateways.len()
        };
        for counter in 0..10_000 {
            let host = u32::try_from(counter).unwrap();
            assert_eq!(note(0, counter, host, 0), 1);
        }
        for number in 1..MAX_GATEWAYS as u128 {
            note(number, 1, 1, 1);
        }
        note(0, 10_000, 1, 2);
        assert_eq!(note(u128::MAX, 1, 1, 3), MAX_GATEWAYS);
        assert!(verifier.gateways.contains_key(&id(0)), "one that is heard was forgotten");
    }

    #[test]
    fn addresses_of_one_beacon_are_bounded() {
        let (mut verifier, now) = (Verifier::default(), Instant::now());
        let sequence = Sequence { boot: 1, counter: 1 };
        let mut counted = 0;
        for host in 0..100 {
            let known = verifier.gateways.get(&id(0));
            if known.is_none_or(|known| known.order(sequence, arrival(host, now)).is_ok()) {
                verifier.remember(id(0), NOBODY, sequence, arrival(host, now));
                counted += 1;
            }
        }
        assert_eq!(counted, MAX_ADDRESSES);
    }
}
