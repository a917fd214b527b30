//! What a member that may be a gateway achieves by lying in its beacons.

use proptest::prelude::*;

use super::order::is_later;
use super::tests::{Group, advert, first, id, link, options, own};
use super::*;

/// What a liar says of itself: active, by this claim, and better than all others.
fn active_by(claim: u32) -> Advert {
    let standing = Standing { active: 1, interval: u16::MAX, claim, ..Standing::default() };
    Advert { weight: u16::MAX, capacity: u32::MAX, standing, ..advert(State::Active, 0, 1) }
}

/// Candidates of which the last one lies.
fn with_liar(policy: Policy, honest: u8) -> (Group, u8) {
    let mut group = Group::new(policy, &vec![100; usize::from(honest) + 1]);
    let liar = honest + 1;
    group.node(liar).says = Some(Advert { state: State::Withdrawn, ..active_by(0) });
    group.run(30);
    (group, liar)
}

/// The honest candidates that are active.
fn honest(group: &Group, liar: u8) -> Vec<u8> {
    group.active().into_iter().filter(|n| *n != liar).collect()
}

fn promotions(group: &Group, liar: u8) -> usize {
    group.promotions.iter().filter(|(_, n)| *n != liar).count()
}

#[test]
fn a_claim_far_ahead_takes_the_role_from_nobody_and_the_role_is_still_passed_on() {
    let (mut group, liar) = with_liar(Policy::RoundRobin, 3);
    let before = honest(&group, liar);
    group.node(liar).says = Some(active_by(u32::MAX));
    group.run(10);
    assert_eq!(honest(&group, liar), before);
    group.node(liar).alive = false;
    group.promotions.clear();
    group.run(300);
    assert!(promotions(&group, liar) >= 4, "{:?}", group.promotions);
    assert_eq!(group.active().len(), 1);
}

#[test]
fn the_role_is_passed_on_after_somebody_held_it_by_the_last_number() {
    let mut group = Group::new(Policy::RoundRobin, &[100]);
    group.node(1).says = Some(active_by(u32::MAX));
    group.run(1);
    for n in 2..=4 {
        group.add(n, options(Policy::RoundRobin), own(100));
    }
    group.run(30);
    assert_eq!(group.active(), [1], "the role is not vacant");
    group.node(1).alive = false;
    group.wait(5, |group| group.active().len() == 1);
    group.promotions.clear();
    group.run(300);
    assert!(group.promotions.len() >= 4, "{:?}", group.promotions);
    assert!(group.vacant <= Duration::from_secs(5), "{:?}", group.vacant);
}

#[test]
fn gateways_that_missed_each_others_changes_for_years_agree_when_they_meet() {
    for missed in [1_000, 1 << 20, 1 << 31, u32::MAX - 1] {
        let mut group = Group::new(Policy::Strongest, &[100, 100, 100]);
        group.node(1).alive = false;
        group.deaf = vec![2, 3];
        let now = group.now();
        group.node(2).selection.heard(id(1), link(1), &active_by(missed), Means::Beacon(1, 1), now);
        group.run(10);
        assert_eq!(group.active(), [2, 3], "two halves");
        group.deaf.clear();
        group.wait(3, |group| group.active().len() == 1);
        group.promotions.clear();
        group.run(120);
        assert!(group.promotions.is_empty(), "{missed}: {:?}", group.promotions);
    }
}

#[test]
fn an_active_gateway_that_announces_a_long_interval_is_missed_as_soon_as_any_other() {
    let (mut group, liar) = with_liar(Policy::Strongest, 2);
    group.node(liar).says = Some(active_by(2));
    group.wait(2, |group| honest(group, liar).is_empty());
    group.node(liar).alive = false;
    group.wait(5, |group| honest(group, liar).len() == 1);
}

