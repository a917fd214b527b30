use std::sync::OnceLock;

use super::*;
use crate::cache::pieces;
use crate::wire::sharing::PIECE;
use proptest::prelude::*;

const TOTAL: u64 = 6 * PIECE + 77;

/// Made once: it takes long without optimization.
fn content() -> &'static Bytes {
    static CONTENT: OnceLock<Bytes> = OnceLock::new();
    CONTENT.get_or_init(|| (0..TOTAL).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect())
}

fn piece(index: u32) -> Bytes {
    let (start, end) = sharing::range(index, TOTAL);
    content().slice(usize::try_from(start).unwrap()..usize::try_from(end).unwrap())
}

fn at(number: u8) -> (NodeId, SocketAddr) {
    (NodeId([number; 16]), SocketAddr::from(([10, 0, 0, number], 7420)))
}

fn nothing(_: &PieceHash) -> bool {
    false
}

/// A body of which all hashes are known.
fn listed() -> Assembly {
    let mut assembly = Assembly::new(TOTAL).unwrap();
    for index in 0..assembly.count {
        assembly.listed(index, pieces::hash(&piece(index)));
    }
    assembly
}

fn asked(actions: &[Action]) -> Vec<(u32, Option<u8>)> {
    let of = |action: &Action| match *action {
        Action::Member(index, _, id, _) => Some((index, Some(id.0[0]))),
        Action::Gateway(index) => Some((index, None)),
        Action::Own(..) | Action::Ask(_) | Action::Cancel(_) | Action::Late(_) => None,
    };
    actions.iter().filter_map(of).collect()
}

#[test]
fn without_a_member_everything_comes_from_the_gateway_and_bytes_are_passed_on_as_they_come() {
    let mut assembly = Assembly::new(TOTAL).unwrap();
    let now = Instant::now();
    assert!(assembly.actions(now, false, nothing).is_empty(), "the gateway is about to name one");
    assembly.named(None);
    assert_eq!(asked(&assembly.actions(now, false, nothing)), [(0, None), (1, None), (2, None), (3, None)]);
    assert!(assembly.data(0, piece(0).slice(..1000)));
    assert_eq!(assembly.take().unwrap(), piece(0).slice(..1000));
    assert!(assembly.take().is_none());
    assert!(assembly.data(0, piece(0).slice(1000..)) && !assembly.data(4, piece(4)));
    assert_eq!(assembly.take().unwrap(), piece(0).slice(1000..));
    // The parts that it was put together from are free.
    assert_eq!(assembly.held(), usize::try_from(PIECE).unwrap());
    assert_eq!(assembly.finished().unwrap().bytes, piece(0));
    assert!(!assembly.data(1, Bytes::from(vec![0; usize::try_from(PIECE).unwrap() + 1])));
}

#[test]
fn pieces_are_asked_of_a_member_once_they_are_listed_and_those_that_this_node_has_are_not() {
    let mut assembly = Assembly::new(TOTAL).unwrap();
    assembly.named(Some(at(1)));
    let (now, own) = (Instant::now(), pieces::hash(&piece(1)));
    assert!(assembly.actions(now, false, nothing).is_empty());
    (0..2).for_each(|index| assembly.listed(index, pieces::hash(&piece(index))));
    let actions = assembly.actions(now, false, |hash| *hash == own);
    assert_eq!(asked(&actions), [(0, Some(1))]);
    assert!(actions.contains(&Action::Own(1, own)));
    assert!(assembly.held() >= usize::try_from(2 * PIECE).unwrap());
    assert!(assembly.came(0, Some(at(1).0), Some(piece(0)), now) && assembly.take().unwrap() == piece(0));
    assembly.list_ended();
    let _ = assembly.finished().unwrap();
    assert_eq!(asked(&assembly.actions(now, false, nothing)), [(2, None), (3, None), (4, None)]);
}

#[test]
fn a_piece_without_a_hash_before_one_that_has_one_comes_from_the_gateway_after_a_while() {
    let (mut assembly, now) = (Assembly::new(TOTAL).unwrap(), Instant::now());
    assembly.named(Some(at(1)));
    for index in [0, 2] {
        assembly.listed(index, pieces::hash(&piece(index)));
    }
    assert_eq!(asked(&assembly.actions(now, false, nothing)), [(0, Some(1)), (2, Some(1))]);
    assert!(assembly.came(0, Some(at(1).0), Some(piece(0)), now) && assembly.take().is_some());
    assert!(assembly.finished().is_some());
    assert!(asked(&assembly.actions(now, false, nothing)).is_empty(), "the gateway may be about to have it");
    let later = assembly.wakes().unwrap();
    assert_eq!(asked(&assembly.actions(later, false, nothing)), [(1, None)]);
}

