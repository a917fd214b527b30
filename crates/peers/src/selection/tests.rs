use std::collections::BTreeMap;

use proptest::prelude::*;

use super::candidacy::Options;
use super::*;

/// How often a node looks at itself.
const LOOK: Duration = Duration::from_millis(50);

pub(super) fn id(n: u8) -> NodeId {
    NodeId([n; 16])
}

pub(super) fn link(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 7420))
}

pub(super) fn options(policy: Policy) -> Options {
    Options {
        policy,
        active: 1,
        rotate: Duration::from_secs(60),
        link_port: 7420,
        weight: 100,
        prepares: false,
    }
}

pub(super) fn own(capacity: u32) -> SelfState {
    SelfState {
        able: true,
        reach: Reach::Reachable,
        prepared: Prepared::No,
        draining: false,
        in_maintenance: false,
        load: 0,
        capacity,
        tunnels: 0,
    }
}

pub(super) struct Node {
    pub(super) selection: Selection,
    pub(super) own: SelfState,
    pub(super) alive: bool,
    /// What it announces again and again, doing nothing else.
    pub(super) says: Option<Advert>,
    /// What it announced last.
    pub(super) said: Option<Advert>,
    state: State,
    pub(super) wanted: bool,
    counter: u64,
    since: Duration,
}

/// Candidates on one network, on a virtual clock. What is sent is heard at once.
pub(super) struct Group {
    start: Instant,
    time: Duration,
    pub(super) nodes: BTreeMap<u8, Node>,
    /// Candidates that hear nobody.
    pub(super) deaf: Vec<u8>,
    /// Hand-overs: when, and which candidate became active.
    pub(super) promotions: Vec<(Duration, u8)>,
    beacons: usize,
    /// How long nobody was active, after somebody first was.
    pub(super) vacant: Duration,
    jitter: u64,
}

impl Group {
    pub(super) fn new(policy: Policy, capacities: &[u32]) -> Self {
        let mut group = Self {
            start: Instant::now(),
            time: Duration::ZERO,
            nodes: BTreeMap::new(),
            deaf: Vec::new(),
            promotions: Vec::new(),
            beacons: 0,
            vacant: Duration::ZERO,
            jitter: 0,
        };
        for (n, capacity) in (1..).zip(capacities) {
            group.add(n, options(policy), own(*capacity));
        }
        group
    }

    pub(super) fn add(&mut self, n: u8, options: Options, own: SelfState) {
        let mut selection = Selection::new(id(n), u64::from(n) * 77);
        selection.become_candidate(options);
        let (state, since) = (State::Withdrawn, self.time);
        let node = Node {
            selection,
            own,
            alive: true,
            says: None,
            said: None,
            state,
            wanted: false,
            counter: 0,
            since,
        };
        self.nodes.insert(n, node);
    }

    pub(super) fn now(&self) -> Instant {
        self.start + self.time
    }

    pub(super) fn node(&mut self, n: u8) -> &mut Node {
        self.nodes.get_mut(&n).unwrap()
    }

    pub(super) fn active(&self) -> Vec<u8> {
        let active = |(_, node): &(&u8, &Node)| node.alive && node.state == State::Active;
        self.nodes.iter().filter(active).map(|(n, _)| *n).collect()
    }

    pub(super) fn run(&mut self, seconds: u64) {
        self.run_until(self.time + Duration::from_secs(seconds), |_| false);
    }

    /// Runs until `done`; panics if that does not happen in `seconds`.
    pub(super) fn wait(&mut self, seconds: u64, done: impl Fn(&Self) -> bool) -> Duration {
        let from = self.time;
        let end = from + Duration::from_secs(seconds);
        assert!(self.run_until(end, done), "not within {seconds} s: active {:?}", self.active());
        self.time - from
    }

