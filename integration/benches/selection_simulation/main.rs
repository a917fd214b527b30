//! How the selection of gateways scales: groups of up to 10,000 nodes in one process, on a virtual clock.
//!
//! Every node runs the same `Selection` that `laneway up` runs. The network loses one datagram in twenty, for each
//! receiver independently. Each node's clock has its own start and runs up to 1% fast or slow. Each decision measures the
//! node's capacity again, with an error of up to 20%. Prints Markdown.
//!
//! In the third table a third of the candidates lies, and a stranger forges, repeats and delays datagrams. What must hold
//! nevertheless is checked in each step, and a violation ends the run with an error. In the last table a third of the
//! candidates wins the selection and refuses every connection. `scales`, `policies`, `attacks` or `refusals` as arguments run
//! only those parts.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used, clippy::cast_possible_truncation)]
#![allow(clippy::cast_sign_loss, missing_docs)]

mod adversary;
mod group;
mod refusal;
mod schedule;
mod signatures;

use std::time::{Duration, Instant};

use adversary::Bounds;
use group::Group;
use laneway::wire::datagram::Policy;
use schedule::MILLI;

/// In microseconds.
const SECOND: u64 = 1_000_000;

fn main() {
    let parts: [(&str, fn()); 4] =
        [("scales", scales), ("policies", policies), ("attacks", attacks), ("refusals", refusals)];
    let asked: Vec<String> = std::env::args().collect();
    let is_any_asked = parts.iter().any(|(name, _)| asked.iter().any(|asked| asked == name));
    for (name, run) in parts {
        if !is_any_asked || asked.iter().any(|asked| asked == name) {
            run();
        }
    }
}

