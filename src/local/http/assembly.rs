//! A body that comes in pieces from several sources: which piece is asked of whom, and what the app can get. Without I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::wire::id::NodeId;
use crate::wire::sharing::{self, PieceHash};

/// How many pieces are in flight at a time, from the one that the app gets next on: enough that a source never waits for the next
/// request on a LAN.
const WINDOW: u32 = 4;
/// How long the member may send nothing of the piece that the app waits for before the gateway is told; after that time again the
/// gateway is asked for the piece. At least, at most, and as a multiple of the time that pieces from members took lately.
const LEAST_PATIENCE: Duration = Duration::from_secs(2);
const MOST_PATIENCE: Duration = Duration::from_secs(20);
const PATIENCE: u32 = 6;
/// After this many times that patience the gateway is asked for the piece even if the member is sending it.
const LONGEST: u32 = 4;
/// A member is measured by this many pieces, and by `AGAIN` times as many once it was compared. If one takes longer than `SLOW`,
/// its time divided by the number in flight, the gateway is asked for one as well, to compare the two.
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
    /// Ask a member for the piece.
    Member(u32, PieceHash, NodeId, SocketAddr),
    /// Ask the gateway for the piece.
    Gateway(u32),
    /// Tell the gateway that the rest of the piece is not wanted any more: a member was faster.
    Cancel(u32),
    /// Ask the gateway for another member than this one.
    Ask(NodeId),
    /// Tell the gateway that the member has not given this piece for a while: it may know why, and a better member.
    Late(u32),
}

/// Where a piece comes from, and what has come of it.
#[derive(Debug, Default)]
struct Slot {
    from_own: bool,
    from_gateway: bool,
    /// What has come from the gateway, and the number of bytes.
    came: Vec<Bytes>,
    length: usize,
    /// The whole piece.
    ready: Option<Bytes>,
    /// When the member was first asked for it, or last sent some of it, whatever else it has answered; and how often it was late
    /// since.
    waits: Option<Instant>,
    late: u32,
}

/// A piece that a member was asked for.
#[derive(Clone, Copy, Debug)]
struct Fetching {
    member: NodeId,
    since: Instant,
    /// When bytes of it came last.
    heard: Instant,
}

/// What the gateway still has to send of a piece.
#[derive(Clone, Copy, Debug)]
struct Owed {
    bytes: usize,
    /// It is not wanted any more.
    is_cancelled: bool,
}

