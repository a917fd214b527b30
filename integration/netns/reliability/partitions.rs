//! Random partitions of the network while numbered requests go through it. Afterwards the history is
//! checked: the answers that apps got against what the server did.

use super::apps;
use super::report::Report;
use super::servers::{LEDGER, Servers};
use super::wire::Dice;
use crate::lab::fleet::QUIET;
use crate::lab::web::who;
use crate::lab::{Host, Lab};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

const CLIENTS: usize = 3;
/// Requests per second of each client.
const RATE: u32 = 20;
/// Longer than a node holds a connection.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long after a fault requests may still fail because of it.
const AFTERMATH: Duration = Duration::from_secs(3);

/// A completed request.
struct Done {
    number: usize,
    started: Instant,
    ended: Instant,
    result: io::Result<()>,
}

pub(super) fn random_partitions(lab: &Lab, report: &mut Report) {
    let _web = lab.web(who);
    let clients = ["c1", "c2", "c3"].map(|name| lab.client(name));
    let gateways = ["g1", "g2"].map(|name| lab.gateway(name));
    let members: Vec<_> = gateways[..1].iter().chain(&clients).chain(&gateways[1..]).collect();
    let options = [&["--allow", "10.88.0.0/24"], &QUIET[..]].concat();
    let group = lab.group(&members, &options);
    let _second = group.gateway(&gateways[1], &options);
    let _nodes = clients.each_ref().map(|host| group.client(host, &QUIET));
    let servers = Servers::start(lab);

    let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let apps = clients.each_ref().map(|host| {
        let (stop, next) = (stop.clone(), next.clone());
        host.thread(move || apps::runtime().block_on(ask_until_stopped(&stop, &next)))
    });
    let faults = partition(report, &clients, &gateways);
    thread::sleep(AFTERMATH);
    stop.store(true, Ordering::Relaxed);
    let done: Vec<_> = apps.into_iter().flat_map(|apps| apps.join().unwrap()).collect();

    let ledger = servers.ledger();
    report.figure("faults", faults.len());
    report.figure("requests", done.len());
    report.figure("requests that failed", done.iter().filter(|done| done.result.is_err()).count());
    report.none("done twice by the server", ledger.values().filter(|times| **times > 1).count());
    let untrue = done.iter().filter(|done| done.result.is_ok() && !ledger.contains_key(&done.number));
    report.none("said to be done, and never done", untrue.count());
    let corrupt =
        |done: &&Done| matches!(&done.result, Err(error) if error.kind() == io::ErrorKind::InvalidData);
    report.none("with another answer than their own", done.iter().filter(corrupt).count());
    let quiet =
        |done: &&Done| faults.iter().all(|(from, to)| done.ended < *from || done.started > *to + AFTERMATH);
    let (outside, good) = done
        .iter()
        .filter(quiet)
        .fold((0_u32, 0_u32), |(all, good), done| (all + 1, good + u32::from(done.result.is_ok())));
    let share = 100.0 * f64::from(good) / f64::from(outside.max(1));
    report.must(
        "success outside faults",
        format_args!("{share:.2}% of {outside}"),
        "at least 99%",
        share >= 99.0,
    );
}

/// Partitions and heals the network for the duration of the line; returns the times at which it was partitioned.
fn partition(report: &Report, clients: &[Host; CLIENTS], gateways: &[Host; 2]) -> Vec<(Instant, Instant)> {
    let (mut dice, mut faults) = (Dice::new(8), Vec::new());
    let until = Instant::now() + report.time(600).max(Duration::from_secs(12));
    while Instant::now() < until {
        thread::sleep(Duration::from_millis(4000 + dice.below(6000) as u64));
        let (client, gateway) = (&clients[dice.below(CLIENTS)], dice.below(2));
        let (this, other) = (&gateways[gateway], &gateways[1 - gateway]);
        let from = Instant::now();
        let spoiled = match dice.below(6) {
            // One direction, the other, or both; one pair, or all.
            0 => cut(&[(client, this)]),
            1 => cut(&[(this, client)]),
            2 => cut(&[(client, this), (this, client)]),
            3 => cut(&[(this, other), (other, this)]),
            4 => {
                this.filter("iif lan drop");
                vec![this]
            }
            _ => {
                this.filter("iif out drop");
                vec![this]
            }
        };
        thread::sleep(Duration::from_millis(1000 + dice.below(7000) as u64));
        spoiled.iter().for_each(|host| host.filter(""));
        faults.push((from, Instant::now()));
    }
    faults
}

/// Each first host no longer receives anything from the second on the LAN.
fn cut<'a>(pairs: &[(&'a Host, &Host)]) -> Vec<&'a Host> {
    for (deaf, mute) in pairs {
        // Discovery goes by link-local addresses too.
        deaf.filter(&format!("iif lan ip saddr {} drop\niif lan ip6 saddr fe80::/10 drop", mute.address()));
    }
    pairs.iter().map(|(deaf, _)| *deaf).collect()
}

async fn ask_until_stopped(stop: &AtomicBool, next: &Arc<AtomicUsize>) -> Vec<Done> {
    let (mut tick, mut requests) = (interval(Duration::from_secs(1) / RATE), JoinSet::new());
    while !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let number = next.fetch_add(1, Ordering::Relaxed);
        requests.spawn(async move {
            let started = Instant::now();
            let result = timeout(PATIENCE, ask(number)).await.unwrap_or_else(|late| Err(late.into()));
            Done { number, started, ended: Instant::now(), result }
        });
    }
    requests.join_all().await
}

/// A request that must not be repeated: a POST, or the same in a tunnel.
async fn ask(number: usize) -> io::Result<()> {
    let (mut stream, target) = if number.is_multiple_of(2) {
        (apps::tunnel(LEDGER).await?, format!("/{number}"))
    } else {
        (apps::proxy().await?, format!("http://10.88.0.100:{LEDGER}/{number}"))
    };
    let request = format!(
        "POST {target} HTTP/1.1\r\nHost: 10.88.0.100:{LEDGER}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    match head.starts_with("HTTP/1.1 200 ") {
        true if body == format!("done {number}") => Ok(()),
        true => Err(io::Error::new(io::ErrorKind::InvalidData, answer)),
        false => Err(io::Error::other(answer)),
    }
}
