//! A request that cannot be served is refused at once, in the way of its protocol, and counted.

use laneway::local::handshakes::HANDSHAKE;
use laneway::local::listener::{self, Apps};
use laneway::local::port::Port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::clock::Clock;
use crate::lab::{Lab, Proxy};
use crate::peer::{Origin, Peer, within};

const REJECTED: &str = "\0[\0\0\0\0\0\0";

/// The answer of the port to `request`, up to the end of the connection.
pub(crate) async fn answer(proxy: &Proxy, request: &[u8]) -> String {
    let mut app = Peer::connect(proxy.address).await;
    app.say(request).await;
    app.end();
    app.rest().await
}

/// The samples of a metric on the page for Prometheus.
pub(crate) async fn metric(proxy: &Proxy, name: &str) -> Vec<String> {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.address);
    let page = answer(proxy, request.as_bytes()).await;
    page.lines().filter_map(|line| line.strip_prefix(&format!("laneway_{name}"))).map(str::to_owned).collect()
}

fn with(start: &[u8], count: usize) -> Vec<u8> {
    [start, &vec![b'a'; count]].concat()
}

#[tokio::test]
async fn every_dialect_refuses_in_its_own_way_and_each_refusal_is_counted() {
    let proxy = Proxy::direct().await;
    let socks5 = |request: &[u8]| [b"\x05\x01\0", request].concat();
    let http = |text: &str| text.replace('\n', "\r\n").into_bytes();
    for (dialect, reason, request, refusal) in [
        ("socks4", "unsupported", b"\x04\x02\0\x50\x7f\0\0\x01\0".to_vec(), REJECTED),
        ("socks4", "too-long", with(b"\x04\x01\0\x50\x7f\0\0\x01", 256), REJECTED),
        ("socks4", "destination", b"\x04\x01\0\0\x7f\0\0\x01\0".to_vec(), REJECTED),
        ("socks4", "unfinished", b"\x04\x01\0".to_vec(), REJECTED),
        ("socks5", "unsupported", socks5(b"\x05\x02\0\x01\x7f\0\0\x01\0\x50"), "\x05\0\x05\x07\0\x01"),
        ("socks5", "unsupported", b"\x05\x01\x01".to_vec(), "\x05\u{fffd}"),
        ("socks5", "address-type", socks5(b"\x05\x01\0\x02\x7f\0\0\x01\0\x50"), "\x05\0\x05\x08\0\x01"),
        ("socks5", "version", socks5(b"\x04\x01\0\x01\x7f\0\0\x01\0\x50"), "\x05\0\x05\x01\0\x01"),
        ("socks5", "destination", socks5(b"\x05\x01\0\x03\x03a b\0\x50"), "\x05\0\x05\x01\0\x01"),
        ("socks5", "destination", socks5(b"\x05\x01\0\x03\x02\xff\xff\0\x50"), "\x05\0\x05\x01\0\x01"),
        ("socks5", "destination", with(&socks5(b"\x05\x01\0\x03\xff"), 257), "\x05\0\x05\x01\0\x01"),
        ("socks5", "unfinished", socks5(b"\x05\x01"), "\x05\0"),
        ("http", "malformed", b"\x16\x03\x01".to_vec(), "HTTP/1.1 400 "),
        ("http", "malformed", http("GET http://h/ HTTP/1.1\nHost: h\nA : b\n\n"), "HTTP/1.1 400 "),
        ("http", "version", http("GET http://h/ HTTP/2.0\nHost: h\n\n"), "HTTP/1.1 505 "),
        ("http", "too-long", with(b"GET http://h/", 70_000), "HTTP/1.1 414 "),
        ("http", "too-long", with(b"GET http://h/ HTTP/1.1\r\nA: ", 70_000), "HTTP/1.1 431 "),
        ("http", "unsupported", http("GET https://h/ HTTP/1.1\nHost: h\n\n"), "HTTP/1.1 400 "),
        ("http", "destination", http("OPTIONS * HTTP/1.1\nHost: h\n\n"), "HTTP/1.1 400 "),
        ("http", "unfinished", http("GET http://h/ HTTP/1.1\n"), "HTTP/1.1 400 "),
    ] {
        let labels = format!("refused_total{{reason=\"{reason}\",dialect=\"{dialect}\"}} ");
        let count = async || -> u64 {
            metric(&proxy, &labels).await.first().map_or(0, |count| count.parse().unwrap())
        };
        let before = count().await;
        let answer = answer(&proxy, &request).await;
        let request = request[..request.len().min(40)].escape_ascii();
        assert!(answer.starts_with(refusal), "{request}: {answer:?}");
        assert_eq!(count().await, before + 1, "{dialect} {reason} {request}");
    }
    assert_eq!(proxy.dials(), 0);
}

