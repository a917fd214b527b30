//! What a gateway stores, for its clients and for its own apps.

use super::curl::HTTP;
use crate::lab::fleet::Fleet;
use crate::lab::group::{START, join, laneway, state, up};
use crate::lab::origin::{noise, sha256};
use crate::lab::process::Process;
use crate::lab::wait::PATIENCE;
use crate::lab::web::{Web, wait_for_the_end};
use crate::lab::{Case, Host, Lab, wait_until};
use nix::sys::signal::Signal;
use std::fs::{self, Permissions};
use std::io::{self, BufRead as _, BufReader, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::channel;

pub(super) const CASES: &[Case] = &[
    (
        "cache::clients_and_the_gateways_own_apps_fetch_each_file_once",
        clients_and_the_gateways_own_apps_fetch_each_file_once,
    ),
    (
        "cache::nobody_notices_that_the_gateway_which_fetches_for_all_is_killed",
        nobody_notices_that_the_gateway_which_fetches_for_all_is_killed,
    ),
    (
        "cache::what_is_stored_outlasts_a_kill_and_damage_on_the_disk_is_never_delivered",
        what_is_stored_outlasts_a_kill_and_damage_on_the_disk_is_never_delivered,
    ),
    (
        "cache::an_interrupted_download_is_completed_and_ranges_of_it_come_from_the_disk",
        an_interrupted_download_is_completed_and_ranges_of_it_come_from_the_disk,
    ),
    ("cache::a_full_disk_only_stops_the_storing", a_full_disk_only_stops_the_storing),
    (
        "cache::a_cache_that_fills_its_disk_is_right_through_kills_and_stores_again_once_there_is_room",
        a_cache_that_fills_its_disk_is_right_through_kills_and_stores_again_once_there_is_room,
    ),
    ("cache::a_disk_that_hangs_only_stops_the_storing", a_disk_that_hangs_only_stops_the_storing),
    (
        "cache::a_gateway_that_has_no_descriptors_left_keeps_what_is_stored",
        a_gateway_that_has_no_descriptors_left_keeps_what_is_stored,
    ),
    (
        "cache::a_state_directory_that_does_not_answer_holds_up_nothing_else",
        a_state_directory_that_does_not_answer_holds_up_nothing_else,
    ),
    (
        "cache::the_command_lists_removes_and_verifies_with_and_without_a_running_node",
        the_command_lists_removes_and_verifies_with_and_without_a_running_node,
    ),
    (
        "cache::a_store_that_is_lost_or_replaced_costs_nobody_a_file",
        a_store_that_is_lost_or_replaced_costs_nobody_a_file,
    ),
    (
        "cache::a_store_that_cannot_be_written_any_more_only_stops_the_storing",
        a_store_that_cannot_be_written_any_more_only_stops_the_storing,
    ),
];

/// The gateway's options: it serves the whole of s1.
const GATEWAY: [&str; 4] = ["--role", "gateway", "--server", "10.88.0.100:80"];
const MIB: usize = 1 << 20;
/// At most this many bytes may cross the line, in percent of the files.
const MOST: u64 = 105;

fn url(number: u64) -> String {
    format!("http://10.88.0.100/f/{number}")
}

/// What an app of this host downloads.
fn get(host: &Host, number: u64) -> Vec<u8> {
    host.curl(&[&HTTP[..], &[&url(number)]].concat()).success().stdout
}

fn download(host: &Host, number: u64, options: &[&str]) -> Process {
    let mut curl = host.command("curl");
    curl.args(["--silent", "--show-error", "--no-buffer", "--max-time", "60"])
        .args(HTTP)
        .args(options)
        .arg(url(number));
    host.spawn(curl)
}

fn clients_and_the_gateways_own_apps_fetch_each_file_once(lab: &Lab) {
    const FILES: u64 = 20;
    const CLIENTS: usize = 6;
    let files = lab.files(MIB / 4);
    let g1 = lab.gateway("g1");
    g1.widen();
    let crowd = lab.crowd(CLIENTS);
    let group = lab.group(&[&g1], &[]);
    crowd.iter().for_each(|host| join(host, &group.code));
    let mut nodes: Vec<_> = crowd.iter().map(|host| up(host, &["--role", "client"])).collect();
    nodes.iter_mut().for_each(|node| drop(node.wait_for_line("link up", START)));

    let all = format!("http://10.88.0.100/f/[1-{FILES}]");
    let own = ["--proxy", "http://127.0.0.1:1080", "--silent", "--show-error", "--max-time", "60"];
    let downloads: Vec<_> = crowd
        .iter()
        .chain([&g1])
        .map(|host| {
            let mut curl = host.command("curl");
            curl.args(own).arg(&all);
            host.spawn(curl)
        })
        .collect();
    let whole: Vec<u8> = (1..=FILES).flat_map(|number| files.content(number).to_vec()).collect();
    for download in downloads {
        let output = download.finish(PATIENCE * 2).success();
        assert_eq!(sha256(&output.stdout), sha256(&whole));
    }
    let (sent, unique) = (files.sent(), whole.len() as u64);
    assert!(sent * 100 <= unique * MOST, "{sent} bytes for {unique}");
    // An app that leaves after its response resets nothing.
    let left = crowd[0].curl(&[&HTTP[..], &["--header", "Connection: close", &url(1)]].concat()).success();
    assert_eq!(left.stdout, *files.content(1));
    let ended = || group.gateway.log().matches("outcome=").count();
    wait_until("each stream to be in the log", || ended() > CLIENTS);
    let log = group.gateway.log();
    assert!(!log.contains("reset at the other end"), "{log}");
    let status = laneway(&g1, &["status"]).success().text();
    assert!(status.contains(&format!("was downloaded once for {} machines", CLIENTS + 1)), "{status}");
}

/// Serves a file with its ranges. The first response for a path stops after `first` bytes and does not end.
fn breaks_off(lab: &Lab, content: Vec<u8>, first: usize) -> Web {
    lab.web(move |asked, stream| {
        let (start, length) = (asked.start().unwrap_or(0), content.len());
        let status = match asked.start() {
            Some(_) => format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{length}", length - 1),
            None => "200 OK".into(),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nETag: \"a\"\r\nCache-Control: max-age=60\r\nContent-Length: {}\r\n\r\n",
            length - start
        );
        stream.write_all(head.as_bytes())?;
        if asked.turn > 1 {
            return stream.write_all(&content[start..]);
        }
        stream.write_all(&content[start..first])?;
        wait_for_the_end(stream)
    })
}

fn nobody_notices_that_the_gateway_which_fetches_for_all_is_killed(lab: &Lab) {
    const LENGTH: usize = 6 * MIB;
    let content = noise(5, LENGTH);
    // The first gateway gets half of it, and no end.
    let web = breaks_off(lab, content.clone(), LENGTH / 2);
    let mut fleet = lab.fleet(2, &[]);
    let before: Vec<_> = (0..3).map(|_| download(&fleet.client, 1, &[])).collect();
    let half = (LENGTH / 2) as u64;
    wait_until("the first half", || before.iter().all(|one| one.printed() >= half));
    assert_eq!(web.asked("/f/1").len(), 1, "they share one fetch");
    let which = fleet.which(web.asked("/f/1")[0].from);
    fleet.kill(which);
    for one in before {
        assert_eq!(sha256(&one.finish(PATIENCE).success().stdout), sha256(&content));
    }
    let asked = web.asked("/f/1");
    assert_eq!(asked.len(), 2, "the rest is fetched once, too: {asked:?}");
    assert!(asked[1].start().is_some() && asked[1].field("if-range") == Some("\"a\""), "{asked:?}");
}

/// A gateway and a client, and where the gateway stores.
fn pair(lab: &Lab) -> (Fleet, PathBuf) {
    let fleet = lab.fleet(1, &[]);
    let directory = state(&fleet.gateways[0].host).join("cache");
    (fleet, directory)
}

/// All files of one kind in a store.
fn stored(directory: &PathBuf, kind: &str) -> Vec<PathBuf> {
    let folders = fs::read_dir(directory).unwrap().map(|folder| folder.unwrap().path());
    let files = folders.filter(|folder| folder.is_dir()).flat_map(|folder| fs::read_dir(folder).unwrap());
    files
        .map(|file| file.unwrap().path())
        .filter(|file| file.extension().is_some_and(|own| own == kind))
        .collect()
}

/// Changes one byte in the middle of each body, in place.
fn damage(directory: &PathBuf) -> usize {
    let bodies = stored(directory, "body");
    for body in &bodies {
        let mut bytes = fs::read(body).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::OpenOptions::new().write(true).open(body).unwrap().write_all(&bytes).unwrap();
    }
    bodies.len()
}

fn what_is_stored_outlasts_a_kill_and_damage_on_the_disk_is_never_delivered(lab: &Lab) {
    let files = lab.files(2 * MIB);
    let (mut fleet, directory) = pair(lab);
    assert_eq!(get(&fleet.client, 1), *files.content(1));
    fleet.kill(0);
    fleet.start(0);
    fleet.wait_for_links();
    assert_eq!(get(&fleet.client, 1), *files.content(1));
    assert_eq!(files.asked(1).len(), 1, "after the restart it is still stored");

    assert_eq!(damage(&directory), 1);
    let output = download(&fleet.client, 1, &[]).finish(PATIENCE);
    // The file is sent up to the damaged block; it never ends as if it were complete.
    assert!(!output.status.success() || output.stdout == *files.content(1), "{output}");
    assert!(files.content(1).starts_with(&output.stdout), "a wrong byte was delivered");
    assert_eq!(get(&fleet.client, 1), *files.content(1), "it is fetched anew");
    assert!(files.asked(1).len() >= 2);
}

fn an_interrupted_download_is_completed_and_ranges_of_it_come_from_the_disk(lab: &Lab) {
    const LENGTH: usize = 4 * MIB;
    let content = noise(9, LENGTH);
    let web = breaks_off(lab, content.clone(), LENGTH / 4);
    let (fleet, _) = pair(lab);
    let mut first = download(&fleet.client, 1, &[]);
    wait_until("a quarter", || first.printed() >= (LENGTH / 4) as u64);
    first.signal(Signal::SIGKILL);
    first.wait(PATIENCE);
    let listed = || laneway(&fleet.gateways[0].host, &["cache", "ls", "--json"]).success().text();
    wait_until("what came to be stored", || listed().contains("/f/1"));

    let part = download(&fleet.client, 1, &["--range", "1000-1999"]).finish(PATIENCE).success();
    assert_eq!(part.stdout, content[1000..2000]);
    assert_eq!(web.asked("/f/1").len(), 1, "that part is stored");
    // Three at a time: the rest is fetched once.
    let rest: Vec<_> = (0..3).map(|_| download(&fleet.client, 1, &[])).collect();
    for one in rest {
        assert_eq!(sha256(&one.finish(PATIENCE).success().stdout), sha256(&content));
    }
    let asked = web.asked("/f/1");
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[1].start().is_some_and(|start| start > 0), "{asked:?}");
    assert_eq!(asked[1].field("if-range"), Some("\"a\""));
}

