use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const MBIT: f64 = 1_000_000.0 / 8.0;
const STEP: Duration = Duration::from_millis(5);
const WINDOW: u64 = 24 << 20;

/// A source of the simulation.
#[derive(Clone, Debug)]
struct Simulated {
    /// Bytes per second.
    rate: f64,
    latency: Duration,
    /// It breaks, or falls silent, at this time after the beginning.
    dies: Option<Duration>,
    hangs: Option<Duration>,
    /// Every third connection gets a tenth of what the others get.
    is_unfair: bool,
}

impl Simulated {
    fn weight(&self, job: JobId) -> f64 {
        if self.is_unfair && job.0.is_multiple_of(3) { 0.1 } else { 1.0 }
    }
}

/// A request in the simulation.
struct Asked {
    job: Job,
    since: Instant,
    credit: f64,
    at: u64,
}

/// What a simulated download came to.
#[derive(Debug)]
struct Outcome {
    took: Duration,
    /// The longest time in which the app got nothing.
    stall: Duration,
    received: Vec<u64>,
    used: Vec<bool>,
}

fn source(mbit: f64, millis: u64) -> Simulated {
    Simulated {
        rate: mbit * MBIT,
        latency: Duration::from_millis(millis),
        dies: None,
        hangs: None,
        is_unfair: false,
    }
}

/// Downloads `total` bytes. The first source sends the whole file; the others join after 300 ms. All of them together deliver at
/// most `line` bytes per second, and the app takes at most `app`.
fn simulate(total: u64, sources: &[Simulated], line: f64, app: f64) -> Outcome {
    let start = Instant::now();
    let (mut now, mut plan) = (start, Plan::new(total, 0, WINDOW));
    let first = plan.add(now);
    let whole = plan.sends_all(first, now);
    let mut asked = vec![Asked {
        job: Job { id: whole, source: first, from: 0, end: total },
        since: now,
        credit: 0.0,
        at: 0,
    }];
    let mut dead = vec![false; sources.len()];
    let (mut last, mut stall, mut budget) = (start, Duration::ZERO, 0.0);
    while plan.taken() < total {
        now += STEP;
        assert!(now - start < Duration::from_secs(3600), "the download never ends: {plan:?}");
        let passed = now - start;
        if plan.sources.len() == 1 && passed >= Duration::from_millis(300) {
            plan.alone(plan.rate(first, now).unwrap_or(0.0));
            for _ in &sources[1..] {
                plan.add(now);
            }
        }
        for (number, simulated) in sources.iter().enumerate() {
            if simulated.dies.is_some_and(|at| passed >= at) && number < plan.sources.len() && !dead[number] {
                dead[number] = true;
                plan.remove(SourceId(number), now);
            }
        }
        plan.tick(now);
        let cancelled = plan.cancelled();
        asked.retain(|one| !cancelled.contains(&one.job.id));
        while let Some(job) = plan.next(now) {
            assert!(job.from < job.end && job.end <= total);
            asked.push(Asked { job, since: now, credit: 0.0, at: job.from });
        }
        deliver(&mut plan, &mut asked, sources, line, (start, now));
        budget = (budget + app * STEP.as_secs_f64()).min(app * 0.1 + 1.0);
        let count = plan.ready().min(bytes_of(budget));
        if count > 0 {
            budget -= count as f64;
            plan.took(count);
            (stall, last) = (stall.max(now - last), now);
        }
    }
    let ids = || (0..plan.sources.len()).map(SourceId);
    let received = ids().map(|id| plan.received_of(id)).collect();
    Outcome { took: now - start, stall, received, used: ids().map(|id| plan.uses(id)).collect() }
}