    fn run_until(&mut self, end: Duration, done: impl Fn(&Self) -> bool) -> bool {
        while self.time < end {
            if done(self) {
                return true;
            }
            self.time += LOOK;
            let numbers: Vec<u8> = self.nodes.keys().copied().collect();
            for n in numbers {
                self.step(n);
            }
            if self.active().is_empty() && !self.promotions.is_empty() {
                self.vacant += LOOK;
            }
        }
        done(self)
    }

    fn step(&mut self, n: u8) {
        let (now, time, jitter) = (self.now(), self.time, self.jitter);
        let boot = self.nodes[&n].counter;
        let node = self.node(n);
        if !node.alive {
            return;
        }
        let mut facts = node.own;
        if jitter > 0 {
            let percent = 80 + order::mix(jitter ^ boot << 8 ^ u64::from(n)) % 41;
            facts.capacity = u32::try_from(u64::from(facts.capacity) * percent / 100).unwrap();
        }
        let mut decision = node.selection.decide(&facts, now).unwrap();
        if let Some(advert) = node.says.clone() {
            decision = Decision { advert, beacon: true, ..decision };
        }
        let promoted = decision.advert.state == State::Active && node.state != State::Active;
        if node.state != decision.advert.state {
            node.since = time;
        }
        (node.state, node.wanted) = (decision.advert.state, decision.wanted);
        if promoted {
            self.promotions.push((time, n));
        }
        if decision.beacon {
            self.beacons += 1;
            self.node(n).said = Some(decision.advert.clone());
            self.node(n).counter += 1;
            let counter = self.nodes[&n].counter;
            for (other, node) in &mut self.nodes {
                if *other != n && node.alive && !self.deaf.contains(other) {
                    node.selection.heard(id(n), link(n), &decision.advert, Means::Beacon(1, counter), now);
                }
            }
        }
    }
}

#[test]
fn somebody_is_active_half_a_second_after_the_start_and_only_one_soon_after() {
    for count in [1, 2, 10, 100] {
        let mut group = Group::new(Policy::Strongest, &vec![100; count]);
        let time = group.wait(1, |group| !group.active().is_empty());
        assert!(time <= Duration::from_millis(550), "{count}: {time:?}");
        group.wait(2, |group| group.active().len() == 1);
        group.run(60);
        assert_eq!(group.active().len(), 1);
        assert_eq!(group.vacant, Duration::ZERO);
    }
}

#[test]
fn a_hundred_candidates_do_not_flood_the_network() {
    let mut group = Group::new(Policy::Strongest, &(100..200).collect::<Vec<_>>());
    group.run(60);
    let before = group.beacons;
    group.run(60);
    assert!(group.beacons - before < 60 * 8, "{} in a minute", group.beacons - before);
}

#[test]
fn the_clearly_strongest_gets_the_role_once_and_keeps_it() {
    let mut group = Group::new(Policy::Strongest, &[100, 110, 500, 120]);
    group.run(60);
    assert_eq!(group.active(), [3]);
    let promotions = group.promotions.len();
    group.run(3600);
    assert_eq!(group.promotions.len(), promotions);
    assert_eq!(group.vacant, Duration::ZERO);
}

#[test]
fn capacities_that_are_measured_with_an_error_of_a_fifth_move_nobody() {
    for seed in 1..=3 {
        let mut group = Group::new(Policy::Strongest, &[100; 8]);
        group.jitter = seed;
        group.run(5);
        let promotions = group.promotions.len();
        group.run(3600);
        assert_eq!(group.promotions.len(), promotions);
    }
}

#[test]
fn a_declared_weight_counts_and_none_is_the_last_resort() {
    let mut group = Group::new(Policy::Strongest, &[100, 100]);
    group.add(3, Options { weight: 200, ..options(Policy::Strongest) }, own(100));
    group.add(4, Options { weight: 0, ..options(Policy::Strongest) }, own(9000));
    group.run(60);
    assert_eq!(group.active(), [3]);
    for n in 1..=3 {
        group.node(n).alive = false;
    }
    group.wait(6, |group| group.active() == [4]);
}

