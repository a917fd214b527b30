//! Which members have the pieces of which body, or get them now, as they have said over their links; which of them a client is sent
//! to; and which client with a member gets a piece from the gateway all the same. It is remembered while their links last, in
//! memory, with bounds. Nothing here is certain: a client verifies what it gets, and comes back when it gets nothing.

mod turns;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout_at;

use self::turns::{Ended, Turns};
use crate::wire::id::NodeId;

/// Maximum number of bodies; the one that was asked for least recently is forgotten.
const MOST_BODIES: usize = 256;
/// Maximum number of members of one body.
const MOST_MEMBERS: usize = 1024;
/// Maximum number of members of all bodies together, about 4 MiB.
const MOST_PLACES: usize = 32 * 1024;
/// How many clients get a body from one member before others are preferred. With more, each of them waits longer for each
/// piece; with fewer, a piece passes more members on its way to the last one.
const CHILDREN: usize = 2;
/// Whoever has got nothing for so long, although there is something to get, does not go on.
const STUCK: Duration = Duration::from_secs(2);
/// How many members above one are looked at.
const MOST_ABOVE: usize = 64;
/// Whoever has failed this many clients is not named any more.
const MOST_FAILED: usize = 2;
/// How many clients a member is kept from that it has given nothing, and how long.
const MOST_AVOIDING: usize = 16;
const AVOIDED: Duration = Duration::from_secs(30);

/// All bodies.
#[derive(Debug, Default)]
pub struct Swarms(Mutex<Bodies>);

#[derive(Debug, Default)]
struct Bodies {
    /// By the id in the store.
    swarms: HashMap<u64, Swarm>,
    clock: u64,
}

/// The members of one body.
#[derive(Debug, Default)]
struct Swarm {
    members: Vec<Member>,
    used: u64,
    next: u64,
    turns: Turns,
    /// Wakes when a turn has ended.
    turn_ended: Arc<Notify>,
}

// fields: what the choice of a member, of a turn and of who is to blame depends on
#[derive(Debug)]
struct Member {
    id: NodeId,
    /// Where it serves pieces, if it does.
    at: Option<SocketAddr>,
    /// Its place in the order in which members came. Nobody is sent to one that has less of the body, or as much and came later: so no
    /// two are sent to each other.
    number: u64,
    /// How many streams it gets the body on.
    open: usize,
    is_complete: bool,
    /// How many of the first pieces it has, and since when.
    count: u32,
    counted: Instant,
    /// When it got something last.
    moved: Instant,
    /// It does not go on.
    is_stuck: bool,
    /// Whom it was sent to last, and how many members are between it and the gateway.
    parent: Option<NodeId>,
    depth: u32,
    /// How many clients have got nothing from it, although it has what they asked for, since another one got something.
    failed: usize,
    /// The clients that got nothing from it, and until when they are not sent to it.
    avoiding: Vec<(NodeId, Instant)>,
    /// How many of its streams wait for their turn to get a piece from the gateway.
    waiting: usize,
    /// How many turns it has had, and whether it took the last one slowly.
    turns: u32,
    is_slow: bool,
}

/// One client's stream on which it gets a body.
pub(crate) struct Place {
    swarms: Arc<Swarms>,
    body: u64,
    member: NodeId,
}

/// A client that waits for its turn.
pub(crate) struct Waiting {
    swarms: Arc<Swarms>,
    body: u64,
    member: NodeId,
}

/// A client's turn to get a piece from the gateway. It ends when it is dropped.
pub(crate) struct Turn {
    swarms: Arc<Swarms>,
    body: u64,
    /// None for a client that has no member to ask.
    number: Option<u64>,
}

/// Where a client is sent whose piece is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instead {
    /// The member that has the piece and does not give it.
    pub(crate) fails: Option<NodeId>,
    /// The other member, if there is one.
    pub(crate) named: Option<Named>,
}

/// A member that a client is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) id: NodeId,
    pub(crate) at: SocketAddr,
}

