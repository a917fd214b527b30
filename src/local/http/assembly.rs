//! A body that comes in pieces from several sources: which piece is asked of whom, and what the app can get. Without I/O.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::wire::id::NodeId;
use crate::wire::sharing::{self, PieceHash};

/// How many pieces are on their way at a time, from the one that the app gets next on: enough that a source never waits for the next
/// request on a LAN.
const WINDOW: u32 = 4;
/// How long the piece that the app waits for may take from a member before the gateway is asked for it as well: at least, at
/// most, and this many times as long as pieces from members took lately.
const LEAST_PATIENCE: Duration = Duration::from_secs(2);
const MOST_PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE: u32 = 4;
/// A member that was too slow for this many pieces in a row is left.
const MOST_SLOW: u32 = 3;
/// A member is measured by this many pieces, and by `AGAIN` times as many once it was compared. If a piece takes longer than
/// `SLOW`, counting all that are on their way at the same time, the gateway is asked for one instead, to compare the two.
const MEASURED: u32 = WINDOW;
const AGAIN: u32 = 8;
const SLOW: Duration = Duration::from_millis(200);
/// A member is left when the gateway is this many times as fast.
const FASTER: u32 = 2;
/// How often another member is asked for in place of one that has failed.
const MOST_ASKED: u32 = 8;

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Read the piece from what this node keeps.
    Own(u32, PieceHash),
    /// Ask a member for it.
    Member(u32, PieceHash, NodeId, SocketAddr),
    /// Ask the gateway for it.
    Gateway(u32),
    /// Ask the gateway for another member than this one.
    Ask(NodeId),
}

/// Where a piece comes from, and what has come of it.
#[derive(Debug, Default)]
struct Slot {
    from_own: bool,
    from_member: Option<(NodeId, Instant)>,
    from_gateway: bool,
    /// What has come from the gateway, and the number of bytes.
    came: Vec<Bytes>,
    length: usize,
    /// The whole piece.
    ready: Option<Bytes>,
}

/// How fast the member is that pieces are asked of.
#[derive(Debug, Default)]
struct Speed {
    /// How many pieces have come since measuring began, how long they took in all, and how many the gateway has got meanwhile.
    pieces: u32,
    took: Duration,
    listed: u32,
    /// It was compared before.
    is_compared: bool,
    /// The time for one piece, once that is long: the gateway is to be asked for one.
    slow: Option<Duration>,
    /// The piece that the gateway was asked for, and when; and whether it has come.
    sample: Option<(u32, Instant, bool)>,
}

/// A whole piece that has come.
#[derive(Debug)]
pub(super) struct Whole {
    /// The offset of its first byte.
    pub(super) start: u64,
    pub(super) bytes: Bytes,
}

/// The state of one body.
// fields: each is a fact that the choice of a source depends on
#[derive(Debug)]
pub(super) struct Assembly {
    total: u64,
    count: u32,
    /// The piece that the app gets next, and how many bytes of it the app has.
    next: u32,
    passed: usize,
    slots: BTreeMap<u32, Slot>,
    /// The pieces that the gateway still sends, and how many bytes of each.
    owed: HashMap<u32, usize>,
    hashes: HashMap<u32, PieceHash>,
    list_has_ended: bool,
    /// The member that pieces are asked of; `None` while there is none.
    member: Option<(NodeId, SocketAddr)>,
    /// Whether the gateway has answered the last question for a member.
    is_answered: bool,
    asked: u32,
    /// For how many pieces in a row it was too slow.
    slow: u32,
    /// How long pieces from members took lately.
    took: Duration,
    speed: Speed,
    /// How many pieces are on their way at a time.
    window: u32,
}

impl Assembly {
    /// A body of `total` bytes; `None` if such a body does not come in pieces.
    pub(super) fn new(total: u64) -> Option<Self> {
        Some(Self {
            total,
            count: sharing::pieces(total)?,
            next: 0,
            passed: 0,
            slots: BTreeMap::new(),
            owed: HashMap::new(),
            hashes: HashMap::new(),
            list_has_ended: false,
            member: None,
            is_answered: false,
            asked: 0,
            slow: 0,
            took: Duration::ZERO,
            speed: Speed::default(),
            window: WINDOW,
        })
    }

    /// The number of pieces.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Whether the app has everything.
    pub(super) fn is_done(&self) -> bool {
        self.next == self.count
    }

    /// The number of bytes of the piece `index`.
    pub(super) fn length(&self, index: u32) -> usize {
        let (start, end) = sharing::range(index, self.total);
        usize::try_from(end - start).unwrap_or(0)
    }

