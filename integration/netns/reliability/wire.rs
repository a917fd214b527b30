//! Malformed input at the local port of the running program: nothing stalls, leaks or crashes.

use super::apps;
use super::report::Report;
use super::servers::{ECHO, Servers};
use super::usage::Usage;
use crate::lab::Lab;
use crate::lab::fleet::QUIET;
use crate::lab::web::who;
use std::cell::{Cell, RefCell};
use std::io;
use std::time::{Duration, Instant};
use std::{env, thread};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// The number of concurrent inputs.
const WORKERS: usize = 64;
/// Longer than the program waits for a handshake, or a gateway for a server.
const PATIENCE: Duration = Duration::from_secs(15);
/// Deadline of a well-formed request in between.
const PROMPT: Duration = Duration::from_secs(2);

/// Well-formed input; the malformed input is derived from it.
const GOOD: [&[u8]; 16] = [
    b"\x05\x01\x00\x05\x01\x00\x01\x0a\x58\x00\x64\x1f\xa5hello",
    b"\x05\x02\x02\x00\x05\x01\x00\x03\x0b10.88.0.100\x1f\xa5hello",
    b"\x05\x01\x00\x05\x01\x00\x04\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50",
    b"\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00",
    b"\x04\x01\x00\x50\x0a\x58\x00\x64user\x00",
    b"CONNECT 10.88.0.100:8101 HTTP/1.1\r\nHost: 10.88.0.100:8101\r\n\r\nhello",
    b"GET http://10.88.0.100/who/x HTTP/1.1\r\nHost: 10.88.0.100\r\n\r\n",
    b"GET http://10.88.0.100/who/x HTTP/1.0\r\n\r\n",
    b"POST http://10.88.0.100/who/x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    b"POST http://10.88.0.100/who/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"PUT http://10.88.0.100/who/x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    b"GET http://10.88.0.100/ HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET http://no.such.name/ HTTP/1.1\r\nHost: no.such.name\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03",
];
/// Fragments that break well-formed input.
const ODD: [&[u8]; 14] = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b":",
    b"\xff",
    b"\x05",
    b"ffffffffffffffff",
    b"-1",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: x\r\n",
];