fn a_full_disk_only_stops_the_storing(lab: &Lab) {
    let files = lab.files(4 * MIB);
    let client = lab.client("c1");
    let g1 = lab.gateway("g1");
    let group = lab.group(&[&g1, &client], &[]);
    drop(group.gateway);
    let directory = state(&g1).join("cache");
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=1m,mode=0700", "none"]).arg(&directory);
    assert!(mount.status().unwrap().success());
    // The gateway believes that there is room.
    let _gateway = up(&g1, &[&GATEWAY[..], &["--cache-size", "1G"]].concat());
    let mut node = up(&client, &["--role", "client"]);
    node.wait_for_line("link up", START);
    let downloads: Vec<_> = (0..4).map(|number| download(&client, 1 + number % 2, &[])).collect();
    for (number, one) in (0..).zip(downloads) {
        assert_eq!(one.finish(PATIENCE).success().stdout, *files.content(1 + number % 2));
    }
    assert!(fs::read_dir(&directory).is_ok());
}

/// The value of a metric of the node there.
fn metric(host: &Host, name: &str) -> u64 {
    let metrics = host.curl(&["http://127.0.0.1:1080/metrics"]).success().text();
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

/// Whether nothing can be stored in the cache there.
const UNUSABLE: &str = "laneway_store_unusable{directory=\"cache\"}";

fn a_cache_that_fills_its_disk_is_right_through_kills_and_stores_again_once_there_is_room(lab: &Lab) {
    const FILES: u64 = 20;
    // There is no room for twenty of them.
    let files = lab.files(4 * MIB - 5);
    let (client, g1) = (lab.client("c1"), lab.gateway("g1"));
    let group = lab.group(&[&g1, &client], &[]);
    drop(group.gateway);
    let directory = state(&g1).join("cache");
    let mut mount = Command::new("mount");
    runs(mount.args(["-t", "tmpfs", "-o", "size=64m,mode=0700", "none"]).arg(&directory));
    let start = || up(&g1, &[&GATEWAY[..], &["--cache-size", "1G"]].concat());
    let gets = |number: u64| {
        let got = download(&client, number, &[]).finish(PATIENCE).success().stdout;
        assert_eq!(sha256(&got), sha256(&files.content(number)), "{number}");
    };
    let mut gateway = start();
    let mut node = up(&client, &["--role", "client", "--peer-cache", "off"]);
    node.wait_for_line("link up", START);
    (1..=FILES).for_each(gets);
    assert_eq!(metric(&g1, UNUSABLE), 1);
    let named = format!("nothing is stored in {} (cache): No space left on device", directory.display());
    let status = laneway(&g1, &["status"]).success().text();
    assert!(status.contains(&named), "{status}");
    for host in [&g1, &client] {
        let said = laneway(host, &["doctor"]).text();
        let words = ["stor", "No space left on device", &*directory.display().to_string()];
        assert!(words.iter().all(|words| said.contains(words)), "{said}");
    }
    // What is stored is used, and nothing else is wrong, even after the gateway was killed while writing.
    for round in 0..3 {
        let downloads: Vec<_> = (0..4).map(|number| download(&client, FILES - number, &["--fail"])).collect();
        if round < 2 {
            wait_until("some of them", || downloads.iter().any(|one| one.printed() > 0));
            gateway.signal(Signal::SIGKILL);
            gateway.wait(PATIENCE);
            // No download ends in good order with anything but the file.
            for (one, number) in downloads.into_iter().zip(0..) {
                let output = one.finish(PATIENCE);
                let content = files.content(FILES - number);
                let is_whole = output.stdout == *content;
                assert!(is_whole || output.code() != 0 && content.starts_with(&output.stdout), "{output}");
            }
            gateway = start();
            node.wait_for_line("link up", START);
        } else {
            drop(downloads);
        }
        (1..=FILES).for_each(gets);
    }
    let lines = gateway.log().lines().filter(|line| line.contains("WARN")).count();
    assert!(lines <= 12, "{lines} warnings: {}", gateway.log());
    let before = files.sent();
    gets(1);
    assert_eq!(files.sent(), before, "the first ones are stored");

    laneway(&g1, &["cache", "rm", "--all"]).success();
    wait_until("room", || files_in(&directory) == 0);
    [21, 21].into_iter().for_each(gets);
    assert_eq!((files.asked(21).len(), metric(&g1, UNUSABLE)), (1, 0));
    assert!(!laneway(&g1, &["status"]).success().text().contains("nothing is stored"));
    gateway.signal(Signal::SIGKILL);
    gateway.wait(PATIENCE);
    let _gateway = start();
    node.wait_for_line("link up", START);
    [21, 22, 1].into_iter().for_each(gets);
    assert_eq!(files.asked(21).len(), 1);
    let verified = laneway(&g1, &["cache", "verify"]).success().text();
    assert!(verified.contains("3 responses are intact"), "{verified}");
}

/// How many files with bodies a store has.
fn files_in(directory: &Path) -> usize {
    let folders =
        fs::read_dir(directory).unwrap().filter_map(|folder| fs::read_dir(folder.unwrap().path()).ok());
    folders
        .flatten()
        .filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|kind| kind == "body"))
        .count()
}

