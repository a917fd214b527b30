//! An hour of mixed load with a fault every minute: nothing grows.

use super::apps;
use super::report::Report;
use super::servers::{CONTENT, CONTENT_SIZE, ECHO, Servers};
use super::usage::Usage;
use super::wire::Dice;
use crate::lab::Lab;
use crate::lab::fleet::QUIET;
use crate::lab::group::START;
use crate::lab::load::Load;
use crate::lab::web::who;
use nix::sys::signal::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::time::sleep;

/// Idle tunnels, and apps that download all the time.
const IDLE: usize = 50;
const DOWNLOADS: usize = 4;

pub(super) fn soak(lab: &Lab, report: &mut Report) {
    let _web = lab.web(who);
    let mut fleet = lab.fleet_with(2, &[&["--allow", "10.88.0.0/24"], &QUIET[..]].concat(), &QUIET);
    let _servers = Servers::start(lab);
    let (time, minute) = (report.time(3600), report.time(60).max(Duration::from_secs(15)));
    let stop = Arc::new(AtomicBool::new(false));
    let truncated = Arc::new(AtomicUsize::new(0));
    let shared = (stop.clone(), truncated.clone());
    let apps = fleet.client.thread(move || apps::runtime().block_on(use_it(&shared.0, &shared.1)));
    let load = Load::start(&fleet.client, 30);

    let (started, mut dice, mut samples) = (Instant::now(), Dice::new(15), Vec::new());
    while started.elapsed() < time.max(minute * 4) {
        let which = dice.below(2);
        match dice.below(4) {
            0 => {
                fleet.kill(which);
                thread::sleep(minute / 6);
                fleet.start(which);
            }
            1 => {
                let mut leaving = fleet.take(which);
                leaving.signal(Signal::SIGTERM);
                leaving.wait(START * 4);
                fleet.start(which);
            }
            2 => {
                fleet.gateways[which].signal(Signal::SIGSTOP);
                thread::sleep(minute / 6);
                fleet.gateways[which].signal(Signal::SIGCONT);
            }
            _ => {
                fleet.gateways[which].leg("lan", "down");
                thread::sleep(minute / 6);
                fleet.gateways[which].leg("lan", "up");
            }
        }
        let usage = least(fleet.node.id(), minute * 2 / 3);
        samples.push((started.elapsed().as_secs_f64() / 3600.0, usage));
    }
    let running = fleet.node.is_running();
    stop.store(true, Ordering::Relaxed);
    let requests = load.stop();
    apps.join().unwrap();

    report.figure(
        "minutes, faults",
        format_args!("{:.0}, {}", started.elapsed().as_secs_f64() / 60.0, samples.len()),
    );
    report.figure("requests", requests.done.len());
    report.figure("requests that failed", requests.failed().len());
    report.none("downloads that were not whole, and ended orderly", truncated.load(Ordering::Relaxed));
    report.must("the client", if running { "runs" } else { "has ended" }, "runs", running);
    // The first sixth is warm-up.
    let warm = &samples[samples.len() / 6..];
    let memory: Vec<_> = warm.iter().map(|(hours, usage)| (*hours, usage.memory as f64)).collect();
    let slope = slope(&memory);
    let enough = time >= Duration::from_secs(1800);
    let bound = if enough { "below 1024" } else { "too short to judge" };
    report.must(
        "RSS of the client at its least, KiB an hour more",
        format_args!("{slope:.0}"),
        bound,
        !enough || slope < 1024.0,
    );
    let half = warm.len() / 2;
    let most =
        |part: &[(f64, Usage)]| part.iter().map(|(_, usage)| usage.descriptors).max().unwrap_or_default();
    let (before, after) = (most(&warm[..half]), most(&warm[half..]));
    report.must(
        "descriptors of the client",
        format_args!("{before}, then {after}"),
        "10 more",
        after <= before + 10,
    );
}

/// What the process uses at the end of `time`, but with the least memory it used meanwhile: 1.5 MiB of
/// buffers come and go with the requests of the moment, a leak stays.
fn least(process: u32, time: Duration) -> Usage {
    let until = Instant::now() + time;
    let mut least = Usage::of(process);
    while Instant::now() < until {
        thread::sleep(Duration::from_millis(500));
        let now = Usage::of(process);
        least = Usage { memory: least.memory.min(now.memory), ..now };
    }
    least
}

/// The slope of the best fit (least squares).
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let (together, alone) = points.iter().fold((0.0, 0.0), |(together, alone), point| {
        (together + (point.0 - x) * (point.1 - y), alone + (point.0 - x).powi(2))
    });
    together / alone
}

/// Idle tunnels that are opened again when they break, and downloads one after the other.
async fn use_it(stop: &AtomicBool, truncated: &AtomicUsize) {
    let idle = async || {
        while !stop.load(Ordering::Relaxed) {
            if let Ok(mut tunnel) = apps::tunnel(ECHO).await {
                while !stop.load(Ordering::Relaxed) && apps::echo(&mut tunnel, b"still there?").await.is_ok()
                {
                    sleep(Duration::from_secs(5)).await;
                }
            }
            sleep(Duration::from_millis(500)).await;
        }
    };
    let download = async || {
        while !stop.load(Ordering::Relaxed) {
            if let Ok(mut tunnel) = apps::tunnel(CONTENT).await {
                let mut received = Vec::new();
                if tunnel.read_to_end(&mut received).await.is_ok() && received.len() != CONTENT_SIZE {
                    truncated.fetch_add(1, Ordering::Relaxed);
                }
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    let idle = futures_util::future::join_all((0..IDLE).map(|_| idle()));
    tokio::join!(idle, futures_util::future::join_all((0..DOWNLOADS).map(|_| download())));
}