impl Swarms {
    /// Notes that `member` gets `body` now, and serves its pieces at `port` if it does.
    pub(crate) fn enter(
        self: &Arc<Self>,
        body: u64,
        member: NodeId,
        ip: Option<IpAddr>,
        port: Option<u16>,
    ) -> Place {
        // An address of the local link is worth nothing without the interface.
        let is_global = |ip: &IpAddr| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        let at = ip.filter(is_global).zip(port).map(SocketAddr::from);
        let mut bodies = self.bodies();
        bodies.clock += 1;
        let clock = bodies.clock;
        let places: usize = bodies.swarms.values().map(|swarm| swarm.members.len()).sum();
        let is_new = !bodies.swarms.contains_key(&body);
        if bodies.swarms.len() >= MOST_BODIES && is_new || places >= MOST_PLACES {
            let others = bodies.swarms.iter().filter(|(id, _)| **id != body);
            let oldest = others.min_by_key(|(_, swarm)| swarm.used).map(|(id, _)| *id);
            oldest.and_then(|oldest| bodies.swarms.remove(&oldest));
        }
        let swarm = bodies.swarms.entry(body).or_default();
        swarm.used = clock;
        swarm.enter(member, at);
        drop(bodies);
        Place { swarms: self.clone(), body, member }
    }

    /// Forgets a member whose link has ended.
    pub(crate) fn forget(&self, member: NodeId) {
        let mut bodies = self.bodies();
        bodies.swarms.retain(|_, swarm| {
            swarm.members.retain(|known| known.id != member);
            !swarm.members.is_empty()
        });
    }

    fn with<T>(&self, body: u64, use_it: impl FnOnce(&mut Swarm) -> T) -> Option<T> {
        self.bodies().swarms.get_mut(&body).map(use_it)
    }

    fn bodies(&self) -> MutexGuard<'_, Bodies> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Swarm {
    fn enter(&mut self, id: NodeId, at: Option<SocketAddr>) {
        let number = self.next;
        self.next += 1;
        if let Some(known) = self.members.iter_mut().find(|known| known.id == id) {
            known.open += 1;
            known.at = at;
            return;
        }
        if self.members.len() >= MOST_MEMBERS {
            let idle = self.members.iter().position(|known| known.open == 0);
            self.members.swap_remove(idle.unwrap_or(0));
        }
        self.members.push(Member {
            id,
            at,
            number,
            open: 1,
            is_complete: false,
            count: 0,
            counted: Instant::now(),
            moved: Instant::now(),
            is_stuck: false,
            parent: None,
            depth: 0,
            failed: 0,
            avoiding: Vec::new(),
            waiting: 0,
            turns: 0,
            is_slow: false,
        });
    }

    /// The best member for `asker`, and how good it is: 0 if it has the piece `need`, or nothing is needed, and few clients are sent to
    /// it already. Of those that are as good it is the one nearest to the gateway.
    fn best(
        &self,
        asker: NodeId,
        need: Option<u32>,
        now: Instant,
        is_allowed: impl Fn(NodeId) -> bool,
    ) -> Option<(usize, Named, u32)> {
        let own = self.members.iter().find(|known| known.id == asker)?;
        let own = (own.count, Reverse(own.number));
        let mut children: HashMap<NodeId, usize> = HashMap::new();
        let gets = |known: &&Member| known.open > 0 && !known.is_stuck && known.id != asker;
        for member in self.members.iter().filter(gets) {
            member.parent.into_iter().for_each(|parent| *children.entry(parent).or_default() += 1);
        }
        let of = |member: &Member| children.get(&member.id).copied().unwrap_or(0);
        let may = |member: &&Member| {
            member.id != asker
                && (member.is_complete || member.open > 0 && (member.count, Reverse(member.number)) > own)
                && !member.is_stuck
                && member.failed < MOST_FAILED
                && !member.avoiding.iter().any(|(other, until)| *other == asker && now < *until)
                && is_allowed(member.id)
        };
        let lacks = |member: &Member| need.is_some_and(|need| !member.is_complete && member.count <= need);
        let grade =
            |member: &Member| of(member) / CHILDREN * 2 + usize::from(lacks(member) || member.is_slow);
        let usable = self.members.iter().filter(may).filter_map(|member| Some((member, member.at?)));
        let best = usable.min_by_key(|(member, _)| (grade(member), member.depth, of(member), member.number));
        best.map(|(member, at)| (grade(member), Named { id: member.id, at }, member.depth))
    }

