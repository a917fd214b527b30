//! A node's life: what it says when it starts, and how it stops.

use std::io::{Read, Write};
use std::net::TcpStream;

use nix::sys::signal::Signal;

use crate::machine::Machine;

#[test]
fn a_node_prints_every_address_that_it_has_bound() {
    let (machine, _) = Machine::with_group();
    let mut node = machine.start("127.0.0.31", &[]);
    for what in ["local proxy", "links", "discovery"] {
        let address = node.address(what);
        assert!(!address.ends_with(":0"), "{what}: {address}");
    }
    let mut page = TcpStream::connect(node.address("local proxy")).unwrap();
    page.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
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
    node.wait_for("told twice");
}