pub(super) fn broken_inputs(lab: &Lab, report: &mut Report) {
    let seed = env::var("LANEWAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_260_101);
    let _web = lab.web(who);
    // Some malformed inputs are requests for other ports, and some servers never end.
    let allowed = ["--allow", "10.88.0.100:80", "--allow", "10.88.0.100:8101"];
    let mut fleet = lab.fleet_with(1, &[&allowed[..], &QUIET[..]].concat(), &QUIET);
    fleet.gateways[0].host.forgets_connections();
    let _servers = Servers::start(lab);
    let ids = [fleet.node.id(), fleet.gateways[0].id()];
    let total = report.count(1_000_000);
    report.figure("seed", seed);

    let started = Instant::now();
    // The first half is the baseline: a gateway grows by about 10 MiB in the first two thousand inputs, and then no more.
    let first = total / 2;
    let mut good = vec![apps::run(&fleet.client, async || throw(seed, 0..first).await)];
    thread::sleep(Duration::from_secs(2));
    let before = ids.map(Usage::of);
    good.push(apps::run(&fleet.client, async || throw(seed, first..total).await));
    let took = started.elapsed();
    thread::sleep(Duration::from_secs(2));
    let after = ids.map(Usage::of);

    report.figure("inputs", total);
    report.figure("inputs a second", format_args!("{:.0}", total as f64 / took.as_secs_f64()));
    report.none("inputs after which the connection stayed open", good.iter().map(|good| good.stalled).sum());
    report.figure("well-formed requests in between", good.iter().map(|good| good.asked).sum::<usize>());
    report.none("of these failed", good.iter().map(|good| good.failed).sum());
    report.within("the slowest of these", good.iter().map(|good| good.slowest).max().unwrap(), PROMPT);
    for (index, side) in ["client", "gateway"].into_iter().enumerate() {
        let (before, after) = (before[index], after[index]);
        let more = after.descriptors.saturating_sub(before.descriptors);
        report.must(&format!("more descriptors, {side}"), more, "none", more == 0);
        let memory = format!("{}, then {}", before.memory, after.memory);
        // The normal variation.
        let flat = after.memory <= before.memory + before.memory / 10 + 4096;
        report.must(&format!("RSS of the {side}, KiB"), memory, "10% and 4 MiB", flat);
    }
    let alive = fleet.node.is_running() && !fleet.node.log().contains("panicked");
    report.must("the node", if alive { "runs" } else { "does not" }, "runs, without a panic", alive);
}

/// The results of the inputs, and of the requests in between.
struct Thrown {
    stalled: usize,
    asked: usize,
    failed: usize,
    slowest: Duration,
}

async fn throw(seed: u64, numbers: std::ops::Range<usize>) -> Thrown {
    let numbers = RefCell::new(numbers);
    let (stalled, running) = (Cell::new(0), Cell::new(WORKERS));
    let worker = async || {
        loop {
            let Some(number) = numbers.borrow_mut().next() else { break };
            let mut dice = Dice::new(seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let input = dice.input();
            if timeout(PATIENCE, put_in(&mut dice, &input)).await.is_err() {
                stalled.set(stalled.get() + 1);
                eprintln!("    input {number} stalls: {}", input[..input.len().min(400)].escape_ascii());
            }
        }
        running.set(running.get() - 1);
    };
    let good = async {
        let mut thrown = Thrown { stalled: 0, asked: 0, failed: 0, slowest: Duration::ZERO };
        while running.get() > 0 {
            let started = Instant::now();
            let went = timeout(PATIENCE, ask(thrown.asked)).await;
            if !matches!(went, Ok(Ok(()))) {
                eprintln!("    a well-formed request: {went:?}");
                thrown.failed += 1;
            }
            thrown.asked += 1;
            thrown.slowest = thrown.slowest.max(started.elapsed());
            sleep(Duration::from_millis(20)).await;
        }
        thrown
    };
    let (thrown, _) = tokio::join!(good, futures_util::future::join_all((0..WORKERS).map(|_| worker())));
    Thrown { stalled: stalled.get(), ..thrown }
}

async fn ask(number: usize) -> io::Result<()> {
    if number.is_multiple_of(2) {
        return apps::echo(&mut apps::tunnel(ECHO).await?, b"well-formed").await;
    }
    let mut stream = apps::proxy().await?;
    stream.write_all(GOOD[6]).await?;
    let mut start = [0; 15];
    stream.read_exact(&mut start).await?;
    if &start == b"HTTP/1.1 200 OK" {
        Ok(())
    } else {
        Err(io::Error::other(start.escape_ascii().to_string()))
    }
}

/// Sends the input in pieces and ends the connection in some way. Waits until the program closes too, if it has to.
async fn put_in(dice: &mut Dice, input: &[u8]) {
    // The listen queue may be full for a moment. Well-formed requests are checked elsewhere.
    let Ok(mut stream) = apps::proxy().await else { return };
    let mut rest = input;
    while !rest.is_empty() {
        let length = if dice.one_in(2) { rest.len() } else { dice.below(rest.len()) + 1 };
        let (piece, later) = rest.split_at(length);
        rest = later;
        // The program may have closed already.
        if stream.write_all(piece).await.is_err() {
            return;
        }
        match dice.below(8) {
            0 => sleep(Duration::from_millis(2)).await,
            1 => drop(stream.try_read(&mut [0; 4096])),
            _ => {}
        }
    }
    match dice.below(8) {
        0 => apps::abort(stream),
        1 => {
            sleep(Duration::from_millis(20)).await;
            apps::abort(stream);
        }
        2 => drop(stream),
        // Sends nothing more and keeps the connection: the program has to close it.
        3 if dice.one_in(200) => read_out(&mut stream, Duration::from_secs(12)).await,
        _ => {
            if stream.shutdown().await.is_ok() {
                read_out(&mut stream, PATIENCE * 2).await;
            }
        }
    }
}

async fn read_out(stream: &mut TcpStream, patience: Duration) {
    let mut buffer = [0; 4096];
    // After an answer the connection may stay open for another request; then this side closes it.
    while let Ok(Ok(1..)) = timeout(patience, stream.read(&mut buffer)).await {}
}

/// A reproducible random generator (SplitMix64).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % bound.max(1) as u64).expect("below a usize")
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<'a>(&mut self, all: &[&'a [u8]]) -> &'a [u8] {
        all[self.below(all.len())]
    }

    /// Well-formed input with a few faults.
    fn input(&mut self) -> Vec<u8> {
        let mut input = self.of(&GOOD).to_vec();
        for _ in 0..self.below(5) {
            let (from, to) = (self.below(input.len() + 1), self.below(input.len() + 1));
            let (from, to) = (from.min(to), from.max(to));
            match self.below(8) {
                0 => input.truncate(from),
                1 => drop(input.drain(from..to)),
                2 => {
                    let again = input[from..to].to_vec();
                    input.splice(from..from, again);
                }
                3 => input.extend_from_slice(self.of(&GOOD)),
                4 if self.one_in(4) => {
                    let (byte, times) = (self.roll().to_be_bytes()[0], self.below(100_000));
                    input.splice(from..from, std::iter::repeat_n(byte, times));
                }
                4 | 5 => {
                    let odd = self.of(&ODD).to_vec();
                    input.splice(from..from, odd);
                }
                _ if from < input.len() => input[from] = self.roll().to_be_bytes()[0],
                _ => {}
            }
        }
        input
    }
}