#[test]
fn a_gateway_that_changes_its_state_with_each_beacon_moves_the_role_only_a_few_times() {
    let (mut group, liar) = with_liar(Policy::Strongest, 4);
    group.promotions.clear();
    for turn in 0..240 {
        let claim =
            group.nodes.values().filter_map(|node| node.said.as_ref()).map(|said| said.standing.claim);
        let claim = claim.max().unwrap_or_default() + 1;
        let state = if turn % 2 == 0 { State::Active } else { State::Standby };
        group.node(liar).says = Some(Advert { state, ..active_by(claim) });
        group.run(1);
    }
    let moved = promotions(&group, liar);
    assert!(moved <= 4 * 8, "{moved} times in four minutes");
    group.node(liar).alive = false;
    group.wait(66, |group| group.active().len() == 1);
}

#[test]
fn a_gateway_that_has_just_taken_the_role_cannot_pass_it_on() {
    let (mut group, liar) = with_liar(Policy::Strongest, 3);
    let calls = |to, claim| {
        let mut advert = active_by(claim);
        advert.standing.yields_to = Some(id(to));
        Some(advert)
    };
    let before = honest(&group, liar)[0];
    let other = before % 3 + 1;
    group.promotions.clear();
    group.node(liar).says = calls(other, 2);
    group.run(9);
    assert!(honest(&group, liar).is_empty(), "{:?}", group.promotions);
    group.wait(2, |group| honest(group, liar) == [other]);
}

#[test]
fn gateways_that_prepare_for_ever_delay_the_others_by_a_minute() {
    let mut group = Group::new(Policy::Strongest, &[100]);
    let latent = SelfState { able: false, reach: Reach::Unreachable, ..own(100) };
    group.add(2, Options { prepares: true, ..options(Policy::Strongest) }, latent);
    let mut preparing = Advert { state: State::Standby, ..active_by(0) };
    preparing.standing.preparing = true;
    group.node(1).says = Some(preparing);
    group.wait(63, |group| group.nodes[&2].wanted);
}

#[test]
fn any_number_of_gateways_that_say_they_must_prepare_delay_the_others_by_a_minute() {
    let mut group = Group::new(Policy::Strongest, &[100; 40]);
    let says = Advert { state: State::Standby, reach: Reach::Unreachable, ..active_by(0) };
    for n in 1..=40 {
        group.node(n).says = Some(says.clone());
    }
    let latent = SelfState { able: false, reach: Reach::Unreachable, ..own(100) };
    group.add(41, Options { prepares: true, ..options(Policy::Strongest) }, latent);
    group.wait(60, |group| group.nodes[&41].wanted);
}

#[test]
fn a_gateway_that_calls_a_successor_for_ever_does_not_keep_others_from_it() {
    let mut group = Group::new(Policy::RoundRobin, &[]);
    for n in 1..=4 {
        group.add(n, Options { active: 2, ..options(Policy::RoundRobin) }, own(100));
    }
    let mut calls = active_by(1);
    calls.standing.yields_to = Some(id(9));
    group.node(4).says = Some(calls);
    group.run(30);
    group.promotions.clear();
    group.run(360);
    assert!(promotions(&group, 4) >= 3, "{:?}", group.promotions);
}

#[test]
fn a_round_that_a_standby_announces_is_no_round() {
    let (mut group, liar) = with_liar(Policy::Random, 3);
    let mut far = Advert { state: State::Standby, ..active_by(0) };
    far.standing.round = u32::MAX;
    group.node(liar).says = Some(far);
    group.run(60 * 20);
    let now = group.now();
    let facts = own(100);
    let round = group.node(1).selection.decide(&facts, now).unwrap().advert.standing.round;
    assert!((15..=25).contains(&round), "{round}");
}

#[test]
fn a_beacon_from_the_address_of_another_gateway_does_not_silence_that_one() {
    let now = Instant::now();
    let mut client = Selection::new(id(99), 0);
    let hears = |client: &mut Selection, n, counter| {
        client.heard(id(n), link(1), &advert(State::Active, 0, 1), Means::Beacon(1, counter), now)
    };
    assert!(hears(&mut client, 1, 5));
    assert!(hears(&mut client, 2, 900));
    assert!(hears(&mut client, 1, 6), "the gateway is silent");
    let ranked = client.ranked(now);
    assert_eq!(ranked.len(), 1);
    assert_eq!(ranked[0].id, None, "only the handshake tells which of them is there");
}

