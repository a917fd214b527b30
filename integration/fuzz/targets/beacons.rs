//! The selection with arbitrary beacons of members, in any order and at any time.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use laneway::peers::selection::{Means, Options, Prepared, Selection, SelfState, Source};
use laneway::wire::datagram::{Advert, MOST_PEERS, Policy, Reach, Standing, State};
use laneway::wire::id::NodeId;

use super::input::Choices;

const POLICIES: [Policy; 4] = [Policy::Strongest, Policy::LeastBusy, Policy::Random, Policy::RoundRobin];
const STATES: [State; 4] = [State::Standby, State::Active, State::Draining, State::Withdrawn];
const REACH: [Reach; 3] = [Reach::Unknown, Reach::Reachable, Reach::Unreachable];

/// `data` is read as a sequence of choices: the kind of candidate, then what happens to it.
pub fn run(data: &[u8]) {
    let mut choices = Choices(data);
    let own = id(choices.byte() % 8);
    let mut selection = Selection::new(own, u64::from_be_bytes(choices.array()));
    let is_candidate = !choices.flag();
    if is_candidate {
        selection.become_candidate(options(&mut choices));
    }
    let mut now = Instant::now();
    while !choices.is_empty() {
        match choices.byte() % 8 {
            0..=3 => {
                let (id, link) = (id(choices.byte() % 8), link(choices.byte()));
                let means = if choices.flag() {
                    Means::Beacon(u64::from(choices.byte() % 3), u64::from(choices.byte()))
                } else {
                    Means::Offer(Duration::from_millis(choices.byte().into()))
                };
                let heard = selection.heard(id, link, &advert(&mut choices), means, now);
                assert!(!(heard && id == own), "its own echo");
            }
            4 => selection.suspect(link(choices.byte()), now),
            5 => selection.proved(link(choices.byte()), now),
            6 => selection.add_address(
                link(choices.byte()),
                choices.of(&[Source::Static, Source::Named, Source::Remembered]),
            ),
            _ => now += Duration::from_millis(1 << (choices.byte() % 26)),
        }
        check(&mut selection, &facts(&mut choices), is_candidate, now);
    }
}

fn check(selection: &mut Selection, own: &SelfState, is_candidate: bool, now: Instant) {
    let ranked = selection.ranked(now);
    let links: HashSet<_> = ranked.iter().map(|gateway| gateway.link).collect();
    assert!(links.len() == ranked.len() && ranked.len() <= 256);

    let decision = selection.decide(own, now);
    assert_eq!(decision.is_some(), is_candidate);
    let Some(decision) = decision else { return };
    assert!(decision.wake >= now && decision.answers_one_in > 0 && decision.advert.peers.len() <= MOST_PEERS);
    let drains = own.draining || own.in_maintenance && own.tunnels > 0;
    assert_eq!(decision.advert.state == State::Draining, drains && decision.advert.state != State::Withdrawn);
}

fn id(number: u8) -> NodeId {
    NodeId([number + 1; 16])
}

fn link(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number % 16], 7420))
}

fn options(choices: &mut Choices<'_>) -> Options {
    Options {
        policy: choices.of(&POLICIES),
        active: (choices.byte() % 4).max(1),
        rotate: Duration::from_secs(u64::from(choices.byte()) + 1),
        link_port: 7420,
        weight: choices.byte().into(),
        prepares: choices.flag(),
    }
}

fn facts(choices: &mut Choices<'_>) -> SelfState {
    let said = choices.byte();
    SelfState {
        able: said & 1 == 0,
        reach: REACH[usize::from(said >> 1 & 3).min(2)],
        prepared: [Prepared::No, Prepared::Yes, Prepared::Failed][usize::from(said >> 3 & 3).min(2)],
        draining: said >= 0xf0,
        in_maintenance: (0xe0..0xf0).contains(&said),
        load: u16::from(said) * 257,
        capacity: 1 << (said % 32),
        tunnels: said.into(),
    }
}

fn advert(choices: &mut Choices<'_>) -> Advert {
    let named = choices.byte();
    let whom = |bits: u8| Some(id(bits & 7)).filter(|_| bits & 8 > 0);
    Advert {
        state: choices.of(&STATES),
        reach: choices.of(&REACH),
        link_port: 7420,
        weight: u16::from_be_bytes(choices.array()),
        load: u16::from_be_bytes(choices.array()),
        capacity: u32::from_be_bytes(choices.array()),
        tunnels: 0,
        standing: Standing {
            policy: choices.of(&POLICIES),
            active: choices.byte(),
            preparing: choices.flag(),
            interval: u16::from_be_bytes(choices.array()),
            claim: u32::from_be_bytes(choices.array()),
            round: u32::from_be_bytes(choices.array()),
            yields_to: whom(named),
            replaces: whom(named >> 4),
        },
        peers: Vec::new(),
    }
}
