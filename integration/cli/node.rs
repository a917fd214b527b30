//! A node's life: what it says when it starts, and how it stops.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Uid;

use crate::machine::{Machine, Node, Output};

/// A step that takes longer fails the test.
const DEADLINE: Duration = Duration::from_secs(60);
/// Interval between two looks at what a test waits for.
const LOOK: Duration = Duration::from_millis(20);

#[test]
fn a_node_prints_every_address_that_it_has_bound() {
    let (machine, _) = Machine::with_group();
    let mut node = machine.start("127.0.0.31", &[]);
    for what in ["local proxy", "links", "discovery"] {
        let address = node.address(what);
        assert!(!address.ends_with(":0"), "{what}: {address}");
    }
    let mut page = TcpStream::connect(node.address("local proxy")).unwrap();
    page.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    page.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[test]
fn a_signal_stops_an_idle_node_orderly() {
    let (machine, _) = Machine::with_group();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut node = machine.start("127.0.0.32", &[]);
        node.signal(signal);
        assert_eq!(node.wait().code(), Some(0));
        node.wait_for("stopping");
        node.wait_for("stopped");
    }
}

#[test]
fn a_second_node_with_the_same_directory_is_refused_whatever_its_ports_and_a_killed_one_stops_none() {
    let (machine, _) = Machine::with_group();
    let mut node = machine.start("127.0.0.49", &[]);
    let proxy = node.address("local proxy");
    let other_ports = ["--proxy", "127.0.0.50:0"];
    let directory = machine.state();
    Output::of(&mut machine.up("127.0.0.50", &other_ports)).failed(
        1,
        &[
            &format!(
                "error: a node runs here already, with the directory {} (process {}, local proxy {proxy})",
                directory.display(),
                node.id()
            ),
            "caused by: two nodes with the keys of one member",
            &format!(
                "hint: 'laneway status' shows it; it ends with Ctrl-C in its terminal, or by 'kill {}'",
                node.id()
            ),
        ],
    );
    // The first one is not disturbed, and what it has noted is still there.
    machine.laneway(["status"]).success();
    node.signal(Signal::SIGKILL);
    node.wait();
    drop(Node::start(&mut machine.up("127.0.0.50", &other_ports)));
    // A unix socket is named as well.
    let unix = format!("unix:{}", machine.path("proxy.sock").display());
    let _node = Node::start(&mut machine.up("127.0.0.50", &["--proxy", &unix]));
    let refused = Output::of(&mut machine.up("127.0.0.49", &other_ports));
    refused.failed(
        1,
        &[
            &format!(
                "error: a node runs here already, with the directory {} (local proxy {unix})",
                directory.display()
            ),
            "hint: 'laneway status' shows it; it ends with Ctrl-C in its terminal, and if it is stopping already",
        ],
    );
}

/// What had to block panicked, and the node ended with a part that had failed.
#[test]
fn a_system_that_permits_too_few_threads_is_named_and_nothing_panics() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: only root can run it as a user without other processes, whom such a limit binds");
        return;
    }
    let (machine, _) = Machine::with_group();
    let user = 60_000 + std::process::id() % 5_000;
    chown_all(&machine.path(""), user);
    let as_user = || {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"]);
        command
    };
    let limited = |inner: &Command, threads: u32| {
        let mut command = as_user();
        command.args(["prlimit", &format!("--nproc={threads}")]);
        command
            .arg(inner.get_program())
            .args(inner.get_args())
            .env_clear()
            .stdin(std::process::Stdio::null());
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    };
    let refused = |inner: &Command, threads: u32| {
        let output = Output::of(&mut limited(inner, threads));
        assert!(!output.stderr.contains("panicked"), "{threads}: {output}");
        output
            .failed(1, &["error: cannot start a thread", "caused by: ", "hint: check the limits of threads"]);
    };
    let options = ["--role", "gateway", "--threads", "1", "--proxy", "127.0.0.51:0"];
    let up = machine.up("127.0.0.51", &options);
    (1..=5).for_each(|threads| refused(&up, threads));
    refused(&machine.command(["doctor"]), 1);
    let mut node = Node::start(&mut limited(&up, 30));
    // Nor does it end later, when other programs take all threads: those that it has started beside its own end after a while.
    let mut limit = as_user();
    limit.args(["prlimit", "--nproc=1:1", "--pid", &node.id().to_string()]);
    assert!(limit.status().unwrap().success());
    until("no thread is left for what blocks", || {
        !threads(&node).iter().any(|name| ["blocking", "tokio-rt-worker", "disk"].contains(&name.as_str()))
    });
    machine.laneway(["rotate"]).success();
    node.wait_for("group update applied");
    assert_eq!(node.count("panicked"), 0);
}

