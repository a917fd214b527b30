//! One large file over three gateways with lines of their own.

use super::report::Report;
use crate::lab::Lab;
use crate::lab::files::Files;
use crate::lab::fleet::{Fleet, QUIET};
use crate::lab::origin::sha256;
use crate::lab::process::Process;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The lines in Mbit/s.
const LINES: [u32; 3] = [20, 10, 5];
/// What the client logs.
const LOG: [&str; 2] = ["--log", "warn,laneway::app=info,laneway::link=info,laneway::local=info"];
/// How long a download may take.
const PATIENCE: Duration = Duration::from_secs(300);

fn start(fleet: &Fleet, number: u64) -> Process {
    let mut curl = fleet.client.command("curl");
    curl.args(["--silent", "--show-error", "--no-buffer", "--max-time", "300"]);
    curl.args(["--proxy", "http://127.0.0.1:1080"]).arg(format!("http://10.88.0.100/f/{number}"));
    fleet.client.spawn(curl)
}

/// Waits for the end of a download. Gives its bytes, if it succeeded, and the longest time without any of them.
fn watch(mut download: Process, mut during: impl FnMut(u64)) -> (Option<Vec<u8>>, Duration) {
    let (mut printed, mut last, mut stall) = (0, Instant::now(), Duration::ZERO);
    while download.is_running() {
        let now = download.printed();
        if now > printed {
            // The first byte waits for curl and the server.
            let passed = if printed > 0 { last.elapsed() } else { Duration::ZERO };
            (printed, stall, last) = (now, stall.max(passed), Instant::now());
        }
        during(printed);
        sleep(Duration::from_millis(5));
    }
    let output = download.finish(PATIENCE);
    (output.status.success().then_some(output.stdout), stall)
}

fn crossed(lab: &Lab) -> u64 {
    (1..=LINES.len()).map(|number| lab.crossed(&format!("g{number}"))).sum()
}

fn is_right(files: &Files, number: u64, got: Option<&Vec<u8>>) -> bool {
    got.is_some_and(|got| sha256(got) == sha256(&files.content(number)))
}

/// A file comes at the speed of all lines together, and a gateway that is killed meanwhile costs nothing.
pub(super) fn one_file_over_three_lines(lab: &Lab, report: &mut Report) {
    let length = report.count(200) * 1_000_000;
    let files = lab.files(length);
    let mut fleet = lab.fleet_with(LINES.len(), &QUIET, &LOG);
    for (number, rate) in LINES.iter().enumerate() {
        lab.narrow(&format!("g{}", number + 1), &format!("{rate}mbit"));
    }
    // The server makes a file when it is asked for it first.
    for number in 1..=4 {
        let url = format!("http://10.88.0.100/f/{number}");
        fleet.gateways[0].host.curl(&["--range", "0-0", &url]).success();
    }
    let started = Instant::now();
    let (got, stall) = watch(start(&fleet, 1), |_| {});
    let took = started.elapsed();
    report.figure("bytes", length);
    report.none("wrong or failed downloads", usize::from(!is_right(&files, 1, got.as_ref())));
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let (rate, crossed) =
        (length as f64 * 8.0 / 1e6 / took.as_secs_f64(), crossed(lab) as f64 / length as f64);
    let sum = f64::from(LINES.iter().sum::<u32>());
    let bound = if report.alone { "at least 0.9" } else { "not judged" };
    let ratio = rate / sum;
    report.must("throughput / sum of the lines", format!("{ratio:.3}"), bound, !report.alone || ratio >= 0.9);
    report.figure("bytes over the lines, with headers / bytes of the file", format!("{crossed:.3}"));
    report.figure("longest time without bytes", format!("{} ms", stall.as_millis()));

    for (round, which) in [0, 1, 2].into_iter().enumerate() {
        let number = 2 + round as u64;
        let (mut is_killed, half) = (false, length as u64 / 2);
        let (got, stall) = watch(start(&fleet, number), |printed| {
            if printed >= half && !std::mem::replace(&mut is_killed, true) {
                fleet.kill(which);
            }
        });
        let failed = usize::from(!is_right(&files, number, got.as_ref()));
        report.none(&format!("wrong or failed downloads while g{} is killed", which + 1), failed);
        report.within("longest time without bytes", stall, Duration::from_secs(1));
        fleet.start(which);
        fleet.wait_for_links();
    }
    let log = fleet.node.log();
    report.explain("the client", &log);
}
