//! Apps that do not read their downloads do not disturb others.

use super::apps;
use super::report::{Report, percentile};
use super::servers::{ECHO, PILE, Servers, TRICKLE};
use crate::lab::Lab;
use crate::lab::fleet::QUIET;
use crate::lab::web::who;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

/// How long the tunnel beside the stalled ones is measured, each time.
const WATCHED: Duration = Duration::from_secs(10);

pub(super) fn stalled_readers(lab: &Lab, report: &mut Report) {
    let _web = lab.web(who);
    let fleet = lab.fleet_with(1, &[&["--allow", "10.88.0.0/24"], &QUIET[..]].concat(), &QUIET);
    let _servers = Servers::start(lab);
    let (frames, readers) = (report.count(30_000), report.count(500));
    let link = fleet.link();

    let (calm, tiny, piled, lost) = apps::run(&fleet.client, async || {
        let mut other = apps::tunnel(ECHO).await.unwrap();
        let before = watch(&mut other, WATCHED).await;

        let mut stalled = apps::tunnel(TRICKLE).await.unwrap();
        stalled.write_u32(u32::try_from(frames).unwrap()).await.unwrap();
        let tiny = watch(&mut other, WATCHED.max(Duration::from_millis(frames as u64))).await;
        let mut lost = usize::from(stalled.read_exact(&mut vec![0; frames]).await.is_err());
        drop(stalled);

        let mut stalled = Vec::new();
        for _ in 0..readers {
            stalled.push(apps::tunnel(PILE).await.unwrap());
        }
        let piled = watch(&mut other, WATCHED).await;
        for mut tunnel in stalled {
            lost += usize::from(tunnel.read_exact(&mut vec![0; 64 * 1024]).await.is_err());
        }
        let after = watch(&mut other, WATCHED).await;
        (before.max(after), tiny, piled, lost)
    });
    report.figure("calm, 99 of 100 within, µs", calm.as_micros());
    for (name, time) in [
        (format!("beside {frames} frames of one byte that nobody reads"), tiny),
        (format!("beside {readers} stalled readers of 64 KiB"), piled),
    ] {
        let value = format!("{} µs", time.as_micros());
        report.must(&name, value, "99 of 100 within twice as much", time < 2 * calm);
    }
    report.none("stalled readers that did not get all of it later", lost);
    let same = fleet.link() == link;
    report.must("the link", if same { "the same" } else { "another" }, "the same", same);
}

/// The 99th percentile of this tunnel's round trips over a period.
async fn watch(tunnel: &mut TcpStream, time: Duration) -> Duration {
    let (started, mut times) = (Instant::now(), Vec::new());
    while started.elapsed() < time {
        let sent = Instant::now();
        apps::echo(tunnel, &[3; 100]).await.unwrap();
        times.push(sent.elapsed());
        sleep(Duration::from_millis(2)).await;
    }
    percentile(&mut times, 100)
}
