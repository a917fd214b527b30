//! Apps of a node that has no gateway: what they send is held, or is never finished.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Victim;
use super::requests::say_to_all;
use crate::peer::{Origin, within};

/// How many times in a row the memory has to be the same before everything that was sent counts as received.
const STEADY: u32 = 20;

impl Victim {
    /// Checks that a user of this machine can read the node's state.
    pub(super) async fn serves_its_page(&self) {
        self.page("/status.json").await;
    }

    /// A page of the node, with its head.
    pub(super) async fn page(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.proxy);
        let mut app = within(TcpStream::connect(self.proxy)).await.unwrap();
        within(app.write_all(request.as_bytes())).await.unwrap();
        let mut answer = String::new();
        within(app.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        answer
    }

    /// Checks that its memory never exceeded the limit, once it has taken in what was sent, and that a user of this
    /// machine is served.
    pub(super) async fn has_kept_its_limit_while_alone(&self) {
        let (mut last, mut same) = (0, 0);
        while same < STEADY {
            self.serves_its_page().await;
            self.has_kept_memory();
            let now = self.memory("VmRSS:");
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
    }
}

/// Connections that have sent this. Some may be closed already.
async fn connections(count: usize, to: SocketAddr, bytes: &[u8]) -> Vec<TcpStream> {
    let (mut all, mut held) = (JoinSet::new(), Vec::new());
    for _ in 0..count {
        let bytes = bytes.to_vec();
        all.spawn(async move {
            let mut app = TcpStream::connect(to).await.ok()?;
            let _ = app.write_all(&bytes).await;
            Some(app)
        });
        // No more at a time than the listen queue holds.
        if all.len() == 128 {
            held.extend(within(all.join_next()).await.unwrap().unwrap());
        }
    }
    held.extend(within(all.join_all()).await.into_iter().flatten());
    held
}

#[tokio::test]
async fn request_heads_that_are_never_finished_do_not_fill_the_nodes_memory() {
    laneway::net::raise_open_files();
    let victim = Victim::alone("127.0.0.80").await;
    let head = format!("GET http://a/ HTTP/1.1\r\nX: {}", "y".repeat(60_000));
    let _held = connections(1500, victim.proxy, head.as_bytes()).await;
    victim.has_kept_its_limit_while_alone().await;
}

#[tokio::test]
async fn requests_that_wait_for_a_gateway_do_not_fill_the_nodes_memory() {
    laneway::net::raise_open_files();
    let victim = Victim::alone("127.0.0.81").await;
    let field = format!("X: {}\r\n", "y".repeat(50_000));
    let many = "a:b\r\n".repeat(1000);
    let plain = |fields: &str| format!("GET http://10.1.2.3/ HTTP/1.1\r\nHost: 10.1.2.3\r\n{fields}\r\n");
    let post = "POST http://10.1.2.3/ HTTP/1.1\r\nHost: 10.1.2.3\r\nContent-Length: 1000000\r\n\r\n";
    let socks = b"\x05\x01\x00\x05\x01\x00\x01\x0a\x01\x02\x03\x00\x50";
    let mut held = Vec::new();
    for request in [
        plain(&field).into_bytes(),
        plain(&many).into_bytes(),
        format!("{post}{}", "y".repeat(60_000)).into_bytes(),
        format!("CONNECT 10.1.2.3:80 HTTP/1.1\r\n\r\n{}", "y".repeat(15_000)).into_bytes(),
        socks.to_vec(),
    ] {
        held.extend(connections(800, victim.proxy, &request).await);
    }
    victim.has_kept_its_limit_while_alone().await;
}

#[tokio::test]
async fn connections_to_the_page_do_not_fill_the_nodes_memory() {
    laneway::net::raise_open_files();
    let victim = Victim::alone("127.0.0.82").await;
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n", victim.proxy);
    let unfinished = format!("{request}\r\n{request}X: {}", "y".repeat(60_000));
    let _held = connections(2000, victim.proxy, unfinished.as_bytes()).await;
    victim.has_kept_its_limit_while_alone().await;
}

#[tokio::test]
async fn questions_of_apps_that_hang_up_do_not_fill_the_nodes_memory() {
    laneway::net::raise_open_files();
    let victim = Victim::alone("127.0.0.83").await;
    let question = |number: usize| {
        let mut message = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x08".to_vec();
        message.extend(format!("{number:08}").bytes());
        message.extend(b"\x07example\0\0\x01\0\x01");
        [u16::try_from(message.len()).unwrap().to_be_bytes().to_vec(), message].concat()
    };
    for turn in 0..1000 {
        let questions: Vec<_> = (0..32).flat_map(|number| question(turn * 32 + number)).collect();
        drop(connections(1, victim.dns, &questions).await);
    }
    victim.has_kept_its_limit_while_alone().await;
}

/// Connections are refused for want of memory, but what they send is still read for a while.
#[tokio::test]
async fn connections_that_are_refused_do_not_fill_the_nodes_memory() {
    laneway::net::raise_open_files();
    let victim = Victim::alone("127.0.0.92").await;
    let socks =
        [b"\x05\x01\x00\x05\x01\x00\x01\x0a\x01\x02\x03\x00\x50".to_vec(), vec![b'q'; 60_000]].concat();
    let _held = connections(4000, victim.proxy, &socks).await;
    victim.has_kept_its_limit_while_alone().await;
}

/// Apps of a gateway each send a request for a port of 127.0.0.1 where nothing is read, and 60,000 bytes after it.
async fn send_to_a_server_that_reads_nothing(address: &str, request: fn(SocketAddr) -> Vec<u8>) {
    laneway::net::raise_open_files();
    let victim = Victim::start_within(32, address, &[], |_| {}).await;
    let origin = Origin::new();
    let sent = [request(origin.address), vec![b'q'; 60_000]].concat();
    let server = tokio::spawn(say_to_all(origin, Vec::new()));
    let _held = connections(3000, victim.proxy, &sent).await;
    victim.has_kept_its_limit_while_alone().await;
    server.abort();
}

/// What an app had sent left a buffer of 64 KiB behind, as long as its connection was open.
#[tokio::test]
async fn connections_of_a_gateways_own_apps_to_servers_that_read_nothing_do_not_fill_its_memory() {
    let socks = |to: SocketAddr| {
        [&b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01"[..], &to.port().to_be_bytes()].concat()
    };
    send_to_a_server_that_reads_nothing("127.0.0.105", socks).await;
}

/// Hundreds of apps sent long requests at the same time, and all were read.
#[tokio::test]
async fn long_requests_of_a_gateways_own_apps_that_come_at_once_do_not_fill_its_memory() {
    let connect = |to: SocketAddr| format!("CONNECT {to} HTTP/1.1\r\n\r\n").into_bytes();
    send_to_a_server_that_reads_nothing("127.0.0.106", connect).await;
}
