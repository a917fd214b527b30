//! Idle tunnels cost next to nothing, and still work after a long time.

use super::apps;
use super::report::Report;
use super::servers::{ECHO, Servers};
use super::usage::Usage;
use crate::lab::Lab;
use crate::lab::fleet::QUIET;
use crate::lab::group::START;
use crate::lab::process::Process;
use crate::lab::programs::python;
use crate::lab::web::who;
use std::time::Duration;
use tokio::time::sleep;

/// The number of tunnels that are opened at a time.
const AT_A_TIME: usize = 100;
/// With more tunnels the server runs in a process of its own.
const AT_HOME: usize = 1000;

pub(super) fn idle_tunnels(lab: &Lab, report: &mut Report) {
    let _web = lab.web(who);
    let fleet = lab.fleet_with(1, &[&["--allow", "10.88.0.0/24"], &QUIET[..]].concat(), &QUIET);
    let ids = [fleet.node.id(), fleet.gateways[0].id()];
    apps::many_sockets();
    let room = report.count(10_000) <= AT_HOME;
    let _servers = (room.then(|| Servers::start(lab)), (!room).then(|| echo_server(lab)));
    let (count, time) = (report.count(10_000), report.time(600));

    let before = ids.map(Usage::of);
    let (open, later, lost) = apps::run(&fleet.client, async || {
        let mut tunnels = Vec::new();
        while tunnels.len() < count {
            let batch = AT_A_TIME.min(count - tunnels.len());
            for opened in futures_util::future::join_all((0..batch).map(|_| apps::tunnel(ECHO))).await {
                tunnels.push(opened.unwrap());
            }
        }
        sleep(Duration::from_secs(1)).await;
        let open = ids.map(Usage::of);
        sleep(time).await;
        let later = ids.map(Usage::of);
        let mut lost = 0;
        for tunnel in &mut tunnels {
            lost += usize::from(apps::echo(tunnel, b"still there?").await.is_err());
        }
        (open, later, lost)
    });
    report.figure("tunnels", count);
    report.figure("seconds", time.as_secs());
    report.none("lost", lost);
    for (index, side) in ["client", "gateway"].into_iter().enumerate() {
        let memory = later[index].memory.saturating_sub(before[index].memory) as f64 / count as f64;
        // Below that number the fixed cost dominates.
        let enough = count >= 1000;
        let bound = if enough { "at most 25" } else { "not judged" };
        report.must(
            &format!("KiB for a tunnel, {side}"),
            format_args!("{memory:.1}"),
            bound,
            !enough || memory <= 25.0,
        );
        let processor =
            (later[index].processor - open[index].processor).as_secs_f64() / time.as_secs_f64() * 100.0;
        report.must(
            &format!("% of a processor, {side}"),
            format_args!("{processor:.2}"),
            "below 3",
            !report.alone || processor < 3.0,
        );
    }
}

/// Many systems limit a process to 20,000 descriptors: the apps need half of that, and the server the other half.
fn echo_server(lab: &Lab) -> Process {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/netns/programs/echo_server.py");
    let mut server = lab.server.command(python().to_str().expect("UTF-8"));
    server.args([program, &lab.server.address().to_string(), &ECHO.to_string()]);
    let mut server = lab.server.spawn(server);
    server.wait_for_line("listening", START);
    server
}