#[test]
fn a_last_resort_hands_over_to_any_other_gateway_under_every_policy() {
    for policy in [Policy::Strongest, Policy::LeastBusy, Policy::Random, Policy::RoundRobin] {
        let mut group = Group::new(policy, &[]);
        group.add(1, Options { weight: 0, ..options(policy) }, own(9000));
        group.wait(6, |group| group.active() == [1]);
        group.add(2, options(policy), own(100));
        let time = group.wait(60, |group| group.active() == [2]);
        assert!(time > Duration::ZERO, "{policy}");
        group.run(600);
        assert_eq!(group.active(), [2], "{policy}");
    }
}

#[test]
fn a_withdrawal_hands_over_at_once() {
    let mut group = Group::new(Policy::Strongest, &[100, 400, 200]);
    group.run(60);
    assert_eq!(group.active(), [2]);
    group.node(2).own.able = false;
    let time = group.wait(1, |group| group.active() == [3]);
    assert!(time <= 3 * LOOK, "{time:?}");
    assert_eq!(group.nodes[&2].state, State::Withdrawn);
}

#[test]
fn a_node_in_maintenance_hands_over_at_once_and_drains_while_it_carries_something() {
    let mut group = Group::new(Policy::Strongest, &[100, 400, 200]);
    group.run(60);
    assert_eq!(group.active(), [2]);
    (group.node(2).own.in_maintenance, group.node(2).own.tunnels) = (true, 1);
    let time = group.wait(1, |group| group.active() == [3]);
    assert!(time <= 3 * LOOK, "{time:?}");
    assert_eq!(group.nodes[&2].state, State::Draining);
    group.node(2).own.tunnels = 0;
    group.wait(2, |group| group.nodes[&2].state == State::Withdrawn);
    for n in [1, 3] {
        group.node(n).alive = false;
    }
    group.run(30);
    assert!(group.active().is_empty(), "it serves nobody, even alone");
    group.node(2).own.in_maintenance = false;
    group.wait(2, |group| group.active() == [2]);
}

#[test]
fn a_node_that_stops_hands_over_at_once() {
    let mut group = Group::new(Policy::Strongest, &[100, 400, 200]);
    group.run(60);
    group.node(2).own.draining = true;
    let time = group.wait(1, |group| group.active() == [3]);
    assert!(time <= 3 * LOOK, "{time:?}");
    assert_eq!(group.nodes[&2].state, State::Draining);
}

#[test]
fn a_node_that_has_served_nobody_stops_without_a_word() {
    let mut group = Group::new(Policy::Strongest, &[100, 400]);
    group.add(3, options(Policy::Strongest), SelfState { able: false, ..own(200) });
    group.run(10);
    group.node(3).own.draining = true;
    group.run(10);
    let stopped = &group.nodes[&3];
    assert_eq!(stopped.state, State::Withdrawn);
    assert!(stopped.said.as_ref().is_none_or(|said| said.state == State::Withdrawn), "{:?}", stopped.said);
}

#[test]
fn silence_hands_over_and_the_recovered_node_waits() {
    let mut group = Group::new(Policy::Strongest, &[100, 400, 200]);
    group.run(60);
    assert_eq!(group.active(), [2]);
    group.node(2).alive = false;
    let time = group.wait(5, |group| group.active() == [3]);
    assert!(time >= SILENCE - Duration::from_millis(600) && time < SILENCE + 3 * LOOK, "{time:?}");
    // Node 2 slept and still believes that it is active: of two, the one with the later claim stays.
    group.node(2).alive = true;
    group.run(1);
    assert_eq!(group.active(), [3]);
    group.node(2).own.able = false;
    group.run(30);
    group.node(2).own.able = true;
    let time = group.wait(60, |group| group.active() == [2]);
    assert!(time >= Duration::from_secs(20), "{time:?}");
}