    /// The memory that is held, or may come without being asked for again, in bytes.
    pub(super) fn held(&self) -> usize {
        let of = |(index, slot): (&u32, &Slot)| {
            let is_whole = slot.ready.is_some() || slot.from_member.is_some() || slot.from_own;
            let whole = if is_whole { self.length(*index) } else { 0 };
            let came: usize = slot.came.iter().map(Bytes::len).sum();
            // Each part is one of a buffer that has twice its size.
            whole + 2 * came
        };
        self.slots.iter().map(of).sum()
    }

    /// Takes a hash from the gateway.
    pub(super) fn listed(&mut self, index: u32, hash: PieceHash) {
        if (self.next..self.count).contains(&index) && self.hashes.insert(index, hash).is_none() {
            self.speed.listed += 1;
        }
    }

    /// Notes that no more hashes come.
    pub(super) fn list_ended(&mut self) {
        self.list_has_ended = true;
    }

    /// Takes the gateway's answer to a question for a member.
    pub(super) fn named(&mut self, member: Option<(NodeId, SocketAddr)>) {
        (self.member, self.is_answered) = (member, true);
        self.speed = Speed::default();
    }

    /// What is to be done now. `holds` says which pieces this node keeps; while memory is tight one piece comes at a time.
    pub(super) fn actions(
        &mut self,
        now: Instant,
        is_tight: bool,
        holds: impl Fn(&PieceHash) -> bool,
    ) -> Vec<Action> {
        let mut actions = Vec::from_iter(self.compared(now));
        self.window = if is_tight { 1 } else { WINDOW };
        for index in self.next..self.count.min(self.next + self.window) {
            let (hash, is_next) = (self.hashes.get(&index).copied(), index == self.next);
            let (patience, length) = (self.patience(), self.length(index));
            let may_owe = self.owed.len() < sharing::MOST_WANTED;
            let slot = self.slots.entry(index).or_default();
            if slot.ready.is_some() || slot.from_gateway || slot.from_own {
                continue;
            }
            if let Some((member, since)) = slot.from_member {
                if is_next && now >= since + patience && may_owe {
                    slot.from_gateway = true;
                    self.owed.insert(index, length);
                    actions.push(Action::Gateway(index));
                    self.slow += 1;
                    if self.slow >= MOST_SLOW {
                        actions.extend(self.failed(member));
                    }
                }
                continue;
            }
            match (hash, self.member) {
                (Some(hash), _) if holds(&hash) => {
                    slot.from_own = true;
                    actions.push(Action::Own(index, hash));
                }
                (Some(_), Some(_)) if may_owe && self.speed.takes_sample(index, now) => {
                    slot.from_gateway = true;
                    self.owed.insert(index, length);
                    actions.push(Action::Gateway(index));
                }
                (Some(hash), Some((member, at))) => {
                    slot.from_member = Some((member, now));
                    actions.push(Action::Member(index, hash, member, at));
                }
                // The member cannot be asked before the gateway has the piece itself.
                (None, Some(_)) if !self.list_has_ended => {}
                // Whether there is a member is about to be known.
                (_, None) if !self.is_answered && !is_next => {}
                (_, None) if !self.is_answered && self.asked == 0 => {}
                _ if !may_owe => {}
                _ => {
                    slot.from_gateway = true;
                    self.owed.insert(index, length);
                    actions.push(Action::Gateway(index));
                }
            }
        }
        actions
    }

    /// Leaves the member if the gateway turned out to be much faster. Returns the question for another one.
    fn compared(&mut self, now: Instant) -> Option<Action> {
        let (_, since, _) = self.speed.sample.filter(|(_, _, has_come)| *has_come)?;
        let (slow, of_gateway) = (self.speed.slow?, now.saturating_duration_since(since));
        self.speed = Speed { is_compared: true, ..Speed::default() };
        let (member, _) = self.member.filter(|_| of_gateway * FASTER < slow)?;
        self.failed(member)
    }

    fn patience(&self) -> Duration {
        (self.took * PATIENCE).clamp(LEAST_PATIENCE, MOST_PATIENCE)
    }

    /// When [`Assembly::actions`] has something new to say, if nothing comes.
    pub(super) fn wakes(&self) -> Option<Instant> {
        let slot = self.slots.get(&self.next).filter(|slot| !slot.from_gateway && slot.ready.is_none())?;
        slot.from_member.map(|(_, since)| since + self.patience())
    }

