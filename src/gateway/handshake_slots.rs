//! The connections to the link port that have not yet proved to be a member's. Their number is bounded, and nobody is refused: at
//! a bound an unfinished handshake ends, the oldest one of the source that holds most.
//!
//! Places are counted by source and by subnet. A machine on a LAN of this node has one address there, but a machine behind a
//! router may have a whole IPv6 /64. Addresses from which a member has proved itself have places of their own.
//!
//! What they hold counts for the memory of the node, and there are no more places than fit into a part of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use crate::limits::rate::network_of;
use crate::memory::{Budget, Reserve};
use crate::net;

/// Maximum handshakes in progress from addresses that are not known as a member's.
const MAX_STRANGERS: usize = 1536;
/// Maximum handshakes in progress from members' addresses.
const MAX_MEMBERS: usize = 512;
/// Maximum handshakes in progress. Where fewer are possible, the bounds that follow from this one shrink alike.
const MAX_ALL: usize = MAX_STRANGERS + MAX_MEMBERS;
/// Maximum handshakes in progress from one source.
const MAX_PER_SOURCE: usize = 64;
/// Maximum handshakes in progress of strangers from one LAN, or from all other networks together: one LAN alone cannot make
/// room by ending those of another.
const MAX_PER_SUBNET: usize = 1024;
/// What a connection may hold at most before it has proved to be a member's, in bytes: the state of TLS, what its other end has
/// sent (bounded in [`crate::link::handshake`]), its task.
const PLACE: usize = 32 * 1024;
/// All places together hold at most one part in this many of the memory that connections may hold.
const SHARE: usize = 4;
/// As many places as there are with any limit of memory.
const MIN_PLACES: usize = 64;
/// Sources with up to this many handshakes count as equal. A node that opens links to several nodes here, behind one address,
/// is not worse than an attacker with many addresses.
const EQUAL: usize = 4;
/// How many addresses of members are remembered. Beyond that, the one that was used longest ago is forgotten.
const MAX_KNOWN: usize = 4096;
/// How old the list of this node's networks may be.
const NETWORKS_AGE: Duration = Duration::from_secs(5);

/// The handshakes in progress.
pub(super) struct HandshakeSlots {
    slots: Mutex<Slots>,
    /// Of the memory that all connections share.
    memory: Reserve,
}

/// One handshake's slot; dropping it frees the slot.
pub(super) struct HandshakeSlot {
    slots: Arc<HandshakeSlots>,
    holder: Holder,
    number: u64,
    ended: CancellationToken,
    /// What it holds, until its task has really ended.
    _memory: Reserve,
}

/// Which places a handshake counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Holder {
    is_member: bool,
    subnet: Subnet,
    source: IpAddr,
}

/// Where a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Subnet {
    /// On a network that this node is on.
    Lan(IpNet),
    /// Behind a router.
    Routed,
}

struct Slots {
    strangers: Pool,
    members: Pool,
    known: Known,
    networks: Vec<IpNet>,
    listed: Option<Instant>,
    next: u64,
}

/// The handshakes of strangers, or those of members.
struct Pool {
    most: Most,
    subnets: BTreeMap<Subnet, Places>,
}

/// How many places there are.
#[derive(Clone, Copy)]
struct Most {
    all: usize,
    per_subnet: usize,
    per_source: usize,
    /// See [`EQUAL`].
    equal: usize,
}

/// The handshakes from one subnet. The index by size makes eviction cheap while an attack goes on.
#[derive(Default)]
struct Places {
    by_age: BTreeMap<u64, (IpAddr, CancellationToken)>,
    by_source: HashMap<IpAddr, BTreeSet<u64>>,
    by_size: BTreeSet<(usize, IpAddr)>,
}

/// Addresses where members have proved themselves, ordered by the last time.
#[derive(Default)]
struct Known {
    addresses: HashMap<IpAddr, u64>,
    by_age: BTreeMap<u64, IpAddr>,
    next: u64,
}

impl HandshakeSlots {
    /// At most `most` slots, and no more than may be held in this memory.
    pub(super) fn new(most: usize, memory: &Budget) -> Self {
        let fitting = (memory.limit() / SHARE / PLACE).max(MIN_PLACES).min(most);
        let slots = Mutex::new(Slots {
            strangers: Pool::new(Most::fitting(fitting, MAX_STRANGERS, MAX_PER_SUBNET)),
            members: Pool::new(Most::fitting(fitting, MAX_MEMBERS, MAX_MEMBERS)),
            known: Known::default(),
            networks: Vec::new(),
            listed: None,
            next: 0,
        });
        Self { slots, memory: memory.reserve() }
    }

