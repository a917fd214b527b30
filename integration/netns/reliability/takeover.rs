//! A gateway that is killed, or restarted, under load.

use super::apps;
use super::report::{Report, percentile};
use super::servers::{CONTENT, CONTENT_SIZE, ECHO, Servers};
use crate::lab::fleet::QUIET;
use crate::lab::group::START;
use crate::lab::load::Load;
use crate::lab::origin::noise;
use crate::lab::web::who;
use crate::lab::{Lab, wait_until};
use nix::sys::signal::Signal;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::time::sleep;

/// The pause between two messages of one tunnel, and between two transfers of one app.
const PAUSE: Duration = Duration::from_millis(200);

/// What one app experienced.
#[derive(Default)]
struct Seen {
    whole: usize,
    /// The number of truncated transfers that looked complete.
    truncated: usize,
    /// When its tunnel broke, and whether by a reset.
    broken: Option<(Instant, bool)>,
    /// How long the next tunnel took to carry its first byte back, or the error.
    next: Option<Result<Duration, String>>,
}

/// Tunnels in use, half of them transfers, when their gateway is killed.
pub(super) fn killed_under_load(lab: &Lab, report: &mut Report) {
    let _web = lab.web(who);
    let mut fleet = lab.fleet_with(2, &[&["--allow", "10.88.0.0/24"], &QUIET[..]].concat(), &QUIET);
    let serving = fleet.serving();
    apps::many_sockets();
    let _servers = Servers::start(lab);

    let count = report.count(1000);
    let (open, whole) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counters, over) = ((open.clone(), whole.clone()), Arc::new(AtomicBool::new(false)));
    let is_over = over.clone();
    let apps = fleet.client.thread(move || {
        let content: Arc<[u8]> = noise(9, CONTENT_SIZE).into();
        apps::runtime().block_on(async {
            let ((open, whole), is_over, content) = (&counters, &*is_over, &content);
            let all = (0..count).map(|number| async move {
                if number % 2 == 0 { talk(open).await } else { transfer(open, whole, is_over, content).await }
            });
            futures_util::future::join_all(all).await
        })
    });
    wait_until("the tunnels", || open.load(Ordering::Relaxed) == count);
    wait_until("transfers that are whole", || whole.load(Ordering::Relaxed) >= count / 4);
    let killed = Instant::now();
    fleet.kill(serving);
    over.store(true, Ordering::Relaxed);
    let seen = apps.join().unwrap();

    report.figure("tunnels", count);
    report.figure("transfers that were whole", seen.iter().map(|seen| seen.whole).sum::<usize>());
    report.none("transfers that were not, and ended orderly", seen.iter().map(|seen| seen.truncated).sum());
    let broken: Vec<_> = seen.iter().filter_map(|seen| seen.broken).collect();
    report.none("ended otherwise than by a reset", broken.iter().filter(|(_, reset)| !reset).count());
    let last = broken.iter().map(|(at, _)| at.saturating_duration_since(killed)).max().unwrap_or_default();
    report.within("the last one reset after", last, Duration::from_secs(1));
    let next: Vec<_> = seen.iter().filter_map(|seen| seen.next.as_ref()).collect();
    if let Some(error) = next.iter().find_map(|next| next.as_ref().err()) {
        report.figure("the first error", error);
    }
    report.none("new tunnels that failed", next.iter().filter(|next| next.is_err()).count());
    let mut times: Vec<_> = next.iter().filter_map(|next| next.as_ref().ok().copied()).collect();
    report.within("new tunnels, 99 of 100 within", percentile(&mut times, 100), Duration::from_secs(2));
    report.explain("the client", &fleet.node.log());
}

async fn talk(open: &AtomicUsize) -> Seen {
    let mut tunnel = apps::tunnel(ECHO).await.unwrap();
    open.fetch_add(1, Ordering::Relaxed);
    let broken = loop {
        match apps::echo(&mut tunnel, &[7; 200]).await {
            Ok(()) => sleep(PAUSE).await,
            Err(error) => break (Instant::now(), error.kind() == ErrorKind::ConnectionReset),
        }
    };
    Seen { broken: Some(broken), next: Some(next().await), ..Seen::default() }
}

/// Makes one download after another, until one breaks or the gateway is killed between two of them.
async fn transfer(open: &AtomicUsize, whole: &AtomicUsize, over: &AtomicBool, content: &[u8]) -> Seen {
    let mut seen = Seen::default();
    loop {
        let mut tunnel = apps::tunnel(CONTENT).await.unwrap();
        if seen.whole == 0 {
            open.fetch_add(1, Ordering::Relaxed);
        }
        let mut received = Vec::new();
        match tunnel.read_to_end(&mut received).await {
            Ok(_) if received == content => {
                seen.whole += 1;
                whole.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => seen.truncated += 1,
            Err(error) => {
                seen.broken = Some((Instant::now(), error.kind() == ErrorKind::ConnectionReset));
                break;
            }
        }
        if over.load(Ordering::Relaxed) {
            break;
        }
        sleep(PAUSE).await;
    }
    seen.next = Some(next().await);
    seen
}

async fn next() -> Result<Duration, String> {
    let started = Instant::now();
    let mut tunnel = apps::tunnel(ECHO).await.map_err(|error| error.to_string())?;
    apps::echo(&mut tunnel, b"x").await.map_err(|error| error.to_string())?;
    Ok(started.elapsed())
}

/// Both gateways are restarted in turn, several times, as an update would.
pub(super) fn rolling_restart(lab: &Lab, report: &mut Report) {
    const RATE: u32 = 200;
    let _web = lab.web(who);
    let mut fleet = lab.fleet_with(2, &QUIET, &QUIET);
    let load = Load::start(&fleet.client, RATE);
    let (mut left, mut restarts) = (report.count(10_000), 0);
    while left > 0 || restarts < 2 {
        fleet.wait_for_links();
        let mut leaving = fleet.take(restarts % 2);
        leaving.signal(Signal::SIGTERM);
        leaving.wait(START * 4);
        fleet.start(restarts % 2);
        restarts += 1;
        let some = left.min(1000);
        load.wait_for_new(some.max(50));
        left -= some;
    }
    let requests = load.stop();
    report.figure("requests", requests.done.len());
    report.figure("restarts", restarts);
    report.figure("longest, ms", requests.longest().as_millis());
    if let Some(done) = requests.failed().first() {
        report.figure("the first error", format_args!("{:?}", done.result));
    }
    report.none("failed", requests.failed().len());
    report.explain("the client", &fleet.node.log());
}