    /// Notes that a member is of no use for this body. Returns the question for another one.
    pub(super) fn failed(&mut self, member: NodeId) -> Option<Action> {
        self.member.filter(|(current, _)| *current == member)?;
        (self.member, self.slow) = (None, 0);
        // Beyond that everything comes from the gateway.
        self.is_answered = self.asked >= MOST_ASKED;
        self.asked += 1;
        (!self.is_answered).then_some(Action::Ask(member))
    }

    /// Takes what came of asking this node itself or a member for a piece: the piece, which was verified, or nothing. False for a
    /// piece that is there already.
    pub(super) fn came(&mut self, index: u32, piece: Option<Bytes>, now: Instant) -> bool {
        let Some(slot) = self.slots.get_mut(&index) else { return false };
        let member = slot.from_member.take();
        slot.from_own = false;
        let Some(piece) = piece.filter(|_| slot.ready.is_none()) else { return false };
        slot.ready = Some(piece);
        if let Some((_, since)) = member {
            self.slow = 0;
            let took = now.saturating_duration_since(since);
            self.took = if self.took.is_zero() { took } else { (self.took * 7 + took) / 8 };
            self.speed.came(took / self.window, self.list_has_ended);
        }
        true
    }

    /// Forgets that this node has the piece `index`, which it cannot read.
    pub(super) fn unlisted(&mut self, index: u32) {
        if self.member.is_none() {
            self.hashes.remove(&index);
        }
    }

    /// Takes bytes of a piece from the gateway; false when they were not asked for.
    #[must_use]
    pub(super) fn data(&mut self, index: u32, bytes: Bytes) -> bool {
        let Some(owed) = self.owed.get_mut(&index) else { return false };
        let Some(rest) = owed.checked_sub(bytes.len()) else { return false };
        *owed = rest;
        if rest == 0 {
            self.owed.remove(&index);
        }
        let length = self.length(index);
        // Otherwise a member was faster.
        let Some(slot) = self.slots.get_mut(&index) else { return true };
        slot.length += bytes.len();
        if slot.ready.is_none() {
            slot.came.push(bytes);
            if slot.length == length {
                slot.ready = Some(std::mem::take(&mut slot.came).concat().into());
                self.speed.sample_came(index);
            }
        }
        true
    }

    /// The next bytes for the app: all that has come of the next piece, of a member's only once it is whole.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        let slot = self.slots.get(&self.next)?;
        let bytes = match &slot.ready {
            Some(piece) => {
                piece.get(self.passed..).filter(|rest| !rest.is_empty()).map(|rest| piece.slice_ref(rest))
            }
            None => {
                let mut before = 0;
                slot.came.iter().find_map(|bytes| {
                    let start = before;
                    before += bytes.len();
                    (start <= self.passed && self.passed < before).then(|| bytes.slice(self.passed - start..))
                })
            }
        }?;
        self.passed += bytes.len();
        Some(bytes)
    }

    /// The next piece, once the app has all of it; the one after it is the next one then.
    pub(super) fn finished(&mut self) -> Option<Whole> {
        if self.is_done() || self.passed < self.length(self.next) {
            return None;
        }
        let bytes = self.slots.remove(&self.next)?.ready?;
        let (start, _) = sharing::range(self.next, self.total);
        self.hashes.remove(&self.next);
        self.next += 1;
        self.passed = 0;
        Some(Whole { start, bytes })
    }
}

impl Speed {
    /// Notes a piece that has come from the member. Where the gateway gets pieces no faster than the member gives them, both wait for the
    /// server, and the member is not to blame.
    fn came(&mut self, took: Duration, has_all: bool) {
        (self.pieces, self.took) = (self.pieces + 1, self.took + took);
        let measures = if self.is_compared { AGAIN * MEASURED } else { MEASURED };
        if self.pieces < measures || self.slow.is_some() {
            return;
        }
        let each = self.took / self.pieces;
        if each >= SLOW && (has_all || self.listed >= FASTER * self.pieces) {
            self.slow = Some(each);
        }
        (self.pieces, self.took, self.listed) = (0, Duration::ZERO, 0);
    }

    /// Whether the piece `index` is the one that the gateway is asked for to compare it with the member.
    fn takes_sample(&mut self, index: u32, now: Instant) -> bool {
        let is_due = self.slow.is_some() && self.sample.is_none();
        if is_due {
            self.sample = Some((index, now, false));
        }
        is_due
    }

    fn sample_came(&mut self, index: u32) {
        if let Some((_, _, has_come)) = self.sample.as_mut().filter(|(sampled, _, _)| *sampled == index) {
            *has_come = true;
        }
    }
}

#[cfg(test)]
mod tests;
