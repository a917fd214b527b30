//! A node that runs out of a resource refuses requests, keeps running, and recovers.

use super::apps;
use super::report::Report;
use super::servers::{ECHO, ENDLESS, Servers};
use super::usage::Usage;
use crate::lab::fleet::{Fleet, QUIET};
use crate::lab::group::{START, init, join, state, up};
use crate::lab::web::who;
use crate::lab::{Host, Lab};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// The deadline for recovery.
const RECOVERY: Duration = Duration::from_secs(2);

pub(super) fn scarcity(_: &Lab, report: &mut Report) {
    for (name, gateway_only) in [("64 descriptors for both", false), ("64 descriptors for the gateway", true)]
    {
        few_descriptors(&Lab::new(), report, name, gateway_only);
    }
    little_memory(&Lab::new(), report);
    bad_disk(&Lab::new(), report);
    dead_dns(&Lab::new(), report);
}

fn small_fleet(lab: &Lab) -> Fleet {
    lab.fleet_with(1, &[&["--allow", "10.88.0.0/24", "--allow", "*.lab"], &QUIET[..]].concat(), &QUIET)
}

fn few_descriptors(lab: &Lab, report: &mut Report, name: &str, gateway_only: bool) {
    let _web = lab.web(who);
    let mut fleet = small_fleet(lab);
    let _servers = Servers::start(lab);
    let ids = [fleet.node.id(), fleet.gateways[0].id()];
    for id in &ids[usize::from(gateway_only)..] {
        let mut prlimit = fleet.client.command("prlimit");
        prlimit.args(["--nofile=64:64", "--pid", &id.to_string()]);
        fleet.client.output(prlimit).success();
    }
    let (opened, refused, waiting, broken, spin) = apps::run(&fleet.client, async || {
        let all = (0..200).map(|_| timeout(Duration::from_secs(5), apps::tunnel(ECHO)));
        let (mut open, mut refused, mut waiting, mut broken) = (Vec::new(), 0, 0, 0);
        for outcome in futures_util::future::join_all(all).await {
            match outcome {
                Ok(Ok(tunnel)) => open.push(tunnel),
                Ok(Err(error)) if error.to_string().starts_with("SOCKS5 reply") => refused += 1,
                Ok(Err(_)) => broken += 1,
                Err(_) => waiting += 1,
            }
        }
        let before = ids.map(|id| Usage::of(id).processor);
        sleep(Duration::from_secs(2)).await;
        let spin = ids.iter().zip(before).map(|(id, before)| Usage::of(*id).processor - before).max();
        (open.len(), refused, waiting, broken, spin.unwrap_or_default())
    });
    report.figure(
        &format!("{name}: of 200 opened, refused, waiting"),
        format_args!("{opened}, {refused}, {waiting}"),
    );
    report.must(&format!("{name}: opened"), opened, "some, not all", opened > 0 && opened < 200);
    report.none(&format!("{name}: closed without a word"), broken);
    report.within(&format!("{name}: processor time in 2 s of waiting"), spin, Duration::from_millis(200));
    recovers(&fleet.client, report, name);
    alive(&mut fleet, report, name);
}

fn little_memory(lab: &Lab, report: &mut Report) {
    let name = "64 MiB of memory";
    let _web = lab.web(who);
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let (Some(one), Some(two)) = (Memory::confine(&c1), Memory::confine(&g1)) else {
        report.must(name, "no memory cgroup can be made here", "as root with cgroups", false);
        return;
    };
    let options = [&["--allow", "10.88.0.0/24"], &QUIET[..]].concat();
    let mut group = lab.group(&[&g1, &c1], &options);
    let mut node = group.client(&c1, &QUIET);
    let _servers = Servers::start(lab);
    let open = apps::run(&c1, async || {
        let mut open = Vec::new();
        for _ in 0..200 {
            // The output is never read.
            match timeout(Duration::from_secs(5), apps::tunnel(ENDLESS)).await {
                Ok(Ok(tunnel)) => open.push(tunnel),
                _ => sleep(Duration::from_millis(20)).await,
            }
        }
        sleep(Duration::from_secs(5)).await;
        open.len()
    });
    report.figure(&format!("{name}: stalled downloads opened, of 200"), open);
    for (side, process, memory) in [("client", &mut node, &one), ("gateway", &mut group.gateway, &two)] {
        report.figure(&format!("{name}: most that the {side} took, MiB"), memory.most() >> 20);
        let runs = process.is_running();
        report.must(&format!("{name}: the {side}"), if runs { "runs" } else { "has ended" }, "runs", runs);
    }
    recovers(&c1, report, name);
}

/// A memory cgroup of 64 MiB.
struct Memory(PathBuf);

impl Memory {
    /// A cgroup for programs that are started on this host; `None` when it cannot be made.
    fn confine(host: &Host) -> Option<Memory> {
        let (one, two) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let (root, limit) = if one.exists() { (one, "memory.limit_in_bytes") } else { (two, "memory.max") };
        let group = Memory(root.join(format!("laneway-{}-{}", std::process::id(), host.name)));
        fs::create_dir(&group.0).ok()?;
        fs::write(group.0.join(limit), (64 << 20).to_string()).ok()?;
        host.confine(group.0.clone());
        Some(group)
    }

