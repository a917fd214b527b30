//! Faults of a configuration are named with their place; which source takes precedence.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;

use crate::machine::{Machine, Node, Output, free_udp_port, text};

#[test]
fn a_broken_file_is_named_with_line_and_column() {
    let machine = Machine::new();
    for (content, place, why) in [
        ("role = 'client'\nhold = ", "line 2, column 8", "the value is missing"),
        ("\n  rolle = 'client'", "line 2, column 3", "there is no option 'rolle'; did you mean 'role'?"),
        ("role = 'king'", "line 1, column 8", "role: one of auto, client, gateway is expected"),
        ("server = ['10.0.0.5']", "line 1, column 11", "server: "),
        ("allow = ['a b']", "line 1, column", "'a b' is not a rule"),
        ("discovery-port = 70000", "line 1, column 18", "discovery-port: 70000 is not from 0 to 65535"),
    ] {
        let file = machine.configure(content);
        let output = machine.laneway(["up"]);
        let what = format!("error: the configuration {} is not valid", text(&file));
        output.failed(2, &[&what, &format!("caused by: {place}"), "hint: "]);
        assert!(output.stderr.contains("'laneway up --help' lists"), "{output}");
        assert!(output.stderr.contains(why), "{content}: {output}");
    }
}

#[test]
fn a_named_file_that_is_not_there_is_an_error() {
    let machine = Machine::new();
    let missing = machine.path("missing.toml");
    let output = machine.laneway(["up", "--config", text(&missing)]);
    output.failed(2, &[&format!("error: cannot read the configuration {}", text(&missing)), "caused by: "]);
}

#[test]
fn a_number_out_of_range_in_the_file_is_refused_as_on_the_command_line() {
    let machine = Machine::new();
    for content in ["hold = -1", "drain = 1e9", "connect-timeout = nan"] {
        machine.configure(content);
        let (name, value) = content.split_once(" = ").unwrap();
        let column = name.len() + 4;
        let why = format!("caused by: line 1, column {column}: {name}: '{value}' is not a time");
        machine.laneway(["up"]).failed(2, &[&why]);
    }
}

#[test]
fn a_proxy_for_everybody_must_be_asked_for_twice() {
    let machine = Machine::new();
    let output = machine.laneway(["up", "--proxy", "0.0.0.0:0"]);
    output.failed(2, &["error: --proxy 0.0.0.0:0 would let every machine", "hint: listen on 127.0.0.1"]);
    assert!(output.stderr.contains("--proxy-open-to-lan"), "{output}");
}

#[test]
fn a_log_level_that_is_none_is_refused() {
    let output = Machine::new().laneway(["up", "--log", "laneway=loud"]);
    output.failed(
        2,
        &["error: 'laneway=loud' is not a log level", "hint: use error, warn, info, debug or trace"],
    );
}

#[test]
fn a_flag_comes_before_a_variable_and_a_variable_before_the_file() {
    let (machine, _) = Machine::with_group();
    machine.configure("proxy = '127.0.0.11:0'");
    let proxy = |variable: Option<&str>, flag: Option<&str>| {
        let mut command = machine.up("127.0.0.11", &[]);
        command.envs(variable.map(|address| ("LANEWAY_PROXY", address)));
        command.args(flag.into_iter().flat_map(|address| ["--proxy", address]));
        let address = Node::start(&mut command).address("local proxy");
        address.split_once(':').unwrap().0.to_owned()
    };
    assert_eq!(proxy(None, None), "127.0.0.11");
    assert_eq!(proxy(Some("127.0.0.12:0"), None), "127.0.0.12");
    assert_eq!(proxy(None, Some("127.0.0.13:0")), "127.0.0.13");
    assert_eq!(proxy(Some("127.0.0.12:0"), Some("127.0.0.13:0")), "127.0.0.13");
}

#[test]
fn a_named_file_is_used_instead_of_the_users_own() {
    let (machine, _) = Machine::with_group();
    machine.configure("proxy = '127.0.0.14:0'");
    let other = machine.path("other.toml");
    std::fs::write(&other, "proxy = '127.0.0.15:0'").unwrap();
    let mut command = machine.up("127.0.0.14", &["--config", text(&other)]);
    assert!(Node::start(&mut command).address("local proxy").starts_with("127.0.0.15:"));
}

#[test]
fn a_port_that_is_taken_is_named_with_the_flag_that_chooses_another() {
    let (machine, _) = Machine::with_group();
    let address = "127.0.0.16";
    let listener = TcpListener::bind((address, 0)).unwrap();
    let taken = listener.local_addr().unwrap();

    let output = Output::of(machine.up(address, &[]).args(["--proxy", &taken.to_string()]));
    let what = format!("error: the local proxy cannot listen on {taken}");
    let hint = "hint: 'laneway status' shows whether a node runs here already";
    output.failed(1, &[&what, "caused by: Address already in use", hint]);

    let port = free_udp_port(address).to_string();
    let (proxy, link) = (format!("{address}:0"), taken.to_string());
    let up = ["up", "--lan", address, "--proxy", &proxy, "--discovery-port", &port, "--link", &link];
    let output = machine.laneway(up);
    let what = format!("error: the link port cannot listen on {taken}");
    output.failed(1, &[&what, "caused by: Address already in use", hint]);

    let ear = UdpSocket::bind((address, 0)).unwrap();
    let port = ear.local_addr().unwrap().port().to_string();
    let up = ["up", "--lan", address, "--proxy", &proxy, "--discovery-port", &port, "--link", &proxy];
    let output = machine.laneway(up);
    let why = format!("caused by: UDP {address}:{port}: Address already in use");
    output.failed(1, &["error: discovery cannot start", &why, "hint: "]);
    assert!(output.stderr.contains("--lan 127.0.0.1 --gateway HOST:7420"), "{output}");
}

