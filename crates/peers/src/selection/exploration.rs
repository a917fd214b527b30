//! Explores what a group of three gateways can be made to do, step by step and exhaustively up to a depth.
//!
//! Two gateways are honest and one lies; two clients watch. In each step of a second the network or the liar makes one
//! move: datagrams are lost, delayed or repeated, a gateway is started anew, stops for a while or loses the server, the
//! liar changes its story, or tells one node another story than the others. After each new state the group runs on
//! without faults, once with a silent liar and once with one that goes on, and must recover in the documented time.
//!
//! States that differ only by fractions of 250 ms, by random draws or by beacon counters count as one. The depth is 2;
//! `LANEWAY_EXPLORE_DEPTH` sets another.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::turbulence::WINDOW;
use super::*;

const TICK: Duration = Duration::from_millis(250);
const STEP: u32 = 4;
/// The gateway that lies.
const LIAR: usize = 2;
const NODES: usize = 5;

/// What the liar says, again and again.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Story {
    Silence,
    Standby,
    Withdrawn,
    Preparing,
    /// Active, always by a claim that is later than all others.
    Active,
    /// Active by a claim that is far ahead.
    ActiveFarAhead,
    /// Active and standby in turn.
    Flapping,
    /// Active, and calls each of the honest gateways in turn.
    Calling,
    /// Active, in place of the first honest gateway.
    Replacing,
    /// Active to the first honest gateway alone, and withdrawn to all others.
    ActiveToOne,
    /// Active to the first and to the second honest gateway in turn, withdrawn to all others.
    ActiveInTurn,
    /// Active to the gateways, withdrawn to the clients.
    ActiveToGateways,
}

#[derive(Clone, Copy, Debug)]
enum Move {
    Nothing,
    Wait,
    Tell(Story),
    /// The beacons of the first node do not reach the second for 4 s.
    Cut(usize, usize),
    /// Its beacons reach nobody for 4 s.
    Mute(usize),
    /// Its beacons arrive two seconds later, after newer ones.
    Delay(usize),
    /// Its last beacon arrives again.
    Repeat(usize),
    /// Its last beacon in another state arrives again.
    Replay(usize),
    Restart(usize),
    /// It stops at once, and starts again after 5 s.
    Crash(usize),
    /// It does not reach the server for 5 s.
    Withdraw(usize),
}

fn moves() -> Vec<Move> {
    use Story::*;
    let stories = [
        Silence,
        Standby,
        Withdrawn,
        Preparing,
        Active,
        ActiveFarAhead,
        Flapping,
        Calling,
        Replacing,
        ActiveToOne,
        ActiveInTurn,
        ActiveToGateways,
    ];
    let mut moves = vec![Move::Nothing, Move::Wait, Move::Cut(0, 1), Move::Cut(1, 0)];
    moves.extend(stories.map(Move::Tell));
    for honest in 0..LIAR {
        moves.extend([Move::Mute(honest), Move::Delay(honest), Move::Repeat(honest), Move::Replay(honest)]);
        moves.extend([Move::Restart(honest), Move::Crash(honest), Move::Withdraw(honest)]);
    }
    moves
}

#[derive(Clone)]
struct Beacon {
    from: usize,
    advert: Advert,
    order: (u64, u64),
}

#[derive(Clone)]
struct Node {
    selection: Selection,
    wake: Instant,
    advert: Option<Advert>,
    order: (u64, u64),
    /// The last beacon, and the last one in another state.
    sent: [Option<Beacon>; 2],
    down_until: Instant,
    unable_until: Instant,
    muted_until: Instant,
    delayed_until: Instant,
    /// Since when a client's first gateway has been of no use to it.
    lost_since: Option<Instant>,
}

#[derive(Clone)]
struct World {
    options: Options,
    now: Instant,
    nodes: Vec<Node>,
    story: Story,
    told: u64,
    /// Whose beacons do not reach whom, and until when.
    cut: Option<(usize, usize, Instant)>,
    late: Vec<(Instant, Beacon)>,
    promotions: [u32; 2],
    path: Vec<Move>,
}