    /// Sends `asker` to a member.
    fn send(&mut self, asker: NodeId, best: Option<(usize, Named, u32)>, now: Instant) -> Option<Named> {
        let asker = self.find(asker)?;
        // It has not had the time yet to get anything from that one.
        asker.moved = now;
        asker.parent = best.map(|(_, named, _)| named.id);
        asker.depth = best.map_or(0, |(_, _, depth)| depth + 1);
        best.map(|(_, named, _)| named)
    }

    /// Notes that `asker` got nothing from a member, which has failed it if it has more.
    fn failed(&mut self, id: NodeId, asker: NodeId, has_more: bool, now: Instant) {
        if let Some(known) = self.find(id) {
            known.failed += usize::from(has_more);
            known.avoiding.retain(|(other, until)| *other != asker && now < *until);
            if known.avoiding.len() < MOST_AVOIDING {
                known.avoiding.push((asker, now + AVOIDED));
            }
        }
    }

    /// Finds out who is to blame that a client has waited long for a piece: nobody if it has more than the member that it was sent to,
    /// and is to be sent to another one. It is the member that it was sent to if that has the
    /// piece; otherwise the one above it that could have got more than it has. Returns whether the client is to be sent to
    /// another member: all others wait for one that is.
    fn is_late(&mut self, asker: NodeId, index: u32, now: Instant) -> bool {
        let Some(Member { parent: Some(parent), count: own, .. }) = self.find(asker) else { return false };
        let (parent, own) = (*parent, *own);
        let mut at = parent;
        for _ in 0..MOST_ABOVE {
            let Some(known) = self.find(at) else { return at == parent };
            let (has, above) = (known.count, known.parent);
            if at == parent && (known.is_complete || has > index) {
                // It may be on its way.
                if has == index + 1 && now < known.counted + STUCK {
                    return false;
                }
                self.failed(parent, asker, true, now);
                return true;
            }
            if at == parent && has < own {
                return true;
            }
            if now < known.moved + STUCK {
                return false;
            }
            match above
                .and_then(|above| self.find(above))
                .filter(|above| above.count <= has && !above.is_complete)
            {
                Some(above) => at = above.id,
                None => {
                    self.find(at).into_iter().for_each(|known| known.is_stuck = true);
                    return at == parent;
                }
            }
        }
        true
    }

    /// What wakes when a turn has ended, and when else it may be the next one's.
    fn next_turn(&self, now: Instant) -> (Arc<Notify>, Instant) {
        (self.turn_ended.clone(), self.turns.wakes(now))
    }

    fn find(&mut self, id: NodeId) -> Option<&mut Member> {
        self.members.iter_mut().find(|known| known.id == id)
    }

    /// Learns from turns that have ended which clients take slowly what they get.
    fn ended(&mut self, ended: impl IntoIterator<Item = Ended>) {
        let mut anything = false;
        for Ended { by, is_slow } in ended {
            self.find(by).into_iter().for_each(|known| known.is_slow = is_slow);
            anything = true;
        }
        // Whoever wakes looks again, and must not wake all others for nothing.
        if anything {
            self.turn_ended.notify_waiters();
        }
    }

    /// Gives a client its turn if no other one that waits is nearer to the gateway: the nearer it is, the more others get the piece
    /// from it. Whoever has no member to ask does not wait for others, and has none. Returns the number of the turn.
    fn take_turn(&mut self, id: NodeId, now: Instant) -> Option<Option<u64>> {
        let idle = self.turns.end_idle(now);
        self.ended(idle);
        let own = self.members.iter().find(|known| known.id == id && known.parent.is_some());
        let Some(own) = own else { return Some(None) };
        let order = |member: &Member| (member.is_slow, member.turns, member.depth, member.number);
        let mut others = self.members.iter().filter(|other| other.waiting > 0 && other.parent.is_some());
        let may = self.turns.is_free(now) && others.all(|other| order(other) >= order(own));
        if !may {
            return None;
        }
        self.find(id).into_iter().for_each(|known| known.turns += 1);
        Some(Some(self.turns.begin(id, now)))
    }
}