/// How fast the member is that is asked for pieces.
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
    /// The pieces that the member was asked for, including those that the gateway has sent meanwhile.
    fetching: HashMap<u32, Fetching>,
    /// The pieces that a former member may still send.
    stale: BTreeSet<u32>,
    /// The pieces that the gateway still sends.
    owed: HashMap<u32, Owed>,
    hashes: HashMap<u32, PieceHash>,
    list_has_ended: bool,
    /// The member that is asked for pieces; `None` while there is none.
    member: Option<(NodeId, SocketAddr)>,
    /// Whether the gateway has answered the last question for a member.
    is_answered: bool,
    asked: u32,
    /// The member that was late with a piece and turned out to be slower than the gateway.
    slower: Option<NodeId>,
    /// Since when the app has waited for the next piece, at the earliest.
    next_since: Option<Instant>,
    /// How long pieces from members took lately.
    took: Duration,
    speed: Speed,
    /// How many pieces are in flight at a time.
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
            fetching: HashMap::new(),
            stale: BTreeSet::new(),
            owed: HashMap::new(),
            hashes: HashMap::new(),
            list_has_ended: false,
            member: None,
            is_answered: false,
            asked: 0,
            slower: None,
            next_since: None,
            took: Duration::ZERO,
            speed: Speed::default(),
            window: WINDOW,
        })
    }

    /// The number of pieces that the app has.
    pub(super) fn finished_count(&self) -> u32 {
        self.next
    }

    /// The number of bytes.
    pub(super) fn total(&self) -> u64 {
        self.total
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
            let is_coming = self.fetching.contains_key(index) || self.stale.contains(index);
            let is_whole = slot.ready.is_some() || is_coming || slot.from_own;
            let whole = if is_whole { self.length(*index) } else { 0 };
            let came: usize = slot.came.iter().map(Bytes::len).sum();
            // Each part keeps a buffer of twice its size.
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
        if member.map(|(id, _)| id) != self.member.map(|(id, _)| id) {
            self.leave();
            self.speed = Speed::default();
        }
        (self.member, self.is_answered) = (member, true);
    }

    /// What is to be done now. `holds` says which pieces this node keeps; while memory is tight one piece comes at a time.
    pub(super) fn actions(
        &mut self,
        now: Instant,
        is_tight: bool,
        holds: impl Fn(&PieceHash) -> bool,
    ) -> Vec<Action> {
        let mut actions = Vec::from_iter(self.compared(now));
        let next_since = *self.next_since.get_or_insert(now);
        actions.extend(self.cancelled_now());
        self.window = if is_tight { 1 } else { WINDOW };
        for index in self.next..self.count.min(self.next + self.window) {
            let (hash, is_next) = (self.hashes.get(&index).copied(), index == self.next);
            let is_passed_over = is_next && self.passed_over().is_some_and(|since| now >= since);
            let patience = self.patience();
            let may_owe = self.owed.len() < sharing::MOST_WANTED;
            let slot = self.slots.entry(index).or_default();
            if slot.ready.is_some() || slot.from_own {
                continue;
            }
            if is_next && slot.waits.is_some() {
                if now >= slot.late_at(next_since, patience) {
                    slot.late += 1;
                    actions.push(Action::Late(index));
                }
                let is_wanted = slot.late > 1 || now >= next_since + patience * LONGEST;
                if is_wanted && !slot.from_gateway && may_owe {
                    actions.push(self.want(index));
                    continue;
                }
            }
            if slot.from_gateway || self.fetching.contains_key(&index) {
                continue;
            }
            match (hash, self.member) {
                (Some(hash), _) if holds(&hash) => {
                    slot.from_own = true;
                    actions.push(Action::Own(index, hash));
                }
                (Some(hash), Some((member, at))) => {
                    self.fetching.insert(index, Fetching { member, since: now, heard: now });
                    slot.waits.get_or_insert(now);
                    actions.push(Action::Member(index, hash, member, at));
                    if may_owe && self.speed.takes_sample(index, now) {
                        actions.push(self.want(index));
                    }
                }
                // The member cannot be asked before the gateway has the piece itself.
                (None, Some(_)) if !self.list_has_ended && !is_passed_over => {}
                // The gateway is about to say whether there is a member.
                (_, None) if !self.is_answered && !is_next => {}
                (_, None) if !self.is_answered && self.asked == 0 => {}
                _ if !may_owe => {}
                _ => actions.push(self.want(index)),
            }
        }
        actions
    }

    /// When the next piece begins to count as one that the gateway cannot hash, as when its disk is damaged: it has no hash,
    /// although later ones have. Those may also have been there before, so it is waited for.
    fn passed_over(&self) -> Option<Instant> {
        let is_waited_for =
            self.member.is_some() && !self.list_has_ended && self.owed.len() < sharing::MOST_WANTED;
        let has_hash = |index| self.hashes.contains_key(&index);
        let is_before = !has_hash(self.next) && (1..=WINDOW).any(|more| has_hash(self.next + more));
        self.next_since.filter(|_| is_waited_for && is_before).map(|since| since + LEAST_PATIENCE)
    }

    /// Asks the gateway for the piece `index`.
    fn want(&mut self, index: u32) -> Action {
        self.slots.entry(index).or_default().from_gateway = true;
        self.owed.insert(index, Owed { bytes: self.length(index), is_cancelled: false });
        Action::Gateway(index)
    }

    /// Cancels what the gateway has still to send of pieces that have come from members.
    fn cancelled_now(&mut self) -> Vec<Action> {
        let slots = &self.slots;
        let is_here = |index: &u32| slots.get(index).is_none_or(|slot| slot.ready.is_some());
        let useless = self.owed.iter_mut().filter(|(index, owed)| !owed.is_cancelled && is_here(index));
        useless
            .map(|(index, owed)| {
                owed.is_cancelled = true;
                Action::Cancel(*index)
            })
            .collect()
    }

    /// Leaves the member if the gateway turned out to be much faster. Returns the request for another member.
    fn compared(&mut self, now: Instant) -> Option<Action> {
        if let Some(member) = self.slower.take() {
            return self.failed(member);
        }
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
        let slot = self.slots.get(&self.next).filter(|slot| slot.ready.is_none())?;
        if !slot.from_gateway
            && let Some(passed_over) = self.passed_over()
        {
            return Some(passed_over);
        }
        let next_since = self.next_since.filter(|_| self.fetching.contains_key(&self.next))?;
        let late_at = slot.late_at(next_since, self.patience());
        // While the gateway owes too much, its next message is waited for.
        let may_ask = !slot.from_gateway && self.owed.len() < sharing::MOST_WANTED;
        let longest = may_ask.then(|| next_since + self.patience() * LONGEST);
        Some(longest.map_or(late_at, |longest| longest.min(late_at)))
    }

    /// Notes that a member is of no use for this body. Returns the request for another member.
    pub(super) fn failed(&mut self, member: NodeId) -> Option<Action> {
        self.member.filter(|(current, _)| *current == member)?;
        self.member = None;
        self.leave();
        // After that many, everything comes from the gateway.
        self.is_answered = self.asked >= MOST_ASKED;
        self.asked += 1;
        (!self.is_answered).then_some(Action::Ask(member))
    }

    /// What the member still gives is taken, but nobody waits for it.
    fn leave(&mut self) {
        self.stale.extend(self.fetching.drain().map(|(index, _)| index));
        self.slots.values_mut().for_each(|slot| (slot.waits, slot.late) = (None, 0));
    }

    /// Notes that the member has sent something of the piece `index`.
    pub(super) fn heard(&mut self, index: u32, member: NodeId, at: Instant) {
        if let Some(fetching) = self.fetching.get_mut(&index)
            && fetching.member == member
            && fetching.heard < at
        {
            fetching.heard = at;
            self.slots.get_mut(&index).into_iter().for_each(|slot| (slot.waits, slot.late) = (Some(at), 0));
        }
    }

    /// Takes the result of asking this node itself or a member for a piece: the verified piece, or nothing. False for a piece
    /// that is there already.
    pub(super) fn came(
        &mut self,
        index: u32,
        member: Option<NodeId>,
        piece: Option<Bytes>,
        now: Instant,
    ) -> bool {
        let fetching = self.fetching.get(&index).filter(|fetching| Some(fetching.member) == member).copied();
        if let Some(Fetching { since, .. }) = fetching {
            self.fetching.remove(&index);
            if piece.is_some() {
                let took = now.saturating_duration_since(since);
                // This many are in flight at the same time.
                let each = took / self.window;
                self.took = if self.took.is_zero() { each } else { (self.took * 7 + each) / 8 };
                self.speed.came(index, each, self.list_has_ended);
            }
        }
        self.stale.remove(&index);
        let Some(slot) = self.slots.get_mut(&index) else { return false };
        slot.from_own &= member.is_some();
        let Some(piece) = piece.filter(|_| slot.ready.is_none()) else { return false };
        slot.ready = Some(piece);
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
        let Some(rest) = owed.bytes.checked_sub(bytes.len()) else { return false };
        owed.bytes = rest;
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
                let is_sample = self.speed.sample_came(index);
                let fetching = self.fetching.get(&index).filter(|_| !is_sample);
                // The member is sending it, but so slowly that the gateway, asked later, was faster.
                self.slower = fetching.filter(|one| one.heard > one.since).map(|one| one.member);
            }
        }
        true
    }

    /// Notes that the gateway sends nothing more of a piece; false when that was not asked for.
    #[must_use]
    pub(super) fn cancelled(&mut self, index: u32) -> bool {
        self.owed.remove(&index).is_some_and(|owed| owed.is_cancelled)
    }

    /// The next bytes for the app: all that has come of the next piece; a member's piece only once it is whole.
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
        self.stale.remove(&self.next);
        self.next += 1;
        (self.passed, self.next_since) = (0, None);
        Some(Whole { start, bytes })
    }
}

impl Slot {
    /// When the piece is late, or late again.
    fn late_at(&self, next_since: Instant, patience: Duration) -> Instant {
        self.waits.map_or(next_since, |waits| waits.max(next_since)) + patience * (self.late + 1)
    }
}

impl Speed {
    /// Notes a piece that has come from the member. If the gateway gets pieces no faster than the member gives them, both wait
    /// for the server, and the member is not to blame.
    fn came(&mut self, index: u32, took: Duration, has_all: bool) {
        if self.sample.is_some_and(|(sampled, _, has_come)| sampled == index && !has_come) {
            // The gateway is no faster.
            *self = Self { is_compared: true, ..Self::default() };
        }
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

    /// Whether this was the piece to compare the two.
    fn sample_came(&mut self, index: u32) -> bool {
        let sample = self.sample.as_mut().filter(|(sampled, _, _)| *sampled == index);
        sample.is_some_and(|(_, _, has_come)| {
            *has_come = true;
            true
        })
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