    /// The most that was used in it, in bytes.
    fn most(&self) -> u64 {
        let most =
            ["memory.max_usage_in_bytes", "memory.peak"].map(|name| fs::read_to_string(self.0.join(name)));
        most.into_iter().flatten().find_map(|most| most.trim().parse().ok()).unwrap_or_default()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Processes that are still in it move out first.
        if let Some(root) = self.0.parent()
            && let Ok(processes) = fs::read_to_string(self.0.join("cgroup.procs"))
        {
            processes.lines().for_each(|id| drop(fs::write(root.join("cgroup.procs"), id)));
        }
        let _ = fs::remove_dir(&self.0);
    }
}

/// The state directories of the gateway and the client are full, then read-only: the nodes start anyway.
fn bad_disk(lab: &Lab, report: &mut Report) {
    let _web = lab.web(who);
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let disks = [Disk::small(&state(&g1)), Disk::small(&state(&c1))];
    let code = init(&g1);
    let gateway = ["--role", "gateway", "--server", "10.88.0.100:80", "--allow", "10.88.0.0/24"];
    {
        let _g1 = up(&g1, &gateway);
        join(&c1, &code);
    }
    let _servers = Servers::start(lab);
    for (name, spoil) in [("full disk", Disk::fill as fn(&Disk)), ("read-only disk", Disk::lock)] {
        disks.iter().for_each(spoil);
        let (mut one, mut two) = (up(&g1, &gateway), up(&c1, &[]));
        two.wait_for_line("link up", START);
        recovers(&c1, report, name);
        let running = one.is_running() && two.is_running();
        report.must(
            &format!("{name}: the nodes"),
            if running { "run" } else { "have ended" },
            "run",
            running,
        );
    }
}

/// A file system of 256 KiB.
struct Disk(PathBuf);

impl Disk {
    fn small(at: &Path) -> Disk {
        fs::create_dir_all(at).unwrap();
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("mode=700,size=256k")).unwrap();
        Disk(at.into())
    }

    fn fill(&self) {
        // As much as fits.
        let _ = fs::write(self.0.join("filler"), vec![0; 1 << 20]);
        assert!(fs::write(self.0.join("more"), [0; 8192]).is_err(), "the disk is not full");
    }

    fn lock(&self) {
        mount(None::<&str>, &self.0, None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>)
            .unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// The name server does not answer.
fn dead_dns(lab: &Lab, report: &mut Report) {
    let name = "dead DNS";
    let _web = lab.web(who);
    let names = lab.receiver();
    let mut fleet = small_fleet(lab);
    let _servers = Servers::start(lab);
    let ask = async |name: &str| timeout(Duration::from_secs(30), by_name(name)).await.ok();

    lab.server.filter("udp dport 53 drop");
    let (slowest, wrong, direct) = apps::run(&fleet.client, async || {
        let started = Instant::now();
        let asked: Vec<_> = (0..50).map(|number| format!("n{number}.lab")).collect();
        let asked = futures_util::future::join_all(asked.iter().map(|name| ask(name)));
        let direct = async {
            sleep(Duration::from_secs(1)).await;
            let started = Instant::now();
            apps::echo(&mut apps::tunnel(ECHO).await?, b"by address").await?;
            Ok::<_, io::Error>(started.elapsed())
        };
        let (answers, direct) = tokio::join!(asked, direct);
        let wrong = answers.iter().filter(|answer| !matches!(answer, Some(Ok(4)))).count();
        (started.elapsed(), wrong, direct)
    });
    report.none(&format!("{name}: names not answered by 'host unreachable'"), wrong);
    report.within(&format!("{name}: the last of these"), slowest, Duration::from_secs(15));
    report.within(
        &format!("{name}: by address meanwhile"),
        direct.unwrap_or(Duration::MAX),
        Duration::from_secs(1),
    );
    lab.server.filter("");
    // The name server answers again: no such name.
    let started = Instant::now();
    let answer = apps::run(&fleet.client, async || ask("after.lab").await);
    report
        .none(&format!("{name}: names not answered afterwards"), usize::from(!matches!(answer, Some(Ok(4)))));
    report.within(&format!("{name}: answered again after"), started.elapsed(), RECOVERY);
    alive(&mut fleet, report, name);
    drop(names);
}

/// The reply code to a SOCKS5 request for port 80 of this name.
async fn by_name(name: &str) -> io::Result<u8> {
    let mut stream: TcpStream = apps::proxy().await?;
    let length = u8::try_from(name.len()).expect("a short name");
    let request = [&[5, 1, 0, 5, 1, 0, 3, length], name.as_bytes(), &[0, 80]].concat();
    stream.write_all(&request).await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    Ok(answer[3])
}

/// Waits until an app is served again after the overload.
fn recovers(client: &Host, report: &mut Report, name: &str) {
    let started = Instant::now();
    let works = || {
        apps::run(client, async || {
            let served = async { apps::echo(&mut apps::tunnel(ECHO).await?, b"again?").await };
            matches!(timeout(Duration::from_secs(1), served).await, Ok(Ok(())))
        })
    };
    while !works() && started.elapsed() < RECOVERY * 10 {
        thread::sleep(Duration::from_millis(20));
    }
    report.within(&format!("{name}: works again after"), started.elapsed(), RECOVERY);
}

fn alive(fleet: &mut Fleet, report: &mut Report, name: &str) {
    let (client, gateway) = (fleet.node.is_running(), fleet.gateways[0].is_running());
    report.must(&format!("{name}: the client"), if client { "runs" } else { "has ended" }, "runs", client);
    report.must(&format!("{name}: the gateway"), if gateway { "runs" } else { "has ended" }, "runs", gateway);
}
