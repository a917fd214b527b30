//! All nodes start at once, as after a power failure.

use super::report::{Report, percentile};
use crate::lab::group::{join, state};
use crate::lab::web::who;
use crate::lab::{Host, Lab, wait_until};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::OpenOptions;
use std::thread;
use std::time::{Duration, Instant};

pub(super) fn all_at_once(lab: &Lab, report: &mut Report) {
    let _web = lab.web(who);
    let count = report.count(500);
    let g1 = lab.gateway("g1");
    g1.widen();
    let crowd = lab.crowd(count);
    let group = lab.group(&[&g1], &["--log", "warn,laneway::app=info"]);
    thread::scope(|scope| {
        // A few at a time, because joining is not measured.
        for part in crowd.chunks(count.div_ceil(4)) {
            scope.spawn(|| part.iter().for_each(|host| join(host, &group.code)));
        }
    });

    // Each shell waits for the pipe to be opened, so that starting the shells takes no time later.
    let gate = lab.write("gate", "").with_extension("pipe");
    mkfifo(&gate, Mode::S_IRWXU).unwrap();
    let processes: Vec<_> = crowd.iter().map(|host| waiting(host, &gate.display().to_string())).collect();
    wait_until("the shells", || processes.iter().all(|process| process.log().contains("waiting")));
    let started = Instant::now();
    let _open = OpenOptions::new().write(true).open(&gate).unwrap();
    let mut linked = vec![None; count];
    let mut started_all = None;
    wait_until("all to be linked", || {
        let mut up = 0;
        for (process, linked) in processes.iter().zip(&mut linked) {
            if linked.is_some() {
                up += 1;
                continue;
            }
            let log = process.log();
            up += usize::from(log.contains("ready"));
            if log.contains("link up") {
                *linked = Some(started.elapsed());
            }
        }
        if up == count {
            started_all.get_or_insert_with(|| started.elapsed());
        }
        linked.iter().all(Option::is_some) || started.elapsed() > Duration::from_secs(25)
    });
    let mut times: Vec<_> = linked.iter().flatten().copied().collect();
    report.figure("clients", count);
    report.figure("all have started after, ms", started_all.unwrap_or_default().as_millis());
    report.figure("half of them linked after, ms", percentile(&mut times, 2).as_millis());
    report.none("not linked", count - times.len());
    let last = times.last().copied().unwrap_or_default();
    report.within("the last one linked after", last, Duration::from_secs(10));
    report.explain("one of them", &processes[0].log());
    report.none(
        "that came to an end",
        processes.into_iter().filter_map(|mut process| (!process.is_running()).then_some(())).count(),
    );
}

fn waiting(host: &Host, gate: &str) -> crate::lab::process::Process {
    let mut command = host.command("sh");
    let directory = state(host);
    command.args([
        "-c",
        r#"echo waiting; : <"$0"; exec "$@""#,
        gate,
        env!("CARGO_BIN_EXE_laneway"),
        "up",
        "--role",
        "client",
        "--state",
    ]);
    command.arg(directory).args(["--threads", "1"]);
    host.spawn(command)
}