#[test]
fn of_a_member_that_sends_nothing_the_gateway_is_told_first_and_then_asked_for_the_piece() {
    let mut assembly = listed();
    assembly.named(Some(at(1)));
    let mut now = Instant::now();
    assert_eq!(asked(&assembly.actions(now, false, nothing)).len(), 4);
    now = assembly.wakes().unwrap();
    assert_eq!(assembly.actions(now, false, nothing), [Action::Late(0)]);
    now = assembly.wakes().unwrap();
    let actions = assembly.actions(now, false, nothing);
    assert_eq!(actions, [Action::Late(0), Action::Gateway(0)]);
    // If the member sends the piece after all, it is cancelled at the gateway.
    assert!(assembly.came(0, Some(at(1).0), Some(piece(0)), now) && assembly.take().is_some());
    assert!(assembly.finished().is_some() && assembly.held() > 0);
    assert!(assembly.actions(now, false, nothing).contains(&Action::Cancel(0)));
    assert!(assembly.data(0, piece(0).slice(..1000)), "it was on its way");
    assert!(assembly.cancelled(0) && !assembly.cancelled(0) && !assembly.data(0, piece(0).slice(1000..)));
}

#[test]
fn a_member_that_answers_again_and_again_that_it_has_the_piece_not_yet_is_late_all_the_same() {
    let mut assembly = listed();
    assembly.named(Some(at(1)));
    let begun = Instant::now();
    let (mut now, mut late) = (begun, 0);
    while late < 2 {
        let actions = assembly.actions(now, false, nothing);
        late += actions.iter().filter(|action| **action == Action::Late(0)).count();
        assert_eq!(actions.contains(&Action::Gateway(0)), late == 2, "{late} {actions:?}");
        now += Duration::from_millis(500);
        assert!(now < begun + LEAST_PATIENCE * 3, "it never is");
        assert!(!assembly.came(0, Some(at(1).0), None, now));
    }
}

#[test]
fn a_gateway_that_confirms_nothing_that_was_cancelled_is_waited_for() {
    let mut assembly = Assembly::new(40 * PIECE).unwrap();
    let hash = pieces::hash(&piece(0));
    (0..40).for_each(|index| assembly.listed(index, hash));
    assembly.named(Some(at(1)));
    let mut now = Instant::now();
    for index in 0..20 {
        let _ = assembly.actions(now, false, nothing);
        for _ in 0..2 * LONGEST {
            now = assembly.wakes().unwrap();
            let _ = assembly.actions(now, false, nothing);
            assert!(assembly.wakes().unwrap() > now, "{index}: it must not look again at once");
        }
        assert!(assembly.came(index, Some(at(1).0), Some(piece(0)), now) && assembly.take().is_some());
        assert!(assembly.finished().is_some());
    }
    assert_eq!(assembly.owed.len(), sharing::MOST_WANTED);
}

#[test]
fn what_was_asked_of_one_member_is_asked_of_the_next_one_that_the_gateway_names() {
    let mut assembly = listed();
    let now = Instant::now();
    assembly.named(Some(at(1)));
    let _ = assembly.actions(now, false, nothing);
    assembly.named(Some(at(2)));
    assert_eq!(
        asked(&assembly.actions(now, false, nothing)),
        [(0, Some(2)), (1, Some(2)), (2, Some(2)), (3, Some(2))]
    );
    assert!(assembly.came(1, Some(at(1).0), Some(piece(1)), now), "the first one has sent it after all");
    assert!(assembly.failed(at(1).0).is_none(), "nobody is asked for anything in its place");
}

#[test]
fn a_member_that_sends_something_is_not_late_until_the_gateway_proves_to_be_faster() {
    let mut assembly = listed();
    assembly.named(Some(at(1)));
    let start = Instant::now();
    let mut now = start;
    let _ = assembly.actions(now, false, nothing);
    let actions = loop {
        now += LEAST_PATIENCE / 2;
        assembly.heard(0, at(1).0, now);
        let actions = assembly.actions(now, false, nothing);
        if !actions.is_empty() {
            break actions;
        }
    };
    assert_eq!((actions, now - start), (vec![Action::Gateway(0)], LEAST_PATIENCE * LONGEST));
    assert!(assembly.data(0, piece(0)));
    assert!(assembly.actions(now, false, nothing).contains(&Action::Ask(at(1).0)));
}