    /// A slot for a connection from `address`. It may end an older handshake.
    pub(super) fn take(slots: &Arc<Self>, address: IpAddr) -> HandshakeSlot {
        let ended = CancellationToken::new();
        let mut inside = slots.lock();
        if inside.listed.is_none_or(|listed| listed.elapsed() >= NETWORKS_AGE) {
            // Without a list, or with an old one, sources are only counted less precisely.
            inside.networks = net::own_networks().unwrap_or_default();
            inside.listed = Some(Instant::now());
        }
        let holder = inside.holder(address);
        let number = inside.next;
        inside.next += 1;
        inside.pool(holder).take(holder, number, ended.clone());
        drop(inside);
        let mut memory = slots.memory.beside();
        memory.set(PLACE);
        HandshakeSlot { slots: slots.clone(), holder, number, ended, _memory: memory }
    }

    /// Remembers that a member has proved itself from `address`.
    pub(super) fn remember_member(&self, address: IpAddr) {
        self.lock().known.add(address.to_canonical());
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Most {
    /// `all` places of [`MAX_ALL`], or fewer in proportion when only `fitting` of those fit.
    fn fitting(fitting: usize, all: usize, per_subnet: usize) -> Self {
        let fitting = fitting.min(MAX_ALL);
        let scaled = |number: usize| (number * fitting / MAX_ALL).max(1);
        Self {
            all: scaled(all),
            per_subnet: scaled(per_subnet),
            per_source: scaled(MAX_PER_SOURCE).max(EQUAL),
            equal: scaled(EQUAL),
        }
    }
}

impl HandshakeSlot {
    /// Completes when the slot was given to another handshake.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for HandshakeSlot {
    fn drop(&mut self) {
        self.slots.lock().pool(self.holder).remove(self.holder.subnet, self.number);
    }
}

impl Slots {
    fn holder(&self, address: IpAddr) -> Holder {
        let address = address.to_canonical();
        let lan = self.networks.iter().find(|lan| lan.contains(&address));
        let (subnet, source) = match lan {
            Some(lan) => (Subnet::Lan(lan.trunc()), address),
            None => (Subnet::Routed, network_of(address)),
        };
        Holder { is_member: self.known.addresses.contains_key(&address), subnet, source }
    }

    fn pool(&mut self, holder: Holder) -> &mut Pool {
        if holder.is_member { &mut self.members } else { &mut self.strangers }
    }
}

impl Pool {
    fn new(most: Most) -> Self {
        Self { most, subnets: BTreeMap::new() }
    }

    fn take(&mut self, holder: Holder, number: u64, ended: CancellationToken) {
        let Most { all, per_subnet, per_source, equal } = self.most;
        let total: usize = self.subnets.values().map(Places::len).sum();
        let places = self.subnets.entry(holder.subnet).or_default();
        if places.held_by(holder.source) >= per_source {
            places.evict_of(holder.source);
        } else if places.len() >= per_subnet {
            places.evict(equal);
        } else if total >= all
            && let Some(largest) = self.subnets.values_mut().max_by_key(|places| places.len())
        {
            largest.evict(equal);
        }
        self.subnets.entry(holder.subnet).or_default().add(number, holder.source, ended);
    }

    fn remove(&mut self, subnet: Subnet, number: u64) {
        if let Some(places) = self.subnets.get_mut(&subnet) {
            places.remove(number);
            if places.by_age.is_empty() {
                self.subnets.remove(&subnet);
            }
        }
    }
}

impl Places {
    fn len(&self) -> usize {
        self.by_age.len()
    }

    fn held_by(&self, source: IpAddr) -> usize {
        self.by_source.get(&source).map_or(0, BTreeSet::len)
    }

    fn add(&mut self, number: u64, source: IpAddr, ended: CancellationToken) {
        self.by_age.insert(number, (source, ended));
        self.change(source, |numbers| {
            numbers.insert(number);
        });
    }

    /// Removes a handshake, if it was not evicted.
    fn remove(&mut self, number: u64) -> Option<CancellationToken> {
        let (source, ended) = self.by_age.remove(&number)?;
        self.change(source, |numbers| {
            numbers.remove(&number);
        });
        Some(ended)
    }

    fn change(&mut self, source: IpAddr, change: impl FnOnce(&mut BTreeSet<u64>)) {
        let numbers = self.by_source.entry(source).or_default();
        self.by_size.remove(&(numbers.len(), source));
        change(numbers);
        if numbers.is_empty() {
            self.by_source.remove(&source);
        } else {
            self.by_size.insert((numbers.len(), source));
        }
    }

    /// Ends the oldest handshake of the source that has most, or the oldest of all where none stands out.
    fn evict(&mut self, equal: usize) {
        match self.by_size.last() {
            Some((size, source)) if *size > equal => self.evict_of(*source),
            _ => self.end(self.by_age.keys().next().copied()),
        }
    }

    /// Ends the oldest handshake of a source.
    fn evict_of(&mut self, source: IpAddr) {
        self.end(self.by_source.get(&source).and_then(|numbers| numbers.first().copied()));
    }

    fn end(&mut self, number: Option<u64>) {
        if let Some(ended) = number.and_then(|number| self.remove(number)) {
            ended.cancel();
        }
    }
}

impl Known {
    fn add(&mut self, address: IpAddr) {
        if let Some(before) = self.addresses.insert(address, self.next) {
            self.by_age.remove(&before);
        }
        self.by_age.insert(self.next, address);
        self.next += 1;
        if self.addresses.len() > MAX_KNOWN
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.addresses.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBER: &str = "198.51.100.7";

    /// Slots of a node on 10.0.0.0/8, 192.0.2.0/24 and 2001:db8::/64.
    fn slots() -> Arc<HandshakeSlots> {
        slots_within(usize::MAX, &Budget::new(1 << 30))
    }

    fn slots_within(most: usize, memory: &Budget) -> Arc<HandshakeSlots> {
        let slots = Arc::new(HandshakeSlots::new(most, memory));
        let mut inside = slots.lock();
        let networks = ["10.0.0.1/8", "192.0.2.1/24", "2001:db8::1/64"];
        inside.networks = networks.map(|text| text.parse().unwrap()).into();
        inside.listed = Some(Instant::now() + Duration::from_secs(3600));
        drop(inside);
        slots
    }

    fn take(slots: &Arc<HandshakeSlots>, address: &str) -> HandshakeSlot {
        HandshakeSlots::take(slots, address.parse().unwrap())
    }

    fn has_ended(slot: &HandshakeSlot) -> bool {
        slot.ended.is_cancelled()
    }

    fn in_progress(slots: &HandshakeSlots) -> usize {
        let inside = slots.lock();
        let pools = [&inside.strangers, &inside.members];
        pools.iter().flat_map(|pool| pool.subnets.values()).map(Places::len).sum()
    }

    #[test]
    fn a_source_that_has_all_its_slots_ends_its_own_oldest_handshake_and_no_other() {
        let slots = slots();
        let other = take(&slots, "10.0.0.3");
        let mut taken: Vec<_> = (0..MAX_PER_SOURCE + 2).map(|_| take(&slots, "10.0.0.2")).collect();
        let ended: Vec<_> = taken.iter().map(has_ended).collect();
        assert_eq!(ended.iter().filter(|ended| **ended).count(), 2);
        assert!(ended[0] && ended[1] && !has_ended(&other));
        // Dropped slots are free again.
        taken.truncate(10);
        let more: Vec<_> = (0..MAX_PER_SOURCE - 8).map(|_| take(&slots, "10.0.0.2")).collect();
        assert!(!more.iter().chain(&taken[2..]).any(has_ended));
        drop((taken, more, other));
        assert_eq!(in_progress(&slots), 0);
        assert!(slots.lock().strangers.subnets.is_empty());
    }

    #[test]
    fn where_only_a_few_handshakes_are_possible_they_are_shared_alike() {
        let slots = slots_within(64, &Budget::new(1 << 30));
        let attack = || {
            let hosts = (10..44).flat_map(|host| [host; MAX_PER_SOURCE]);
            hosts.map(|host| take(&slots, &format!("10.0.0.{host}"))).collect::<Vec<_>>()
        };
        let _before = attack();
        let honest = ["10.0.0.9", "192.0.2.9", "203.0.113.9"].map(|from| take(&slots, from));
        assert!(!honest.iter().any(has_ended) && in_progress(&slots) <= 48, "{}", in_progress(&slots));
    }

    #[test]
    fn thirty_four_addresses_with_all_their_slots_keep_out_nobody() {
        let slots = slots();
        let attack = |from: u8, to: u8| {
            let addresses = (from..to).flat_map(|host| [host; MAX_PER_SOURCE]);
            addresses.map(|host| take(&slots, &format!("10.0.0.{host}"))).collect::<Vec<_>>()
        };
        let _before = attack(10, 44);
        // On the same LAN, on another one, and behind a router.
        let honest = ["10.0.0.9", "10.0.0.9", "192.0.2.9", "203.0.113.9"].map(|from| take(&slots, from));
        let _during = attack(10, 44);
        let _more = attack(50, 200);
        assert!(!honest.iter().any(has_ended), "{:?}", honest.each_ref().map(has_ended));
        assert!(in_progress(&slots) <= MAX_STRANGERS + MAX_MEMBERS);
    }

    #[test]
    fn a_thousand_addresses_of_one_lan_keep_out_no_other_network() {
        let slots = slots();
        let honest = ["192.0.2.9", "203.0.113.9"].map(|from| take(&slots, from));
        let address = |n: u32| format!("10.1.{}.{}", n / 256, n % 256);
        let _attack: Vec<_> = (0..20_000).map(|n| take(&slots, &address(n))).collect();
        assert!(!honest.iter().any(has_ended));
        let here = take(&slots, "10.0.0.9");
        let _more: Vec<_> = (20_000..20_000 + 1_000).map(|n| take(&slots, &address(n))).collect();
        assert!(!has_ended(&here), "a thousand others had to come first");
        assert!(in_progress(&slots) <= MAX_STRANGERS);
    }

    #[test]
    fn where_memory_is_limited_there_are_as_many_slots_as_fit_and_nobody_is_kept_out() {
        let memory = Budget::new(16 << 20);
        let slots = slots_within(usize::MAX, &memory);
        slots.remember_member(MEMBER.parse().unwrap());
        let member = take(&slots, MEMBER);
        let attack = |from: u8, to: u8| {
            let addresses = (from..to).flat_map(|host| [host; MAX_PER_SOURCE]);
            let everywhere = |host: u8| ["10.0.0", "192.0.2", "203.0.113"].map(|net| format!("{net}.{host}"));
            addresses.flat_map(everywhere).map(|from| take(&slots, &from)).collect::<Vec<_>>()
        };
        let mut before = attack(10, 20);
        // What has ended holds memory until its task has gone.
        before.retain(|slot| !has_ended(slot));
        assert!(memory.used() <= memory.limit() / SHARE, "{}", memory.used());
        let honest = ["10.0.0.9", "192.0.2.9", "203.0.113.9"].map(|from| take(&slots, from));
        let _during = attack(10, 20);
        assert!(!honest.iter().chain([&member]).any(has_ended));
    }

    #[test]
    fn a_whole_ipv6_prefix_behind_a_router_is_one_source_and_neighbours_are_not() {
        let slots = slots();
        let far: Vec<_> =
            (0..MAX_PER_SOURCE + 1).map(|n| take(&slots, &format!("2001:db8:9:9::{n:x}"))).collect();
        assert!(has_ended(&far[0]));
        let near: Vec<_> =
            (0..MAX_PER_SOURCE + 1).map(|n| take(&slots, &format!("2001:db8::{n:x}"))).collect();
        assert!(!near.iter().any(has_ended));
    }

    #[test]
    fn a_member_keeps_its_place_whatever_strangers_do_also_from_its_own_network() {
        let slots = slots();
        let before = take(&slots, MEMBER);
        slots.remember_member(MEMBER.parse().unwrap());
        let after = take(&slots, &format!("::ffff:{MEMBER}"));
        let routed = |n: u32| format!("198.51.{}.{}", 101 + n / 256, n % 256);
        let _attack: Vec<_> = (0..20_000).map(|n| take(&slots, &routed(n))).collect();
        assert!(has_ended(&before) && !has_ended(&after));
    }

    #[test]
    fn the_addresses_of_members_are_bounded_and_the_one_used_longest_ago_is_forgotten() {
        let slots = slots();
        let address = |n: usize| IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
        (0..MAX_KNOWN).for_each(|n| slots.remember_member(address(n)));
        slots.remember_member(address(0));
        slots.remember_member(address(MAX_KNOWN));
        let known = &slots.lock().known;
        assert_eq!((known.addresses.len(), known.by_age.len()), (MAX_KNOWN, MAX_KNOWN));
        assert!(known.addresses.contains_key(&address(0)) && !known.addresses.contains_key(&address(1)));
    }
}