#[test]
fn a_standby_that_was_stopped_does_not_take_its_own_silence_for_that_of_the_others() {
    let mut group = Group::new(Policy::Strongest, &[100, 140]);
    group.run(30);
    let (first, standby) = (group.active()[0], 3 - group.active()[0]);
    let promotions = group.promotions.len();
    group.node(standby).alive = false;
    group.run(10);
    group.node(standby).alive = true;
    let now = group.now();
    group.node(standby).selection.was_suspended(Duration::from_secs(10), now);
    group.run(30);
    assert_eq!(group.active(), [first]);
    assert_eq!(group.promotions.len(), promotions, "it took the role: {:?}", group.promotions);
    // A candidate that is really gone is still missed.
    group.node(first).alive = false;
    group.wait(5, |group| group.active() == [standby]);
}

#[test]
fn a_recovered_node_that_is_not_clearly_better_does_not_come_back() {
    let mut group = Group::new(Policy::Strongest, &[100, 140]);
    group.run(30);
    let first = group.active()[0];
    group.node(first).alive = false;
    group.wait(5, |group| group.active() == [3 - first]);
    group.node(first).alive = true;
    group.run(3600);
    assert_eq!(group.active(), [3 - first]);
}

#[test]
fn two_that_did_not_hear_each_other_agree_when_they_do() {
    let mut group = Group::new(Policy::Strongest, &[100, 100]);
    group.deaf = vec![1, 2];
    group.run(10);
    assert_eq!(group.active(), [1, 2]);
    group.deaf.clear();
    group.wait(2, |group| group.active().len() == 1);
    let active = group.active();
    group.run(600);
    assert_eq!(group.active(), active);
    assert_eq!(group.vacant, Duration::ZERO);
}

#[test]
fn round_robin_gives_everybody_a_turn_without_a_moment_with_no_active_one() {
    let mut group = Group::new(Policy::RoundRobin, &[100, 100, 100, 100]);
    group.run(30);
    group.promotions.clear();
    let first = group.active()[0];
    group.promotions.push((group.time, first));
    group.run(60 * 8 + 10);
    let turns: Vec<u8> = group.promotions.iter().map(|(_, n)| *n).collect();
    let next = |n: u8| n % 4 + 1;
    assert!(turns.len() >= 8, "{turns:?}");
    assert!(turns.windows(2).all(|pair| pair[1] == next(pair[0])), "{turns:?}");
    assert_eq!(group.vacant, Duration::ZERO);
}

#[test]
fn a_successor_that_does_not_take_the_role_is_passed_over() {
    let mut group = Group::new(Policy::RoundRobin, &[100, 100, 100]);
    group.run(30);
    let first = group.active()[0];
    let (silent, other) = (first % 3 + 1, (first + 1) % 3 + 1);
    let (facts, now) = (group.nodes[&silent].own, group.now());
    group.node(silent).says = group.node(silent).selection.decide(&facts, now).map(|said| said.advert);
    group.wait(60, |group| group.active() == [other]);
    assert_eq!(group.vacant, Duration::ZERO);
}

#[test]
fn random_draws_anew_each_round_and_all_know_the_round() {
    let mut group = Group::new(Policy::Random, &[100; 5]);
    group.run(60 * 40);
    let holders: std::collections::BTreeSet<u8> = group.promotions.iter().map(|(_, n)| *n).collect();
    assert!(holders.len() >= 4, "{holders:?}");
    assert_eq!(group.vacant, Duration::ZERO);
    let now = group.now();
    let rounds = group
        .nodes
        .values_mut()
        .map(|node| node.selection.decide(&node.own.clone(), now).unwrap().advert.standing.round);
    let rounds: std::collections::BTreeSet<u32> = rounds.collect();
    assert!(rounds.len() == 1 && rounds.first() >= Some(&38), "{rounds:?}");
}

