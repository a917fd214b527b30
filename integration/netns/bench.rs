//! Measures what a failover costs: `scripts/failover-bench.sh` runs it.
//!
//! No time is asserted here. `LANEWAY_BENCH_ROUNDS` is the number of measurements of each fault.

use crate::cases::failover::restart_serving;
use crate::lab::dialect::{self, PROXY};
use crate::lab::fleet::Fleet;
use crate::lab::group::START;
use crate::lab::load::Load;
use crate::lab::origin::noise;
use crate::lab::web::{BLOCK, PORT, Server, blocks, numbered, who};
use crate::lab::{Lab, wait_until};
use aws_lc_rs::digest::{Context, SHA256};
use nix::sys::signal::Signal;
use std::fmt::Display;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, fs};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// New requests per second.
const RATE: u32 = 200;
/// The server's delay, with which requests are in flight at any moment.
const SLOW: Duration = Duration::from_millis(200);
/// The number of tunnels that are open when their gateway fails.
const TUNNELS: usize = 1000;
/// The number of tunnels that are open while their gateway drains.
const DRAINED_TUNNELS: usize = 50;
/// The size of the download, in blocks.
const BLOCKS: usize = 1024;
/// The port of the echo.
const ECHO: u16 = PORT + 1;
const ALLOW: [&str; 2] = ["--allow", "10.88.0.0/24"];

/// The fault of the serving gateway.
#[derive(Clone, Copy)]
enum Fault {
    Kill,
    Unplug,
    Stop,
}

const FAULTS: [(Fault, &str); 3] =
    [(Fault::Kill, "kill -9"), (Fault::Unplug, "LAN leg down"), (Fault::Stop, "SIGSTOP")];

