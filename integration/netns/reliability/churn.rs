//! Nothing is leaked, whatever comes and goes.

use super::apps;
use super::report::Report;
use super::servers::{ECHO, ENDLESS, Servers};
use super::usage::Usage;
use crate::cases::failover::restart_serving;
use crate::lab::Lab;
use crate::lab::fleet::QUIET;
use crate::lab::load::Load;
use crate::lab::web::who;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Freeing may take a moment.
const MOMENT: Duration = Duration::from_secs(3);

/// Gateways are killed and restarted under load.
pub(super) fn kill_cycles(lab: &Lab, report: &mut Report) {
    let _web = lab.web(who);
    let mut fleet = lab.fleet_with(2, &QUIET, &QUIET);
    let (warm_up, cycles) = (report.count(10), report.count(100));
    let mut cycle = |count| {
        let load = Load::start(&fleet.client, 60);
        restart_serving(&mut fleet, &load, count);
        let requests = load.stop();
        fleet.wait_for_links();
        thread::sleep(MOMENT);
        (requests.done.len(), requests.failed().len(), Usage::of(fleet.node.id()))
    };
    let (_, _, before) = cycle(warm_up);
    let (requests, failed, after) = cycle(cycles);
    report.figure("kills", cycles);
    report.figure("requests", requests);
    report.none("requests failed", failed);
    let grown = |after: usize, before: usize| after as f64 / before as f64 * 100.0 - 100.0;
    for (name, after, before) in [
        ("descriptors of the client", after.descriptors, before.descriptors),
        ("RSS of the client, KiB", after.memory, before.memory),
    ] {
        let more = grown(after, before);
        report.must(name, format_args!("{before}, then {after}: {more:+.1}%"), "within 5%", more <= 5.0);
    }
}

/// The number of concurrent tunnels.
const WORKERS: usize = 64;

/// One link carries many tunnels, one after the other, and many that are aborted.
pub(super) fn tunnels_and_aborts(lab: &Lab, report: &mut Report) {
    let _web = lab.web(who);
    let fleet = lab.fleet_with(1, &[&["--allow", "10.88.0.0/24"], &QUIET[..]].concat(), &QUIET);
    // With TIME-WAIT, that many connections to one port of one server would use up the gateway's ports.
    fleet.gateways[0].host.forgets_connections();
    let _servers = Servers::start(lab);
    let ids = [fleet.node.id(), fleet.gateways[0].id()];
    let total = report.count(1_100_000);
    let link = fleet.link();

    let started = Instant::now();
    let (samples, failed) = apps::run(&fleet.client, async || {
        let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let sample = AtomicUsize::new(0);
        let samples = std::cell::RefCell::new(Vec::new());
        let worker = async || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= total {
                    return;
                }
                let went = if number % 11 == 10 { broken_off(number).await } else { whole(number).await };
                if let Err(error) = went
                    && failed.fetch_add(1, Ordering::Relaxed) < 5
                {
                    eprintln!("    tunnel {number}: {error}");
                }
                if number >= sample.load(Ordering::Relaxed) {
                    sample.fetch_add((total / 40).max(1), Ordering::Relaxed);
                    samples.borrow_mut().push(ids.map(|id| Usage::of(id).memory));
                }
            }
        };
        futures_util::future::join_all((0..WORKERS).map(|_| worker())).await;
        (samples.into_inner(), failed.into_inner())
    });
    report.figure("tunnels, one in eleven broken off", total);
    report.figure("tunnels a second", format_args!("{:.0}", total as f64 / started.elapsed().as_secs_f64()));
    report.none("failed", failed);
    let same = fleet.link() == link;
    report.must("the link", if same { "the same" } else { "another" }, "the same", same);
    report.explain("the client", &fleet.node.log());
    report.explain("the gateway", &fleet.gateways[0].log());
    for (index, side) in ["client", "gateway"].into_iter().enumerate() {
        // The first quarter establishes the baseline of a process that has been used.
        let (second, second_half) = samples[samples.len() / 4..].split_at(samples.len() / 4);
        let most = |part: &[[usize; 2]]| part.iter().map(|sample| sample[index]).max().unwrap_or_default();
        let (before, after) = (most(second), most(second_half));
        let enough = total >= 100_000;
        let bound = "5% and 2 MiB more in the second half than in the second quarter";
        let flat = !enough || after * 100 <= before * 105 + 204_800;
        let bound = if enough { bound } else { "too few to judge" };
        report.must(&format!("RSS of the {side}, KiB"), format_args!("{before}, then {after}"), bound, flat);
    }
}

async fn whole(number: usize) -> io::Result<()> {
    let mut stream = apps::tunnel(ECHO).await?;
    apps::echo(&mut stream, &number.to_be_bytes()).await?;
    stream.shutdown().await?;
    match stream.read(&mut [0]).await? {
        0 => Ok(()),
        _ => Err(io::Error::other("more than was sent came back")),
    }
}

/// In the middle of a download, at its beginning, or before there is any answer.
async fn broken_off(number: usize) -> io::Result<()> {
    let stream = match number % 3 {
        0 => {
            let mut stream = apps::tunnel(ENDLESS).await?;
            stream.read_exact(&mut vec![0; 40_000]).await?;
            stream
        }
        1 => apps::tunnel(ENDLESS).await?,
        _ => {
            let mut stream = apps::proxy().await?;
            stream.write_all(&[5, 1, 0, 5, 1, 0, 1, 10, 88, 0, 100, 31, 166]).await?;
            stream.read_exact(&mut [0; 2]).await?;
            stream
        }
    };
    apps::abort(stream);
    Ok(())
}
