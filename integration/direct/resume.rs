//! A download over links that break again and again.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::lab::{Lab, Proxy};
use crate::peer::{Origin, Peer, within};
use crate::refusals::{self, metric};

/// Takes more links than a download tries in a row without progress.
const CONTENT: usize = 2 << 20;
/// The field that says which version of the content it is.
const ETAG: &str = "ETag: \"a\"\r\n";
/// Bytes that one link carries before it breaks.
const CARRIED: u64 = 128 << 10;

#[tokio::test]
async fn a_download_continues_while_each_link_carries_some_of_it() {
    let mut lab = Lab::new().await;
    lab.link_address = fragile(lab.link_address).await;
    let proxy = lab.proxy().await;
    let server = serve(ETAG, true).await;
    let mut app = Peer::connect(proxy.address).await;
    app.say(format!("GET http://{server}/ HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")).await;
    let head = app.head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(app.rest().await, content());
}

/// As `curl -r`, and `wget -c` or an apt that goes on.
#[tokio::test]
async fn a_part_of_a_file_continues_as_the_whole_does() {
    for (range, from, end) in [("100000-", 100_000, CONTENT), ("100000-1500000", 100_000, 1_500_001)] {
        let mut lab = Lab::new().await;
        lab.link_address = fragile(lab.link_address).await;
        let proxy = lab.proxy().await;
        let server = serve(ETAG, true).await;
        let mut app = Peer::connect(proxy.address).await;
        let fields = format!("Host: {server}\r\nRange: bytes={range}\r\nConnection: close\r\n");
        app.say(format!("GET http://{server}/ HTTP/1.1\r\n{fields}\r\n")).await;
        let head = app.head().await;
        assert!(head.starts_with("HTTP/1.1 206 "), "{head}");
        assert_eq!(app.rest().await, content()[from..end]);
    }
}

#[tokio::test]
async fn a_download_that_the_next_gateway_does_not_continue_is_not_counted_as_rescued() {
    for (version, why) in [
        (ETAG, "no other gateway could continue the download"),
        ("", "the server has not said which version"),
    ] {
        ends_early(version, why).await;
    }
}

async fn ends_early(version: &'static str, why: &str) {
    let mut lab = Lab::new().await;
    lab.link_address = fragile(lab.link_address).await;
    let proxy = lab.proxy().await;
    let server = serve(version, false).await;
    let mut app = Peer::connect(proxy.address).await;
    app.say(format!("GET http://{server}/ HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")).await;
    let received = app.rest_before_reset().await;
    assert!(received.starts_with("HTTP/1.1 200 ") && received.len() < CONTENT);
    assert_eq!(metric(&proxy, "connections_rescued_total{").await, Vec::<String>::new());
    is_told(&proxy, &server.to_string(), why).await;
}

#[tokio::test]
async fn a_tunnel_that_ends_with_its_gateway_is_counted_and_shown() {
    let mut lab = Lab::new().await;
    lab.link_address = fragile(lab.link_address).await;
    let proxy = lab.proxy().await;
    let server = serve(ETAG, true).await;
    let mut app = Peer::connect(proxy.address).await;
    app.say(format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n\r\n")).await;
    app.head().await;
    app.say(format!("GET / HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")).await;
    let received = app.rest_before_reset().await;
    assert!(received.starts_with("HTTP/1.1 200 ") && received.len() < CONTENT);
    is_told(&proxy, &server.to_string(), "only the app can repeat what it has sent").await;
}

/// Checks that a connection to `server` which was reset with its gateway is in the metrics, the status and the events.
async fn is_told(proxy: &Proxy, server: &str, why: &str) {
    assert_eq!(metric(proxy, "connections_cut_total{").await, ["reason=\"gateway\"} 1"]);
    assert_eq!(metric(proxy, "events_total{event=\"cut\"").await, ["} 1"]);
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\nUser-Agent: curl/8\r\n\r\n", proxy.address);
    let status = refusals::answer(proxy, request.as_bytes()).await;
    let row =
        status.lines().find(|line| line.starts_with("  ") && line.contains("reset: the link to the gateway"));
    assert!(row.is_some_and(|row| row.contains(server) && row.contains(why)), "{status}");
}

#[tokio::test]
async fn an_app_that_leaves_while_its_download_is_resumed_frees_the_servers_connection() {
    let mut lab = Lab::new().await;
    lab.link_address = fragile(lab.link_address).await;
    let (proxy, origin) = (lab.proxy().await, Origin::new());
    let at = origin.address;
    let mut app = Peer::connect(proxy.address).await;
    app.say(format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\n\r\n")).await;
    let mut first = origin.accept().await;
    first.head().await;
    let fields = "ETag: \"a\"\r\nCache-Control: no-store\r\n";
    first.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {CONTENT}\r\n{fields}\r\n")).await;
    // More than one link carries.
    first.try_say(&content()[..256 << 10]).await;
    let mut second = origin.accept().await;
    let head = second.head().await;
    assert!(head.contains("Range: bytes="), "{head}");
    // This server sends nothing more, and the app does not wait for it.
    drop(app);
    let mut nothing = Vec::new();
    let _ = second.until_any_end(&mut nothing).await;
    assert_eq!(nothing, b"");
}

/// Numbers, so that no two parts are the same.
fn content() -> String {
    (0_u32..).map(|number| format!("{number:07} ")).take(CONTENT / 8).collect()
}

/// Forwards connections to `link`, and breaks each one after [`CARRIED`] bytes of answer.
async fn fragile(link: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut gateway = TcpStream::connect(link).await.unwrap();
                let ((from_client, mut to_client), (from_gateway, mut to_gateway)) =
                    (client.split(), gateway.split());
                let (mut from_client, mut some) = (from_client, from_gateway.take(CARRIED));
                tokio::select! {
                    _ = tokio::io::copy(&mut from_client, &mut to_gateway) => {}
                    _ = tokio::io::copy(&mut some, &mut to_client) => {}
                }
            });
        }
    });
    address
}

/// Serves this version of the content, or if it `has_ranges`, the requested range of it.
async fn serve(version: &'static str, has_ranges: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream, version, has_ranges));
        }
    });
    address
}

async fn answer(mut stream: TcpStream, version: &str, has_ranges: bool) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await?);
    }
    let head = String::from_utf8(head).unwrap();
    let range = head.split_once("Range: bytes=").filter(|_| has_ranges);
    let range = range.and_then(|(_, rest)| rest.lines().next()?.split_once('-'));
    let range = range.map(|(first, last)| {
        let end = last.parse::<usize>().map_or(CONTENT, |last| last + 1);
        first.parse::<usize>().unwrap()..end
    });
    let status = range.as_ref().map_or_else(
        || "200 OK".to_owned(),
        |range| format!("206 P\r\nContent-Range: bytes {}-{}/{CONTENT}", range.start, range.end - 1),
    );
    let rest = &content()[range.unwrap_or(0..CONTENT)];
    // What the gateway stored would go on where the server does not.
    let control = if has_ranges { "public" } else { "no-store" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{version}Cache-Control: {control}\r\n\r\n",
        rest.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(rest.as_bytes()).await
}