/// Measures everything, and prints a table.
pub(crate) fn failover() {
    let rounds = env::var("LANEWAY_BENCH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3);
    let mut table = Table { rounds, lines: Vec::new() };
    for (fault, name) in FAULTS {
        table.measure(&format!("{name}, {RATE} new requests/s"), |lab| requests(lab, fault, Duration::ZERO));
    }
    for (fault, name) in FAULTS {
        let what = format!("{name}, the same from a server that takes {} ms", SLOW.as_millis());
        table.measure(&what, |lab| requests(lab, fault, SLOW));
    }
    table.measure("planned drain (SIGTERM)", drain);
    table.measure("restarted 20 times under load", restarts);
    table.measure("1 GiB download, 3 kills", download);
    for (fault, name) in FAULTS {
        table.measure(&format!("{name}, {TUNNELS} open tunnels"), |lab| tunnels(lab, fault));
    }
    eprintln!("\n| fault | measured | median | worst |\n| --- | --- | --- | --- |");
    for line in &table.lines {
        eprintln!("{line}");
    }
    eprintln!("{rounds} rounds each");
}

struct Table {
    rounds: usize,
    lines: Vec<String>,
}

impl Table {
    /// Measures one thing in several labs; the names of the figures must be the same each time.
    fn measure(&mut self, what: &str, measure: impl Fn(&Lab) -> Vec<(&'static str, f64)>) {
        let rounds: Vec<_> = (0..self.rounds)
            .map(|_| {
                let figures = measure(&Lab::new());
                eprintln!("{what}: {figures:?}");
                figures
            })
            .collect();
        for (index, (name, _)) in rounds[0].iter().enumerate() {
            let mut figures: Vec<_> = rounds.iter().map(|round| round[index].1).collect();
            figures.sort_by(f64::total_cmp);
            let (median, worst) = (figures[figures.len() / 2], figures[figures.len() - 1]);
            self.line(what, name, format_args!("{median:.0}"), format_args!("{worst:.0}"));
        }
    }

    fn line(&mut self, what: &str, name: &str, median: impl Display, worst: impl Display) {
        self.lines.push(format!("| {what} | {name} | {median} | {worst} |"));
    }
}

fn requests(lab: &Lab, fault: Fault, thinks: Duration) -> Vec<(&'static str, f64)> {
    let _web = lab.web(move |asked, stream| {
        thread::sleep(thinks);
        who(asked, stream)
    });
    let mut fleet = lab.fleet(2, &[]);
    let serving = fleet.serving();
    let load = Load::start(&fleet.client, RATE);
    load.wait_for_new(RATE as usize * 2);
    let at = Instant::now();
    cause(&mut fleet, serving, fault);
    load.wait_for_new(RATE as usize * 6);
    let report = load.stop();
    let slow = report.done.iter().filter(|done| done.took > thinks + Duration::from_millis(100)).count();
    let after = report.since(at - Duration::from_secs(1));
    vec![
        ("requests", count(report.done.len())),
        ("requests failed", count(report.failed().len())),
        ("waited over 100 ms for it", count(slow)),
        ("longest wait, ms", millis(after.longest())),
    ]
}

fn drain(lab: &Lab) -> Vec<(&'static str, f64)> {
    let _web = lab.web(who);
    let _echo = echo(lab);
    let mut fleet = lab.fleet(2, &ALLOW);
    let serving = fleet.serving();
    let load = Load::start(&fleet.client, RATE);
    let mut tunnels: Vec<_> = (0..DRAINED_TUNNELS)
        .map(|_| dialect::connect(&fleet.client, &format!("10.88.0.100:{ECHO}")).0)
        .collect();
    tunnels.iter_mut().for_each(|tunnel| echoes(tunnel).unwrap());
    let mut leaving = fleet.take(serving);
    leaving.signal(Signal::SIGTERM);
    load.wait_for_new(RATE as usize * 3);
    let cut = tunnels.iter_mut().filter_map(|tunnel| ends_orderly(tunnel).err()).count();
    drop(tunnels);
    let ended = leaving.wait(START);
    let report = load.stop();
    vec![
        ("requests", count(report.done.len())),
        ("requests failed", count(report.failed().len())),
        ("tunnels cut", count(cut)),
        ("longest wait, ms", millis(report.longest())),
        ("exit code", f64::from(ended.code().unwrap_or(-1))),
    ]
}

fn restarts(lab: &Lab) -> Vec<(&'static str, f64)> {
    let _web = lab.web(who);
    let mut fleet = lab.fleet(2, &[]);
    let load = Load::start(&fleet.client, RATE);
    restart_serving(&mut fleet, &load, 20);
    let report = load.stop();
    vec![
        ("requests", count(report.done.len())),
        ("requests failed", count(report.failed().len())),
        ("longest wait, ms", millis(report.longest())),
    ]
}

fn download(lab: &Lab) -> Vec<(&'static str, f64)> {
    let block = noise(6, BLOCK);
    let whole = {
        let mut hash = Context::new(&SHA256);
        for number in 0..BLOCKS {
            hash.update(&numbered(&block, number));
        }
        hash.finish()
    };
    let web = lab.web(move |asked, stream| blocks(asked, stream, &block, BLOCKS));
    let mut fleet = lab.fleet(3, &[]);

    let started = Instant::now();
    let (mut stream, head) = dialect::get(&fleet.client, "10.88.0.100", "/large");
    assert_eq!(head.status, 200);
    let received = Arc::new(AtomicUsize::new(0));
    let progress = received.clone();
    let reader = thread::spawn(move || {
        let mut hash = Context::new(&SHA256);
        let mut buffer = vec![0; 256 << 10];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok((hash.finish(), Instant::now())),
                Ok(length) => {
                    hash.update(&buffer[..length]);
                    progress.fetch_add(length, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
    });
    for quarter in 1..=3 {
        wait_until("the next quarter", || received.load(Ordering::Relaxed) >= quarter * BLOCKS * BLOCK / 4);
        let serving = fleet.which(web.asked("/large").last().unwrap().from);
        fleet.kill(serving);
        fleet.start(serving);
    }
    let (right, seconds) = match reader.join().unwrap() {
        Ok((hash, end)) => (hash.as_ref() == whole.as_ref(), (end - started).as_secs_f64()),
        Err(error) => {
            eprintln!("the download broke: {error}");
            (false, f64::NAN)
        }
    };
    vec![
        ("wrong SHA-256", count(usize::from(!right))),
        ("times asked for", count(web.asked("/large").len())),
        ("MB/s", 1073.7 / seconds),
        ("milliseconds", seconds * 1000.0),
    ]
}

fn tunnels(lab: &Lab, fault: Fault) -> Vec<(&'static str, f64)> {
    let _web = lab.web(who);
    let _echo = echo(lab);
    let mut fleet = lab.fleet(2, &ALLOW);
    let serving = fleet.serving();
    let (descriptors, memory) = usage(&fleet);

    let (opened, app) = open_tunnels(&fleet);
    wait_until("the tunnels", || opened.load(Ordering::Relaxed) == TUNNELS);
    let (_, memory_open) = usage(&fleet);
    let at = Instant::now();
    cause(&mut fleet, serving, fault);
    let ends = app.join().unwrap();
    let last = ends.iter().map(|(end, _)| *end - at).max().unwrap_or_default();
    let not_reset = ends.iter().filter(|(_, reset)| !reset).count();
    // Freeing may take a moment.
    thread::sleep(Duration::from_secs(1));
    let (descriptors_after, memory_after) = usage(&fleet);
    // The same number again shows whether the remaining memory is reused.
    let (opened, app) = open_tunnels(&fleet);
    wait_until("the tunnels", || opened.load(Ordering::Relaxed) == TUNNELS);
    fleet.kill(1 - serving);
    app.join().unwrap();
    thread::sleep(Duration::from_secs(1));
    let (_, memory_again) = usage(&fleet);
    vec![
        ("all closed at the app after, ms", millis(last)),
        ("ended otherwise than by a reset", count(not_reset)),
        ("descriptors of the client before", count(descriptors)),
        ("descriptors of the client after", count(descriptors_after)),
        ("RSS of the client before, KiB", count(memory)),
        ("RSS of the client with the tunnels, KiB", count(memory_open)),
        ("RSS of the client after, KiB", count(memory_after)),
        ("RSS of the client after as many again, KiB", count(memory_again)),
    ]
}

/// The number of tunnels that are open so far, and the app that holds them: when each ended, and whether by a reset.
fn open_tunnels(fleet: &Fleet) -> (Arc<AtomicUsize>, JoinHandle<Vec<(Instant, bool)>>) {
    let opened = Arc::new(AtomicUsize::new(0));
    let ready = opened.clone();
    let app = fleet.client.thread(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut ends = tokio::task::JoinSet::new();
            for _ in 0..TUNNELS {
                let mut tunnel = open_tunnel().await.unwrap();
                ready.fetch_add(1, Ordering::Relaxed);
                ends.spawn(async move {
                    let end = tunnel.read(&mut [0; 1]).await;
                    (Instant::now(), end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset))
                });
            }
            ends.join_all().await
        })
    });
    (opened, app)
}

