use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

const OWN: NodeId = NodeId([0xee; 16]);
const FAULT: Fault = Fault { distrust: false, unanswered: false, silent: false, expected: None };

fn id(n: u8) -> NodeId {
    NodeId([n; 16])
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 7420))
}

/// A gateway that was heard in this state.
fn heard(n: u8, state: State) -> KnownGateway {
    KnownGateway {
        id: Some(id(n)),
        announced: Some(id(n)),
        address: address(n),
        state: Some(state),
        was_heard: true,
        is_static: false,
        is_suspect: false,
    }
}

/// An address that the user named.
fn named(n: u8) -> KnownGateway {
    KnownGateway {
        id: None,
        announced: None,
        state: None,
        was_heard: false,
        is_static: true,
        ..heard(n, State::Active)
    }
}

fn up(n: u8) -> UpLink {
    UpLink { address: address(n), gateway: id(n), is_exhausted: false }
}

/// Dialling at a time that a test moves on.
struct Clocked {
    dialing: Dialing,
    now: Instant,
    revoked: HashSet<NodeId>,
}

impl Clocked {
    fn new() -> Self {
        let now = Instant::now();
        Self { dialing: Dialing::new(OWN, now), now, revoked: HashSet::new() }
    }

    fn next(&mut self, ranked: &[KnownGateway], links: &[UpLink]) -> Step {
        let (revoked, now) = (&self.revoked, self.now);
        let is_revoked = &|id| revoked.contains(&id);
        self.dialing.next(&Situation { ranked, links, is_revoked, now })
    }

    /// The number of the gateway that is dialled now, if one is.
    fn dials(&mut self, ranked: &[KnownGateway], links: &[UpLink]) -> Option<u8> {
        match self.next(ranked, links) {
            Step::Dial(gateway) => match gateway.address {
                SocketAddr::V4(v4) => Some(v4.ip().octets()[3]),
                SocketAddr::V6(_) => None,
            },
            Step::WaitUntil(_) => None,
        }
    }

