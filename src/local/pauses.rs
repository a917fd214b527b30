//! How long gateways that have failed are left alone: longer each time. Pure.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::net::Segments;
use crate::wire::id::NodeId;

/// The first pause after a failed dial; doubled each time.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause after failed dials: the time within which a gateway that comes back is found.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause for a gateway that discovery does not hear either; once heard, it is dialled at once.
const LONGEST_SILENT_PAUSE: Duration = Duration::from_secs(10);
/// The first pause after a failed proof of trust; doubled each time.
const PENALTY: Duration = Duration::from_secs(1);
/// The longest pause after failed proofs of trust.
const LONGEST_PENALTY: Duration = Duration::from_secs(300);
/// Number of unanswered dials in a row after which small segments are tried in turn with full ones. A single one may be
/// due to a busy gateway.
const UNANSWERED: u32 = 2;
/// Maximum number of addresses: a member that answers queries in the name of many takes no more memory.
const MOST: usize = 1024;

/// The pauses, by address.
#[derive(Default)]
pub(super) struct Pauses(HashMap<SocketAddr, Paused>);

struct Paused {
    failures: u32,
    /// How many of the last dials in a row were not answered.
    unanswered: u32,
    until: Instant,
    /// Discovery had not heard it either: once it does, the gateway has come back.
    silent: bool,
    /// Who was expected there: another gateway that is heard there now has not failed.
    expected: Option<NodeId>,
}

/// Why a dial failed, as far as the pause depends on it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fault {
    /// The gateway and this node do not trust each other: the pause is longer.
    pub(super) distrust: bool,
    /// There was no answer in time.
    pub(super) unanswered: bool,
    /// Discovery does not hear the gateway either.
    pub(super) silent: bool,
    /// The gateway that was expected at the address, if one was.
    pub(super) expected: Option<NodeId>,
}

impl Pauses {
    /// Notes a failed dial. Returns how many have failed in a row.
    pub(super) fn add(&mut self, address: SocketAddr, fault: Fault, now: Instant) -> u32 {
        let (first, longest) = match (fault.distrust, fault.silent) {
            (true, _) => (PENALTY, LONGEST_PENALTY),
            (_, true) => (PAUSE, LONGEST_SILENT_PAUSE),
            (_, false) => (PAUSE, LONGEST_PAUSE),
        };
        if self.0.len() >= MOST && !self.0.contains_key(&address) {
            self.make_room(now);
        }
        let new = Paused { failures: 0, unanswered: 0, until: now, silent: false, expected: None };
        let paused = self.0.entry(address).or_insert(new);
        paused.until = now + first.saturating_mul(1 << paused.failures.min(16)).min(longest);
        paused.failures = paused.failures.saturating_add(1);
        paused.unanswered = if fault.unanswered { paused.unanswered.saturating_add(1) } else { 0 };
        paused.silent = fault.silent && !fault.distrust;
        paused.expected = fault.expected.or(paused.expected);
        paused.failures
    }

    /// The segment size for the next dial.
    pub(super) fn segments(&self, address: SocketAddr) -> Segments {
        match self.0.get(&address) {
            Some(paused) if paused.needs_small_segments() => Segments::Small,
            _ => Segments::Full,
        }
    }

    /// Until when the gateway is left alone; `None` when it may be dialled. An unheard gateway that `is_heard` now has come back,
    /// and one that is `announced` there instead of the expected one has not failed yet.
    pub(super) fn left(
        &self,
        address: SocketAddr,
        announced: Option<NodeId>,
        is_heard: bool,
        now: Instant,
    ) -> Option<Instant> {
        let paused = self.0.get(&address)?;
        let is_back = paused.silent && is_heard;
        let is_another = announced.zip(paused.expected).is_some_and(|(now, then)| now != then);
        (paused.until > now && !is_back && !is_another).then_some(paused.until)
    }

    /// Notes that the gateway has proved itself. The segment size that it needs is kept.
    pub(super) fn forgive(&mut self, address: SocketAddr, now: Instant) {
        match self.0.get_mut(&address) {
            Some(paused) if paused.needs_small_segments() => {
                *paused = Paused { failures: 0, until: now, silent: false, ..*paused };
            }
            _ => drop(self.0.remove(&address)),
        }
    }

