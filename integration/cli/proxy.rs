//! The addresses of the local proxy, and who may use it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::machine::{Machine, Node, Output, text};

const PAGE: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn answer(mut stream: impl Read + Write, request: &[u8]) -> String {
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A node of `machine` with these proxies; its LAN is a loopback address.
fn start(machine: &Machine, lan: &str, proxies: &[&str]) -> Node {
    let mut command = machine.up(lan, &[]);
    command.args(proxies.iter().flat_map(|proxy| ["--proxy", proxy]));
    Node::start(&mut command)
}

#[test]
fn a_node_listens_on_ipv4_ipv6_and_a_unix_socket_at_once() {
    let (machine, _) = Machine::with_group();
    let path = machine.path("proxy.sock");
    let unix = format!("unix:{}", text(&path));
    let mut node = start(&machine, "127.0.0.41", &["127.0.0.41:0", "[::1]:0", &unix]);
    node.wait_for(&format!("address={unix}"));
    let v6 = node.wait_for("address=[::1]:");
    let v6 = v6.split("address=").nth(1).unwrap();
    for address in [&node.address("local proxy"), v6] {
        let answer = answer(TcpStream::connect(address).unwrap(), PAGE);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{address}: {answer}");
    }
    let answer = answer(UnixStream::connect(&path).unwrap(), PAGE);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");

    // The socket exists while the node runs, and is removed with it.
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    let (other, _) = Machine::with_group();
    let output = Output::of(other.up("127.0.0.42", &[]).args(["--proxy", &unix]));
    output.failed(
        1,
        &[&format!("error: the local proxy cannot listen on {unix}"), "caused by: another process", "hint: "],
    );
    node.signal(Signal::SIGTERM);
    node.wait();
    assert!(!path.exists());
}

#[test]
fn the_socket_of_a_killed_node_is_replaced_and_a_file_is_not() {
    let (machine, _) = Machine::with_group();
    let path = machine.path("proxy.sock");
    let unix = format!("unix:{}", text(&path));
    let mut node = start(&machine, "127.0.0.43", &[&unix]);
    node.signal(Signal::SIGKILL);
    node.wait();
    assert!(path.exists());
    let mut command = machine.up("127.0.0.43", &["--proxy-mode", "666"]);
    let node = Node::start(command.args(["--proxy", &unix]));
    assert!(answer(UnixStream::connect(&path).unwrap(), PAGE).starts_with("HTTP/1.1 200 "));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    drop(node);

    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "data").unwrap();
    let output = Output::of(machine.up("127.0.0.43", &[]).args(["--proxy", &unix]));
    output.failed(
        1,
        &["error: the local proxy cannot listen on unix:", "caused by: the file exists and is not"],
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"data");
}

#[test]
fn a_proxy_open_to_others_requires_a_login_and_hides_its_page() {
    let (machine, _) = Machine::with_group();
    let file = machine.path("logins");
    let arguments = ["up", "--proxy", "0.0.0.0:0", "--proxy-logins", text(&file)];
    let missing = machine.laneway(arguments);
    let what = "error: the logins of --proxy-logins cannot be used";
    missing.failed(
        2,
        &[what, "caused by: No such file", "hint: write the logins there, one NAME:PASSWORD on each line"],
    );
    std::fs::write(&file, "ann\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let refused = machine.laneway(arguments);
    refused
        .failed(2, &[what, "caused by: line 1 is not a login", "hint: write one NAME:PASSWORD on each line"]);
    std::fs::write(&file, "ann:secret\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = machine.laneway(arguments);
    let hint = format!("hint: chmod 600 {}", text(&file));
    output.failed(2, &["error: the logins of --proxy-logins cannot be used", "caused by: ", &hint]);

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = machine.up("127.0.0.44", &["--proxy-logins", text(&file), "--proxy", "0.0.0.0:0"]);
    let mut node = Node::start(&mut command);
    let address = node.address("local proxy").replace("0.0.0.0", "127.0.0.1");
    let ask = |fields: &str| {
        let request = format!("OPTIONS http://h/ HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n{fields}\r\n");
        answer(TcpStream::connect(&address).unwrap(), request.as_bytes())
    };
    assert!(ask("").starts_with("HTTP/1.1 407 "));
    let right = "Proxy-Authorization: Basic YW5uOnNlY3JldA==\r\n";
    assert!(ask(right).starts_with("HTTP/1.1 200 "));
    assert!(answer(TcpStream::connect(&address).unwrap(), PAGE).starts_with("HTTP/1.1 200 "));

    // Other logins, after a reload.
    std::fs::write(&file, "bob:secret\n").unwrap();
    node.signal(Signal::SIGHUP);
    node.wait_for("configuration reloaded");
    assert!(ask(right).starts_with("HTTP/1.1 407 "));
}

#[test]
fn help_shows_no_password_of_the_environment() {
    let machine = Machine::new();
    let output =
        Output::of(machine.command(["up", "--help"]).env("LANEWAY_PROXY_LOGIN", "ann:secret")).success();
    assert!(output.stdout.contains("LANEWAY_PROXY_LOGIN") && !output.stdout.contains("secret"), "{output}");
}

/// Sockets that another process opens: `systemd-socket-activate`, where it is installed.
#[test]
fn sockets_that_the_service_manager_passes_are_used() {
    let activate = "systemd-socket-activate";
    if Command::new(activate).arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "{activate} is not installed");
        return eprintln!("*** NOT RUN: {activate} is not installed ***");
    }
    let (machine, _) = Machine::with_group();
    let path = machine.path("given.sock");
    let port = std::net::TcpListener::bind("127.0.0.45:0").unwrap().local_addr().unwrap();
    let inner = machine.up("127.0.0.45", &["--proxy", "127.0.0.45:1"]);
    let mut command = Command::new(activate);
    // The names in the units do not matter to the node.
    command.args(["-l", &port.to_string(), "-l", text(&path), "--fdname=one:two"]);
    for (name, value) in inner.get_envs() {
        command.arg("-E").arg(format!("{}={}", text(Path::new(name)), text(Path::new(value.unwrap()))));
    }
    command.arg(inner.get_program()).args(inner.get_args());
    // It starts the node on the first connection.
    let app = std::thread::spawn(move || {
        let stream = std::iter::repeat_with(|| TcpStream::connect(port)).find_map(Result::ok).unwrap();
        answer(stream, PAGE)
    });
    let mut node = Node::start(&mut command);
    node.wait_for(&format!("address={port}"));
    node.wait_for(&format!("address=unix:{}", text(&path)));
    assert!(app.join().unwrap().starts_with("HTTP/1.1 200 "));
    assert!(answer(UnixStream::connect(&path).unwrap(), PAGE).starts_with("HTTP/1.1 200 "));
}

#[test]
fn redirect_rules_without_a_port_are_refused() {
    let (machine, _) = Machine::with_group();
    let output = machine.laneway(["up", "--transparent-rules"]);
    output.failed(2, &["error: --transparent-rules needs a port", "hint: add --transparent 127.0.0.1:1081"]);
    let output = machine.laneway(["up", "--transparent", "0.0.0.0:1081"]);
    output.failed(2, &["error: --transparent 0.0.0.0:1081 would let", "hint: listen on 127.0.0.1 and [::1]"]);
}