#[test]
fn a_password_of_the_command_line_or_a_variable_is_not_repeated() {
    let machine = Machine::new();
    for (name, value) in [("upstream", "http://me:secret@proxy"), ("proxy-login", "secret")] {
        let flag = machine.laneway(["up", &format!("--{name}={value}")]);
        let variable = format!("LANEWAY_{}", name.to_uppercase().replace('-', "_"));
        let variable = Output::of(machine.command(["up"]).env(variable, value));
        for output in [flag, variable] {
            output.failed(2, &["error: "]);
            assert!(output.stderr.contains(&format!("--{name}")), "{output}");
            assert!(!output.stderr.contains("secret"), "{output}");
        }
    }
}

#[test]
fn a_second_node_of_the_same_machine_says_that_one_runs_already() {
    let (machine, _) = Machine::with_group();
    let mut node = machine.start("127.0.0.18", &[]);
    let proxy = node.address("local proxy");
    let output = Output::of(machine.up("127.0.0.18", &[]).args(["--proxy", &proxy]));
    output.failed(
        1,
        &[
            "error: a node runs here already, with the directory ",
            "caused by: two nodes with the keys of one member",
            "hint: ",
        ],
    );
    assert!(!output.stderr.contains("no download is kept"), "the error comes first: {output}");
}

#[test]
fn a_home_that_the_user_may_not_read_has_no_configuration() {
    let machine = Machine::new();
    let home = machine.path("locked");
    std::fs::create_dir_all(home.join(".config/laneway")).unwrap();
    std::fs::write(home.join(".config/laneway/laneway.toml"), "hold = ").unwrap();
    // The temporary directory around it is closed to others already.
    std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = machine.command(["apt-proxy", "--proxy", "127.0.0.17:9"]);
    let mut status = machine.command(["status"]);
    for command in [&mut command, &mut status] {
        command.env_remove("XDG_CONFIG_HOME").env("HOME", &home);
        if nix::unistd::Uid::effective().is_root() {
            command.uid(65_534).gid(65_534);
        }
    }
    assert_eq!(Output::of(&mut command).success().stdout, "DIRECT\n");
    let output = Output::of(&mut status);
    assert!(!output.stderr.contains("configuration"), "{output}");
    std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_typo_in_the_file_stops_no_command_that_only_asks_the_running_node() {
    let (machine, _) = Machine::with_group();
    let mut node = machine.start("127.0.0.17", &[]);
    let proxy = node.address("local proxy");
    machine.configure(&format!("hold =\nrolle = 'client'\nproxy = ['{proxy}']\n"));
    let output = machine.laneway(["status"]).success();
    assert!(output.stdout.contains(&format!("proxy {proxy} ")), "{output}");
    let warning = "warning: the configuration ";
    assert!(output.stderr.starts_with(warning) && output.stderr.lines().count() == 1, "{output}");
    assert!(output.stderr.contains("line 1, column 7"), "{output}");
    assert!(output.stderr.contains("a reload or restart would be refused"), "{output}");
    let output = machine.laneway(["apt-proxy", "http://deb.example/"]).success();
    assert_eq!((output.stdout, output.stderr), (format!("http://{proxy}\n"), String::new()));
    for words in [&["env"][..], &["run", "/usr/bin/env"], &["drain"], &["drain", "--undo"]] {
        let inner = machine.command(["status"]);
        let mut command = std::process::Command::new(inner.get_program());
        command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = Output::of(command.arg("--state").arg(machine.state()).args(words)).success();
        // It reaches the node through the state directory, so the file does not matter to it.
        let is_drain = words[0] == "drain";
        assert_eq!(output.stderr.contains(warning), !is_drain, "{words:?}: {output}");
        assert!(is_drain || output.stdout.contains(&proxy), "{words:?}: {output}");
    }
    let output = machine.laneway(["doctor"]);
    assert!(output.stdout.contains("a reload or restart would be refused"), "{output}");
    // A file that is no TOML from some line on tells nothing; the running node is found all the same.
    machine.configure("proxy = 'nowhere'\nhold = 1 2 3");
    assert!(machine.laneway(["env"]).success().stdout.contains(&proxy));
    node.signal(nix::sys::signal::Signal::SIGKILL);
    node.wait();
    assert!(machine.laneway(["env", "--no-check"]).success().stdout.contains("http://127.0.0.1:1080"));
}