fn id(n: usize) -> NodeId {
    NodeId([u8::try_from(n + 1).unwrap(); 16])
}

fn link(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(n + 1).unwrap()], 7420))
}

impl World {
    fn new(policy: Policy) -> Self {
        let now = Instant::now();
        let rotate = Duration::from_secs(5);
        let options = Options { policy, active: 1, rotate, link_port: 7420, weight: 100, prepares: false };
        let node = |n| Node {
            selection: Self::selection(&options, n, 1),
            wake: now,
            advert: None,
            order: (1, 0),
            sent: [None, None],
            down_until: now,
            unable_until: now,
            muted_until: now,
            delayed_until: now,
            lost_since: None,
        };
        let nodes = (0..NODES).map(node).collect();
        let (story, promotions) = (Story::Silence, [0; 2]);
        Self { options, now, nodes, story, told: 0, cut: None, late: vec![], promotions, path: vec![] }
    }

    fn selection(options: &Options, n: usize, boot: u64) -> Selection {
        let mut selection = Selection::new(id(n), boot * 31 + n as u64);
        if n < LIAR {
            selection.become_candidate(options.clone());
        }
        selection
    }

    fn apply(&mut self, next: Move) {
        let soon = self.now + Duration::from_secs(4);
        match next {
            Move::Nothing => {}
            Move::Wait => self.run(STEP * 4),
            Move::Tell(story) => self.story = story,
            Move::Cut(from, to) => self.cut = Some((from, to, soon)),
            Move::Mute(n) => self.nodes[n].muted_until = soon,
            Move::Delay(n) => self.nodes[n].delayed_until = self.now + TICK * STEP,
            Move::Repeat(n) => self.nodes[n].sent[0].clone().into_iter().for_each(|old| self.deliver(&old)),
            Move::Replay(n) => self.nodes[n].sent[1].clone().into_iter().for_each(|old| self.deliver(&old)),
            Move::Restart(n) => self.restart(n, self.now),
            Move::Crash(n) => self.restart(n, self.now + Duration::from_secs(5)),
            Move::Withdraw(n) => self.nodes[n].unable_until = self.now + Duration::from_secs(5),
        }
        self.path.push(next);
        self.run(STEP);
    }

    fn restart(&mut self, n: usize, at: Instant) {
        let boot = self.nodes[n].order.0 + 1;
        let selection = Self::selection(&self.options, n, boot);
        let node = &mut self.nodes[n];
        *node = Node { selection, order: (boot, 0), wake: at, advert: None, down_until: at, ..node.clone() };
    }

    fn run(&mut self, ticks: u32) {
        (0..ticks).for_each(|_| self.tick());
    }

    /// All that are due decide, then all beacons arrive.
    fn tick(&mut self) {
        self.now += TICK;
        let now = self.now;
        let mut beacons = Vec::new();
        for n in 0..LIAR {
            beacons.extend(self.decide(n));
        }
        let due = self.late.extract_if(.., |(at, _)| *at <= now).map(|(_, beacon)| beacon);
        beacons.extend(due);
        for beacon in beacons {
            self.deliver(&beacon);
        }
        self.told += 1;
        if self.told.is_multiple_of(2) {
            self.tell();
        }
        (LIAR + 1..NODES).for_each(|client| self.watch(client));
    }