impl Place {
    /// A member that this client is sent to, among those that are allowed; `None` if there is no other.
    pub(crate) fn name(&self, now: Instant, is_allowed: impl Fn(NodeId) -> bool) -> Option<Named> {
        let send =
            |swarm: &mut Swarm| swarm.send(self.member, swarm.best(self.member, None, now, is_allowed), now);
        self.with(send).flatten()
    }

    /// Notes that this client got nothing from `member`.
    pub(crate) fn failed(&self, member: NodeId, now: Instant) {
        self.with(|swarm| {
            // Only about the one that it was sent to.
            let asker = swarm.find(self.member).filter(|asker| asker.parent == Some(member));
            let Some(count) = asker.map(|asker| asker.count) else { return };
            let has_more = swarm.find(member).is_some_and(|known| known.is_complete || known.count > count);
            swarm.failed(member, self.member, has_more, now);
        });
    }

    /// Notes that this client has waited long for the piece `index`. Nothing if it is to go on waiting.
    pub(crate) fn late(
        &self,
        index: u32,
        now: Instant,
        is_allowed: impl Fn(NodeId) -> bool,
    ) -> Option<Instead> {
        let late = |swarm: &mut Swarm| {
            let is_to_leave = swarm.is_late(self.member, index, now);
            let best = swarm.best(self.member, Some(index), now, is_allowed);
            let parent = swarm.find(self.member).and_then(|known| known.parent);
            let is_better = best.is_some_and(|(grade, named, _)| grade == 0 && Some(named.id) != parent);
            let has_it = |known: &mut Member| known.is_complete || known.count > index;
            let fails = parent.filter(|parent| is_to_leave && swarm.find(*parent).is_some_and(has_it));
            let sent = || Instead { fails, named: swarm.send(self.member, best, now) };
            (is_to_leave || is_better).then(sent)
        };
        self.with(late).flatten()
    }

    /// Notes that this client has the first `count` pieces, the last of which it got from this gateway or from the member that it was
    /// sent to.
    pub(crate) fn has(&self, count: u32, is_from_gateway: bool, now: Instant) {
        self.with(|swarm| {
            let Some(known) = swarm.find(self.member).filter(|known| count > known.count) else { return };
            (known.count, known.counted, known.moved, known.is_stuck) = (count, now, now, false);
            let parent = known.parent.filter(|_| !is_from_gateway);
            parent.and_then(|parent| swarm.find(parent)).into_iter().for_each(|known| known.failed = 0);
        });
    }

    /// Notes that this client serves no pieces.
    pub(crate) fn is_mute(&self) {
        self.with(|swarm| swarm.find(self.member).into_iter().for_each(|known| known.at = None));
    }

    /// Notes that this client takes bytes from the gateway.
    pub(crate) fn takes(&self, now: Instant) {
        self.with(|swarm| {
            if let Some(known) = swarm.find(self.member) {
                (known.moved, known.is_stuck) = (now, false);
            }
        });
    }

    /// Notes that this client has the whole body.
    pub(crate) fn complete(&self) {
        self.with(|swarm| {
            if let Some(known) = swarm.find(self.member) {
                (known.is_complete, known.depth, known.parent) = (true, 0, None);
                known.failed = 0;
                known.avoiding.clear();
                known.is_stuck = false;
            }
        });
    }

    /// Waits until this client may have a piece from the gateway.
    pub(crate) async fn turn(&self) -> Turn {
        let waiting = self.wait();
        loop {
            let now = Instant::now();
            let next = self.with(|swarm| swarm.next_turn(now));
            // Made before the attempt, so that no end is missed.
            let ended = next.as_ref().map(|(ended, _)| ended.notified());
            if let Some(turn) = waiting.take(now) {
                return turn;
            }
            if let (Some(ended), Some((_, until))) = (ended, &next) {
                let _ = timeout_at((*until).into(), ended).await;
            }
        }
    }

    /// This client waits for its turn until what is returned is dropped.
    pub(crate) fn wait(&self) -> Waiting {
        self.with(|swarm| swarm.find(self.member).map(|known| known.waiting += 1));
        Waiting { swarms: self.swarms.clone(), body: self.body, member: self.member }
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut Swarm) -> T) -> Option<T> {
        self.swarms.with(self.body, use_it)
    }
}