#[test]
fn the_only_gateway_that_is_heard_at_an_address_is_known_and_a_removed_one_is_forgotten() {
    let mut now = Instant::now();
    let mut client = Selection::new(id(99), 0);
    let hears = |client: &mut Selection, n, now| {
        client.heard(id(n), link(1), &advert(State::Active, 0, 1), Means::Beacon(1, 1), now)
    };
    let who = |client: &mut Selection, now| {
        let ranked = client.ranked(now);
        assert_eq!(ranked.len(), 1);
        (ranked[0].id, ranked[0].announced)
    };
    hears(&mut client, 1, now);
    assert_eq!(who(&mut client, now), (Some(id(1)), Some(id(1))));
    hears(&mut client, 2, now);
    assert_eq!(who(&mut client, now), (None, None), "both are heard");
    now += SILENCE;
    hears(&mut client, 3, now);
    assert_eq!(who(&mut client, now), (None, Some(id(3))), "it may lie");
    client.forget(&|other| other == id(1) || other == id(2));
    assert_eq!(who(&mut client, now), (Some(id(3)), Some(id(3))));
}

#[test]
fn a_gateway_with_a_thousand_addresses_displaces_no_other() {
    let now = Instant::now();
    let mut client = Selection::new(id(99), 0);
    client.heard(id(1), link(1), &advert(State::Active, 0, 1), Means::Beacon(1, 1), now);
    for n in 0..1000 {
        let at = SocketAddr::new(link(2).ip(), 1 + n);
        let later = now + Duration::from_millis(n.into());
        client.heard(id(2), at, &advert(State::Standby, 0, 1), Means::Beacon(1, n.into()), later);
    }
    assert_eq!(first(&mut client, now + Duration::from_secs(1)), link(1));
    assert!(client.ranked(now).len() < 20);
}

#[test]
fn a_gateway_that_does_not_answer_stays_suspect_when_it_starts_again_or_moves() {
    let now = Instant::now();
    let mut client = Selection::new(id(99), 0);
    client.heard(id(2), link(2), &advert(State::Standby, 0, 1), Means::Beacon(1, 1), now);
    for boot in 1..=3 {
        client.heard(id(1), link(1), &advert(State::Active, 0, 1), Means::Beacon(boot, 1), now);
        client.suspect(link(1), now);
    }
    client.heard(id(1), link(1), &advert(State::Active, 0, 1), Means::Beacon(4, 1), now);
    assert_eq!(first(&mut client, now), link(2));
    client.heard(id(1), link(3), &advert(State::Active, 0, 1), Means::Beacon(4, 2), now);
    assert_eq!(first(&mut client, now), link(2));
}

#[test]
fn a_gateway_that_answers_pings_and_leaves_connections_unanswered_is_left_longer_each_time() {
    let (mut now, mut counter) = (Instant::now(), 0);
    let mut client = Selection::new(id(99), 0);
    let mut first_at = |client: &mut Selection, now| {
        counter += 1;
        for (n, state) in [(1, State::Active), (2, State::Standby)] {
            client.heard(id(n), link(n), &advert(state, 0, 1), Means::Beacon(1, counter), now);
        }
        first(client, now)
    };
    assert_eq!(first_at(&mut client, now), link(1));
    for times in 1..=4 {
        client.suspect(link(1), now);
        client.proved(link(1), now);
        let back = now + Duration::from_secs(2) * times;
        assert_eq!(first_at(&mut client, back - Duration::from_millis(1)), link(2));
        assert_eq!(first_at(&mut client, back), link(1));
        now = back;
    }
}

#[test]
fn of_gateways_that_did_not_answer_each_is_tried_before_one_is_tried_again() {
    let mut now = Instant::now();
    let mut client = Selection::new(id(99), 0);
    for n in 1..=3 {
        client.heard(id(n), link(n), &advert(State::Standby, 0, 1), Means::Beacon(1, 1), now);
    }
    // The third has been suspected often; now it is the one that answers.
    (0..4).for_each(|_| client.suspect(link(3), now));
    let mut tried = Vec::new();
    for _ in 0..3 {
        now += Duration::from_millis(250);
        let next = first(&mut client, now);
        client.suspect(next, now);
        tried.push(next);
    }
    tried.sort();
    assert_eq!(tried, [1, 2, 3].map(link));
}

