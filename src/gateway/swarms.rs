//! Which members have the pieces of which body, or get them now, as they have said over their links; and which of them a client
//! is sent to. It is remembered while their links last, in memory, with bounds. Nothing here is certain: a client verifies what it
//! gets, and comes back when it gets nothing.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
/// Whoever has failed this many clients is not named any more.
const MOST_FAILED: usize = 2;

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
}

#[derive(Debug)]
struct Member {
    id: NodeId,
    /// Where it serves pieces, if it does.
    at: Option<SocketAddr>,
    /// Its place in the order in which members came. Nobody who gets the body now is sent to one that came later, so that no two wait
    /// for each other.
    number: u64,
    /// How many streams it gets the body on.
    open: usize,
    is_complete: bool,
    /// Whom it was sent to last, and how many members are between it and the gateway.
    parent: Option<NodeId>,
    depth: u32,
    /// The clients that got nothing from it.
    failed: Vec<NodeId>,
}

/// One client's stream on which it gets a body.
pub(super) struct Place {
    swarms: Arc<Swarms>,
    body: u64,
    member: NodeId,
}

/// A member that a client is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) id: NodeId,
    pub(super) at: SocketAddr,
}

impl Swarms {
    /// Notes that `member` gets `body` now, and serves its pieces at `port` if it does.
    pub(super) fn enter(
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
    pub(super) fn forget(&self, member: NodeId) {
        let mut bodies = self.bodies();
        bodies.swarms.retain(|_, swarm| {
            swarm.members.retain(|known| known.id != member);
            !swarm.members.is_empty()
        });
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
        let (parent, failed) = (None, Vec::new());
        self.members.push(Member { id, at, number, open: 1, is_complete: false, parent, depth: 0, failed });
    }

    /// The member that `asker` is sent to: of those that few clients are sent to already the one nearest to the gateway.
    fn choose(&mut self, asker: NodeId, is_allowed: impl Fn(NodeId) -> bool) -> Option<Named> {
        let own = self.members.iter().find(|known| known.id == asker)?.number;
        let mut children: HashMap<NodeId, usize> = HashMap::new();
        for member in self.members.iter().filter(|known| known.open > 0 && known.id != asker) {
            member.parent.into_iter().for_each(|parent| *children.entry(parent).or_default() += 1);
        }
        let of = |member: &Member| children.get(&member.id).copied().unwrap_or(0);
        let may = |member: &&Member| {
            member.id != asker
                && (member.is_complete || member.open > 0 && member.number < own)
                && member.failed.len() < MOST_FAILED
                && !member.failed.contains(&asker)
                && is_allowed(member.id)
        };
        let usable = self.members.iter().filter(may).filter_map(|member| Some((member, member.at?)));
        let best =
            usable.min_by_key(|(member, _)| (of(member) / CHILDREN, member.depth, of(member), member.number));
        let named = best.map(|(member, at)| (Named { id: member.id, at }, member.depth));
        let asker = self.members.iter_mut().find(|known| known.id == asker)?;
        (asker.parent, asker.depth) =
            (named.map(|(named, _)| named.id), named.map_or(0, |(_, depth)| depth + 1));
        named.map(|(named, _)| named)
    }
}

impl Place {
    /// A member that this client is sent to, among those that are allowed; `None` if there is no other.
    pub(super) fn name(&self, is_allowed: impl Fn(NodeId) -> bool) -> Option<Named> {
        self.with(|swarm| swarm.choose(self.member, is_allowed)).flatten()
    }

    /// Notes that this client got nothing from `member`.
    pub(super) fn failed(&self, member: NodeId) {
        self.with(|swarm| {
            // Only about the one that it was sent to.
            let asker = swarm.members.iter().find(|known| known.id == self.member);
            if asker.and_then(|asker| asker.parent) != Some(member) {
                return;
            }
            let known = swarm.members.iter_mut().find(|known| known.id == member);
            if let Some(known) = known.filter(|known| !known.failed.contains(&self.member))
                && known.failed.len() < MOST_FAILED
            {
                known.failed.push(self.member);
            }
        });
    }

    /// Notes that this client has the whole body.
    pub(super) fn complete(&self) {
        self.with(|swarm| {
            swarm.members.iter_mut().filter(|known| known.id == self.member).for_each(|known| {
                (known.is_complete, known.depth, known.parent) = (true, 0, None);
                known.failed.clear();
            });
        });
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut Swarm) -> T) -> Option<T> {
        self.swarms.bodies().swarms.get_mut(&self.body).map(use_it)
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
        place.name(|_| true).map(|named| named.id.0[0])
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
        two.failed(node(1));
        assert_eq!(name(&two), None);
        assert_eq!(name(&one), None, "two came later");
        two.complete();
        assert_eq!(name(&one), Some(2), "but it waits for nobody any more");
    }

    #[test]
    fn whoever_has_it_all_is_named_until_its_link_ends_and_whoever_has_a_part_only_while_it_gets_more() {
        let swarms = Arc::<Swarms>::default();
        let (one, two) = (enter(&swarms, 1), enter(&swarms, 2));
        one.complete();
        drop((one, two));
        let three = enter(&swarms, 3);
        assert_eq!(name(&three), Some(1));
        assert_eq!(three.name(|id| id != node(1)), None, "it was removed from the group");
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
        others[0].failed(node(2));
        assert_eq!((name(&others[0]), name(&others[1])), (None, Some(2)));
        others[1].failed(node(2));
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
