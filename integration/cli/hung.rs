//! A node that runs and does not answer: each command says so, and what to do about it.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::machine::{Machine, Node, Output};

/// Stops all threads of a node, and waits until they are.
fn stop(node: &Node) {
    node.signal(Signal::SIGSTOP);
    let is_stopped = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
    let threads = || fs::read_dir(format!("/proc/{}/task", node.id())).unwrap().map(Result::unwrap);
    while !threads().all(|thread| fs::read_to_string(thread.path().join("stat")).is_ok_and(is_stopped)) {
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_stopped_node_is_named_by_each_command_with_what_lets_it_go_on() {
    let (machine, _) = Machine::with_group();
    let mut node = machine.start("127.0.0.46", &["--role", "gateway"]);
    let proxy = node.address("local proxy");
    stop(&node);
    let (machine, id, proxy) = (&machine, node.id(), proxy.as_str());
    let unanswered = format!(
        "error: the node on {proxy} (process {id}) accepts connections but does not answer within 5 s"
    );
    let unfollowed = format!(
        "error: the node with the directory {} (process {id}) does not follow within 10 s",
        machine.state().display()
    );
    let hint = format!(
        "hint: it is stopped, as by Ctrl-Z: 'fg' in its terminal lets it go on, or 'kill -CONT {id}'"
    );
    let named = ["status", "--proxy", proxy];
    thread::scope(|scope| {
        for (arguments, code, said) in [
            (&["status"][..], 1, &unanswered),
            (&["status", "--json"], 1, &unanswered),
            (&["env"], 1, &unanswered),
            (&["env", "--fronts"], 1, &unanswered),
            (&["env", "--docker"], 1, &unanswered),
            (&named, 1, &unanswered),
            (&["drain"], 1, &unfollowed),
            (&["leave", "--force", "--yes"], 1, &unfollowed),
        ] {
            let hint = &hint;
            scope.spawn(move || machine.laneway(arguments).failed(code, &[said, hint]));
        }
        let run = |options: &[&str]| {
            let mut run = Command::new(env!("CARGO_BIN_EXE_laneway"));
            run.args(["run", "--state"]).arg(machine.state()).args(options).args(["--", "echo", "started"]);
            Output::of(&mut run)
        };
        // A second node, with the same directory and therefore the same ports.
        scope.spawn({
            let hint = &hint;
            move || {
                let again = Output::of(&mut machine.up("127.0.0.46", &["--proxy", proxy]));
                again.failed(1, &["error: a node runs here already, with the directory ", hint]);
            }
        });
        scope.spawn(move || run(&["--all"]).failed(125, &[]));
        scope.spawn({
            let said = [unanswered.as_str(), hint.as_str()];
            move || run(&[]).failed(125, &said)
        });
        scope.spawn(move || assert_eq!(run(&["--no-check"]).success().stdout, "started\n"));
        scope.spawn(|| {
            let apt = machine.laneway(["apt-proxy", "http://deb.example/"]).success();
            assert!(apt.stdout == "DIRECT\n" && apt.stderr.contains("does not answer within 5 s"), "{apt}");
        });
    });
    // The node is still in the group, and follows as soon as it goes on.
    node.signal(Signal::SIGCONT);
    node.wait_for("in maintenance: this node serves no clients");
    assert_eq!(machine.laneway(["drain", "--undo"]).success().stdout, "This node may be a gateway again.\n");
    machine.laneway(["status"]).success();
    assert_eq!(node.count("this machine leaves the group"), 0);
}

#[test]
fn a_node_on_unix_sockets_alone_is_drained_too() {
    let (machine, _) = Machine::with_group();
    let socket = format!("unix:{}", machine.path("proxy.sock").display());
    let mut node = Node::start(&mut machine.up("127.0.0.47", &["--role", "gateway", "--proxy", &socket]));
    let said = machine.laneway(["drain"]).success().stdout;
    assert!(said.starts_with("The node takes no new clients from now on."), "{said}");
    node.wait_for("in maintenance");
    machine.laneway(["drain", "--undo"]).success();
    node.wait_for("the maintenance is over");
    // It is known that the node drains, but not when the last connection ends.
    let waited = machine.laneway(["drain", "--wait", "1s"]);
    assert!(waited.code == Some(1) && waited.stderr.contains("cannot wait for the connections"), "{waited}");
}