#[test]
fn gateways_that_change_their_load_or_their_state_with_each_beacon_do_not_move_a_client_with_each() {
    for flapping in [false, true] {
        let mut client = Selection::new(id(99), 0);
        let (mut now, mut moved, mut before) = (Instant::now(), 0, None);
        for counter in 1..=120 {
            now += Duration::from_millis(500);
            let turn = counter % 2 == 0;
            let honest = advert(State::Active, 500, 2);
            let mut lies = advert(State::Active, if turn { 0 } else { 1000 }, 2);
            if flapping {
                lies = advert(if turn { State::Active } else { State::Standby }, 0, 2);
                lies.standing.claim = 9;
            }
            client.heard(id(1), link(1), &honest, Means::Beacon(1, counter), now);
            client.heard(id(2), link(2), &lies, Means::Beacon(1, counter), now);
            let first = Some(first(&mut client, now));
            moved += usize::from(std::mem::replace(&mut before, first) != first);
        }
        assert!(moved <= 14, "{moved} times in a minute");
    }
}

#[test]
fn a_third_of_a_hundred_candidates_that_claim_to_be_better_keep_no_query_from_being_answered() {
    let mut group = Group::new(Policy::Strongest, &[100]);
    let now = group.now();
    for n in 2..=100 {
        let says = if n < 35 { active_by(9) } else { advert(State::Standby, 0, 1) };
        group.node(1).selection.heard(id(n), link(n), &says, Means::Beacon(1, 1), now);
    }
    let one_in = group.node(1).selection.decide(&own(50), now).unwrap().answers_one_in;
    assert!(one_in <= 50, "one in {one_in}");
}

#[test]
fn one_candidate_that_sends_often_does_not_silence_the_crowd() {
    let seconds = |n| Duration::from_secs(n);
    let (start, crowd) = (Instant::now(), Standbys { in_line: LINE, before: LINE, is_clearly_better: false });
    let essentials = Essentials { state: State::Standby, preparing: false, yields_to: None };
    let mut spoken = 0;
    let mut schedule = Schedule::new(5);
    for n in 0..400 {
        let now = start + seconds(n);
        schedule.heard(id(2), seconds(16), now);
        spoken += usize::from(schedule.step(essentials, crowd, now).0);
    }
    assert!(spoken >= 15, "{spoken} beacons in 400 s");
}

proptest! {
    #[test]
    fn of_two_claims_at_most_one_is_later_and_both_sides_say_which(one: u32, other: u32, ahead in 0_u32..200_000) {
        for other in [other, one.wrapping_add(ahead)] {
            prop_assert!(!(is_later(one, other) && is_later(other, one)));
            let apart = one.wrapping_sub(other);
            prop_assert_eq!(is_later(one, other) || is_later(other, one), apart != 0 && apart != 1 << 31);
        }
    }

    #[test]
    fn the_next_claim_is_later_than_any(claim: u32) {
        prop_assert!(is_later(claim.wrapping_add(1), claim));
    }

    #[test]
    fn whatever_is_claimed_the_same_candidates_keep_the_role_everywhere(
        facts in proptest::collection::vec((any::<u32>(), proptest::option::of(0_u8..6)), 1..6),
        most in 1_usize..3,
    ) {
        let now = Instant::now();
        let seen: Vec<_> = (0..).zip(&facts).map(|(n, (claim, replaces))| {
            let mut advert = active_by(*claim);
            advert.standing.replaces = replaces.map(id);
            Seen::new(id(n), link(n), &advert, now)
        }).collect();
        let keep = |seen: &[Seen]| actives(seen.iter()).iter().take(most).map(|seen| seen.id).collect::<Vec<_>>();
        let mut reversed = seen.clone();
        reversed.reverse();
        prop_assert!(!keep(&seen).is_empty());
        prop_assert_eq!(keep(&seen), keep(&reversed));
    }
}