    /// Ends all pauses.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Removes the pauses that are over, or if there is none, the one that is over first.
    fn make_room(&mut self, now: Instant) {
        self.0.retain(|_, paused| paused.until > now);
        if self.0.len() >= MOST
            && let Some(first) =
                self.0.iter().min_by_key(|(_, paused)| paused.until).map(|(address, _)| *address)
        {
            self.0.remove(&first);
        }
    }
}

impl Paused {
    fn needs_small_segments(&self) -> bool {
        self.unanswered >= UNANSWERED && self.unanswered.is_multiple_of(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISTRUST: Fault = Fault { distrust: true, unanswered: false, silent: false, expected: None };

    #[test]
    fn who_leaves_two_dials_unanswered_is_dialled_with_small_segments_and_again_once_they_have_helped() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        let gateway = SocketAddr::from(([10, 0, 0, 1], 7420));
        let unanswered = Fault { unanswered: true, ..Fault::default() };
        for expected in [Segments::Full, Segments::Full, Segments::Small, Segments::Full, Segments::Small] {
            assert_eq!(pauses.segments(gateway), expected);
            pauses.add(gateway, unanswered, now);
        }
        pauses.add(gateway, unanswered, now);
        pauses.forgive(gateway, now);
        assert_eq!(
            (pauses.segments(gateway), pauses.left(gateway, None, false, now)),
            (Segments::Small, None)
        );
        assert_eq!(pauses.add(gateway, Fault::default(), now), 1, "a refusal is another matter");
        assert_eq!(pauses.segments(gateway), Segments::Full);
        pauses.forgive(gateway, now);
        assert!(pauses.0.is_empty());
    }

    #[test]
    fn pauses_grow_and_a_failed_proof_costs_more() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        let [plain, silent, rogue] = [1, 2, 3].map(|port| SocketAddr::from(([10, 0, 0, 1], port)));
        let pause = |pauses: &Pauses, address| pauses.left(address, None, false, now).unwrap() - now;
        for (failures, seconds) in (1..).zip([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]) {
            assert_eq!(pauses.add(plain, Fault::default(), now), failures);
            pauses.add(silent, Fault { silent: true, ..Fault::default() }, now);
            pauses.add(rogue, DISTRUST, now);
            assert_eq!(pause(&pauses, rogue), Duration::from_secs(seconds));
        }
        assert_eq!(pause(&pauses, plain), LONGEST_PAUSE);
        assert_eq!(pause(&pauses, silent), LONGEST_SILENT_PAUSE);
        assert_eq!(pauses.left(silent, None, true, now), None, "it has come back");
        let some_id = Some(NodeId([1; 16]));
        assert!(pauses.left(rogue, some_id, true, now).is_some(), "being heard is no proof");
        pauses.forgive(rogue, now);
        assert_eq!(pauses.left(rogue, None, false, now), None);
    }

    #[test]
    fn a_gateway_that_is_heard_at_the_address_of_one_that_failed_is_dialled_once_without_a_pause() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        let address = SocketAddr::from(([10, 0, 0, 1], 7420));
        let [old, new] = [1, 2].map(|n| Some(NodeId([n; 16])));
        for _ in 0..10 {
            pauses.add(address, Fault { expected: old, ..DISTRUST }, now);
        }
        assert!(
            pauses.left(address, old, true, now).is_some() && pauses.left(address, None, true, now).is_some()
        );
        assert_eq!(pauses.left(address, new, true, now), None);
        assert_eq!(pauses.add(address, Fault { expected: new, ..DISTRUST }, now), 11);
        pauses.add(address, DISTRUST, now);
        assert_eq!(pauses.left(address, new, true, now), Some(now + LONGEST_PENALTY));
    }

    #[test]
    fn the_table_is_bounded_and_the_worst_stay() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        let address = |number: u32| SocketAddr::from((number.to_be_bytes(), 7420));
        for _ in 0..10 {
            pauses.add(address(0), DISTRUST, now);
        }
        for number in 1..5000 {
            pauses.add(address(number), DISTRUST, now);
        }
        assert!(pauses.0.len() <= MOST);
        assert!([0, 4999].iter().all(|number| pauses.left(address(*number), None, false, now).is_some()));
    }
}
