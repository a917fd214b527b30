//! What the cache of a gateway gives and costs: a hit beside nginx that serves the same file directly, and a miss beside the
//! same program without a cache.

use super::measure::{Measure, Metric, Subject};
use crate::load::FILES;
use crate::load::files::{Downloaded, download};
use crate::peers::peer::{lacks, program, text};
use crate::peers::{Running, place_of, prepare};
use crate::process::Process;
use anyhow::{Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

pub(super) const CACHE: Measure = Measure {
    name: "cache",
    title: "The cache: hits, and their ratio to nginx without a proxy; misses, and their ratio to the same without a cache",
    quick: true,
    take: hits_and_misses,
};

/// The files: what they are called, and their sizes in bytes.
const SIZES: [(&str, usize); 2] = [("small", 4096), ("large", 16 << 20)];
/// The number that distinguishes the ports of the peer without a cache.
const NUMBER: u16 = 90;

/// The peers without a cache that have their keys.
static PREPARED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The next URI that was not asked for before.
static NEXT: AtomicU64 = AtomicU64::new(0);

pub(super) fn hits_and_misses(subject: &mut Subject<'_>) -> Result<()> {
    let Some(plain) = subject.peer.without_cache() else { return Ok(()) };
    if let Some(missing) = lacks(&["nginx"]) {
        bail!("{}; install with `apt-get install nginx-light`", missing.reason);
    }
    let _nginx = nginx(subject)?;
    if !PREPARED.lock().expect("no panic").contains(plain.name()) {
        prepare(&*plain, subject.site, NUMBER)?;
        PREPARED.lock().expect("no panic").insert(plain.name().to_owned());
    }
    let without = Running::start(&*plain, subject.site, NUMBER)?;
    let (client, window) = (subject.site.client.clone(), subject.window);
    let nginx = SocketAddr::new(subject.site.server.ip(), FILES);
    let directly = SocketAddr::new(subject.site.server_directly.ip(), FILES);
    let (with, without) = (subject.route().front, without.route.front);
    for (file, _) in SIZES {
        let new = |_| format!("http://{nginx}/{file}/{}", NEXT.fetch_add(1, Relaxed));
        let (mut hit, mut direct, mut miss, mut uncached) = (0.0, 0.0, 0.0, 0.0);
        let same = |_| format!("http://{nginx}/{file}/hit");
        let of = |rates: Downloaded| if file == "small" { rates.per_second } else { rates.rate };
        // In turns, because the machine's speed varies.
        for _ in 0..2 {
            hit += of(download(&client, with, same, window)?);
            direct += of(download(&client, directly, |_| format!("/{file}/hit"), window)?);
            miss += of(download(&client, with, new, window)?);
            uncached += of(download(&client, without, new, window)?);
        }
        let unit = if file == "small" { "/s" } else { "GB/s" };
        let digits = if file == "small" { 0 } else { 2 };
        let found = |name: &str| Metric::new(format!("{file}: {name}"), unit, digits).not_compared();
        subject.found(found("hit"), hit / 2.0);
        subject.found(Metric::new(format!("{file}: hit/nginx"), "", 2).not_compared(), hit / direct);
        subject.found(found("miss"), miss / 2.0);
        subject.found(Metric::new(format!("{file}: miss/no cache"), "", 2).not_compared(), miss / uncached);
    }
    Ok(())
}

/// Starts nginx beside the server, with the files.
fn nginx(subject: &Subject<'_>) -> Result<Process> {
    let site = subject.site;
    let directory = Path::new(crate::isolate::WORK).join("nginx");
    fs::create_dir_all(&directory)?;
    for (file, size) in SIZES {
        fs::write(directory.join(file), vec![b'x'; size])?;
    }
    let place = place_of(site, &directory, NUMBER);
    let configuration = place.configuration("nginx.conf", include_str!("../../peers/nginx.conf"))?;
    let mut command = Command::new(program("nginx"));
    command.args(["-c", text(&configuration)]);
    let mut nginx = Process::start(command, &site.gateway, &directory, "nginx")?;
    let start = Instant::now();
    while !site.gateway.reaches(SocketAddr::new(site.server.ip(), FILES)) {
        ensure!(!nginx.has_ended(), "nginx ended: {}", nginx.last_words());
        ensure!(start.elapsed() < Duration::from_secs(10), "nginx does not listen");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(nginx)
}
