//! Gateways whose upstream proxies lead back to them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::machine::{Machine, Node};

/// How long the loop may last. Reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// The connections of one node at each moment: those that wait for the upstream proxy, the apps that they are for, and some more.
const MOST: usize = 2 * 1024 + 300;

fn gateway(machine: &Machine, address: &str, own: u16, upstream: &str) -> Node {
    let proxy = format!("{address}:{own}");
    let options = ["--role", "gateway", "--allow", "192.0.2.0/24", "--proxy", &proxy, "--upstream", upstream];
    Node::start(machine.up(address, &options).env("LANEWAY_PROBE", "none"))
}

#[test]
fn two_gateways_that_are_each_others_upstream_proxy_keep_their_sockets() {
    let addresses = ["127.0.0.141", "127.0.0.142"];
    // Chosen by the system, and free again.
    let ports = addresses.map(|at| TcpListener::bind((at, 0)).unwrap().local_addr().unwrap().port());
    let machines = [Machine::with_group().0, Machine::with_group().0];
    let url = |at: usize| format!("http://{}:{}", addresses[at], ports[at]);
    let nodes = [0, 1].map(|at| gateway(&machines[at], addresses[at], ports[at], &url(1 - at)));
    let mut app = TcpStream::connect((addresses[0], ports[0])).unwrap();
    app.write_all(b"CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: 192.0.2.1:443\r\n\r\n").unwrap();
    app.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let (mut answer, deadline) = ([0; 12], Instant::now() + PATIENCE);
    loop {
        let open = nodes.each_ref().map(Node::open_files);
        assert!(open.iter().all(|open| *open <= MOST), "{open:?} of one request");
        match app.read(&mut answer) {
            Ok(_) => break,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(Instant::now() < deadline, "no answer");
    }
    assert!(answer.starts_with(b"HTTP/1.1 50"), "{}", answer.escape_ascii());
}