    fn decide(&mut self, n: usize) -> Option<Beacon> {
        let (now, node) = (self.now, &mut self.nodes[n]);
        if now < node.down_until || now < node.wake {
            return None;
        }
        let able = now >= node.unable_until;
        let own = SelfState {
            able,
            reach: if able { Reach::Reachable } else { Reach::Unreachable },
            prepared: Prepared::No,
            draining: false,
            in_maintenance: false,
            load: 0,
            capacity: 100,
            tunnels: 0,
        };
        let decision = node.selection.decide(&own, now).unwrap();
        let was_active = node.is_active(now);
        node.wake = decision.wake.min(now + TICK * 2);
        let before = node.advert.replace(decision.advert.clone());
        self.promotions[n] += u32::from(!was_active && node.is_active(now));
        if !decision.beacon {
            return None;
        }
        node.order.1 += 1;
        let beacon = Beacon { from: n, advert: decision.advert, order: node.order };
        if before.is_some_and(|before| before.state != beacon.advert.state) {
            node.sent[1] = node.sent[0].take();
        }
        node.sent[0] = Some(beacon.clone());
        if now < node.delayed_until {
            self.late.push((now + Duration::from_secs(2), beacon));
            return None;
        }
        (now >= node.muted_until).then_some(beacon)
    }

    fn deliver(&mut self, beacon: &Beacon) {
        for to in (0..NODES).filter(|to| *to != LIAR) {
            let cut =
                self.cut.is_some_and(|(from, at, until)| (from, at) == (beacon.from, to) && self.now < until);
            if to != beacon.from && !cut {
                self.hear(to, beacon);
            }
        }
    }

    fn hear(&mut self, to: usize, Beacon { from, advert, order }: &Beacon) {
        let (now, node) = (self.now, &mut self.nodes[to]);
        if now >= node.down_until
            && node.selection.heard(id(*from), link(*from), advert, Means::Beacon(order.0, order.1), now)
        {
            node.wake = now;
        }
    }

    /// The liar tells its story to each node.
    fn tell(&mut self) {
        let turn = (self.told / 2).is_multiple_of(2);
        for to in (0..NODES).filter(|to| *to != LIAR) {
            let is_client = to > LIAR;
            let (state, ahead) = match self.story {
                Story::Silence => continue,
                Story::Standby | Story::Preparing => (State::Standby, 0),
                Story::Withdrawn => (State::Withdrawn, 0),
                Story::Flapping if turn => (State::Standby, 0),
                Story::ActiveFarAhead => (State::Active, u32::MAX / 2),
                Story::ActiveToOne if to != 0 => (State::Withdrawn, 0),
                Story::ActiveInTurn if to != usize::from(turn) => (State::Withdrawn, 0),
                Story::ActiveToGateways if is_client => (State::Withdrawn, 0),
                _ => (State::Active, 1),
            };
            let claims = self.nodes.iter().flat_map(|node| &node.advert).map(|advert| advert.standing.claim);
            let claim = claims.max().unwrap_or_default().wrapping_add(ahead);
            let standing = Standing {
                policy: self.options.policy,
                active: 1,
                preparing: self.story == Story::Preparing,
                interval: u16::MAX,
                claim,
                round: 7,
                yields_to: (self.story == Story::Calling).then(|| id(usize::from(turn))),
                replaces: (self.story == Story::Replacing).then(|| id(0)),
            };
            let (reach, weight, capacity) = (Reach::Reachable, u16::MAX, u32::MAX);
            let (load, tunnels, peers) = (0, 0, Vec::new());
            let advert =
                Advert { state, reach, link_port: 7420, weight, load, capacity, tunnels, standing, peers };
            self.hear(to, &Beacon { from: LIAR, advert, order: (1, self.told) });
        }
    }

    /// A client leaves a gateway that is of no use to it.
    fn watch(&mut self, client: usize) {
        let now = self.now;
        let first = self.nodes[client].selection.ranked(now).first().map(|gateway| gateway.link);
        let serves = (0..LIAR).any(|n| Some(link(n)) == first && self.serves(n));
        let any_serves =
            (0..LIAR).any(|n| self.serves(n) && self.nodes[client].selection.at(link(n)).is_some());
        let node = &mut self.nodes[client];
        if serves || !any_serves {
            node.lost_since = None;
            if let (Some(first), true) = (first, serves) {
                node.selection.proved(first, now);
            }
            return;
        }
        let lost_since = *node.lost_since.get_or_insert(now);
        if let Some(first) = first {
            node.selection.suspect(first, now);
        }
        // One attempt for the liar, one for the other honest gateway, which may be down.
        let lost = now - lost_since;
        assert!(lost <= TICK * 2, "a client was without a gateway for {lost:?}: {:?}", self.path);
    }

