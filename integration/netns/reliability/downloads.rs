//! Many clients download the same files over one gateway's line.

use super::report::Report;
use crate::lab::files::Files;
use crate::lab::fleet::QUIET;
use crate::lab::group::{START, join, laneway, state, up};
use crate::lab::origin::{choices, sha256};
use crate::lab::process::Output;
use crate::lab::{Host, Lab};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::{self, File};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
/// The files that every client downloads.
const FILES: u64 = 20;
/// The line between the gateway and the server.
const LINE: &str = "qdisc add dev out root tbf rate 20mbit burst 32kbit latency 100ms";
/// How long a download may take that is disturbed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Downloads the files from number `first` on, one after the other.
fn words(first: u64, count: u64) -> Vec<String> {
    let files = format!("http://10.88.0.100/f/[{first}-{}]", first + count - 1);
    let curl = "curl --silent --show-error --max-time 600 --proxy http://127.0.0.1:1080".split(' ');
    curl.map(str::to_owned).chain([files]).collect()
}

fn whole(files: &Files, first: u64, count: u64) -> Vec<u8> {
    (first..first + count).flat_map(|number| files.content(number).to_vec()).collect()
}

/// Downloads the files from number `first` on with all these hosts at once. Returns how long that took, without the start of so
/// many programs on one machine.
fn together(hosts: &[Host], first: u64) -> (Duration, Vec<Output>) {
    let gate = hosts[0].directory().join("gate");
    mkfifo(&gate, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let downloads = hosts.iter().map(|host| {
        let mut shell = host.command("bash");
        shell.args(["-c", r#"echo waiting >&2; : < "$0"; exec "$@""#]).arg(&gate).args(words(first, FILES));
        host.spawn(shell)
    });
    let mut downloads: Vec<_> = downloads.collect();
    for download in &mut downloads {
        download.wait_for_line("waiting", START);
    }
    let started = Instant::now();
    let _open = File::options().read(true).write(true).open(&gate).unwrap();
    for download in &mut downloads {
        download.wait(PATIENCE * 5);
    }
    let took = started.elapsed();
    fs::remove_file(&gate).unwrap();
    (took, downloads.into_iter().map(|download| download.finish(PATIENCE)).collect())
}

/// 100 clients that start together take hardly longer than one, and each file crosses the line once.
pub(super) fn one_download_for_all(lab: &Lab, report: &mut Report) {
    let files = lab.files(MIB);
    let g1 = lab.gateway("g1");
    g1.widen();
    let mut tc = lab.server.command("tc");
    tc.args(LINE.split(' '));
    lab.server.output(tc).success();
    let crowd = lab.crowd(report.count(100));
    let group = lab.group(&[&g1], &QUIET);
    crowd.iter().for_each(|host| join(host, &group.code));
    let options = [&["--role", "client", "--threads", "1"], &QUIET[..]].concat();
    let mut nodes: Vec<_> = crowd.iter().map(|host| up(host, &options)).collect();
    nodes.iter_mut().for_each(|node| drop(node.wait_for_line("link up", START * 6)));

    let one = together(&crowd[..1], 1).0;
    let before = files.sent();
    let expected = sha256(&whole(&files, 101, FILES));
    let (all, outputs) = together(&crowd, 101);
    let wrong = outputs
        .iter()
        .filter(|output| !output.status.success() || sha256(&output.stdout) != expected)
        .count();
    let unique = FILES * MIB as u64;
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let (sent, ratio) =
        ((files.sent() - before) as f64 / unique as f64, all.as_secs_f64() / one.as_secs_f64());
    report.figure("clients, files of 1 MiB", format_args!("{}, {FILES}", crowd.len()));
    report.none("wrong downloads", wrong);
    report.must(
        "bytes over the line / unique bytes",
        format_args!("{sent:.3}"),
        "at most 1.05",
        sent <= 1.05,
    );
    let bound = if report.alone { "at most 1.2" } else { "not judged" };
    let figure = format!("{ratio:.2} ({:.1} s for one)", one.as_secs_f64());
    report.must("time together / time of one", figure, bound, !report.alone || ratio <= 1.2);
}

/// Gateways and clients are killed at random while files are downloaded: no file is wrong, and none hangs.
pub(super) fn killed_at_random(lab: &Lab, report: &mut Report) {
    const CLIENTS: usize = 5;
    const AT_A_TIME: usize = 50;
    let files = lab.files(4 * MIB);
    let mut tc = lab.server.command("tc");
    tc.args("qdisc add dev out root tbf rate 200mbit burst 256kbit latency 100ms".split(' '));
    lab.server.output(tc).success();
    let mut fleet = lab.fleet_with(2, &QUIET, &QUIET);
    let crowd: Vec<_> = (2..2 + CLIENTS).map(|number| lab.client(&format!("c{number}"))).collect();
    let group = laneway(&fleet.gateways[0].host, &["invite", "--uses", "any"]).success().text();
    let code = group.split_whitespace().find(|word| word.starts_with("lw1.")).unwrap().to_owned();
    crowd.iter().for_each(|host| join(host, &code));
    let options = [&["--role", "client", "--threads", "1"], &QUIET[..]].concat();
    let mut nodes: Vec<_> = crowd.iter().map(|host| up(host, &options)).collect();

    let until = Instant::now() + report.time(600);
    let mut next = choices();
    let (mut rounds, mut complete, mut wrong, mut ended, mut kills) = (0_u64, 0, 0, 0, 0);
    let hashes: Vec<_> = (0..10).map(|number| sha256(&files.content(number))).collect();
    while Instant::now() < until {
        rounds += 1;
        let downloads: Vec<_> = (0..AT_A_TIME)
            .map(|number| {
                let file = next(hashes.len());
                let mut curl = crowd[number % CLIENTS].command("curl");
                curl.args(["--silent", "--max-time", "100", "--proxy", "http://127.0.0.1:1080"]);
                curl.arg(format!("http://10.88.0.100/f/{file}"));
                (file, crowd[number % CLIENTS].spawn(curl))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(200 + next(800) as u64));
        if rounds % 2 == 0 {
            let which = next(CLIENTS);
            nodes[which].signal(Signal::SIGKILL);
            nodes[which] = up(&crowd[which], &options);
        } else {
            let which = next(2);
            fleet.kill(which);
            std::thread::sleep(Duration::from_millis(next(1000) as u64));
            fleet.start(which);
        }
        kills += 1;
        for (file, download) in downloads {
            let output = download.finish(PATIENCE);
            match output.status.success() {
                true if sha256(&output.stdout) == hashes[file] => complete += 1,
                true => wrong += 1,
                false => ended += 1,
            }
        }
        // A crash must not have left anything wrong.
        if rounds % 5 == 0 {
            let number = 10 + rounds % 2;
            let _ = laneway(&fleet.gateways[0].host, &["cache", "rm", &format!("/f/{number}")]);
        }
    }
    report.figure("kills", kills);
    report.figure("downloads that were complete", complete);
    report.figure("downloads that ended with an error, as when their client was killed", ended);
    report.none("wrong downloads that looked complete", wrong);
    for gateway in &fleet.gateways {
        let verified = laneway(&gateway.host, &["cache", "verify"]);
        report.must("the store is consistent", verified.text().trim(), "yes", verified.status.success());
        assert!(state(&gateway.host).join("cache").is_dir());
    }
}