/// Lets each source deliver what its line carries in one step.
fn deliver(
    plan: &mut Plan,
    asked: &mut Vec<Asked>,
    sources: &[Simulated],
    line: f64,
    (start, now): (Instant, Instant),
) {
    let delivers = |plan: &Plan, one: &Asked| {
        let simulated = &sources[one.job.source.0];
        now - one.since >= simulated.latency
            && simulated.hangs.is_none_or(|at| now - start < at)
            && plan.may_read(one.job.id)
    };
    let lanes: Vec<f64> = (0..sources.len())
        .map(|number| {
            let of_it = asked.iter().filter(|one| one.job.source.0 == number && delivers(plan, one));
            of_it.map(|one| sources[number].weight(one.job.id)).sum()
        })
        .collect();
    let busy: f64 =
        (0..sources.len()).filter(|number| lanes[*number] > 0.0).map(|number| sources[number].rate).sum();
    let share = (line / busy.max(1.0)).min(1.0);
    let mut over = Vec::new();
    for one in asked.iter_mut() {
        if !delivers(plan, one) {
            continue;
        }
        let number = one.job.source.0;
        one.credit += sources[number].rate * share * STEP.as_secs_f64() * sources[number].weight(one.job.id)
            / lanes[number];
        let mut count = bytes_of(one.credit).min(one.job.end - one.at);
        one.credit -= count as f64;
        while count > 0 {
            let now_count = count.min(plan.room(one.job.id));
            let Some(received) = plan.received(one.job.id, now_count, now) else {
                over.push(one.job.id);
                break;
            };
            (one.at, count) = (one.at + now_count, count - now_count);
            if received.is_over {
                over.push(one.job.id);
                break;
            }
        }
    }
    asked.retain(|one| !over.contains(&one.job.id));
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes, or more than there are")]
fn bytes_of(bytes: f64) -> u64 {
    bytes as u64
}

fn efficiency(total: u64, sources: &[Simulated]) -> f64 {
    let outcome = simulate(total, sources, f64::INFINITY, f64::INFINITY);
    let sum: f64 = sources.iter().map(|source| source.rate).sum();
    total as f64 / outcome.took.as_secs_f64() / sum
}

#[test]
fn three_lines_together_are_as_fast_as_their_sum() {
    let lines = [source(20.0, 20), source(10.0, 20), source(5.0, 20)];
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let sources = order.map(|number: usize| lines[number].clone());
        let reached = efficiency(200 << 20, &sources);
        assert!(reached > 0.95, "{order:?}: {reached:.3}");
    }
}

#[test]
fn latency_costs_little_because_each_line_has_several_requests() {
    for (millis, least) in [(1, 0.95), (50, 0.95), (150, 0.9), (300, 0.75)] {
        let sources = [source(50.0, millis), source(30.0, millis), source(80.0, millis)];
        let reached = efficiency(400 << 20, &sources);
        assert!(reached > least, "{millis} ms: {reached:.3}");
    }
}

/// Its first bytes take longer than others need to fetch what it was asked for.
#[test]
fn a_source_whose_answers_begin_late_is_used_all_the_same() {
    for (millis, pieces) in [(450, 20), (1000, 20), (1500, 10), (2500, 2)] {
        let sources = [source(40.0, 20), source(20.0, 20), source(10.0, millis)];
        let outcome = simulate(200 << 20, &sources, f64::INFINITY, f64::INFINITY);
        assert!(outcome.received[2] >= pieces * PIECE, "{millis} ms: {outcome:?}");
        let extra = outcome.received.iter().sum::<u64>() - (200 << 20);
        assert!(extra < 4 << 20, "{millis} ms: {extra} bytes were fetched twice, {outcome:?}");
    }
}

#[test]
fn a_very_slow_source_delays_nothing() {
    for slow in [0.05, 0.5, 2.0] {
        let sources = [source(50.0, 20), source(slow, 20)];
        let reached = efficiency(100 << 20, &sources);
        assert!(reached > 0.93, "{slow} Mbit/s beside 50: {reached:.3}");
    }
    // And if it is the one that answered first.
    let reached = efficiency(100 << 20, &[source(0.5, 20), source(50.0, 20)]);
    assert!(reached > 0.85, "{reached:.3}");
}

#[test]
fn sources_that_share_one_line_are_given_up_but_for_one() {
    let sources = [source(100.0, 20), source(100.0, 20), source(100.0, 20)];
    let outcome = simulate(200 << 20, &sources, 20.0 * MBIT, f64::INFINITY);
    assert_eq!(outcome.used.iter().filter(|used| **used).count(), 1, "{outcome:?}");
    let ideal = 200.0 * f64::from(1 << 20) / (20.0 * MBIT);
    assert!(outcome.took.as_secs_f64() < ideal * 1.05, "{outcome:?}");
}

