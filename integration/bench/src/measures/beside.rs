//! A small request on a new tunnel while other tunnels keep the peer busy, or make it wait.

use super::{Figure, Measure, Metric, PAUSE, Subject};
use crate::load::bulk::{Bulk, Direction};
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

fn beside_download(subject: &mut Subject<'_>) -> Result<Vec<Figure>> {
    let bulk = Bulk::start(&subject.site.client, subject.way(), subject.server, Direction::Down, 1)?;
    thread::sleep(Duration::from_millis(300));
    let (start, before) = (Instant::now(), bulk.bytes());
    let went = requests(&subject.site.client, subject.way(), Request::NewTunnel, 1, 2 * subject.window)?;
    let rate = super::bulk::gigabytes(bulk.bytes() - before) / start.elapsed().as_secs_f64();
    bulk.unbroken()?;
    drop(bulk);
    thread::sleep(PAUSE);
    Ok(vec![
        Metric::new("p50", "ms", 2).is(went.p50),
        Metric::new("p99", "ms", 2).is(went.p99),
        Metric::new("the download meanwhile", "GB/s", 2).is(rate),
    ])
}
