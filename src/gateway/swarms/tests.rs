use std::net::{Ipv6Addr, SocketAddrV6};

use super::*;

const BODY: u64 = 7;

fn node(number: u8) -> NodeId {
    NodeId([number; 16])
}

fn enter(swarms: &Arc<Swarms>, number: u8) -> Place {
    swarms.enter(
        BODY,
        node(number),
        (Some(SocketAddr::from(([10, 0, 0, number], 50000))), Some(2)),
        Some(7420),
    )
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
fn a_piece_of_any_number_may_be_said_to_be_late() {
    let swarms = Arc::<Swarms>::default();
    let (one, two) = (enter(&swarms, 1), enter(&swarms, 2));
    let _ = (name(&one), name(&two));
    one.complete();
    assert!(two.late(u32::MAX, Instant::now(), |_| true).is_some());
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
    let mute = swarms.enter(BODY, node(1), (Some(SocketAddr::from(([10, 0, 0, 1], 50000))), Some(2)), None);
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
fn a_member_that_claims_only_what_its_clients_have_and_gives_nothing_is_left() {
    let swarms = Arc::<Swarms>::default();
    let liar = enter(&swarms, 1);
    let others: Vec<_> = (2..5).map(|number| enter(&swarms, number)).collect();
    let now = Instant::now();
    let (mut has, mut left) = (1, 0);
    liar.has(has, true, now);
    for other in &others {
        other.has(has, true, now);
        if name(other) != Some(1) {
            left += 1;
            continue;
        }
        // It takes what it gets from the gateway, so that it does not seem to be stuck.
        let before = has;
        let instead = loop {
            liar.takes(now);
            match other.late(has, now, |_| true) {
                Some(instead) => break instead,
                None => has += 1,
            }
            other.has(has, true, now);
            liar.has(has, true, now);
        };
        assert_eq!((has - before, instead.fails), (MOST_ALONE, None), "it says that it has nothing more");
        assert_ne!(instead.named.map(|named| named.id), Some(node(1)));
    }
    assert_eq!(left, 1, "two clients are enough");
    drop(liar);
    let again = enter(&swarms, 1);
    again.has(7, true, now);
    let new = enter(&swarms, 9);
    assert_ne!(name(&new), Some(1), "it is not forgiven for coming anew");
}

#[test]
fn a_member_of_many_bodies_makes_no_other_ones_forgotten() {
    let swarms = Arc::<Swarms>::default();
    let first = enter(&swarms, 1);
    first.has(1, true, Instant::now());
    for body in 1000..1000 + 2 * MOST_BODIES as u64 {
        swarms.enter(body, node(7), (None, None), Some(1)).complete();
    }
    assert_eq!(swarms.bodies().swarms.len(), 1 + MOST_EACH);
    assert_eq!(name(&enter(&swarms, 2)), Some(1));
}

#[test]
fn a_member_at_an_address_of_the_local_link_is_named_to_those_on_the_same_network() {
    let swarms = Arc::<Swarms>::default();
    let at = |number: u8, interface| {
        let ip = Ipv6Addr::from([0xfe80, 0, 0, 0, 0, 0, 0, number.into()]);
        let from = SocketAddrV6::new(ip, 50000, 0, interface).into();
        swarms.enter(BODY, node(number), (Some(from), Some(interface)), Some(7420))
    };
    at(1, 2).complete();
    let (beside, elsewhere, by_v4) = (at(2, 2), at(3, 5), enter(&swarms, 4));
    assert_eq!((name(&beside), name(&elsewhere), name(&by_v4)), (Some(1), None, Some(1)));
    let far = SocketAddr::from(([10, 9, 0, 1], 50000));
    let beyond_a_router = swarms.enter(BODY, node(5), (Some(far), None), Some(7420));
    assert_ne!(name(&beyond_a_router), Some(1));
    by_v4.complete();
    assert_eq!(name(&elsewhere), Some(4));
}

#[test]
fn a_member_that_two_have_blamed_is_named_again_after_a_while() {
    let (swarms, now) = (Arc::<Swarms>::default(), Instant::now());
    enter(&swarms, 1).complete();
    for number in 2..4 {
        let other = enter(&swarms, number);
        assert_eq!(name(&other), Some(1));
        other.failed(node(1), now);
    }
    let last = enter(&swarms, 4);
    let named = |at| last.name(at, |_| true).map(|named| named.id);
    assert_eq!((named(now), named(now + UNNAMED)), (None, Some(node(1))));
}

#[test]
fn a_member_is_not_blamed_by_those_that_may_not_reach_its_kind_of_address() {
    let swarms = Arc::<Swarms>::default();
    let from = SocketAddrV6::new(Ipv6Addr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1]), 50000, 0, 2).into();
    swarms.enter(BODY, node(1), (Some(from), Some(2)), Some(7420)).complete();
    let others: Vec<_> = (2..6).map(|number| enter(&swarms, number)).collect();
    for other in &others[..3] {
        assert_eq!(name(other), Some(1));
        other.failed(node(1), Instant::now());
        assert_ne!(name(other), Some(1));
    }
    assert_eq!(name(&others[3]), Some(1));
}

#[test]
fn whoever_takes_nothing_keeps_no_other_one_from_the_lines_of_other_gateways() {
    let swarms = Arc::<Swarms>::default();
    let (one, now) = (enter(&swarms, 1), Instant::now());
    assert!(one.is_alone(now));
    let two = enter(&swarms, 2);
    assert!(!one.is_alone(now));
    assert!(one.is_alone(Instant::now() + IDLE));
    two.complete();
    assert!(!one.is_alone(Instant::now() + IDLE), "the file is to be had on the LAN");
    drop(two);
    let again = enter(&swarms, 1);
    assert!(!one.is_alone(now) && !again.is_alone(now), "another app of the same machine");
    drop(again);
    assert!(!one.is_alone(now), "member 2 keeps the file while its link lasts");
}

#[test]
fn what_is_remembered_is_bounded() {
    let swarms = Arc::<Swarms>::default();
    let many = |number: u64| NodeId((1 << 64 | u128::from(number / MOST_EACH as u64)).to_be_bytes());
    for body in 0..2 * MOST_BODIES as u64 {
        drop(swarms.enter(body, many(body), (None, None), None));
        swarms.enter(body, many(body), (None, None), Some(1)).complete();
    }
    for number in 0..2 * MOST_MEMBERS as u128 {
        let id = NodeId(number.to_be_bytes());
        swarms.enter(u64::MAX, id, (None, None), Some(1)).complete();
    }
    let bodies = swarms.bodies();
    assert_eq!((bodies.swarms.len(), bodies.swarms[&u64::MAX].members.len()), (MOST_BODIES, MOST_MEMBERS));
}
