//! Which members have or are getting the pieces of which body, as they say over their links; which member a client is sent to;
//! and which client gets a piece from the gateway although it has a member. Kept in bounded memory while the links last. Nothing
//! here is certain: a client verifies what it gets, and comes back when it gets nothing.

mod turns;

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout_at;

use self::turns::{Ended, Turns};
use crate::wire::id::NodeId;

/// Maximum number of bodies; the one not heard of for longest is forgotten.
const MOST_BODIES: usize = 1024;
/// Maximum number of bodies of one member; beyond it, the member is forgotten at the one it came to first.
const MOST_EACH: usize = 64;
/// Maximum number of members of one body.
const MOST_MEMBERS: usize = 1024;
/// Maximum number of members of all bodies together, about 4 MiB.
const MOST_PLACES: usize = 32 * 1024;
/// How many clients get a body from one member before others are preferred. With more, each of them waits longer for each
/// piece; with fewer, a piece passes more members on its way to the last one.
const CHILDREN: usize = 2;
/// A member that got nothing for this long, although there was something to get, is stuck.
const STUCK: Duration = Duration::from_secs(2);
/// A member that got nothing for this long no longer counts as getting the body.
const IDLE: Duration = Duration::from_secs(5);
/// Maximum number of members above a client that may be to blame.
const MOST_ABOVE: usize = 64;
/// A member that has failed this many clients is not named for a while. Not for good, since two could blame it for nothing.
const MOST_FAILED: usize = 2;
const UNNAMED: Duration = Duration::from_secs(60);
/// A member has failed a client that got this many pieces in a row from the gateway instead, even if it claims to have little:
/// being nearer to the gateway, it should get them sooner.
const MOST_ALONE: u32 = 2;
/// How many clients that got nothing from a member are kept from it, and for how long.
const MOST_AVOIDING: usize = 16;
const AVOIDED: Duration = Duration::from_secs(30);

/// The members of all bodies.
#[derive(Debug, Default)]
pub struct Swarms(Mutex<Bodies>);

#[derive(Debug, Default)]
struct Bodies {
    /// By the id in the store.
    swarms: HashMap<u64, Swarm>,
    /// The bodies of each member, in the order in which it last came to them.
    places: HashMap<NodeId, VecDeque<u64>>,
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
    /// The interface of this gateway that its link comes in by, and whether its address is link-local: only members on that
    /// network reach it.
    interface: Option<u32>,
    is_link_local: bool,
    /// Its place in the order of arrival. Nobody is sent to a member that has less of the body, or as much but came later, so no
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
    /// It makes no progress.
    is_stuck: bool,
    /// The member it was last sent to, and how many members are between it and the gateway.
    parent: Option<NodeId>,
    depth: u32,
    /// How many pieces in a row it has got from the gateway since it was sent to its parent.
    alone: u32,
    /// How many clients in a row have got nothing from it, although it has what they asked for; and when it last failed one.
    failed: usize,
    failed_at: Instant,
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
    /// Notes that `member`, linked from this address through this interface, gets `body` now, and serves its pieces at `port` if
    /// it serves any.
    pub(crate) fn enter(
        self: &Arc<Self>,
        body: u64,
        member: NodeId,
        (from, interface): (Option<SocketAddr>, Option<u32>),
        port: Option<u16>,
    ) -> Place {
        let is_link_local = from.is_some_and(is_link_local);
        let at = from.zip(port).map(|(from, port)| SocketAddr::new(from.ip(), port));
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
        bodies.note_place(member, body);
        let swarm = bodies.swarms.entry(body).or_default();
        swarm.used = clock;
        swarm.enter(member, at, (interface, is_link_local));
        drop(bodies);
        Place { swarms: self.clone(), body, member }
    }

    /// Forgets a member whose link has ended.
    pub(crate) fn forget(&self, member: NodeId) {
        let mut bodies = self.bodies();
        bodies.places.remove(&member);
        bodies.swarms.retain(|_, swarm| {
            swarm.members.retain(|known| known.id != member);
            !swarm.members.is_empty()
        });
    }

    fn with<T>(&self, body: u64, use_it: impl FnOnce(&mut Swarm) -> T) -> Option<T> {
        let mut bodies = self.bodies();
        bodies.clock += 1;
        let clock = bodies.clock;
        let swarm = bodies.swarms.get_mut(&body)?;
        swarm.used = clock;
        Some(use_it(swarm))
    }

    fn bodies(&self) -> MutexGuard<'_, Bodies> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_link_local(address: SocketAddr) -> bool {
    matches!(address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local())
}

impl Bodies {
    /// Notes that a member gets this body. A member with many bodies must not displace the members of others.
    fn note_place(&mut self, member: NodeId, body: u64) {
        let places = self.places.entry(member).or_default();
        places.retain(|known| *known != body);
        places.push_back(body);
        let first = if places.len() > MOST_EACH { places.pop_front() } else { None };
        if let Some(first) = first
            && let Some(swarm) = self.swarms.get_mut(&first)
        {
            swarm.members.retain(|known| known.id != member);
            if swarm.members.is_empty() {
                self.swarms.remove(&first);
            }
        }
    }
}