fn cause(fleet: &mut Fleet, which: usize, fault: Fault) {
    match fault {
        Fault::Kill => fleet.kill(which),
        Fault::Unplug => fleet.gateways[which].leg("lan", "down"),
        Fault::Stop => fleet.gateways[which].signal(Signal::SIGSTOP),
    }
}

/// Open descriptors of the client's node, and its resident memory in KiB.
fn usage(fleet: &Fleet) -> (usize, usize) {
    let id = fleet.node.id();
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = memory.trim().trim_end_matches(" kB").parse().unwrap();
    (fs::read_dir(format!("/proc/{id}/fd")).unwrap().count(), memory)
}

/// A tunnel that has carried a byte each way.
async fn open_tunnel() -> io::Result<tokio::net::TcpStream> {
    let mut stream = tokio::net::TcpStream::connect(PROXY).await?;
    let target = format!("10.88.0.100:{ECHO}");
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    stream.write_all(b"x").await?;
    assert_eq!(stream.read_u8().await?, b'x');
    Ok(stream)
}

fn echo(lab: &Lab) -> Server {
    lab.serve(ECHO, |_, mut stream| {
        stream.set_read_timeout(None)?;
        let mut byte = [0];
        while stream.read(&mut byte)? > 0 {
            stream.write_all(&byte)?;
        }
        Ok(())
    })
}

fn echoes(tunnel: &mut TcpStream) -> io::Result<()> {
    let mut byte = [0];
    tunnel.write_all(b"x")?;
    tunnel.read_exact(&mut byte)
}

fn ends_orderly(tunnel: &mut TcpStream) -> io::Result<()> {
    echoes(tunnel)?;
    tunnel.shutdown(Shutdown::Write)?;
    match tunnel.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

#[allow(clippy::cast_precision_loss, reason = "none of them comes near 2^52")]
fn count(count: usize) -> f64 {
    count as f64
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