    /// How long nothing is decided.
    fn waits(&mut self, ranked: &[KnownGateway], links: &[UpLink]) -> Duration {
        match self.next(ranked, links) {
            Step::WaitUntil(until) => until - self.now,
            Step::Dial(gateway) => panic!("{gateway:?}"),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

#[test]
fn active_and_static_gateways_are_dialled_at_once_and_standbys_after_the_window() {
    for ranked in [[heard(1, State::Active)], [named(1)]] {
        assert_eq!(Clocked::new().dials(&ranked, &[]), Some(1));
    }
    let mut test = Clocked::new();
    let standby = [heard(1, State::Standby)];
    assert_eq!(test.waits(&standby, &[]), ACTIVE_WINDOW);
    test.pass(ACTIVE_WINDOW);
    assert_eq!(test.dials(&standby, &[]), Some(1));
}

#[test]
fn the_window_begins_when_the_last_link_is_lost() {
    let mut test = Clocked::new();
    let standby = [heard(1, State::Standby)];
    test.pass(Duration::from_secs(60));
    test.next(&standby, &[up(1)]);
    assert_eq!(test.waits(&standby, &[]), ACTIVE_WINDOW);
}

#[test]
fn a_dial_that_hangs_is_hedged_by_the_next_gateway_and_by_no_third() {
    let ranked = [1, 2, 3].map(|n| heard(n, State::Active));
    let mut test = Clocked::new();
    assert_eq!(test.dials(&ranked, &[]), Some(1));
    assert_eq!(test.waits(&ranked, &[]), HEDGE_DELAY);
    test.pass(HEDGE_DELAY);
    assert_eq!(test.dials(&ranked, &[]), Some(2));
    test.pass(HEDGE_DELAY);
    assert_eq!(test.dials(&ranked, &[]), None, "both places are taken");
}

#[test]
fn better_gateways_that_are_found_while_dials_hang_are_dialled_up_to_the_bound() {
    let mut test = Clocked::new();
    let mut ranked = Vec::new();
    for n in 1..=10 {
        ranked.insert(0, heard(n, State::Active));
        let expected = (usize::from(n) <= MAX_DIALS).then_some(n);
        assert_eq!(test.dials(&ranked, &[]), expected);
        test.pass(HEDGE_DELAY);
    }
    test.dialing.failed(address(1), FAULT, test.now);
    assert_eq!(test.dials(&ranked, &[]), Some(10));
}

#[test]
fn a_standby_link_is_made_one_dial_at_a_time_and_no_third_link() {
    let ranked = [1, 2, 3].map(|n| heard(n, State::Standby));
    let mut test = Clocked::new();
    assert_eq!(test.dials(&ranked, &[up(1)]), Some(2));
    assert_eq!(test.dials(&ranked, &[up(1)]), None);
    test.dialing.succeeded(address(2), id(2), test.now);
    assert_eq!(test.waits(&ranked, &[up(1), up(2)]), RECHECK_INTERVAL);
}

#[test]
fn a_standby_link_is_not_made_to_an_address_that_nobody_was_heard_at() {
    let mut test = Clocked::new();
    assert_eq!(test.dials(&[heard(1, State::Active), named(2)], &[up(1)]), None);
}

#[test]
fn a_better_gateway_is_dialled_though_there_are_two_links() {
    let ranked = [3, 1, 2].map(|n| heard(n, State::Active));
    assert_eq!(Clocked::new().dials(&ranked, &[up(1), up(2)]), Some(3));
}

#[test]
fn an_exhausted_link_is_replaced_also_while_its_gateway_is_leaving() {
    let exhausted = UpLink { is_exhausted: true, ..up(1) };
    for state in [State::Active, State::Draining] {
        assert_eq!(Clocked::new().dials(&[heard(1, state)], &[exhausted]), Some(1));
        assert_eq!(Clocked::new().dials(&[heard(1, state)], &[exhausted, up(1)]), None);
    }
}

#[test]
fn a_gateway_that_failed_is_paused_and_the_next_one_is_dialled() {
    let ranked = [1, 2].map(|n| heard(n, State::Active));
    let mut test = Clocked::new();
    assert_eq!(test.dials(&ranked, &[]), Some(1));
    assert_eq!(test.dialing.failed(address(1), FAULT, test.now), 1);
    assert_eq!(test.dials(&ranked, &[]), Some(2));
    test.dialing.failed(address(2), FAULT, test.now);
    let pause = test.waits(&ranked, &[]);
    assert!(pause > Duration::ZERO && pause < Duration::from_secs(1), "{pause:?}");
    test.pass(pause);
    assert_eq!(test.dials(&ranked, &[]), Some(1));
}

#[test]
fn the_other_addresses_of_a_gateway_are_tried_last_and_only_without_a_link() {
    let mut other = heard(9, State::Active);
    other.id = Some(id(1));
    let ranked = [heard(1, State::Active), other.clone(), heard(2, State::Active)];
    let mut test = Clocked::new();
    assert_eq!(test.dials(&ranked, &[]), Some(1));
    test.pass(HEDGE_DELAY);
    assert_eq!(test.dials(&ranked, &[]), Some(2));
    test.dialing.failed(address(2), FAULT, test.now);
    test.pass(HEDGE_DELAY);
    let ranked = [heard(1, State::Active), other];
    assert_eq!(test.dials(&ranked, &[]), Some(9), "nobody else is left");
    assert_eq!(Clocked::new().dials(&ranked, &[up(1)]), None);
}

#[test]
fn addresses_are_known_by_the_gateway_that_answered_there() {
    let mut test = Clocked::new();
    test.dialing.succeeded(address(1), id(7), test.now);
    test.dialing.succeeded(address(2), OWN, test.now);
    let link = UpLink { address: address(7), ..up(7) };
    assert_eq!(test.dials(&[named(1)], &[link]), None, "it is linked at another address");
    assert_eq!(test.dials(&[named(2)], &[]), None, "this node itself");
}

#[test]
fn a_leaving_gateway_is_dialled_only_when_nobody_else_is_left() {
    let leaving = [heard(1, State::Draining), heard(2, State::Withdrawn)];
    assert_eq!(Clocked::new().dials(&leaving, &[up(3)]), None);
    let mut test = Clocked::new();
    test.pass(ACTIVE_WINDOW);
    assert_eq!(test.dials(&leaving, &[]), Some(1));
}

#[test]
fn a_removed_member_is_never_dialled() {
    let mut test = Clocked::new();
    test.revoked.insert(id(1));
    assert_eq!(test.dials(&[heard(1, State::Active), heard(2, State::Active)], &[]), Some(2));
    test.dialing.failed(address(2), FAULT, test.now);
    test.pass(Duration::from_secs(3600));
    assert_eq!(test.dials(&[heard(1, State::Active)], &[]), None);
}

#[test]
fn an_address_is_dialled_again_after_the_gateway_that_answered_there_was_removed() {
    let mut test = Clocked::new();
    test.dialing.succeeded(address(1), id(7), test.now);
    test.revoked.insert(id(7));
    // Two ids were heard there, so the handshake is to tell who it is.
    let joined_again = KnownGateway { id: None, ..heard(1, State::Active) };
    assert_eq!(test.dials(&[joined_again], &[up(2)]), Some(1), "as the standby");
    test.dialing.failed(address(1), FAULT, test.now);
    test.pass(Duration::from_secs(1));
    assert_eq!(test.dials(&[named(1)], &[]), Some(1), "nothing is heard there");
}

#[test]
fn a_gateway_that_has_moved_leaves_its_address_to_the_one_that_is_heard_there() {
    let mut test = Clocked::new();
    let moved = UpLink { address: address(3), ..up(1) };
    test.dialing.succeeded(address(1), id(1), test.now);
    test.dialing.succeeded(address(3), id(1), test.now);
    let at_its_address = KnownGateway { id: None, announced: Some(id(2)), ..heard(1, State::Active) };
    assert_eq!(
        test.dials(std::slice::from_ref(&at_its_address), &[moved]),
        None,
        "it has just proved itself"
    );
    test.pass(PROOF);
    assert_eq!(test.dials(std::slice::from_ref(&at_its_address), &[moved]), Some(1));
    test.dialing.succeeded(address(1), id(2), test.now);
    assert_eq!(test.dialing.identity(&at_its_address), Some(id(2)));
}

#[test]
fn a_liar_at_the_address_of_a_gateway_costs_one_dial_a_minute_and_displaces_nobody() {
    let mut test = Clocked::new();
    test.dialing.succeeded(address(1), id(1), test.now);
    let linked = UpLink { address: address(3), ..up(1) };
    let mut dials = 0;
    for _ in 0..600 {
        // The gateway itself is not heard there, and answers.
        let claimed = KnownGateway { id: None, announced: Some(id(9)), ..heard(1, State::Active) };
        if test.dials(&[claimed], &[linked]).is_some() {
            dials += 1;
            test.dialing.succeeded(address(1), id(1), test.now);
        }
        test.pass(Duration::from_secs(1));
    }
    assert_eq!(dials, 9);
}

#[test]
fn the_lan_is_searched_while_no_link_may_be_expected() {
    let test = Clocked::new();
    let needs = |ranked: &[KnownGateway], links: &[UpLink]| {
        test.dialing.needs_search(&Situation { ranked, links, is_revoked: &|_| false, now: test.now })
    };
    assert!(needs(&[], &[]) && needs(&[heard(1, State::Standby), named(2)], &[]));
    assert!(!needs(&[], &[up(1)]) && !needs(&[heard(1, State::Active)], &[]));
    assert!(needs(&[KnownGateway { is_suspect: true, ..heard(1, State::Active) }], &[]));
}

#[test]
fn links_are_used_in_the_order_of_the_ranking_and_those_to_leaving_gateways_last() {
    let ranked = [heard(1, State::Draining), heard(2, State::Standby), heard(3, State::Active)];
    let places = [2, 3, 1, 4].map(|n| place(up(n), &ranked));
    assert_eq!(places, [(false, 1), (false, 2), (true, 0), (false, usize::MAX)]);
    let many = [(false, 1); 9];
    assert_eq!([1, 2, 6].map(|wanted| kept(&many, wanted)), [1, 2, 6]);
    assert_eq!(kept(&[(false, 1), (true, 0)], 2), 1, "there is a better one");
    assert_eq!(kept(&[(true, 0), (true, 1)], 2), 1, "better than none");
    assert_eq!(kept(&[], 2), 0);
}

#[test]
fn more_links_are_kept_while_gateways_are_in_doubt_and_for_a_while_after_a_large_download() {
    let (mut test, now) = (Clocked::new(), Instant::now());
    assert_eq!([0, 1, 9].map(|doubted| test.dialing.aim(doubted, now)), [LINKS, LINKS + 1, MAX_LINKS]);
    assert!(test.dialing.want_more(now) && !test.dialing.want_more(now));
    assert_eq!(test.dialing.aim(0, now), MAX_LINKS);
    let ranked = [1, 2, 3].map(|n| heard(n, State::Standby));
    assert_eq!(test.next(&ranked, &[up(1), up(2)]), Step::Dial(ranked[2].clone()));
    assert_eq!(test.dialing.aim(0, now + MORE), LINKS);
}

/// Gateways of a simulation. One of them is this node itself.
const GATEWAYS: u8 = 8;
const SELF: u8 = 7;

#[derive(Clone, Debug)]
enum Event {
    /// The gateway is known from now on, in this state; `None` has only been named.
    Known(u8, Option<State>),
    /// The directory has forgotten the gateway.
    Forgotten(u8),
    /// The ranking is turned by this many places.
    Reranked(usize),
    /// The oldest dial ends: it succeeds, or fails with this fault.
    Ended(Result<(), Fault>),
    /// The link in use is lost, or exhausted.
    Lost,
    Exhausted,
    Revoked(u8),
    /// Time passes, in milliseconds.
    Passes(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let state = proptest::option::of(prop_oneof![
        Just(State::Active),
        Just(State::Standby),
        Just(State::Draining),
        Just(State::Withdrawn)
    ]);
    let fault = (any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(distrust, unanswered, silent)| Fault { distrust, unanswered, silent, expected: None });
    prop_oneof![
        4 => (0..GATEWAYS, state).prop_map(|(n, state)| Event::Known(n, state)),
        1 => (0..GATEWAYS).prop_map(Event::Forgotten),
        1 => (0..8_usize).prop_map(Event::Reranked),
        2 => Just(Event::Ended(Ok(()))),
        3 => fault.prop_map(|fault| Event::Ended(Err(fault))),
        2 => Just(Event::Lost),
        1 => Just(Event::Exhausted),
        1 => (0..GATEWAYS).prop_map(Event::Revoked),
        4 => (0..3000_u64).prop_map(Event::Passes),
    ]
}

/// A node whose dials a simulation ends as it likes.
struct Simulation {
    test: Clocked,
    ranked: Vec<KnownGateway>,
    links: Vec<UpLink>,
    under_way: Vec<KnownGateway>,
    /// When a dial failed last while its gateway was heard: no dial follows within 100 ms.
    failed: HashMap<SocketAddr, Instant>,
}

impl Simulation {
    fn new() -> Self {
        let (ranked, links, under_way) = (Vec::new(), Vec::new(), Vec::new());
        Self { test: Clocked::new(), ranked, links, under_way, failed: HashMap::new() }
    }

    /// The gateway that answers at an address.
    fn at(address: SocketAddr) -> NodeId {
        let this = (0..GATEWAYS).find(|n| self::address(*n) == address).expect("all are numbered");
        if this == SELF { OWN } else { id(this) }
    }

    fn apply(&mut self, event: Event) {
        let now = self.test.now;
        match event {
            Event::Known(n, state) => {
                self.ranked.retain(|gateway| gateway.address != address(n));
                let known = state.map_or(named(n), |state| heard(n, state));
                let own = (n == SELF && state.is_some()).then_some(OWN);
                let (id, announced) = (own.or(known.id), own.or(known.announced));
                self.ranked.push(KnownGateway { id, announced, ..known });
            }
            Event::Forgotten(n) => self.ranked.retain(|gateway| gateway.address != address(n)),
            Event::Reranked(by) => {
                let by = by % self.ranked.len().max(1);
                self.ranked.rotate_left(by);
            }
            Event::Ended(result) if !self.under_way.is_empty() => {
                let gateway = self.under_way.remove(0);
                self.ended(&gateway, result);
            }
            Event::Ended(_) => {}
            Event::Lost => drop(self.links.drain(..self.links.len().min(1))),
            Event::Exhausted => self.links.iter_mut().take(1).for_each(|link| link.is_exhausted = true),
            Event::Revoked(n) => {
                self.test.revoked.insert(id(n));
                self.links.retain(|link| link.gateway != id(n));
            }
            Event::Passes(milliseconds) => self.test.now = now + Duration::from_millis(milliseconds),
        }
    }

    fn ended(&mut self, gateway: &KnownGateway, result: Result<(), Fault>) {
        let (address, now) = (gateway.address, self.test.now);
        let id = Self::at(address);
        match result {
            Ok(()) if !self.test.revoked.contains(&id) => {
                self.test.dialing.succeeded(address, id, now);
                self.failed.remove(&address);
                if id == OWN || self.links.iter().any(|link| link.gateway == id && !link.is_exhausted) {
                    return;
                }
                self.links.retain(|link| link.gateway != id);
                self.links.push(UpLink { address, gateway: id, is_exhausted: false });
                let ranked = &self.ranked;
                self.links.sort_by_key(|link| place(*link, ranked));
                let places: Vec<_> = self.links.iter().map(|link| place(*link, ranked)).collect();
                self.links.truncate(kept(&places, LINKS));
            }
            Ok(()) => _ = self.test.dialing.failed(address, Fault { distrust: true, ..FAULT }, now),
            Err(fault) => {
                let fault = Fault { expected: gateway.announced.or(gateway.id), ..fault };
                self.test.dialing.failed(address, fault, now);
                if !fault.silent {
                    self.failed.insert(address, now);
                }
            }
        }
    }

    /// Dials all that is to be dialled now, and checks every step. Returns how long nothing is to be done.
    fn settle(&mut self) -> Duration {
        for _ in 0..=MAX_DIALS {
            match self.test.next(&self.ranked, &self.links) {
                Step::Dial(gateway) => self.dial(gateway),
                Step::WaitUntil(until) => {
                    let wait = until.saturating_duration_since(self.test.now);
                    self.check_wait(wait);
                    return wait;
                }
            }
        }
        panic!("dials without end");
    }

    fn dial(&mut self, gateway: KnownGateway) {
        let (address, now) = (gateway.address, self.test.now);
        let known = self.test.dialing.identity(&gateway);
        assert_ne!(known, Some(OWN));
        assert!(!known.is_some_and(|id| self.test.revoked.contains(&id)), "revoked: {gateway:?}");
        assert_eq!(self.test.dialing.paused_until(&gateway, now), None, "paused: {gateway:?}");
        if let Some(failed) = self.failed.get(&address) {
            assert!(now >= *failed + Duration::from_millis(100), "at once again: {gateway:?}");
        }
        assert!(!self.under_way.iter().any(|other| other.address == address), "twice: {gateway:?}");
        assert!(!self.links.iter().any(|link| link.address == address && !link.is_exhausted));
        self.under_way.push(gateway);
        assert!(self.under_way.len() <= MAX_DIALS);
    }

    fn check_wait(&self, wait: Duration) {
        assert!(wait > Duration::ZERO && wait <= RECHECK_INTERVAL, "{wait:?}");
        if !self.links.is_empty() || !self.under_way.is_empty() {
            return;
        }
        // Without a link and without a dial, the next dial of any usable gateway is due in time.
        for gateway in self.usable() {
            let pause = self.test.dialing.paused_until(gateway, self.test.now);
            let due = pause.unwrap_or(self.test.now + ACTIVE_WINDOW) - self.test.now;
            assert!(wait <= due.max(ACTIVE_WINDOW), "{wait:?} for {gateway:?}, due in {due:?}");
        }
    }

    fn usable(&self) -> impl Iterator<Item = &KnownGateway> {
        self.ranked.iter().filter(|gateway| {
            let id = Self::at(gateway.address);
            id != OWN && !self.test.revoked.contains(&id)
        })
    }
}

proptest! {
    #[test]
    fn whatever_happens_dialling_keeps_its_rules_and_ends_linked(events in proptest::collection::vec(event(), 1..120)) {
        let mut simulation = Simulation::new();
        for event in events {
            simulation.apply(event);
            simulation.settle();
        }
        // From now on every dial of a member succeeds. The longest pause is 300 s.
        let end = simulation.test.now + Duration::from_secs(400);
        while simulation.links.is_empty() && simulation.test.now < end {
            let wait = simulation.settle();
            if simulation.under_way.is_empty() {
                simulation.test.now += wait;
            } else {
                simulation.apply(Event::Ended(Ok(())));
            }
        }
        prop_assert!(!simulation.links.is_empty() || simulation.usable().next().is_none());
    }
}

#[test]
fn an_address_that_only_gateways_reach_is_dialled_after_those_on_this_machines_networks() {
    let unheard = |n| KnownGateway { state: None, was_heard: false, ..heard(n, State::Active) };
    let is_near = |ip: IpAddr| ip != address(1).ip() && ip != address(4).ip();
    let order = |ranked: &[KnownGateway]| {
        let mut ranked = ranked.to_vec();
        near_first(&mut ranked, &is_near);
        let place = |gateway: &KnownGateway| (1..9).find(|n| address(*n) == gateway.address).unwrap();
        ranked.iter().map(place).collect::<Vec<_>>()
    };
    assert_eq!(order(&[unheard(1), unheard(2), unheard(3)]), [2, 3, 1]);
    assert_eq!(order(&[heard(4, State::Active), unheard(1), unheard(2)]), [4, 2, 1], "it is heard");
    assert_eq!(order(&[named(1), unheard(4), unheard(2)]), [1, 2, 4], "the user named it");
    assert_eq!(order(&[unheard(1), heard(2, State::Draining)]), [1, 2], "better than none");
}

#[test]
fn gateways_in_doubt_come_last_once_they_would_take_all_places() {
    let of = |doubted: &[u8]| {
        // The first one has two addresses.
        let mut ranked: Vec<_> = (1..=8).map(|n| heard(n, State::Active)).collect();
        ranked.insert(1, KnownGateway { address: address(100), ..heard(1, State::Active) });
        doubted_last(&mut ranked, &|gateway| doubted.iter().any(|n| id(*n) == gateway));
        ranked.iter().map(|gateway| gateway.id.unwrap().0[0]).collect::<Vec<_>>()
    };
    assert_eq!(of(&[1, 2, 3, 4, 5]), [1, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(of(&[1, 2, 3, 4, 5, 6]), [7, 8, 1, 1, 2, 3, 4, 5, 6]);
    assert_eq!(of(&[1, 2, 3, 4, 5, 6, 7, 8]), [1, 1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_gateways_address_of_the_local_link_is_dialled_after_its_others_that_are_heard() {
    let at = |ip: &str, id: u8, state| KnownGateway {
        address: SocketAddr::new(ip.parse().unwrap(), 7420),
        state,
        ..heard(id, State::Active)
    };
    let (active, standby) = (Some(State::Active), Some(State::Standby));
    let order = |ranked: &[KnownGateway]| {
        let mut ranked = ranked.to_vec();
        link_local_last(&mut ranked);
        ranked.iter().map(|gateway| (gateway.address.ip().to_string(), gateway.state)).collect::<Vec<_>>()
    };
    let text = |ip: &str, state| (ip.to_owned(), state);
    // Its newest announcement has come at one of them only.
    let ranked = [at("fe80::1", 1, active), at("10.0.0.2", 2, standby), at("10.0.0.1", 1, standby)];
    assert_eq!(
        order(&ranked),
        [text("10.0.0.1", active), text("fe80::1", active), text("10.0.0.2", standby)]
    );
    let silent = [at("fe80::1", 1, active), at("10.0.0.1", 1, None)];
    assert_eq!(order(&silent), [text("fe80::1", active), text("10.0.0.1", None)]);
    let of_another = [at("fe80::1", 1, active), at("10.0.0.2", 2, active)];
    assert_eq!(order(&of_another), [text("fe80::1", active), text("10.0.0.2", active)]);
}