impl Swarm {
    fn enter(&mut self, id: NodeId, at: Option<SocketAddr>, (interface, is_link_local): (Option<u32>, bool)) {
        let number = self.next;
        self.next += 1;
        if let Some(known) = self.members.iter_mut().find(|known| known.id == id) {
            known.open += 1;
            (known.at, known.interface, known.is_link_local) = (at, interface, is_link_local);
            return;
        }
        if self.members.len() >= MOST_MEMBERS {
            let idle = self.members.iter().position(|known| known.open == 0);
            self.members.swap_remove(idle.unwrap_or(0));
        }
        // A newcomer, or one that is back, starts with the turns of the member that has had fewest.
        let turns = self.members.iter().filter(|known| known.open > 0).map(|known| known.turns).min();
        self.members.push(Member {
            id,
            at,
            interface,
            is_link_local,
            number,
            open: 1,
            is_complete: false,
            count: 0,
            counted: Instant::now(),
            moved: Instant::now(),
            is_stuck: false,
            parent: None,
            depth: 0,
            alone: 0,
            failed: 0,
            failed_at: Instant::now(),
            avoiding: Vec::new(),
            waiting: 0,
            turns: turns.unwrap_or(0),
            is_slow: false,
        });
    }

    /// The best member for `asker`, and its grade: 0 if it has the piece `need`, or none is needed, it is not slow, and few
    /// clients are sent to it. Of equal ones it is the one nearest to the gateway.
    fn best(
        &self,
        asker: NodeId,
        need: Option<u32>,
        now: Instant,
        is_allowed: impl Fn(NodeId) -> bool,
    ) -> Option<(usize, Named, u32)> {
        let own = self.members.iter().find(|known| known.id == asker)?;
        let (own, interface) = ((own.count, Reverse(own.number)), own.interface);
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
                && (!member.is_link_local || interface.is_some() && member.interface == interface)
                && !member.is_failing(now)
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
        // It has had no time yet to get anything from its new parent.
        asker.moved = now;
        asker.parent = best.map(|(_, named, _)| named.id);
        asker.depth = best.map_or(0, |(_, _, depth)| depth + 1);
        asker.alone = 0;
        best.map(|(_, named, _)| named)
    }

    /// Notes that `asker` got nothing from a member, which has failed it if it `has_more`. If only one of the two is linked by a
    /// link-local address, nobody is to blame: either may lack addresses of the other's kind.
    fn failed(&mut self, id: NodeId, asker: NodeId, has_more: bool, now: Instant) {
        let by_link_local = self.find(asker).is_some_and(|asker| asker.is_link_local);
        if let Some(known) = self.find(id) {
            if has_more && known.is_link_local == by_link_local {
                (known.failed, known.failed_at) = (known.failed + 1, now);
            }
            known.avoiding.retain(|(other, until)| *other != asker && now < *until);
            if known.avoiding.len() < MOST_AVOIDING {
                known.avoiding.push((asker, now + AVOIDED));
            }
        }
    }