#[test]
fn least_busy_moves_the_role_only_when_the_load_is_clearly_higher() {
    let mut group = Group::new(Policy::LeastBusy, &[100, 100]);
    group.run(30);
    let first = group.active()[0];
    group.node(first).own.load = 200;
    group.run(120);
    assert_eq!(group.active(), [first]);
    group.node(first).own.load = 800;
    group.wait(30, |group| group.active() == [3 - first]);
    assert_eq!(group.vacant, Duration::ZERO);
}

#[test]
fn several_are_active_at_a_time_and_one_that_dies_is_replaced() {
    let mut group = Group::new(Policy::Strongest, &[]);
    for (n, capacity) in [(1, 100), (2, 900), (3, 800), (4, 110), (5, 120)] {
        group.add(n, Options { active: 2, ..options(Policy::Strongest) }, own(capacity));
    }
    group.run(180);
    assert_eq!(group.active(), [2, 3]);
    group.node(3).alive = false;
    group.wait(5, |group| group.active().len() == 2);
    assert_eq!(group.active(), [2, 5]);
}

#[test]
fn one_that_must_prepare_is_active_only_when_it_is_prepared() {
    let mut group = Group::new(Policy::Strongest, &[100]);
    let latent = SelfState { able: false, reach: Reach::Unreachable, ..own(900) };
    for n in [2, 3] {
        group.add(n, Options { prepares: true, ..options(Policy::Strongest) }, latent);
    }
    group.run(60);
    assert_eq!(group.active(), [1]);
    assert!(!group.nodes[&2].wanted && !group.nodes[&3].wanted);
    group.node(1).alive = false;
    group.wait(8, |group| group.nodes[&2].wanted);
    group.run(10);
    assert!(!group.nodes[&3].wanted, "two uplinks are brought up");
    assert!(group.active().is_empty());
    // The first one fails: the other one tries.
    group.node(2).own.prepared = Prepared::Failed;
    group.wait(1, |group| !group.nodes[&2].wanted && group.nodes[&2].state == State::Withdrawn);
    group.node(2).own.prepared = Prepared::No;
    group.wait(10, |group| group.nodes[&3].wanted);
    group.node(3).own.prepared = Prepared::Yes;
    group.run(1);
    assert!(group.active().is_empty(), "active before the probe passes");
    group.node(3).own.able = true;
    group.wait(1, |group| group.active() == [3]);
}

pub(super) fn advert(state: State, load: u16, active: u8) -> Advert {
    let standing = Standing { active, interval: 1000, claim: 1, ..Standing::default() };
    let (reach, link_port, weight, capacity, tunnels) = (Reach::Reachable, 7420, 100, 100, 0);
    Advert { state, reach, link_port, weight, load, capacity, tunnels, standing, peers: Vec::new() }
}

pub(super) fn first(client: &mut Selection, now: Instant) -> SocketAddr {
    client.ranked(now)[0].link
}

#[test]
fn a_suspect_comes_behind_the_others_for_a_while() {
    let now = Instant::now();
    let mut client = Selection::new(id(99), 0);
    client.heard(id(1), link(1), &advert(State::Active, 0, 1), Means::Beacon(1, 1), now);
    client.heard(id(2), link(2), &advert(State::Standby, 0, 1), Means::Beacon(1, 1), now);
    assert_eq!(first(&mut client, now), link(1));
    client.suspect(link(1), now);
    assert_eq!(first(&mut client, now), link(2));
    client.proved(link(1), now);
    assert_eq!(first(&mut client, now), link(2));
    assert_eq!(first(&mut client, now + Duration::from_secs(2)), link(1));
    // A second time it is trusted less.
    client.suspect(link(1), now);
    client.proved(link(1), now);
    assert_eq!(first(&mut client, now + Duration::from_secs(3)), link(2));
    // When both are suspect, the one suspected first is tried first; a new process is not suspect.
    let later = now + Duration::from_secs(1);
    client.suspect(link(2), later);
    assert_eq!(first(&mut client, later), link(1));
    client.heard(id(2), link(2), &advert(State::Standby, 0, 1), Means::Beacon(2, 1), later);
    assert_eq!(first(&mut client, later), link(2));
}