impl Waiting {
    /// The turn, if it has come. A body that has been forgotten has no order any more.
    pub(crate) fn take(&self, now: Instant) -> Option<Turn> {
        let taken = self.swarms.with(self.body, |swarm| swarm.take_turn(self.member, now));
        let number = taken.unwrap_or(Some(None))?;
        Some(Turn { swarms: self.swarms.clone(), body: self.body, number })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.swarms.with(self.body, |swarm| {
            if let Some(known) = swarm.find(self.member) {
                known.waiting = known.waiting.saturating_sub(1);
            }
            // It may have been the first one.
            swarm.turn_ended.notify_waiters();
        });
    }
}

impl Turn {
    /// Notes that the client takes bytes.
    pub(crate) fn takes(&self, bytes: usize, now: Instant) {
        if let Some(number) = self.number {
            self.swarms.with(self.body, |swarm| swarm.turns.takes(number, bytes, now));
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        self.swarms.with(self.body, |swarm| {
            let ended = swarm.turns.end(number);
            swarm.ended(ended);
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.with(|swarm| {
            if let Some(known) = swarm.members.iter_mut().find(|known| known.id == self.member) {
                known.open = known.open.saturating_sub(1);
            }
            // Whoever has only a part is of no use to others, who would wait for the rest.
            swarm.members.retain(|known| known.open > 0 || known.is_complete);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: u64 = 7;

    fn node(number: u8) -> NodeId {
        NodeId([number; 16])
    }

    fn enter(swarms: &Arc<Swarms>, number: u8) -> Place {
        swarms.enter(BODY, node(number), Some(IpAddr::from([10, 0, 0, number])), Some(7420))
    }

    fn name(place: &Place) -> Option<u8> {
        place.name(Instant::now(), |_| true).map(|named| named.id.0[0])
    }

    #[test]
    fn the_first_one_gets_the_body_from_the_gateway_and_the_others_form_a_tree_behind_it() {
        let swarms = Arc::<Swarms>::default();
        let places: Vec<_> = (0..50).map(|number| enter(&swarms, number)).collect();
        let parents: Vec<_> = places.iter().map(name).collect();
        assert_eq!(parents[0], None);
        let mut children = [0; 50];
        for (number, parent) in parents.iter().enumerate().skip(1) {
            let parent = usize::from(parent.unwrap());
            assert!(parent < number);
            children[parent] += 1;
        }
        assert!(children.iter().all(|count| *count <= CHILDREN), "{children:?}");
        let bodies = swarms.bodies();
        assert!(bodies.swarms[&BODY].members.iter().all(|member| member.depth <= 5));
    }

    #[test]
    fn nobody_waits_for_one_that_waits_for_it() {
        let swarms = Arc::<Swarms>::default();
        let (one, two) = (enter(&swarms, 1), enter(&swarms, 2));
        assert_eq!((name(&one), name(&two)), (None, Some(1)));
        two.failed(node(1), Instant::now());
        assert_eq!(name(&two), None);
        assert_eq!(name(&one), None, "two came later");
        two.complete();
        assert_eq!(name(&one), Some(2), "but it waits for nobody any more");
    }

    #[test]
    fn of_all_that_wait_those_behind_the_one_that_hangs_are_sent_elsewhere_and_it_is_not_named() {
        let swarms = Arc::<Swarms>::default();
        let places: Vec<_> = (0..8).map(|number| enter(&swarms, number)).collect();
        let parents: Vec<_> = places.iter().map(name).collect();
        assert_eq!(parents, [None, Some(0), Some(0), Some(1), Some(2), Some(1), Some(2), Some(3)]);
        let late = |number: usize, now| {
            places[number].late(0, now, |_| true).map(|instead| instead.named.map(|named| named.id.0[0]))
        };
        let now = Instant::now() + STUCK;
        assert_eq!(late(7, now), None, "the first one gets nothing yet, and no other one could");
        places[0].has(2, true, now);
        assert_eq!(late(7, now), Some(Some(0)), "3 waits for 1, which hangs, and 0 has a place in its stead");
        assert_eq!(late(3, now), Some(Some(0)));
        places[3].has(2, false, now);
        assert_eq!(late(5, now), Some(Some(3)));
        // 1 is named again once it goes on.
        places[1].has(3, true, now);
        assert_eq!(late(5, now + STUCK), Some(Some(1)));
    }

    #[test]
    fn whoever_has_a_piece_and_does_not_give_it_is_left_and_is_not_named_until_somebody_gets_one() {
        let swarms = Arc::<Swarms>::default();
        let places: Vec<_> = (0..4).map(|number| enter(&swarms, number)).collect();
        let _: Vec<_> = places.iter().map(name).collect();
        let now = Instant::now();
        places[0].has(1, true, now);
        assert!(places[1].late(0, now, |_| true).is_none(), "it may be on its way");
        places[0].has(3, true, now);
        assert_eq!(places[1].late(0, now, |_| true), Some(Instead { fails: Some(node(0)), named: None }));
        assert_eq!(places[2].late(0, now, |_| true).unwrap().named.unwrap().id, node(1));
        assert_eq!(places[3].name(now, |_| true).unwrap().id, node(1), "0 has failed two");
        let swarm = &mut swarms.bodies();
        let zero = swarm.swarms.get_mut(&BODY).unwrap().find(node(0)).unwrap();
        assert_eq!(zero.failed, 2);
    }

    #[test]
    fn turns_go_to_those_nearest_to_the_gateway_one_after_the_other_and_nobody_keeps_one_by_taking_nothing() {
        let swarms = Arc::<Swarms>::default();
        let places: Vec<_> = (0..4).map(|number| enter(&swarms, number)).collect();
        let _: Vec<_> = places.iter().map(name).collect();
        let mut now = Instant::now();
        let waiting: Vec<_> = places.iter().map(Place::wait).collect();
        assert!(waiting[0].take(now).is_some(), "it has no member to ask");
        assert!(waiting[3].take(now).is_none() && waiting[2].take(now).is_none());
        let turn = waiting[1].take(now).unwrap();
        assert!(waiting[2].take(now).is_none());
        drop(turn);
        let turn = waiting[2].take(now).unwrap();
        now += Duration::from_secs(1);
        turn.takes(1000, now);
        assert!(waiting[3].take(now).is_none());
        now += Duration::from_secs(5);
        assert!(waiting[3].take(now).is_some());
    }

    #[test]
    fn whoever_has_it_all_is_named_until_its_link_ends_and_whoever_has_a_part_only_while_it_gets_more() {
        let swarms = Arc::<Swarms>::default();
        let (one, two) = (enter(&swarms, 1), enter(&swarms, 2));
        one.complete();
        drop((one, two));
        let three = enter(&swarms, 3);
        assert_eq!(name(&three), Some(1));
        assert_eq!(three.name(Instant::now(), |id| id != node(1)), None, "it was removed from the group");
        swarms.forget(node(1));
        assert_eq!(name(&three), None);
    }

    #[test]
    fn whoever_serves_nothing_or_has_failed_two_clients_is_not_named() {
        let swarms = Arc::<Swarms>::default();
        let mute = swarms.enter(BODY, node(1), Some(IpAddr::from([10, 0, 0, 1])), None);
        mute.complete();
        let bad = enter(&swarms, 2);
        bad.complete();
        let others: Vec<_> = (3..6).map(|number| enter(&swarms, number)).collect();
        assert_eq!(name(&others[0]), Some(2));
        others[0].failed(node(2), Instant::now());
        assert_eq!((name(&others[0]), name(&others[1])), (None, Some(2)));
        others[1].failed(node(2), Instant::now());
        assert_eq!(name(&others[2]), Some(3));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let swarms = Arc::<Swarms>::default();
        for body in 0..2 * MOST_BODIES as u64 {
            drop(swarms.enter(body, node(1), None, None));
            swarms.enter(body, node(1), None, Some(1)).complete();
        }
        for number in 0..2 * MOST_MEMBERS as u128 {
            let id = NodeId(number.to_be_bytes());
            swarms.enter(u64::MAX, id, None, Some(1)).complete();
        }
        let bodies = swarms.bodies();
        assert_eq!(
            (bodies.swarms.len(), bodies.swarms[&u64::MAX].members.len()),
            (MOST_BODIES, MOST_MEMBERS)
        );
    }
}