#[test]
fn sources_with_lines_of_their_own_stay() {
    let sources = [source(20.0, 20), source(10.0, 20), source(5.0, 20)];
    let outcome = simulate(200 << 20, &sources, f64::INFINITY, f64::INFINITY);
    assert_eq!(outcome.used, [true; 3], "{outcome:?}");
}

#[test]
fn connections_that_get_unequal_parts_of_a_line_stall_nothing() {
    let lines = [source(20.0, 60), source(10.0, 60), source(5.0, 60)];
    let sources = lines.map(|line| Simulated { is_unfair: true, ..line });
    let outcome = simulate(200 << 20, &sources, f64::INFINITY, f64::INFINITY);
    let reached = 200.0 * f64::from(1 << 20) / outcome.took.as_secs_f64() / (35.0 * MBIT);
    assert!(reached > 0.9 && outcome.stall < Duration::from_millis(500), "{reached:.3} {outcome:?}");
}

#[test]
fn a_slow_app_decides_and_no_source_is_given_up_for_it() {
    let sources = [source(20.0, 20), source(10.0, 20), source(5.0, 20)];
    let outcome = simulate(60 << 20, &sources, f64::INFINITY, 8.0 * MBIT);
    let ideal = 60.0 * f64::from(1 << 20) / (8.0 * MBIT);
    assert!(outcome.took.as_secs_f64() < ideal * 1.05, "{outcome:?}");
    assert_eq!(outcome.used, [true; 3], "{outcome:?}");
    let extra = outcome.received.iter().sum::<u64>() - (60 << 20);
    assert!(extra < 4 << 20, "fetched twice: {outcome:?}");
}

#[test]
fn little_is_fetched_twice() {
    let sources = [source(20.0, 20), source(10.0, 20), source(5.0, 20)];
    let outcome = simulate(200 << 20, &sources, f64::INFINITY, f64::INFINITY);
    let extra = outcome.received.iter().sum::<u64>() - (200 << 20);
    assert!(extra < 4 << 20, "fetched twice: {extra}, {outcome:?}");
}

#[test]
fn what_comes_after_the_end_of_a_request_is_not_counted() {
    let now = Instant::now();
    let mut plan = Plan::new(3 * PIECE, 0, WINDOW);
    let (one, two) = (plan.add(now), plan.add(now));
    let whole = plan.sends_all(one, now);
    let job = plan.next(now).unwrap();
    assert_eq!(job.source, two);
    plan.remove(two, now);
    assert_eq!(plan.cancelled(), [job.id]);
    assert_eq!(plan.received(job.id, 5, now), None);
    assert_eq!(plan.received(whole, 5, now), Some(Received { piece: 0, skip: 0, is_over: false }));
    assert_eq!((plan.ready(), plan.sources()), (5, 1));
}

#[test]
fn bytes_that_two_sources_send_count_once() {
    let now = Instant::now();
    let mut plan = Plan::new(2 * PIECE, 0, WINDOW);
    let (one, two) = (plan.add(now), plan.add(now));
    let whole = plan.sends_all(one, now);
    plan.received(whole, 100, now);
    let later = now + Duration::from_secs(1);
    let job = plan.next(later).unwrap();
    assert_eq!(
        (job.source, job.from, job.end),
        (two, 100, PIECE),
        "the piece that the app waits for has stalled"
    );
    assert_eq!(plan.received(whole, 50, later).map(|got| got.skip), Some(0));
    assert_eq!(plan.received(job.id, 80, later).map(|got| got.skip), Some(50));
    assert_eq!(plan.received(whole, 20, later).map(|got| got.skip), Some(20));
    assert_eq!(plan.ready(), 180);
    let rest = PIECE - 180;
    assert_eq!(plan.received(job.id, rest, later).map(|got| (got.skip, got.is_over)), Some((0, true)));
    assert_eq!(plan.cancelled(), [whole]);
}