    /// Finds who is to blame for a client's long wait for a piece: its parent if that has the piece, nobody if the parent has
    /// less than the client, otherwise the first member above that could have got more than it has. Returns whether to send the
    /// client elsewhere: not if a member further up is to blame, since only the client right below that one is sent.
    fn is_late(&mut self, asker: NodeId, index: u32, now: Instant) -> bool {
        let Some(Member { parent: Some(parent), count: own, alone, .. }) = self.find(asker) else {
            return false;
        };
        let (parent, own, alone) = (*parent, *own, *alone);
        if alone >= MOST_ALONE {
            self.failed(parent, asker, true, now);
            return true;
        }
        let mut at = parent;
        for _ in 0..MOST_ABOVE {
            let Some(known) = self.find(at) else { return at == parent };
            let (has, above) = (known.count, known.parent);
            if at == parent && (known.is_complete || has > index) {
                // The piece may be on its way.
                if has == index.saturating_add(1) && now < known.counted + STUCK {
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

    /// What wakes when a turn ends, and when the next turn may begin even if none ends.
    fn next_turn(&self, now: Instant) -> (Arc<Notify>, Instant) {
        (self.turn_ended.clone(), self.turns.wakes(now))
    }

    fn find(&mut self, id: NodeId) -> Option<&mut Member> {
        self.members.iter_mut().find(|known| known.id == id)
    }

    /// Learns from ended turns which clients are slow to take what they get.
    fn ended(&mut self, ended: impl IntoIterator<Item = Ended>) {
        let mut anything = false;
        for Ended { by, is_slow } in ended {
            self.find(by).into_iter().for_each(|known| known.is_slow = is_slow);
            anything = true;
        }
        // Clients that wake come back here, and must not wake all others for nothing.
        if anything {
            self.turn_ended.notify_waiters();
        }
    }

    /// Whether no other waiting client has had fewer turns, or as many and is nearer to the gateway: the nearer it is, the more
    /// others get the piece from it. Slow clients come last.
    fn is_first(&self, own: &Member) -> bool {
        let order = |member: &Member| (member.is_slow, member.turns, member.depth, member.number);
        let mut others = self.members.iter().filter(|other| other.waiting > 0 && other.parent.is_some());
        others.all(|other| order(other) >= order(own))
    }

    /// Gives a client its turn if it is the first of those waiting, and returns the number of the turn. A client that has no
    /// member to ask waits for nobody, and its turn has no number.
    fn take_turn(&mut self, id: NodeId, now: Instant) -> Option<Option<u64>> {
        let idle = self.turns.end_idle(now);
        self.ended(idle);
        let own = self.members.iter().find(|known| known.id == id && known.parent.is_some());
        let Some(own) = own else { return Some(None) };
        if !(self.turns.is_free(now) && self.is_first(own)) {
            return None;
        }
        self.find(id).into_iter().for_each(|known| known.turns += 1);
        Some(Some(self.turns.begin(id, now)))
    }
}

impl Member {
    /// Whether it is not named for now, because it has failed others.
    fn is_failing(&self, now: Instant) -> bool {
        self.failed >= MOST_FAILED && now < self.failed_at + UNNAMED
    }
}

impl Place {
    /// Sends this client to one of the members that are allowed; `None` if there is none.
    pub(crate) fn name(&self, now: Instant, is_allowed: impl Fn(NodeId) -> bool) -> Option<Named> {
        let send =
            |swarm: &mut Swarm| swarm.send(self.member, swarm.best(self.member, None, now, is_allowed), now);
        self.with(send).flatten()
    }

    /// Notes that this client got nothing from `member`.
    pub(crate) fn failed(&self, member: NodeId, now: Instant) {
        self.with(|swarm| {
            // A client may blame only the member it was sent to.
            let asker = swarm.find(self.member).filter(|asker| asker.parent == Some(member));
            let Some(count) = asker.map(|asker| asker.count) else { return };
            let has_more = swarm.find(member).is_some_and(|known| known.is_complete || known.count > count);
            swarm.failed(member, self.member, has_more, now);
        });
    }

    /// Notes that this client has waited long for the piece `index`. `None` if it is to go on waiting.
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

    /// Notes that this client has the first `count` pieces, the last of which it got from this gateway or from the member that it
    /// was sent to.
    pub(crate) fn has(&self, count: u32, is_from_gateway: bool, now: Instant) {
        self.with(|swarm| {
            let Some(known) = swarm.find(self.member).filter(|known| count > known.count) else { return };
            (known.count, known.counted, known.moved, known.is_stuck) = (count, now, now, false);
            known.alone = if is_from_gateway { known.alone + 1 } else { 0 };
            let parent = known.parent.filter(|_| !is_from_gateway);
            parent.and_then(|parent| swarm.find(parent)).into_iter().for_each(|known| known.failed = 0);
        });
    }

    /// Whether nobody else gets or has this body: no other client, and no other app of this one.
    pub(crate) fn is_alone(&self, now: Instant) -> bool {
        let is_other = |known: &Member| match known.id == self.member {
            true => known.open > 1,
            false if known.is_complete => !known.is_failing(now),
            // A client that enters and takes nothing must not hold up others.
            false => known.open > 0 && now < known.moved + IDLE,
        };
        self.with(|swarm| !swarm.members.iter().any(is_other)).unwrap_or(true)
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

    /// This client waits for its turn until the result is dropped.
    pub(crate) fn wait(&self) -> Waiting {
        self.with(|swarm| swarm.find(self.member).map(|known| known.waiting += 1));
        Waiting { swarms: self.swarms.clone(), body: self.body, member: self.member }
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut Swarm) -> T) -> Option<T> {
        self.swarms.with(self.body, use_it)
    }
}

impl Waiting {
    /// The turn, if it has come. For a body that has been forgotten it comes at once.
    pub(crate) fn take(&self, now: Instant) -> Option<Turn> {
        let taken = self.swarms.with(self.body, |swarm| swarm.take_turn(self.member, now));
        let number = taken.unwrap_or(Some(None))?;
        Some(Turn { swarms: self.swarms.clone(), body: self.body, number })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.swarms.with(self.body, |swarm| {
            let Some(at) = swarm.members.iter().position(|known| known.id == self.member) else { return };
            let was_first = swarm.is_first(&swarm.members[at]);
            swarm.members[at].waiting = swarm.members[at].waiting.saturating_sub(1);
            // Each message of a waiting client ends its wait for a moment: the others are woken only if that concerns them.
            if was_first && swarm.turns.is_free(Instant::now()) {
                swarm.turn_ended.notify_waiters();
            }
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
            // A client with only a part is of no use to others, who would wait for the rest. One that has failed others stays, so
            // that coming back does not clear it.
            let now = Instant::now();
            swarm.members.retain(|known| known.open > 0 || known.is_complete || known.is_failing(now));
        });
    }
}

#[cfg(test)]
mod tests;
