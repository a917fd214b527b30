//! A gateway that stops answering: how soon that is detected, and how apps fare meanwhile.

use super::apps;
use super::report::Report;
use super::servers::{ECHO, Servers};
use crate::lab::fleet::{Fleet, QUIET};
use crate::lab::web::who;
use crate::lab::{Lab, wait_until};
use nix::sys::signal::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

#[derive(Clone, Copy)]
enum Fault {
    Stop,
    Unplug,
    DeafGateway,
    DeafClient,
}

const FAULTS: [(Fault, &str); 4] = [
    (Fault::Stop, "SIGSTOP"),
    (Fault::Unplug, "blackhole"),
    (Fault::DeafGateway, "cut towards the gateway"),
    (Fault::DeafClient, "cut towards the client"),
];

/// Tunnels in use when the gateway stops answering.
const TUNNELS: usize = 20;

pub(super) fn hung_and_cut(_: &Lab, report: &mut Report) {
    for (fault, name) in FAULTS {
        let (noticed, reset) = under_traffic(&Lab::new(), fault);
        report.within(&format!("{name}, under traffic, noticed after"), noticed, Duration::from_secs(3));
        report.figure(&format!("{name}, under traffic, the last tunnel reset after, ms"), reset.as_millis());
        let noticed = idle(&Lab::new(), fault);
        report.within(&format!("{name}, idle, noticed after"), noticed, Duration::from_secs(20));
    }
}

fn under_traffic(lab: &Lab, fault: Fault) -> (Duration, Duration) {
    let _web = lab.web(who);
    let mut fleet = lab.fleet_with(2, &[&["--allow", "10.88.0.0/24"], &QUIET[..]].concat(), &QUIET);
    let _servers = Servers::start(lab);
    let serving = fleet.serving();
    let open = Arc::new(AtomicUsize::new(0));
    let opened = open.clone();
    let apps = fleet.client.thread(move || {
        apps::runtime().block_on(async {
            let tunnels = (0..TUNNELS).map(|_| async {
                let mut tunnel = apps::tunnel(ECHO).await.unwrap();
                opened.fetch_add(1, Ordering::Relaxed);
                while apps::echo(&mut tunnel, b"one more").await.is_ok() {
                    sleep(Duration::from_millis(50)).await;
                }
                Instant::now()
            });
            futures_util::future::join_all(tunnels).await.into_iter().max()
        })
    });
    wait_until("the tunnels", || open.load(Ordering::Relaxed) == TUNNELS);
    let (at, noticed) = notices(&mut fleet, serving, fault);
    (noticed, apps.join().unwrap().unwrap() - at)
}

fn idle(lab: &Lab, fault: Fault) -> Duration {
    let _web = lab.web(who);
    let mut fleet = lab.fleet_with(2, &QUIET, &QUIET);
    let serving = fleet.serving();
    // From here on there are no requests.
    thread::sleep(Duration::from_secs(5));
    notices(&mut fleet, serving, fault).1
}

/// Causes the fault; returns when that was, and how long the client takes to detect it.
fn notices(fleet: &mut Fleet, which: usize, fault: Fault) -> (Instant, Duration) {
    let before = fleet.node.log().len();
    let gateway = &fleet.gateways[which];
    let at = Instant::now();
    match fault {
        Fault::Stop => gateway.signal(Signal::SIGSTOP),
        Fault::Unplug => gateway.leg("lan", "down"),
        Fault::DeafGateway => gateway.host.filter("iif lan drop"),
        Fault::DeafClient => {
            fleet.client.filter(&format!("ip saddr {} drop", gateway.host.address()));
        }
    }
    wait_until("the client to notice", || {
        let log = fleet.node.log();
        log[before..].lines().any(|line| line.contains("gateway suspect") || line.contains("link down"))
    });
    (at, at.elapsed())
}

/// All gateways are down for a while, and one returns.
pub(super) fn all_gone(lab: &Lab, report: &mut Report) {
    const HOLD: Duration = Duration::from_secs(10);
    let _web = lab.web(who);
    let mut fleet = lab.fleet_with(2, &QUIET, &QUIET);
    let outage = report.time(120).max(Duration::from_secs(15));
    fleet.kill(0);
    fleet.kill(1);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let apps = fleet.client.thread(move || {
        apps::runtime().block_on(async {
            let mut attempts = JoinSet::new();
            while !stopped.load(Ordering::Relaxed) {
                attempts.spawn(attempt());
                sleep(Duration::from_millis(250)).await;
            }
            attempts.join_all().await
        })
    });
    thread::sleep(outage);
    fleet.start(0);
    let back = Instant::now();
    thread::sleep(Duration::from_secs(5));
    stop.store(true, Ordering::Relaxed);
    let attempts = apps.join().unwrap();

    report.figure("seconds without a gateway", outage.as_secs());
    report.figure("attempts", attempts.len());
    let first =
        attempts.iter().filter(|done| done.status == Some(200)).map(|done| done.started + done.took).min();
    let works = first.map_or(Duration::MAX, |first| first.saturating_duration_since(back));
    report.within("works again after", works, Duration::from_secs(3));
    let doomed: Vec<_> =
        attempts.iter().filter(|done| done.started + HOLD + Duration::from_secs(1) < back).collect();
    let answered = |done: &&&Attempt| done.status == Some(503) && done.took < HOLD + Duration::from_secs(1);
    report.figure("attempts that had to fail", doomed.len());
    report.none("of these not answered in time", doomed.len() - doomed.iter().filter(answered).count());
    report.none(
        "of these not held",
        doomed.iter().filter(|done| done.took < HOLD - Duration::from_millis(500)).count(),
    );
    let lucky = attempts.iter().filter(|done| done.started + HOLD > back + Duration::from_secs(3));
    report.none(
        "attempts that had to succeed and did not",
        lucky.filter(|done| done.status != Some(200)).count(),
    );
    report.explain("the client", &fleet.node.log());
    report.explain("the gateway", &fleet.gateways[0].log());
}

struct Attempt {
    started: Instant,
    took: Duration,
    status: Option<u16>,
}

async fn attempt() -> Attempt {
    let started = Instant::now();
    let status = timeout(Duration::from_secs(30), async {
        let mut stream = apps::proxy().await.ok()?;
        let request =
            "GET http://10.88.0.100/who/me HTTP/1.1\r\nHost: 10.88.0.100\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    });
    let status = status.await.ok().flatten();
    Attempt { started, took: started.elapsed(), status }
}