fn scales() {
    let groups = [(10, 2), (10, 10), (100, 10), (100, 100), (1_000, 100), (10_000, 1_000)];
    println!(
        "| nodes | candidates | beacons/s in the group | per candidate | first 2 s: beacons, queries, offers \
         | agreed after start | after kill -9: median, worst | after withdrawal | after a partition \
         | client without a gateway, worst: kill, withdrawal, partition | hand-overs/h without cause \
         | signatures/s of a node: first 2 s, later | share of a core, later |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    // One thread for each group.
    let cost = signatures::cost();
    let rows = std::thread::scope(|scope| {
        let rows = groups.map(|(nodes, candidates)| scope.spawn(move || scale(nodes, candidates, cost)));
        rows.map(|row| row.join().unwrap())
    });
    rows.iter().for_each(|row| println!("{row}"));
    println!("\nVerifying one datagram takes {:.0} µs of processor here.\n", cost.as_secs_f64() * 1e6);
}

fn policies() {
    println!("| policy | active | hand-overs/h | with nobody active | beacons/s |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for (policy, name) in [
        (Policy::Strongest, "strongest"),
        (Policy::LeastBusy, "least-busy"),
        (Policy::Random, "random, --rotate 300"),
        (Policy::RoundRobin, "round-robin, --rotate 300"),
    ] {
        for active in [1, 3] {
            let mut group = Group::new(100, 10, policy, active, 300);
            group.run(60 * SECOND);
            let (before, from) = (group.counts.promotions, group.counts.beacons);
            group.vacancy.total = 0;
            group.only_observed = true;
            group.run(3600 * SECOND);
            let hand_overs = group.counts.promotions - before;
            let rate = (group.counts.beacons - from) as f64 / 3600.0;
            println!("| {name} | {active} | {hand_overs} | {} ms | {rate:.1} |", group.vacancy.total / MILLI);
        }
    }
}

fn attacks() {
    println!();
    println!(
        "| nodes | candidates | liars | policy | client without a gateway, worst | honest candidates that became active \
         in a minute, worst | agreed after the attack | forged, repeated, of these counted |"
    );
    println!("| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |");
    let rows = [(10, 3), (100, 10), (130, 30), (200, 100)].map(|(nodes, candidates)| {
        [(Policy::Strongest, "strongest"), (Policy::RoundRobin, "round-robin")]
            .map(|(policy, name)| move || attacked(nodes, candidates, policy, name))
    });
    // One thread for each row; printed in order.
    std::thread::scope(|scope| {
        let rows = rows.map(|rows| rows.map(|row| scope.spawn(row)));
        rows.into_iter().flatten().for_each(|row| println!("{}", row.join().unwrap()));
    });
}

fn refusals() {
    println!();
    println!(
        "| nodes | candidates | that refuse everything | connections of a client until an honest gateway comes first, worst \
         | connections that nobody carried, worst | refused at first after a minute |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: |");
    for (nodes, candidates) in [(10, 3), (100, 10), (130, 30)] {
        let mut group = Group::new(nodes, candidates, Policy::Strongest, 1, 3600);
        group.strengthen_liars();
        group.run(45 * SECOND);
        let liars = group.liars().len() as u64;
        let refusal::Refused { until_left, failed, refused_later } = refusal::refused(&mut group, 660);
        println!(
            "| {nodes} | {candidates} | {liars} | {until_left} | {failed} | {:.1}% |",
            refused_later as f64 / 10.0
        );
        let bound = 10 * (liars + 1);
        assert!(until_left <= bound, "{candidates}: clients stay for {until_left} connections");
        assert!(failed <= bound, "{candidates}: {failed} connections were carried by nobody");
        assert!(refused_later <= 100, "{candidates}: {refused_later} permille are refused at first");
    }
}

/// One row of the table of attacks. Meanwhile gateways die and the network is cut.
fn attacked(nodes: usize, candidates: usize, policy: Policy, name: &str) -> String {
    let mut group = Group::new(nodes, candidates, policy, 1, 60);
    group.run(45 * SECOND);
    let (liars, minutes) = (group.liars().len(), if candidates < 100 { 10 } else { 3 });
    let bounds = Bounds::with(liars);
    (group.worst_gap, group.only_observed) = (0, true);
    group.attack();
    let mut most = 0;
    for minute in 0..minutes {
        let before = group.counts.promotions;
        group.run(20 * SECOND);
        let dead = group.active().first().copied().unwrap_or(0);
        group.kill(dead);
        group.run(10 * SECOND);
        group.revive(dead);
        group.partitioned = minute % 2 == 0;
        group.run(20 * SECOND);
        group.partitioned = false;
        group.run(10 * SECOND);
        most = most.max(group.counts.promotions - before);
        let gap = group.worst_gap;
        assert!(
            gap <= bounds.gap,
            "{candidates}, {name}: a client was without a gateway for {}",
            seconds(gap)
        );
        assert!(most <= bounds.promotions, "{candidates}, {name}: {most} became active in a minute");
    }
    group.end_attack();
    let gap = group.worst_gap;
    let agreed = group.until_agreed(bounds.agreed);
    assert!(agreed <= bounds.agreed, "{candidates}, {name}: no agreement");
    let [replayed, counted] = group.counts.replayed;
    let forged = group.counts.forged;
    format!(
        "| {nodes} | {candidates} | {liars} | {name} | {} | {most} | {} | {forged}, {replayed}, {counted} |",
        seconds(gap),
        seconds(agreed)
    )
}

/// One row of the table: start, quiet time, some deaths, a withdrawal, a partition.
fn scale(nodes: usize, candidates: usize, cost: Duration) -> String {
    let started = Instant::now();
    let mut group = Group::new(nodes, candidates, Policy::Strongest, 1, 3600);
    let start = group.until_agreed(30 * SECOND);
    group.run((2 * SECOND).saturating_sub(group.now()));
    let counts = &group.counts;
    let first = format!("{}, {}, {}", counts.beacons, counts.queries, counts.offers);
    let signed_first = counts.signatures as f64 / nodes as f64 / 2.0;
    // The strongest candidate may replace the one that was first.
    group.run(45 * SECOND);
    let (quiet, kills) = match candidates {
        ..100 => (3600, 5),
        100..1_000 => (900, 5),
        _ => (60, 3),
    };
    group.only_observed = true;
    let (from, promoted) = (group.counts.beacons, group.counts.promotions);
    let signed = group.counts.signatures;
    group.run(quiet * SECOND);
    let hearing = group.observed().end as f64;
    let signatures = (group.counts.signatures - signed) as f64 / hearing / quiet as f64;
    let rate = (group.counts.beacons - from) as f64 / quiet as f64;
    let flaps = (group.counts.promotions - promoted) as f64 * 3600.0 / quiet as f64;
    group.only_observed = false;

    let mut deaths = Vec::new();
    group.worst_gap = 0;
    for _ in 0..kills {
        let dead = group.active()[0];
        group.kill(dead);
        deaths.push(group.until_agreed(30 * SECOND));
        group.run(5 * SECOND);
        group.revive(dead);
        group.run(5 * SECOND);
    }
    let gap_of_kill = std::mem::take(&mut group.worst_gap);
    deaths.sort_unstable();

    let unable = group.active()[0];
    group.nodes[unable].able = false;
    group.wake(unable);
    let withdrawal = group.until_agreed(30 * SECOND);
    group.run(5 * SECOND);
    group.nodes[unable].able = true;
    let gap_of_withdrawal = std::mem::take(&mut group.worst_gap);
    group.run(5 * SECOND);

    group.partitioned = true;
    group.run(20 * SECOND);
    group.partitioned = false;
    let healed = group.until_agreed(30 * SECOND);
    group.run(2 * SECOND);
    let gap_of_partition = group.worst_gap;
    eprintln!(
        "{nodes} nodes, {candidates} candidates: {:.1} s of real time",
        started.elapsed().as_secs_f64()
    );
    let gaps = [gap_of_kill, gap_of_withdrawal, gap_of_partition].map(seconds).join(", ");
    // When every node is a candidate there are no clients.
    let gaps = if group.observed().is_empty() { "no clients".into() } else { gaps };
    format!(
        "| {nodes} | {candidates} | {rate:.1} | {:.2} | {first} | {} | {}, {} | {} | {} | {gaps} | {flaps:.1} in {quiet} s \
         | {signed_first:.0}, {signatures:.1} | {:.3}% |",
        rate / candidates as f64,
        seconds(start),
        seconds(deaths[kills / 2]),
        seconds(deaths[kills - 1]),
        seconds(withdrawal),
        seconds(healed),
        signatures * cost.as_secs_f64() * 100.0,
    )
}

fn seconds(micros: u64) -> String {
    if micros == u64::MAX { "never".into() } else { format!("{:.2} s", micros as f64 / 1e6) }
}