#[test]
fn a_download_that_has_begun_goes_on_in_the_middle_of_a_piece() {
    let now = Instant::now();
    let mut plan = Plan::new(3 * PIECE, PIECE + 100, WINDOW);
    let one = plan.add(now);
    let whole = plan.sends_all(one, now);
    assert_eq!((plan.ready(), plan.room(whole)), (0, PIECE - 100));
    assert_eq!(plan.received(whole, 7, now), Some(Received { piece: 1, skip: 0, is_over: false }));
    assert_eq!(plan.ready(), 7);
}

#[test]
fn what_is_missing_is_asked_for_anew_once_the_source_that_was_ahead_is_lost() {
    // A source with little to send before it brings something new just goes on.
    for (ahead, is_asked_anew) in [(PIECE - 200, true), (1000, false)] {
        let now = Instant::now();
        let mut plan = Plan::new(2 * PIECE, 0, WINDOW);
        let (one, two) = (plan.add(now), plan.add(now));
        let whole = plan.sends_all(one, now);
        plan.received(whole, 100, now);
        let later = now + Duration::from_secs(1);
        let behind = plan.next(later).unwrap();
        assert_eq!((behind.source, behind.from), (two, 100));
        // The first one goes on after all, and overtakes the second one.
        plan.received(whole, ahead, later);
        assert_eq!(plan.next(later), None);
        plan.remove(one, later);
        let again = plan.next(later);
        if is_asked_anew {
            let again = again.unwrap();
            assert_eq!((again.source, again.from, again.end), (two, 100 + ahead, PIECE));
            assert_eq!(plan.cancelled(), [whole, behind.id]);
            assert_eq!(plan.next(later), None, "once");
        } else {
            assert_eq!((again, plan.cancelled()), (None, vec![whole]));
        }
    }
}

/// In this time the fastest source has nearly sent a piece that a slow one was asked for before.
#[test]
fn the_app_does_not_wait_for_what_has_come_already_when_the_fastest_source_dies() {
    for at in (1150..1350).step_by(25) {
        let mut sources = [source(20.0, 20), source(10.0, 20), source(5.0, 20)];
        sources[0].dies = Some(Duration::from_millis(at));
        let outcome = simulate(60 << 20, &sources, f64::INFINITY, f64::INFINITY);
        assert!(outcome.stall <= Duration::from_millis(500), "{at} ms: {outcome:?}");
        let extra = outcome.received.iter().sum::<u64>() - (60 << 20);
        assert!(extra < 2 << 20, "{at} ms: {extra} bytes were fetched twice, {outcome:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn nothing_is_lost_and_no_stall_is_long_when_a_source_dies(
        at in 0..20_000_u64,
        which in 0..3_usize,
        does_hang: bool,
    ) {
        let mut sources = vec![source(20.0, 20), source(10.0, 20), source(5.0, 20)];
        let at = Some(Duration::from_millis(at));
        match does_hang {
            true => sources[which].hangs = at,
            false => sources[which].dies = at,
        }
        let outcome = simulate(60 << 20, &sources, f64::INFINITY, f64::INFINITY);
        // What is missing is asked for as soon as a loss is noticed: at once if the source breaks, and after 400 ms if it falls
        // silent. Two of those follow one another if the next piece was asked of it a little later than the first one.
        let bound = if does_hang { 1000 } else { 500 };
        prop_assert!(outcome.stall <= Duration::from_millis(bound), "{outcome:?}");
    }

    #[test]
    fn any_lines_together_are_nearly_as_fast_as_their_sum(
        rates in prop::collection::vec(1.0..100.0_f64, 1..5),
        millis in 1..80_u64,
    ) {
        let sources: Vec<_> = rates.iter().map(|rate| source(*rate, millis)).collect();
        let sum: f64 = rates.iter().sum();
        let best = rates.iter().copied().fold(0.0, f64::max);
        let reached = efficiency(300 << 20, &sources) * sum;
        // What a slow source would add is not worth waiting for it.
        prop_assert!(reached > 0.85 * sum || reached > 0.97 * best && best > 0.8 * sum, "{reached:.1} of {sum:.1}");
    }
}