    /// Whether the gateway takes connections, and has had the time to say so.
    fn serves(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        let since = node.down_until.max(node.unable_until).max(node.muted_until).max(node.delayed_until);
        self.now >= since + Duration::from_secs(1)
    }

    fn active(&self) -> Vec<usize> {
        (0..LIAR).filter(|n| self.nodes[*n].is_active(self.now)).collect()
    }

    /// Whether one honest gateway is active and all honest nodes know it.
    fn agree(&self) -> bool {
        let [active] = self.active()[..] else { return false };
        let knows = |n: usize| self.nodes[n].selection.anchor.id == id(active);
        (0..NODES).filter(|n| *n != LIAR).all(knows)
    }

    /// From now on all datagrams arrive and all gateways serve.
    fn end_faults(&mut self) {
        let now = self.now;
        self.cut = None;
        self.late.clear();
        for node in &mut self.nodes {
            node.wake = node.wake.min(now);
            for until in
                [&mut node.down_until, &mut node.unable_until, &mut node.muted_until, &mut node.delayed_until]
            {
                *until = now.min(*until);
            }
        }
    }

    /// The number of ticks until `done`, which must not take longer than `bound`.
    fn until(&mut self, bound: Duration, what: &str, done: impl Fn(&Self) -> bool) -> Duration {
        let from = self.now;
        while !done(self) {
            assert!(
                self.now - from <= bound,
                "{what} not within {bound:?}: {:?}, {:?}",
                self.path,
                self.active()
            );
            self.tick();
        }
        self.now - from
    }

    /// The faults end and the liar falls silent: an honest gateway is active, soon it is the only one, and with
    /// round-robin the role goes on from one to the other.
    fn recovers(mut self) -> [Duration; 2] {
        self.end_faults();
        self.story = Story::Silence;
        let active = self.until(VACANT, "nobody active", |world| !world.active().is_empty());
        let agreed = self.until(AGREED, "no agreement", Self::agree);
        if self.options.policy == Policy::RoundRobin {
            let before = self.promotions;
            let turns = |world: &Self| (0..LIAR).all(|n| world.promotions[n] > before[n]);
            self.until(PASSED_ON, "the role is not passed on", turns);
        }
        [active, agreed]
    }

    /// The faults end and the liar goes on. Either an honest gateway is active, or the honest ones hear the liar say that
    /// it is, and the role changes only so often. [`World::watch`] checks that clients find an honest one.
    fn endures(mut self) -> u32 {
        self.end_faults();
        let is_held = |world: &Self| {
            let mut hears = |n: usize| {
                let seen = world.nodes[n].selection.table.seen(id(n), world.now);
                seen.iter().any(|seen| seen.id == id(LIAR) && seen.state == State::Active)
            };
            !world.active().is_empty() || (0..LIAR).any(&mut hears)
        };
        self.until(VACANT, "nobody active beside the liar", is_held);
        let before: u32 = self.promotions.iter().sum();
        self.run(ENDURED_TICKS);
        let changes = self.promotions.iter().sum::<u32>() - before;
        assert!(changes <= MAX_PROMOTIONS, "{changes} changes: {:?}, then {:?}", self.path, self.story);
        changes
    }

    /// The state up to a tick, as far as it decides what happens next.
    fn fingerprint(&self) -> u64 {
        let mut text = format!("{:?} {:?} ", self.story, self.told % 4);
        for node in &self.nodes {
            let selection = &node.selection;
            let times = [node.wake, node.down_until, node.unable_until, node.muted_until, node.delayed_until];
            write!(text, "{selection:?} {times:?} {:?}", node.lost_since).unwrap();
        }
        write!(text, "{:?} {:?}", self.cut, self.late.iter().map(|(at, _)| at).collect::<Vec<_>>()).unwrap();
        let mut hasher = DefaultHasher::new();
        let mut rest = text.as_str();
        let now = format!("{:?}", self.now);
        while let Some((before, after)) = rest.split_once("Instant {") {
            let (time, end) = after.split_once('}').unwrap();
            hash_without_counters(before, &mut hasher);
            let age = millis(&now) - millis(time);
            (age.clamp(-70_000, 70_000) / 250).hash(&mut hasher);
            rest = end;
        }
        hash_without_counters(rest, &mut hasher);
        hasher.finish()
    }
}