/// The names of a node's threads.
fn threads(node: &Node) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", node.id())).unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.map(|name| name.trim_end().to_owned()).collect()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(LOOK);
    }
}

fn chown_all(path: &Path, user: u32) {
    std::os::unix::fs::lchown(path, Some(user), Some(user)).unwrap();
    if path.is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| chown_all(&entry.unwrap().path(), user));
    }
}

#[test]
fn a_second_signal_ends_a_node_that_waits_for_an_open_connection() {
    let (machine, _) = Machine::with_group();
    let server = std::net::TcpListener::bind("127.0.0.33:0").unwrap();
    let target = server.local_addr().unwrap().to_string();
    let mut node = machine.start("127.0.0.33", &["--role", "gateway", "--server", &target]);
    let mut app = TcpStream::connect(node.address("local proxy")).unwrap();
    write!(app, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    app.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    node.signal(Signal::SIGTERM);
    node.wait_for("stopping");
    node.signal(Signal::SIGTERM);
    assert_eq!(node.wait().code(), Some(0));
    node.wait_for("stopped: another signal came");
}

/// Opens a tunnel through the node's local port; returns the status of the answer.
fn tunnel(proxy: &str, target: &str) -> (TcpStream, String) {
    let mut app = TcpStream::connect(proxy).unwrap();
    write!(app, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        app.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    (app, String::from_utf8_lossy(&answer[9..12]).into_owned())
}

#[test]
fn a_reload_changes_the_rules_and_drops_nothing_and_a_bad_one_changes_nothing() {
    let (machine, _) = Machine::with_group();
    let server = std::net::TcpListener::bind("127.0.0.34:0").unwrap();
    let target = server.local_addr().unwrap().to_string();
    let allowed = "role = 'gateway'\nallow = ['127.0.0.34']\n";
    let file = machine.configure(allowed);
    let mut node = machine.start("127.0.0.34", &["--config", crate::machine::text(&file)]);
    let proxy = node.address("local proxy");
    node.wait_for("this node's state");

    let (mut app, status) = tunnel(&proxy, &target);
    assert_eq!(status, "200");
    let (mut inner, _) = server.accept().unwrap();

    std::fs::write(&file, "role = 'gateway'\nallow = ['127.0.0.34']\ndeny = ['127.0.0.0/8']\n").unwrap();
    node.signal(Signal::SIGHUP);
    node.wait_for("configuration reloaded");
    assert_eq!(tunnel(&proxy, &target).1, "403");
    app.write_all(b"still here").unwrap();
    let mut heard = [0; 10];
    inner.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still here");

    std::fs::write(&file, "deny = [1]\n").unwrap();
    node.signal(Signal::SIGHUP);
    let refused = node.wait_for("configuration refused");
    assert!(refused.contains("line 1, column 9"), "{refused}");
    assert_eq!(tunnel(&proxy, &target).1, "403");

    std::fs::write(&file, allowed).unwrap();
    node.signal(Signal::SIGHUP);
    let restored = (0..10_000).any(|_| tunnel(&proxy, &target).1 == "200");
    assert!(restored);
}

#[test]
fn a_reload_changes_the_time_for_commands_and_names_what_waits_for_the_next_start() {
    let (machine, _) = Machine::with_group();
    let server = std::net::TcpListener::bind("127.0.0.39:0").unwrap();
    let fixed = format!(
        "role = 'gateway'\nserver = ['{}']\non-promote = 'true'\non-demote = 'sleep 600'\n",
        server.local_addr().unwrap()
    );
    let file = machine.configure(&format!("{fixed}command-timeout = 3600\n"));
    let mut node = machine.start("127.0.0.39", &[]);
    node.wait_for("command done");

    std::fs::write(&file, format!("{fixed}command-timeout = 0.2\nlog-format = 'json'\n")).unwrap();
    node.signal(Signal::SIGHUP);
    let later = node.wait_for("after a restart");
    assert!(later.contains("log-format") && !later.contains("command-timeout"), "{later}");
    // The format still waits when the file is read again.
    std::fs::write(
        &file,
        format!("{fixed}command-timeout = 0.2\nlog-format = 'json'\nfront-ca = '/nowhere/ca.pem'\n"),
    )
    .unwrap();
    node.signal(Signal::SIGHUP);
    let missing = node.wait_for("a file of the configuration cannot be used");
    assert!(missing.contains("--front-ca /nowhere/ca.pem"), "{missing}");
    let later = node.wait_for("log-format, front-ca");
    assert!(later.contains("log-format"), "{later}");
    node.signal(Signal::SIGTERM);
    assert!(node.wait_for("command failed").contains("killed after 200ms"));
}

#[test]
fn a_node_that_keeps_no_rules_for_transparent_mode_does_not_touch_those_that_are_there() {
    let (machine, _) = Machine::with_group();
    let nft = machine.path("nft");
    std::fs::write(&nft, "#!/bin/sh\n: >\"$0.was-run\"\n").unwrap();
    std::fs::set_permissions(&nft, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = machine.up("127.0.0.38", &["--proxy", "127.0.0.38:0"]);
    let mut node = Node::start(command.env("PATH", nft.parent().unwrap()));
    node.signal(Signal::SIGTERM);
    node.wait();
    assert!(!machine.path("nft.was-run").exists());
}

#[test]
fn a_killed_node_resets_its_connections_and_never_ends_them_orderly() {
    let (machine, _) = Machine::with_group();
    let server = std::net::TcpListener::bind("127.0.0.35:0").unwrap();
    let target = server.local_addr().unwrap().to_string();
    let options = ["--role", "gateway", "--server", &target, "--drain", "0"];
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut node = machine.start("127.0.0.35", &options);
        node.wait_for("this node's state");
        let (mut app, status) = tunnel(&node.address("local proxy"), &target);
        assert_eq!(status, "200");
        app.write_all(b"x").unwrap();
        let mut inner = loop {
            // The probe connects too, and says nothing.
            let (mut inner, _) = server.accept().unwrap();
            if inner.read(&mut [0]).unwrap_or(0) == 1 {
                break inner;
            }
        };
        inner.write_all(b"half of it").unwrap();
        app.read_exact(&mut [0; 10]).unwrap();
        node.signal(signal);
        node.wait();
        for end in [&mut app, &mut inner] {
            let error = end.read(&mut [0]).expect_err("a reset");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{signal}");
        }
    }
}

#[test]
fn the_limit_on_open_files_is_raised_to_what_the_system_permits() {
    let (machine, _) = Machine::with_group();
    let node = Node::start(&mut machine.up_limited("127.0.0.36", "-S", 256));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", node.id())).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let (soft, hard) = line.trim().split_once(' ').unwrap();
    assert_eq!(soft, hard.split_whitespace().next().unwrap(), "{line}");
}

#[test]
fn a_node_without_descriptors_waits_for_one_and_neither_spins_nor_ends() {
    let (machine, _) = Machine::with_group();
    let mut node = machine.start("127.0.0.37", &[]);
    // Later, because with fewer from the start it would have closed silent connections.
    let limit = Command::new("prlimit").args(["--nofile=64:64", "--pid", &node.id().to_string()]).status();
    assert!(limit.unwrap().success());
    let proxy = node.address("local proxy");
    let mut held: Vec<_> = (0..100).map(|_| TcpStream::connect(&proxy).unwrap()).collect();
    node.wait_for("no connection can be accepted for now");
    // Nor is a command's connection accepted.
    machine.laneway(["status"]).failed(
        1,
        &[
            &format!("error: the node on {proxy} (process {}) accepts connections but does not", node.id()),
            "caused by: it has 6",
            "hint: start it again with a higher limit: 'systemctl edit laneway'",
        ],
    );
    for _ in 0..3 {
        // One descriptor is free again, taken at once, and missing again.
        drop(held.remove(0));
    }
    drop(held);
    let mut page = TcpStream::connect(&proxy).unwrap();
    page.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    page.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    // Once each time, not for each attempt.
    assert!(node.count("no connection can be accepted for now") <= 5);
}

#[test]
fn a_node_starts_without_certificates_for_fronts_and_without_a_state_directory_that_can_be_changed() {
    let (machine, _) = Machine::with_group();
    // Nobody can remove this one or write it, as if the file system were read-only.
    std::fs::create_dir(machine.state().join("proxies")).unwrap();
    let certificates = ["--front-ca", "/nowhere/ca.pem"];
    let mut client = machine.start("127.0.0.61", &[&["--role", "client"][..], &certificates].concat());
    client.wait_for("the state directory cannot be changed");
    assert_eq!(client.count("/nowhere/ca.pem"), 0);
    drop(client);
    let mut gateway = machine.start("127.0.0.61", &[&["--role", "gateway"][..], &certificates].concat());
    let said = gateway.wait_for("fronts go without these certificate authorities");
    assert!(said.contains("--front-ca /nowhere/ca.pem cannot be used"), "{said}");
}
