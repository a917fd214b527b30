//! A small request on a new tunnel while other tunnels keep the peer busy, or make it wait.

use super::measure::{Measure, Metric, Subject};
use crate::load::bulk::{Bulk, Direction};
use crate::load::held::Held;
use crate::load::small::{Request, requests};
use anyhow::Result;
use std::thread;
use std::time::{Duration, Instant};

pub(super) const DOWNLOAD: Measure = Measure {
    name: "beside-download",
    title: "A small request on a new tunnel beside a download that takes all it gets",
    quick: true,
    take: beside_download,
};

pub(super) const STALLED: Measure = Measure {
    name: "beside-stalled",
    title: "Everybody else, while 64 tunnels download and their apps do not read: requests on new tunnels, one download",
    quick: false,
    take: beside_stalled,
};

const STALLED_TUNNELS: usize = 64;
/// The buffers of the stalled tunnels are full once the server has sent nothing for this long.
const FULL: Duration = Duration::from_millis(300);
/// A peer that takes longer, or has no limit, is measured while they fill.
const FILLS: Duration = Duration::from_secs(8);

fn beside_download(subject: &mut Subject<'_>) -> Result<()> {
    let bulk = Bulk::start(&subject.site.client, subject.route(), subject.server, Direction::Down, 1)?;
    thread::sleep(super::bulk::WARM_UP);
    let (start, before) = (Instant::now(), bulk.bytes());
    let went = requests(&subject.site.client, subject.route(), Request::NewTunnel, 1, 2 * subject.window)?;
    let rate = super::bulk::gigabytes(bulk.bytes() - before) / start.elapsed().as_secs_f64();
    bulk.unbroken()?;
    drop(bulk);
    subject.settle();
    subject.found(Metric::new("p50", "ms", 2), went.p50);
    subject.found(Metric::new("p99", "ms", 2), went.p99);
    subject.found(Metric::new("the download meanwhile", "GB/s", 2), rate);
    went.all_well()
}

fn beside_stalled(subject: &mut Subject<'_>) -> Result<()> {
    let alone = super::bulk::window(subject, Direction::Down, 1)?;
    subject.settle();
    let stalled = Held::stalled(&subject.site.client, subject.route(), STALLED_TUNNELS)?;
    let start = Instant::now();
    let mut sent = subject.server.sent();
    loop {
        thread::sleep(FULL);
        let now = subject.server.sent();
        if now == sent || start.elapsed() > FILLS {
            break;
        }
        sent = now;
    }
    let went = requests(&subject.site.client, subject.route(), Request::NewTunnel, 1, subject.window)?;
    subject.found(Metric::new("request, p50", "ms", 2), went.p50);
    subject.found(Metric::new("request, p99", "ms", 2), went.p99);
    went.all_well()?;
    let beside = super::bulk::window(subject, Direction::Down, 1)?;
    drop(stalled);
    subject.settle();
    subject.found(Metric::new("download", "GB/s", 2), beside.rate);
    subject.found(
        Metric::new("download, of what it is without", "", 2).not_compared(),
        beside.rate / alone.rate,
    );
    Ok(())
}
