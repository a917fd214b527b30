use super::*;

const MIB: usize = 1 << 20;

#[test]
fn every_byte_is_released_once() {
    let budget = Budget::new(1 << 20);
    let account = budget.account();
    let mut first = Tally::of(&account);
    first.add(1000);
    let mut second = Tally::default();
    second.set(500);
    assert_eq!(budget.used(), TUNNEL + 1000, "a place without an account charges nobody");
    second.charge_to(&account);
    assert_eq!(budget.used(), TUNNEL + 1500);
    let other = budget.account();
    second.charge_to(&other);
    assert_eq!((account.held(), other.held()), (1000, 500));
    first.remove(400);
    drop(account);
    assert_eq!(budget.used(), 2 * TUNNEL + 1100, "what is there keeps its account");
    drop((first, second, other));
    assert_eq!((budget.used(), budget.largest(), budget.total.active.load(Relaxed)), (0, 0, 0));
    assert!(lock(&budget.apps.accounts).is_empty());
}

#[test]
fn reads_shrink_then_windows_then_tunnels_are_refused_then_evicted() {
    let budget = Budget::new(1 << 20);
    let account = budget.account();
    let mut held = Tally::of(&account);
    held.add((1 << 18) - TUNNEL);
    assert!(account.is_roomy());
    held.add(1 << 18);
    assert!(!account.is_roomy());
    assert!(!account.is_tight());
    held.add(1);
    assert!(account.is_tight() && !budget.is_short());
    held.add(1 << 18);
    assert!(budget.is_short() && !account.is_evicted());
    held.add(1 << 18);
    assert!(account.is_evicted());
}

#[test]
fn what_an_evicted_tunnel_still_holds_is_counted_until_it_is_dropped() {
    let budget = Budget::new(1 << 20);
    let account = budget.account();
    let mut held = Tally::of(&account);
    held.add(1 << 20);
    assert!(account.is_evicted());
    assert_eq!(budget.used(), TUNNEL + (1 << 20));
    // No other account has to end because of it.
    let other = budget.account();
    let mut small = Tally::of(&other);
    small.add(1000);
    assert!(!other.is_evicted());
    held.add(10);
    held.remove(1000);
    assert_eq!(budget.used(), 2 * TUNNEL + (1 << 20) + 10);
    drop((held, account));
    assert_eq!(budget.used(), TUNNEL + 1000);
    assert_eq!(budget.total.leaving.load(Relaxed), 0);
}

#[test]
fn the_longest_stalled_tunnels_are_evicted_and_no_more_than_necessary() {
    let budget = Budget::new(4 << 20);
    let [old, small, idle, moving, newest] = [0; 5].map(|_| budget.account());
    let mut held = Vec::new();
    for (account, count) in [(&old, 2 * MIB), (&small, 10), (&moving, MIB), (&newest, MIB - 6 * TUNNEL)] {
        let mut tally = Tally::of(account);
        tally.add(count);
        held.push(tally);
    }
    for (at, account) in [&small, &old, &newest, &moving].into_iter().enumerate() {
        account.moved.store(at as u64, Relaxed);
    }
    assert!([&old, &small, &idle, &moving, &newest].iter().all(|account| !account.is_evicted()));
    held[2].add(2 * TUNNEL);
    assert!(old.is_evicted());
    assert!([&small, &idle, &moving, &newest].iter().all(|account| !account.is_evicted()));
}

#[test]
fn a_member_that_holds_little_is_admitted_while_another_has_taken_everything() {
    let budget = Budget::new(64 * TUNNEL as u64);
    let (greedy, modest) = (budget.holder(), budget.holder());
    let mut accounts = Vec::new();
    while greedy.admits() {
        accounts.push(greedy.account(Kind::Tunnel));
    }
    assert_eq!(accounts.len(), 48, "three quarters");
    // The modest holder gets its share, and the one that holds most loses what is too much.
    let mut others = Vec::new();
    while modest.admits() {
        others.push(modest.account(Kind::Tunnel));
    }
    assert_eq!(others.len(), 24, "half of three quarters");
    assert!(!greedy.admits() && others.iter().all(|account| !account.is_evicted()));
    let evicted = accounts.iter().filter(|account| account.is_evicted()).count();
    assert_eq!(evicted, 17, "idle tunnels are evicted as well, down to three quarters");
}

#[test]
fn a_link_is_evicted_after_all_tunnels_of_its_member() {
    let budget = Budget::new(1 << 20);
    let member = budget.holder();
    let (link, tunnel) = (member.account(Kind::Link), member.account(Kind::Tunnel));
    let mut buffers = Tally::of(&link);
    buffers.add((1 << 19) + (1 << 16));
    let mut queue = Tally::of(&tunnel);
    queue.add(1 << 19);
    assert!(tunnel.is_evicted() && !link.is_evicted());
    drop((queue, tunnel));
    buffers.add(1 << 19);
    assert!(link.is_evicted());
}

#[tokio::test]
async fn whoever_takes_memory_lets_those_leave_first_that_have_to() {
    let budget = Budget::new(1 << 20);
    let (first, second) = (budget.account(), budget.account());
    let mut held = Tally::of(&first);
    held.add(2 << 20);
    assert!(!first.may_take().await && !second.is_evicted());
    let leaves = async {
        tokio::task::yield_now().await;
        drop(held);
    };
    let (may_take, ()) = tokio::join!(second.may_take(), leaves);
    assert!(may_take && budget.used() <= budget.limit());
}

/// An account that has to leave, and still holds more than its budget may.
fn leaving(budget: &Budget) -> Tally {
    let mut held = Tally::of(&budget.account());
    held.add(budget.limit());
    assert!(held.account().unwrap().is_evicted());
    held
}

/// Each waiter looked a thousand times a second, all at once.
#[tokio::test(start_paused = true)]
async fn those_who_wait_for_memory_are_woken_one_by_one_when_there_is_some() {
    let budget = Budget::new(64 << 20);
    let mut leaving = leaving(&budget);
    let begun = tokio::time::Instant::now();
    let others = futures_util::future::join_all((0..100).map(|_| async {
        let account = budget.account();
        let mut held = Tally::of(&account);
        assert!(account.may_take().await);
        held.add(MIB);
        let used = budget.used();
        tokio::task::yield_now().await;
        used
    }));
    let leaves = async {
        tokio::task::yield_now().await;
        leaving.remove(100 * TUNNEL + 2 * MIB);
    };
    let (used, ()) = tokio::join!(others, leaves);
    let most = used.into_iter().max().unwrap();
    assert!(most <= budget.limit() + MIB, "{} bytes too many", most - budget.limit());
    assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waits for a clock");
    drop(leaving);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_a_second_for_memory() {
    let budget = Budget::new(64 << 20);
    let _leaving = leaving(&budget);
    let (begun, account) = (tokio::time::Instant::now(), budget.account());
    assert!(account.may_take().await);
    assert_eq!(begun.elapsed(), PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn whoever_has_to_end_while_it_waits_for_memory_does_so_at_once() {
    let budget = Budget::new(64 << 20);
    let leaving = leaving(&budget);
    let (begun, account) = (tokio::time::Instant::now(), budget.account());
    let mut others = Tally::of(&budget.holder().account(Kind::Tunnel));
    let comes = async {
        tokio::task::yield_now().await;
        let mut held = Tally::of(&account);
        others.add(32 << 20);
        held.add(33 << 20);
    };
    let (may_take, ()) = tokio::join!(account.may_take(), comes);
    assert!(!may_take && account.is_evicted());
    assert_eq!(begun.elapsed(), Duration::ZERO);
    drop((leaving, others));
}