#[test]
fn of_a_gateway_on_two_networks_the_latest_beacon_counts_whichever_is_read_last() {
    let now = Instant::now();
    let mut client = Selection::new(id(99), 0);
    let [one, other] = [1, 2].map(link);
    let mut hears = |link, state, boot, counter| {
        client.heard(id(1), link, &advert(state, 0, 1), Means::Beacon(boot, counter), now);
        client.ranked(now).iter().filter(|gateway| gateway.state(now) == Some(state)).count()
    };
    assert_eq!(hears(other, State::Standby, 1, 3), 1);
    assert_eq!(hears(one, State::Active, 1, 6), 1);
    // A datagram that waited on the other network while this node was stopped.
    assert_eq!(hears(other, State::Draining, 1, 5), 0);
    assert_eq!(hears(other, State::Active, 1, 6), 2);
    // The process was started anew, and a datagram of the one before is still on its way.
    assert_eq!(hears(one, State::Standby, 2, 1), 1);
    assert_eq!(hears(other, State::Draining, 1, 7), 0);
}

#[test]
fn nobody_is_told_of_a_link_local_address_or_believes_in_one() {
    let (local, global) = ("[fe80::2]:7420".parse().unwrap(), link(2));
    let mut group = Group::new(Policy::Strongest, &[100]);
    let now = group.now();
    let standby = advert(State::Standby, 0, 1);
    let mut known = |at, counter| {
        let selection = &mut group.node(1).selection;
        assert!(selection.heard(id(2), at, &standby, Means::Beacon(1, counter), now));
        selection.decide(&own(100), now).unwrap().advert.peers
    };
    assert!(known(local, 1).is_empty());
    let named = |peers: Vec<Peer>| peers.into_iter().map(|peer| peer.link).collect::<Vec<_>>();
    assert_eq!(named(known(global, 2)), [global]);
    assert_eq!(named(known(local, 3)), [global], "the one that was heard last is of no use to others");

    let peers = vec![Peer { id: id(3), link: local, state: State::Active }];
    let mut client = Selection::new(id(9), 9);
    client.heard(id(2), global, &Advert { peers, ..standby }, Means::Offer(Duration::ZERO), now);
    assert_eq!(client.ranked(now).len(), 1);
}

#[test]
fn clients_spread_over_the_active_ones_and_stay_where_they_are() {
    let now = Instant::now();
    let mut counts = BTreeMap::new();
    for n in 0..200 {
        let mut client = Selection::new(id(n), 0);
        for gateway in 1..=4 {
            let active = advert(State::Active, 0, 4);
            client.heard(id(gateway + 200), link(gateway), &active, Means::Beacon(1, 1), now);
        }
        let chosen = first(&mut client, now);
        *counts.entry(chosen).or_insert(0) += 1;
        let gateway = client.ranked(now).iter().position(|g| g.link == chosen).unwrap();
        let chosen_id = client.ranked(now)[gateway].id.unwrap();
        client.heard(chosen_id, chosen, &advert(State::Active, 200, 4), Means::Beacon(1, 2), now);
        assert_eq!(first(&mut client, now), chosen, "a little load moves nobody");
        client.heard(chosen_id, chosen, &advert(State::Active, 600, 4), Means::Beacon(1, 3), now);
        assert_ne!(first(&mut client, now), chosen);
    }
    assert!(counts.len() == 4 && counts.values().all(|count| *count > 20), "{counts:?}");
}

