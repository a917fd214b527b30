//! `laneway status` and `laneway top`: what they say, and what they say when there is nothing to show.

use std::io::{Read, Write};
use std::net::TcpListener;

use laneway::telemetry::snapshot::Snapshot;

use crate::machine::Machine;

#[test]
fn the_status_of_a_running_node_is_a_table_or_json() {
    let (machine, _) = Machine::with_group();
    let mut node = machine.start("127.0.0.41", &["--role", "gateway"]);
    let proxy = node.address("local proxy");
    let table = machine.laneway(["status", "--proxy", &proxy]).success().stdout;
    assert!(table.starts_with("first (") && table.contains(" in group lan, laneway "), "{table}");
    assert!(table.contains(&format!("proxy {proxy}")), "{table}");

    let json = machine.laneway(["status", "--json", "--proxy", &proxy]).success().stdout;
    assert_eq!(json.lines().count(), 1);
    let seen: Snapshot = serde_json::from_str(&json).unwrap();
    assert_eq!((seen.node.name.as_str(), seen.node.version.as_str()), ("first", env!("CARGO_PKG_VERSION")));

    // The port is found where the node itself finds it.
    machine.configure(&format!("proxy = '{proxy}'"));
    assert!(machine.laneway(["status"]).success().stdout.starts_with("first ("));
    let by_variable = machine.command(["status"]).env("LANEWAY_PROXY", &proxy).output().unwrap();
    assert!(by_variable.status.success());
}

#[test]
fn status_and_doctor_show_what_the_running_node_serves_and_why_it_reaches_nothing() {
    let (machine, _) = Machine::with_group();
    let mut node = machine.start("127.0.0.42", &["--server", "127.0.0.42:1", "--deny", "*:25"]);
    let proxy = node.address("local proxy");
    let rules = "as a gateway this node serves only 127.0.0.42:1 and not *:25: --allow RULE adds destinations, --allow '*' all";
    node.wait_for("server not reached server=127.0.0.42:1 reason=\"127.0.0.42:1 refused the connection\"");
    node.wait_for(rules);
    let table = machine.laneway(["status", "--proxy", &proxy]).success().stdout;
    assert!(table.contains(rules), "{table}");
    assert!(
        table.contains("this node does not reach 127.0.0.42:1: 127.0.0.42:1 refused the connection"),
        "{table}"
    );
    // The doctor has other settings: none in a file, and another server in the environment.
    let mut doctor = machine.command(["doctor", "--proxy", &proxy, "--lan", "127.0.0.42"]);
    let text = doctor.env("LANEWAY_SERVER", "127.0.0.1:9").output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    let running = format!("the node first runs here, role auto, servers 127.0.0.42:1; {rules}");
    assert!(text.contains(&running), "{text}");
    assert!(
        text.contains("does not reach 127.0.0.42:1 either: 127.0.0.42:1 refused the connection"),
        "{text}"
    );
}

#[test]
fn a_proxy_of_upstream_that_is_not_reached_is_a_warning_and_in_the_status() {
    let (machine, _) = Machine::with_group();
    let options = ["--role", "gateway", "--probe", "none", "--upstream", "http://user:secret@127.0.0.43:1"];
    let mut node = machine.start("127.0.0.43", &options);
    let proxy = node.address("local proxy");
    node.wait_for(
        "WARN the proxy of --upstream is not reached proxy=http://127.0.0.43:1 why=\"Connection refused",
    );
    let table = machine.laneway(["status", "--proxy", &proxy]).success().stdout;
    assert!(
        table.contains("this node does not reach --upstream http://127.0.0.43:1: Connection refused"),
        "{table}"
    );
}

#[test]
fn without_a_node_status_says_how_to_start_one() {
    let machine = Machine::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = machine.laneway(["status", "--proxy", &free]);
    output.failed(1, &["error: no node answers on ", "caused by: ", "hint: "]);
    // Other tests run commands that use the port of discovery for a moment: it may be a node for all that this one can tell.
    let hints = [
        "hint: start it with 'laneway up' and its options, such as --server",
        "has the UDP port 7420 of discovery",
    ];
    assert!(hints.iter().any(|hint| output.stderr.contains(hint)), "{output}");
}

#[test]
fn something_else_on_the_port_is_no_node() {
    let machine = Machine::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let other = std::thread::spawn(move || {
        let (mut asker, _) = listener.accept().unwrap();
        let mut request = [0; 512];
        let _ = asker.read(&mut request).unwrap();
        asker.write_all(b"HTTP/1.1 404 \x1b[2Jgone\r\n\r\nwhat?").unwrap();
    });
    let output = machine.laneway(["status", "--proxy", &address]);
    other.join().unwrap();
    output
        .failed(1, &["error: what listens on ", "caused by: it answered 'HTTP/1.1 404 ?[2Jgone'", "hint: "]);
}

#[test]
fn top_without_a_terminal_points_to_status() {
    let output = Machine::new().laneway(["top"]);
    output.failed(2, &["error: top needs a terminal", "hint: 'laneway status'"]);
}