/// A file system that takes nothing until this is dropped: calls do not return.
struct Frozen<'a>(&'a Path);

impl<'a> Frozen<'a> {
    fn new(directory: &'a Path) -> Self {
        runs(Command::new("fsfreeze").arg("--freeze").arg(directory));
        Self(directory)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        runs(Command::new("fsfreeze").arg("--unfreeze").arg(self.0));
    }
}

fn runs(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Apps waited for ever for everything that may be stored, and the node could not be stopped.
fn a_disk_that_hangs_only_stops_the_storing(lab: &Lab) {
    let files = lab.files(2 * MIB);
    let (client, g1) = (lab.client("c1"), lab.gateway("g1"));
    let group = lab.group(&[&g1, &client], &[]);
    drop(group.gateway);
    let outer = tempfile::tempdir().unwrap();
    let (directory, image) = (state(&g1).join("cache"), outer.path().join("image"));
    fs::File::create(&image).unwrap().set_len(64 * MIB as u64).unwrap();
    runs(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
    runs(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&directory));
    fs::set_permissions(&directory, Permissions::from_mode(0o700)).unwrap();
    let mut gateway = up(&g1, &GATEWAY);
    let mut node = up(&client, &["--role", "client"]);
    node.wait_for_line("link up", START);
    let gets = |number: u64| assert_eq!(get(&client, number), *files.content(number), "{number}");
    gets(1);
    let frozen = Frozen::new(&directory);
    let downloads: Vec<_> = (0..12).map(|number| download(&client, 1 + number % 4, &[])).collect();
    for (number, one) in (0..).zip(downloads) {
        assert_eq!(one.finish(PATIENCE).success().stdout, *files.content(1 + number % 4));
    }
    gateway.wait_for_line("the disk does not answer", PATIENCE);
    let status = laneway(&g1, &["status"]).success().text();
    assert!(status.contains("its disk does not answer"), "{status}");
    let said = laneway(&g1, &["doctor"]);
    let named = format!("the cache is on a disk that does not answer: {}", directory.display());
    assert!(said.text().contains(&named), "{said}");
    let metrics = g1.curl(&["http://127.0.0.1:1080/metrics"]).success().text();
    assert!(metrics.contains("\nlaneway_cache_disk_hung 1\n"), "{metrics}");
    [1, 5, 5].into_iter().for_each(gets);
    drop(frozen);
    gateway.wait_for_line("the disk answers again", PATIENCE);
    let is_stored = |number: u64| {
        let pattern = format!("http://10.88.0.100/f/{number}");
        laneway(&g1, &["cache", "ls", &pattern]).success().text().contains(&pattern)
    };
    gets(6);
    assert!(is_stored(1) && is_stored(6));
    [1, 5, 6].into_iter().for_each(gets);
    assert!(gateway.is_running() && node.is_running());
    drop((gateway, node));
    runs(Command::new("umount").arg(&directory));
}

/// Responses asked for meanwhile were taken for damaged, and removed.
fn a_gateway_that_has_no_descriptors_left_keeps_what_is_stored(lab: &Lab) {
    let files = lab.files(MIB);
    let (client, host) = (lab.client("c1"), lab.gateway("g1"));
    let group = lab.group(&[&host, &client], &[]);
    let _node = group.client(&client, &["--peer-cache", "off"]);
    let limit = |descriptors: &str| {
        let mut prlimit = Command::new("prlimit");
        runs(prlimit.args([&format!("--nofile={descriptors}:"), "--pid", &group.gateway.id().to_string()]));
    };
    assert_eq!(get(&client, 1), *files.content(1));
    limit("3");
    for _ in 0..2 {
        // The client gets nothing: the gateway cannot connect to the server.
        let _ = download(&client, 1, &["--max-time", "3"]).finish(PATIENCE);
    }
    limit("4096");
    let sent = files.sent();
    assert_eq!(get(&client, 1), *files.content(1));
    assert_eq!(files.sent(), sent);
}

/// What a process sees of a directory does not answer until this is dropped, as with a file server that is gone.
struct Silent {
    mount: Child,
    process: u32,
    directory: PathBuf,
}

impl Silent {
    fn new(process: &Process, host: &Host) -> Self {
        let (process, directory) = (process.id(), state(host));
        // The process that has the device open is asked for everything, and reads no question.
        let script = "exec 3<>/dev/fuse && mount -i -t fuse none \"$1\" -o fd=3,rootmode=40000,user_id=0,group_id=0 \
                      && echo mounted && exec sleep 1000";
        let mut command = Command::new("nsenter");
        command.args(["--target", &process.to_string(), "--mount", "sh", "-c", script, "sh"]);
        let mut mount = command.arg(&directory).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(mount.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n");
        Self { mount, process, directory }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let ended = [self.mount.kill(), self.mount.wait().map(drop)];
        // The process may have ended.
        let mut umount = Command::new("nsenter");
        umount.args(["--target", &self.process.to_string(), "--mount", "umount", "--lazy"]);
        let _ = umount.arg(&self.directory).stderr(Stdio::null()).status();
        assert!(ended.iter().all(Result::is_ok) || std::thread::panicking(), "{ended:?}");
    }
}

/// The thread that looks for commands' questions also serves the machine's apps, and each hit looked at its files: a node whose
/// state directory did not answer did nothing any more, and could not be stopped.
fn a_state_directory_that_does_not_answer_holds_up_nothing_else(lab: &Lab) {
    let files = lab.files(2000);
    let (client, host) = (lab.client("c1"), lab.gateway("g1"));
    let mut group = lab.group(&[&host, &client], &[]);
    let mut node = group.client(&client, &[]);
    let gets = |number: u64| {
        for app in [&client, &host] {
            assert_eq!(get(app, number), *files.content(number), "{number}");
        }
    };
    // Often enough that it is in memory.
    [1, 1, 1].into_iter().for_each(gets);
    let silent = [Silent::new(&group.gateway, &host), Silent::new(&node, &client)];
    [1, 2, 1, 3, 3, 1].into_iter().for_each(gets);
    let says_so = || laneway(&host, &["status"]).success().text().contains("its disk does not answer");
    wait_until("the gateway to say so", says_so);
    [1, 2, 5, 5].into_iter().for_each(gets);
    drop(silent);
    group.gateway.wait_for_line("the disk answers again", PATIENCE);
    [1, 2, 4, 4].into_iter().for_each(gets);
    assert_eq!(laneway(&client, &["drain"]).success().code(), 0);
    let _silent = [Silent::new(&group.gateway, &host), Silent::new(&node, &client)];
    gets(1);
    [&group.gateway, &node].into_iter().for_each(|process| process.signal(Signal::SIGTERM));
    for process in [&mut node, &mut group.gateway] {
        assert!(process.wait(PATIENCE).success());
    }
}

fn the_command_lists_removes_and_verifies_with_and_without_a_running_node(lab: &Lab) {
    let files = lab.files(MIB);
    let (mut fleet, directory) = pair(lab);
    let rows = |fleet: &Fleet, pattern: &str| {
        let text = laneway(&fleet.gateways[0].host, &["cache", "ls", "--json", pattern]).success().text();
        serde_json::from_str::<Vec<serde_json::Value>>(&text).unwrap()
    };
    for number in [1, 1, 1, 2, 3, 4, 5] {
        assert_eq!(get(&fleet.client, number), *files.content(number));
    }
    let first = &rows(&fleet, "/f/1")[0];
    assert_eq!((&first["hits"], &first["members"], &first["size"]), (&2.into(), &1.into(), &MIB.into()));
    assert!(first["fresh_for"].as_u64().is_some_and(|left| left > 3000), "{first}");
    let listed = laneway(&fleet.gateways[0].host, &["cache", "ls"]).success().text();
    assert!(listed.contains("http://10.88.0.100/f/3") && listed.contains("5 responses, 5.24 MB"), "{listed}");

    for is_running in [true, false] {
        if !is_running {
            fleet.kill(0);
        }
        let host = &fleet.gateways[0].host;
        let number = if is_running { 2 } else { 3 };
        let removed = laneway(host, &["cache", "rm", &format!("/f/{number}")]).success().text();
        assert_eq!(removed, "Removed 1 response, 1.05 MB.\n");
        let again = laneway(host, &["cache", "rm", &format!("/f/{number}")]);
        assert_eq!(again.code(), 1);
        assert!(again.stderr.contains("laneway cache ls"), "{again}");
        assert_eq!(rows(&fleet, &format!("*/f/{number}")), Vec::<serde_json::Value>::new());
    }
    assert_eq!(laneway(&fleet.gateways[0].host, &["cache", "verify"]).success().code(), 0);
    fleet.start(0);
    fleet.wait_for_links();
    assert_eq!(get(&fleet.client, 2), *files.content(2), "it is fetched again");

    let count = damage(&directory);
    let host = &fleet.gateways[0].host;
    let verified = laneway(host, &["cache", "verify"]);
    assert_eq!(verified.code(), 1);
    assert_eq!(verified.text().matches("its body was changed").count(), count, "{verified}");
    assert_eq!(rows(&fleet, "*").len(), 0);
    assert_eq!(laneway(host, &["cache", "verify"]).success().text(), "0 responses are intact, 0 B.\n");
    assert_eq!(get(&fleet.client, 4), *files.content(4));
    let all = laneway(host, &["cache", "rm", "--all"]).success().text();
    assert_eq!(all, "Removed 1 response, 1.05 MB.\n");
}

/// Neither the gateway's store nor what clients keep is needed for a right answer.
fn a_store_that_is_lost_or_replaced_costs_nobody_a_file(lab: &Lab) {
    // Large enough to be shared in pieces too.
    let files = lab.files(5_000_000);
    let (client, gateway) = (lab.client("c1"), lab.gateway("g1"));
    let group = lab.group(&[&gateway, &client], &[]);
    let node = group.client(&client, &[]);
    let gets = |number| assert_eq!(sha256(&get(&client, number)), sha256(&files.content(number)), "{number}");
    let stores = [state(&gateway).join("cache"), state(&client).join("peer-cache")];
    gets(1);
    stores.iter().for_each(|store| fs::remove_dir_all(store).unwrap());
    [1, 2, 2].into_iter().for_each(gets);
    // What is fetched then is stored again.
    for store in &stores {
        fs::remove_dir_all(store).unwrap();
        fs::write(store, "a file").unwrap();
    }
    [1, 2, 3, 3].into_iter().for_each(gets);
    drop((node, group.gateway));
    // A node also starts with a file in place of the store, and works without it.
    let mut gateway_node = up(&gateway, &GATEWAY);
    let mut node = up(&client, &[]);
    node.wait_for_line("link up", START);
    [1, 4, 4].into_iter().for_each(gets);
    assert!(gateway_node.is_running() && node.is_running());
    for (host, store, what) in [(&gateway, &stores[0], "cache"), (&client, &stores[1], "peer-cache")] {
        let status = laneway(host, &["status"]).success().text();
        let words = format!("nothing is stored in {} ({what}): ", store.display());
        assert!(status.contains(&words) && status.contains("before a restart"), "{status}");
        let doctor = laneway(host, &["doctor"]).text();
        let words = format!("mv {0} {0}.old; then start it again", store.display());
        assert!(doctor.contains(&words), "{doctor}");
        assert_eq!(metric(host, &format!("laneway_store_unusable{{directory=\"{what}\"}}")), 1);
        fs::remove_file(store).unwrap();
    }
    let doctor = laneway(&client, &["doctor"]).text();
    assert!(doctor.contains(&format!(" can store nothing in {}: ", stores[0].display())), "{doctor}");
}

/// Mounts or unmounts `directory` as this process sees it.
fn mounts(process: &Process, words: &[&str], directory: &Path) {
    let mut command = Command::new("nsenter");
    command.args(["--target", &process.id().to_string(), "--mount"]).args(words).arg(directory);
    assert!(command.status().unwrap().success(), "{words:?}");
}

/// As when a disk has an error and its file system becomes read-only, in the middle of a download.
fn a_store_that_cannot_be_written_any_more_only_stops_the_storing(lab: &Lab) {
    const LENGTH: usize = 6 * MIB;
    let contents: Vec<_> = (0..6).map(|number| noise(number, LENGTH)).collect();
    let served = contents.clone();
    let (goes_on, waits) = channel();
    let waits = Mutex::new(waits);
    let web = lab.web(move |asked, stream| {
        let number = asked.path.trim_start_matches("/f/").parse::<usize>().map_err(io::Error::other)?;
        let content = &served[number];
        let head = "HTTP/1.1 200 OK\r\nETag: \"a\"\r\nCache-Control: max-age=60\r\n";
        stream.write_all(format!("{head}Content-Length: {LENGTH}\r\n\r\n").as_bytes())?;
        stream.write_all(&content[..LENGTH / 2])?;
        if number == 2 && asked.turn == 1 {
            let _ = waits.lock().unwrap().recv_timeout(PATIENCE);
        }
        stream.write_all(&content[LENGTH / 2..])
    });
    let (client, gateway) = (lab.client("c1"), lab.gateway("g1"));
    let group = lab.group(&[&gateway, &client], &[]);
    let mut node = group.client(&client, &["--peer-cache", "off"]);
    let gets = |number: u64| {
        let got = get(&client, number);
        assert_eq!(sha256(&got), sha256(&contents[usize::try_from(number).unwrap()]), "{number}");
    };
    gets(1);
    let running = download(&client, 2, &[]);
    wait_until("half of it", || running.printed() >= (LENGTH / 2) as u64);
    let directory = state(&gateway).join("cache");
    mounts(&group.gateway, &["mount", "--bind", directory.to_str().unwrap()], &directory);
    mounts(&group.gateway, &["mount", "-o", "remount,bind,ro"], &directory);
    goes_on.send(()).unwrap();
    let whole = running.finish(PATIENCE).success().stdout;
    assert_eq!(sha256(&whole), sha256(&contents[2]));
    // What is stored is still used, and the rest passes.
    [1, 3, 3].into_iter().for_each(gets);
    assert_eq!((web.asked("/f/1").len(), web.asked("/f/3").len()), (1, 2));
    mounts(&group.gateway, &["umount"], &directory);
    [2, 4, 4, 1].into_iter().for_each(gets);
    assert_eq!((web.asked("/f/4").len(), web.asked("/f/1").len()), (1, 1), "it is stored again");
    assert!(node.is_running());
}