/// Patience grows with the time that pieces take, so a member that sends the right bytes just in time was never late.
#[test]
fn a_member_that_sends_everything_just_in_time_is_left_once_the_gateway_proves_to_be_faster() {
    let gets = |of_gateway: Duration, has_all: bool| {
        let mut assembly = Assembly::new(16 * PIECE).unwrap();
        let hash = pieces::hash(&piece(0));
        (0..4).for_each(|index| assembly.listed(index, hash));
        assembly.named(Some(at(1)));
        if has_all {
            (4..16).for_each(|index| assembly.listed(index, hash));
            assembly.list_ended();
        }
        let (mut now, mut sources) = (Instant::now(), Vec::new());
        let mut coming: Vec<(Instant, u32, bool)> = Vec::new();
        while !assembly.is_done() {
            for action in assembly.actions(now, false, nothing) {
                match action {
                    Action::Member(index, ..) => {
                        sources.push(Some(index));
                        coming.push((now + LEAST_PATIENCE - Duration::from_millis(1), index, true));
                    }
                    Action::Gateway(index) => {
                        sources.push(None);
                        coming.push((now + of_gateway, index, false));
                    }
                    Action::Cancel(index) => {
                        coming.retain(|(_, other, is_of_member)| *other != index || *is_of_member);
                        assert!(assembly.cancelled(index));
                    }
                    Action::Ask(_) => assembly.named(None),
                    Action::Late(_) => {}
                    Action::Own(..) => unreachable!(),
                }
            }
            let Some(first) = coming.iter().min().copied() else { continue };
            coming.retain(|other| *other != first);
            let (at, index, is_of_member) = first;
            now = at;
            match is_of_member {
                true => drop(assembly.came(index, Some(NodeId([1; 16])), Some(piece(0)), now)),
                false => assert!(assembly.data(index, piece(0))),
            }
            while assembly.take().is_some() {
                if let Some(whole) = assembly.finished() {
                    // The gateway gets the next one.
                    assembly.listed(u32::try_from(whole.start / PIECE).unwrap() + 4, hash);
                }
            }
        }
        sources
    };
    let fast = Duration::from_millis(100);
    let sources = gets(fast, true);
    let of_member = sources.iter().filter(|source| source.is_some()).count();
    assert!(of_member <= 8, "{sources:?}");
    // The gateway is no faster, or gets the pieces no faster itself.
    assert_eq!(gets(Duration::from_millis(400), true).iter().filter(|source| source.is_none()).count(), 1);
    assert!(gets(fast, false).iter().all(Option::is_some));
}

#[test]
fn one_piece_comes_at_a_time_while_memory_is_tight() {
    let mut assembly = listed();
    assembly.named(Some(at(1)));
    assert_eq!(asked(&assembly.actions(Instant::now(), true, nothing)), [(0, Some(1))]);
}

/// What happens to a request for a piece.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Comes,
    Fails,
    Stalls,
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![3 => Just(Fate::Comes), 1 => Just(Fate::Fails), 1 => Just(Fate::Stalls)];
    proptest::collection::vec(fate, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// However members fail, the app gets all bytes in order, each piece is asked of the gateway at most once, and nothing waits
    /// without a deadline.
    #[test]
    fn the_app_gets_everything_in_order_however_members_fail(fates in fates(), first in 0..3_u8) {
        let mut assembly = listed();
        let (mut now, mut fates, mut got) = (Instant::now(), fates.into_iter().cycle(), Vec::new());
        let mut from_gateway = Vec::new();
        assembly.named((first > 0).then(|| at(first)));
        for _ in 0..200 {
            for action in assembly.actions(now, false, nothing) {
                match action {
                    Action::Gateway(index) => {
                        prop_assert!(!from_gateway.contains(&index));
                        from_gateway.push(index);
                        prop_assert!(assembly.data(index, piece(index)));
                    }
                    Action::Member(index, _, member, _) => match fates.next().unwrap() {
                        Fate::Comes => drop(assembly.came(index, Some(member), Some(piece(index)), now)),
                        Fate::Fails => {
                            assembly.came(index, Some(member), None, now);
                            if assembly.failed(member).is_some() {
                                assembly.named(Some(at(member.0[0] + 1)));
                            }
                        }
                        Fate::Stalls => {}
                    },
                    Action::Ask(member) => assembly.named(Some(at(member.0[0] + 1))),
                    Action::Late(_) => {}
                    Action::Cancel(index) => prop_assert!(assembly.cancelled(index)),
                    Action::Own(..) => unreachable!(),
                }
            }
            while let Some(bytes) = assembly.take() {
                got.extend_from_slice(&bytes);
                let _ = assembly.finished();
            }
            if assembly.is_done() {
                break;
            }
            now = assembly.wakes().map_or(now, |wakes| wakes.max(now));
        }
        prop_assert!(assembly.is_done());
        prop_assert!(got == content()[..]);
    }
}
