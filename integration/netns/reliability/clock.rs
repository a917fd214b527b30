//! A wrong clock, or a correction of it, breaks nothing.

use super::apps;
use super::report::Report;
use super::servers::{ECHO, Servers};
use crate::lab::fleet::QUIET;
use crate::lab::group::START;
use crate::lab::web::who;
use crate::lab::{Host, Lab};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

const YEAR: &str = "31536000";

/// Both nodes start with clocks that are a year off, in opposite directions. The clocks are corrected while they run, and
/// then wrong again.
pub(super) fn wrong_clocks(_: &Lab, report: &mut Report) {
    let Some(library) = library() else {
        report.must("libfaketime", "is not installed", "the Debian package faketime", false);
        return;
    };
    for (name, at_start, later) in [
        ("a year behind, then right, then ahead", format!("-{YEAR}"), ["+0".to_owned(), format!("+{YEAR}")]),
        ("a year ahead, then right, then behind", format!("+{YEAR}"), ["+0".to_owned(), format!("-{YEAR}")]),
    ] {
        for which in ["the client's", "the gateway's", "both"] {
            let name = format!("{which} clock {name}");
            run(&Lab::new(), report, &name, which, &library, &at_start, &later);
        }
    }
}

fn run(
    lab: &Lab,
    report: &mut Report,
    name: &str,
    which: &str,
    library: &Path,
    at_start: &str,
    later: &[String; 2],
) {
    let _web = lab.web(who);
    let clock = lab.write("clock", at_start);
    let (c1, c2, g1) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"));
    if which != "the gateway's" {
        wear(&c1, library, &clock);
    }
    if which != "the client's" {
        wear(&g1, library, &clock);
    }
    let options = [&["--allow", "10.88.0.0/24"], &QUIET[..]].concat();
    let mut group = lab.group(&[&g1, &c1, &c2], &options);
    let _servers = Servers::start(lab);
    let mut node = group.client(&c1, &QUIET);

    let mut failed = 0;
    for time in later {
        failed += echoes(&c1, 20);
        fs::write(&clock, time).unwrap();
        // The node checks its clock every second.
        thread::sleep(Duration::from_secs(3));
        failed += echoes(&c1, 20);
    }
    report.none(&format!("{name}: requests failed"), failed);
    if which != "the gateway's" {
        let jumps = node.log().lines().filter(|line| line.contains("the clock jumped")).count();
        report.must(&format!("{name}: jumps that the client saw"), jumps, "2", jumps == 2);
    }
    let log = node.log() + &group.gateway.log();
    report
        .none(&format!("{name}: links lost"), log.lines().filter(|line| line.contains("link down")).count());
    // Another node, whose clock is right.
    let mut new = group.up(&c2, &QUIET);
    new.wait_for_line("link up", START);
    let failed = echoes(&c2, 1);
    report.none(&format!("{name}: new handshakes failed"), failed);
    assert!(node.is_running() && group.gateway.is_running());
}

/// Makes `count` requests in a row; returns the number that failed.
fn echoes(host: &Host, count: usize) -> usize {
    apps::run(host, async || {
        let mut failed = 0;
        for _ in 0..count {
            let went = async { apps::echo(&mut apps::tunnel(ECHO).await?, b"what time is it?").await };
            failed += usize::from(went.await.is_err());
        }
        failed
    })
}

/// Every `laneway` on this host reads its wall clock's offset from this file.
fn wear(host: &Host, library: &Path, clock: &Path) {
    host.set("LD_PRELOAD", library.to_str().unwrap());
    host.set("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap());
    host.set("FAKETIME_NO_CACHE", "1");
    host.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
}

fn library() -> Option<PathBuf> {
    let directories = fs::read_dir("/usr/lib").ok()?;
    let library = |directory: fs::DirEntry| directory.path().join("faketime/libfaketimeMT.so.1");
    directories.flatten().map(library).find(|library| library.exists())
}