/// What was sent to nobody is not counted as sent: neither by the gateway for its client, nor by the client for its app.
#[tokio::test]
async fn a_request_that_is_refused_counts_no_bytes() {
    let lab = Lab::with_access("127.0.0.1").await;
    let proxy = lab.proxy().await;
    let server = Origin::new();
    let closed = Origin::new().address;
    let sent = || (lab.telemetry.served.traffic.sent(), proxy.telemetry.apps.traffic.sent());
    let get = |target: &dyn std::fmt::Display| {
        format!("GET http://{target}/ HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n")
    };
    for (target, status) in [(closed, "502"), ("127.0.0.2:80".parse().unwrap(), "403")] {
        for request in [get(&target), format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nearly")] {
            let answer = answer(&proxy, request.as_bytes()).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
            assert_eq!(sent(), (0, 0), "{request}");
        }
    }
    let request = get(&server.address);
    let (said, served) = tokio::join!(answer(&proxy, request.as_bytes()), async {
        let mut inner = server.accept().await;
        let head = inner.head().await;
        inner.say("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
        head
    });
    assert!(said.starts_with("HTTP/1.1 204 "), "{said}");
    let (of_gateway, of_client) = sent();
    assert!(of_gateway >= served.len() as u64 && of_client >= served.len() as u64, "{:?}", sent());
}

#[tokio::test]
async fn missing_and_wrong_logins_are_counted_separately() {
    let proxy = Proxy::direct().await;
    proxy.asks_for("ann:secret");
    let connect = "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n";
    for (labels, request) in [
        ("reason=\"no-login\",dialect=\"socks4\"", b"\x04\x01\0\x50\x7f\0\0\x01\0".to_vec()),
        ("reason=\"no-login\",dialect=\"socks5\"", b"\x05\x01\0".to_vec()),
        ("reason=\"wrong-login\",dialect=\"socks5\"", b"\x05\x01\x02\x01\x03ann\x05wrong".to_vec()),
        ("reason=\"no-login\",dialect=\"connect\"", format!("{connect}\r\n").into_bytes()),
        (
            "reason=\"wrong-login\",dialect=\"connect\"",
            format!("{connect}Proxy-Authorization: Basic x\r\n\r\n").into_bytes(),
        ),
    ] {
        answer(&proxy, &request).await;
        assert_eq!(metric(&proxy, &format!("refused_total{{{labels}}} ")).await, ["1"], "{labels}");
    }
}

#[tokio::test]
async fn an_app_that_takes_too_long_is_counted() {
    let (proxy, clock) = (Proxy::direct().await, Clock::stop());
    for (dialect, request) in [("socks4", &b"\x04"[..]), ("socks5", b"\x05\x01"), ("http", b"GET")] {
        let mut app = Peer::connect(proxy.address).await;
        app.say(request).await;
        clock.pass_to_deadline(HANDSHAKE, &app).await;
        app.rest().await;
        let labels = format!("refused_total{{reason=\"late\",dialect=\"{dialect}\"}} ");
        assert_eq!(metric(&proxy, &labels).await, ["1"], "{dialect}");
    }
}

/// An app on a unix socket has no address that its datagrams could come from.
#[tokio::test]
async fn udp_is_refused_over_a_unix_socket() {
    let lab = Lab::new().await;
    let (proxy, directory) = (lab.proxy().await, tempfile::tempdir().unwrap());
    let path = directory.path().join("proxy.sock");
    let port = Port::bind(&format!("unix:{}", path.display()).parse().unwrap(), 0o600).unwrap();
    let serving = tokio::spawn(listener::run(proxy.local.clone(), port, Apps::Proxy));
    let mut app = UnixStream::connect(&path).await.unwrap();
    app.write_all(b"\x05\x01\0\x05\x03\0\x01\0\0\0\0\0\0").await.unwrap();
    let mut answer = Vec::new();
    within(app.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"\x05\0\x05\x07\0\x01\0\0\0\0\0\0");
    assert_eq!(metric(&proxy, "refused_total{reason=\"unsupported\",dialect=\"socks5\"} ").await, ["1"]);
    serving.abort();
}