impl Node {
    fn is_active(&self, now: Instant) -> bool {
        now >= self.down_until && self.advert.as_ref().is_some_and(|advert| advert.state == State::Active)
    }
}

/// The milliseconds in `tv_sec: 1, tv_nsec: 500000000`.
fn millis(text: &str) -> i64 {
    let mut numbers =
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<i64>().ok());
    let seconds = numbers.next().unwrap_or_default();
    seconds * 1000 + numbers.next().unwrap_or_default() / 1_000_000
}

fn hash_without_counters(text: &str, hasher: &mut DefaultHasher) {
    for part in text.split(", ") {
        let is_counter = part.contains("draws: ") || part.contains("beacon: Some((") || part.ends_with("))");
        if !is_counter {
            part.hash(hasher);
        }
    }
}

/// How long it may take until somebody is active: the silence of the one before, and the wait for better candidates.
const VACANT: Duration = SILENCE.saturating_add(Duration::from_millis(1500));
/// How long it may take until only one is: until changes of the role no longer count.
const AGREED: Duration = Duration::from_secs(WINDOW.as_secs() + 5);
/// How long it may take until each has had its turn of 5 s: until changes of the role no longer count, until a
/// candidate that was called while they did is no longer passed over, and two turns.
const PASSED_ON: Duration = Duration::from_secs(WINDOW.as_secs() + 65 + 20);
/// The number of ticks for which a group has to endure a liar that goes on.
const ENDURED_TICKS: u32 = 4 * 20;
/// How often honest gateways may become active meanwhile.
const MAX_PROMOTIONS: u32 = 12;

/// Checks that a group recovers from everything that `depth` moves make of it.
fn explore(policy: Policy, depth: usize) {
    let cold = World::new(policy);
    let mut settled = cold.clone();
    settled.story = Story::Standby;
    settled.run(4 * 25);
    let mut frontier = vec![cold, settled];
    let mut known: HashSet<u64> = HashSet::new();
    let mut worst = ([Duration::ZERO; 2], 0);
    for _ in 0..depth {
        let mut next = Vec::new();
        for world in &frontier {
            for step in moves() {
                let mut world = world.clone();
                world.apply(step);
                if known.insert(world.fingerprint()) {
                    next.push(world);
                }
            }
        }
        let halves = next.split_at(next.len() / 2);
        let results = std::thread::scope(|scope| {
            let check = |worlds: &[World]| {
                let check = |world: &World| (world.clone().recovers(), world.clone().endures());
                worlds.iter().map(check).collect::<Vec<_>>()
            };
            let other = scope.spawn(move || check(halves.1));
            [check(halves.0), other.join().expect("a state from which a group does not recover")].concat()
        });
        for ([active, agreed], changes) in results {
            worst = ([worst.0[0].max(active), worst.0[1].max(agreed)], worst.1.max(changes));
        }
        frontier = next;
    }
    println!("{policy}: {} states; worst: active, agreed {:?}, changes {}", known.len(), worst.0, worst.1);
}

fn depth() -> usize {
    std::env::var("LANEWAY_EXPLORE_DEPTH").ok().and_then(|depth| depth.parse().ok()).unwrap_or(2)
}

#[test]
fn a_group_recovers_from_everything_that_a_liar_and_the_network_do_in_some_steps() {
    explore(Policy::Strongest, depth());
}

#[test]
fn the_role_is_passed_on_whatever_a_liar_and_the_network_do_in_some_steps() {
    explore(Policy::RoundRobin, depth());
}
