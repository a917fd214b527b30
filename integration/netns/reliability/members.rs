//! Many clients download one large file over the narrow LAN leg of one gateway.

use super::report::Report;
use crate::lab::fleet::QUIET;
use crate::lab::group::{START, join, up};
use crate::lab::origin::sha256;
use crate::lab::process::Process;
use crate::lab::{Host, Lab};
use std::time::{Duration, Instant};

const CLIENTS: usize = 50;
/// The gateway's leg on the LAN, and that of every client, in Mbit/s, at scale 1: fifty machines need the processors of some
/// then.
const GATEWAY_LEG: u32 = 100;
const CLIENT_LEG: u32 = 1000;
/// What each client keeps for the others, a little more than the file. The states of all clients are in memory here: 13 GB at
/// scale 1.
const KEPT: &str = "300M";
/// How long all downloads together may take.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Downloads a file, and prints its hash.
fn start(host: &Host, number: u64) -> Process {
    let mut shell = host.command("bash");
    // openssl hashes three times as fast as sha256sum.
    let code = r#"set -o pipefail
curl --silent --show-error --proxy http://127.0.0.1:1080 "$0" | openssl dgst -sha256 -r"#;
    shell.args(["-c", code, &format!("http://10.88.0.100/f/{number}")]);
    host.spawn(shell)
}

/// 50 clients that get pieces from each other take at most three times as long as one.
pub(super) fn one_narrow_leg_for_all(lab: &Lab, report: &mut Report) {
    let length = report.count(256) * 1_000_000;
    let files = lab.files(length);
    let g1 = lab.gateway("g1");
    g1.widen();
    let crowd = lab.crowd(CLIENTS);
    let group = lab.group(&[&g1], &QUIET);
    crowd.iter().for_each(|host| join(host, &group.code));
    let options = [&["--role", "client", "--threads", "1", "--peer-cache", KEPT], &QUIET[..]].concat();
    let mut nodes: Vec<_> = crowd.iter().map(|host| up(host, &options)).collect();
    nodes.iter_mut().for_each(|node| drop(node.wait_for_line("link up", START * 6)));
    let rate = |whole: u32| format!("{}mbit", report.count(whole));
    crowd.iter().for_each(|host| host.limit(&rate(CLIENT_LEG)));
    g1.limit(&rate(GATEWAY_LEG));
    // The server makes a file when it is first asked for it.
    let expected = [1, 2].map(|number| {
        g1.curl(&["--range", "0-0", &format!("http://10.88.0.100/f/{number}")]).success();
        sha256(&files.content(number))
    });

    let started = Instant::now();
    let alone = start(&crowd[0], 1).finish(PATIENCE).success().text();
    let one = started.elapsed();
    let before = g1.sent();
    let started = Instant::now();
    let all: Vec<_> = crowd.iter().map(|host| start(host, 2)).collect();
    let outputs: Vec<_> = all.into_iter().map(|download| download.finish(PATIENCE)).collect();
    let together = started.elapsed();
    let is_right = |text: &str, expected: &str| text.starts_with(expected);
    let wrong =
        outputs.iter().filter(|output| !output.status.success() || !is_right(&output.text(), &expected[1]));
    report.figure("clients, bytes", format_args!("{CLIENTS}, {length}"));
    report.none("wrong downloads", wrong.count() + usize::from(!is_right(&alone, &expected[0])));
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let (crossed, ratio) =
        ((g1.sent() - before) as f64 / length as f64, together.as_secs_f64() / one.as_secs_f64());
    report.figure("bytes over the gateway's leg / bytes of the file", format_args!("{crossed:.2}"));
    let bound = if report.alone { "at most 3" } else { "not judged" };
    let figure = format!("{ratio:.2} ({:.1} s for one)", one.as_secs_f64());
    report.must("time together / time of one", figure, bound, !report.alone || ratio <= 3.0);
    report.explain("one client", &nodes[1].log());
}