fn any_advert() -> impl Strategy<Value = Advert> {
    let states = [State::Standby, State::Active, State::Draining, State::Withdrawn];
    let policies = [Policy::Strongest, Policy::LeastBusy, Policy::Random, Policy::RoundRobin];
    let reaches = [Reach::Unknown, Reach::Reachable, Reach::Unreachable];
    let named = || proptest::option::of((0_u8..8).prop_map(id));
    let edge = || prop_oneof![Just(0), Just(u32::MAX), any::<u32>(), 0_u32..4];
    let words = (0..4_usize, 0..4_usize, 0..3_usize, any::<u8>(), any::<bool>());
    let facts = (any::<u16>(), any::<u16>(), edge(), any::<u32>(), any::<u16>());
    (words, facts, edge(), edge(), named(), named()).prop_map(
        move |((state, policy, reach, active, preparing), facts, claim, round, yields_to, replaces)| {
            let (weight, load, capacity, tunnels, interval) = facts;
            let policy = policies[policy];
            Advert {
                state: states[state],
                reach: reaches[reach],
                link_port: 7420,
                weight,
                load,
                capacity,
                tunnels,
                standing: Standing { policy, active, preparing, interval, claim, round, yields_to, replaces },
                peers: vec![Peer { id: id(7), link: link(7), state: states[state] }],
            }
        },
    )
}

proptest! {
    #[test]
    fn clients_agree_whatever_they_heard_first(
        adverts in proptest::collection::vec(any_advert(), 0..6),
        turn in 0_usize..6,
    ) {
        let now = Instant::now();
        let mut heard: Vec<_> = (0..).zip(adverts).collect();
        let mut orders = Vec::new();
        for _ in 0..2 {
            let mut client = Selection::new(id(99), 5);
            for (n, advert) in &heard {
                client.heard(id(*n), link(*n), advert, Means::Beacon(1, 1), now);
            }
            orders.push(client.ranked(now).iter().map(|gateway| gateway.link).collect::<Vec<_>>());
            let middle = turn.min(heard.len());
            heard.rotate_left(middle);
            heard.reverse();
        }
        prop_assert_eq!(&orders[0], &orders[1]);
    }

    #[test]
    fn of_candidates_that_heard_each_other_exactly_as_many_stay_active_as_should(
        claims in proptest::collection::vec(0_u32..4, 1..8),
        replaces in proptest::collection::vec(proptest::option::of(0_u8..8), 8),
        most in 1_usize..4,
    ) {
        let now = Instant::now();
        let seen: Vec<_> = (0..).zip(&claims).map(|(n, claim)| {
            let mut advert = advert(State::Active, 0, 1);
            advert.standing.claim = *claim;
            advert.standing.replaces = replaces[usize::from(n)].map(id);
            Seen::new(id(n), link(n), &advert, now)
        }).collect();
        let kept = actives(seen.iter());
        prop_assert!(!kept.is_empty());
        let mut other_way = seen.clone();
        other_way.reverse();
        let ids = |kept: Vec<&Seen>| kept.iter().take(most).map(|seen| seen.id).collect::<Vec<_>>();
        prop_assert_eq!(ids(kept), ids(actives(other_way.iter())));
    }

    #[test]
    fn arbitrary_adverts_never_panic(
        policy in 0_usize..4,
        prepares: bool,
        steps in proptest::collection::vec((0_u8..8, any_advert(), 0_u64..20_000, any::<bool>()), 0..40),
    ) {
        let policy = [Policy::Strongest, Policy::LeastBusy, Policy::Random, Policy::RoundRobin][policy];
        let mut now = Instant::now();
        let mut node = Selection::new(id(0), 1);
        node.become_candidate(Options { prepares, ..options(policy) });
        for (counter, (n, advert, pause, able)) in (0..).zip(steps) {
            now += Duration::from_millis(pause);
            node.heard(id(n), link(n), &advert, Means::Beacon(1, counter), now);
            let prepared = if able { Prepared::Yes } else { Prepared::Failed };
            let decision = node.decide(&SelfState { able, prepared, ..own(advert.capacity) }, now).unwrap();
            prop_assert!(decision.wake >= now);
            prop_assert!(decision.answers_one_in > 0);
            node.suspect(link(n), now);
            node.proved(link(n), now);
            node.ranked(now);
        }
    }
}
