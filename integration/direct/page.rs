//! The local port as a web server: what a node shows, to whom, and the limits of its connections.

use std::collections::{HashMap, HashSet};

use laneway::local::handshakes::HANDSHAKE;
use laneway::local::listener::{self, Apps};
use laneway::local::page::MAX_FOLLOWERS;
use laneway::local::port::Port;
use laneway::telemetry::journal::Happening;
use laneway::telemetry::snapshot::Snapshot;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::clock::Clock;
use crate::lab::{Lab, Proxy};
use crate::peer::{Origin, Peer, within};

const RESOURCES: [&str; 11] = [
    "/",
    "/page.css",
    "/page.js",
    "/map.js",
    "/chart.js",
    "/format.js",
    "/icon.svg",
    "/status.json",
    "/metrics",
    "/proxy.pac",
    "/events",
];

/// Begins a request for a resource of the page.
async fn asked(proxy: &Proxy, path: &str, fields: &str) -> Peer {
    let mut reader = Peer::connect(proxy.address).await;
    reader.say(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", proxy.address)).await;
    reader
}

/// The head and the body of a resource that has an end.
async fn get(proxy: &Proxy, path: &str, fields: &str) -> (String, String) {
    let mut reader = asked(proxy, path, &format!("{fields}Connection: close\r\n")).await;
    (reader.head().await, reader.rest().await)
}

/// One response on a connection that may carry more, by its Content-Length.
async fn answer(reader: &mut Peer) -> (String, String) {
    let head = reader.head().await;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.unwrap_or_else(|| panic!("no length in {head}")).parse().unwrap()];
    within(reader.stream.read_exact(&mut body)).await.unwrap();
    (head, String::from_utf8(body).unwrap())
}

async fn snapshot(proxy: &Proxy) -> Snapshot {
    serde_json::from_str(&get(proxy, "/status.json", "").await.1).unwrap()
}

/// The next snapshot of a stream, which comes in one chunk (RFC 9112 §7.1).
async fn next(stream: &mut Peer) -> Snapshot {
    let mut size = String::new();
    while !size.ends_with("\r\n") {
        size.push(within(stream.stream.read_u8()).await.unwrap().into());
    }
    let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
    let mut event = vec![0; size + 2];
    within(stream.stream.read_exact(&mut event)).await.unwrap();
    let event = String::from_utf8(event).unwrap();
    let data = event.strip_prefix("retry: 1000\n\n").unwrap_or(&event).strip_prefix("data: ").unwrap();
    serde_json::from_str(data.strip_suffix("\n\n\r\n").unwrap()).unwrap()
}

/// A tunnel of an app over the link, and its other end.
async fn tunnel(proxy: &Proxy, origin: &Origin) -> (Peer, Peer) {
    let mut app = Peer::connect(proxy.address).await;
    app.say(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.address)).await;
    let server = origin.accept().await;
    app.head().await;
    (app, server)
}

#[tokio::test]
async fn what_passes_is_counted_while_it_passes_and_what_is_open_while_it_is() {
    let lab = Lab::new().await;
    let (proxy, origin) = (lab.proxy().await, Origin::new());
    let (mut app, mut server) = tunnel(&proxy, &origin).await;
    app.say("question").await;
    server.hear("question").await;
    server.say("a longer answer").await;
    app.hear("a longer answer").await;

    let seen = snapshot(&proxy).await;
    assert_eq!((seen.apps.open, seen.apps.opened, seen.apps.sent, seen.apps.received), (1, 1, 8, 15));
    let destination = &seen.apps.destinations[0];
    assert_eq!(destination.target, origin.address.to_string());
    assert_eq!((destination.open, destination.sent, destination.received), (1, 8, 15));
    let (link, gateway) = (&seen.links[0], &seen.gateways[0]);
    assert_eq!((link.state.as_str(), link.tunnels), ("active", 1));
    assert!(link.sent >= 8 && link.received >= 15 && link.round_trip.is_some(), "{link:?}");
    assert_eq!(link.id, lab.gateway.node.id.short());
    assert!(gateway.is_used && gateway.address == lab.link_address.to_string(), "{gateway:?}");
    assert_eq!(gateway.id.as_ref(), Some(&link.id));

    app.end();
    server.end();
    assert_eq!((app.rest().await, server.rest().await), (String::new(), String::new()));
    while snapshot(&proxy).await.apps.open > 0 {
        tokio::task::yield_now().await;
    }
    let seen = snapshot(&proxy).await;
    assert_eq!((seen.apps.opened, seen.apps.destinations[0].open, seen.links[0].tunnels), (1, 0, 0));
}

#[tokio::test]
async fn a_plain_request_is_counted_like_a_tunnel_and_directly_like_over_a_link() {
    let lab = Lab::new().await;
    for proxy in [lab.proxy().await, Proxy::direct().await] {
        let origin = Origin::new();
        let mut app = Peer::connect(proxy.address).await;
        app.say(format!("GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.address)).await;
        let mut server = origin.accept().await;
        let request = server.head().await;
        server.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf ").await;
        app.head().await;
        app.hear("half ").await;
        let seen = snapshot(&proxy).await;
        assert_eq!((seen.apps.open, seen.apps.received), (1, 5), "a download shows before it has ended");
        assert_eq!(seen.apps.sent, request.len() as u64);
        server.say("whole").await;
        app.hear("whole").await;
        while snapshot(&proxy).await.apps.open > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(snapshot(&proxy).await.apps.received, 10);
    }
}

#[tokio::test]
async fn failures_are_counted_by_what_went_wrong_and_where() {
    let proxy = Proxy::direct().await;
    let gone = Origin::new().address;
    for _ in 0..3 {
        let mut app = Peer::connect(proxy.address).await;
        app.say(format!("CONNECT {gone} HTTP/1.1\r\nHost: {gone}\r\n\r\n")).await;
        assert!(app.rest().await.starts_with("HTTP/1.1 502 "));
    }
    let seen = snapshot(&proxy).await;
    let failure = &seen.failures[0];
    assert_eq!((failure.what.as_str(), failure.side.as_str(), failure.count), ("refused", "server", 3));
    assert_eq!(seen.apps.destinations[0].failed, 3);
    assert_eq!((seen.connections[0].what.as_str(), seen.connections[0].count), ("connect", 3));
}

#[tokio::test]
async fn every_resource_is_for_users_of_this_machine_and_loads_nothing_from_elsewhere() {
    let proxy = Proxy::direct().await;
    let port = proxy.address.port();
    for path in RESOURCES {
        for (host, fields, status) in [
            (format!("evil.example:{port}"), "", "421"),
            (format!("10.0.0.1:{port}"), "", "421"),
            (format!("localhost:{port}"), "Sec-Fetch-Site: cross-site\r\n", "403"),
            (format!("localhost:{port}"), "Sec-Fetch-Site: same-site\r\n", "403"),
            (format!("localhost:{port}"), "Origin: http://evil.example\r\n", "403"),
            (format!("localhost:{port}"), "Origin: null\r\n", "403"),
        ] {
            let mut page = Peer::connect(proxy.address).await;
            page.say(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")).await;
            let head = page.head().await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {host} {fields}: {head}");
        }
        let mut page = asked(&proxy, path, "Accept: text/html\r\nSec-Fetch-Site: same-origin\r\n").await;
        let head = page.head().await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {head}");
        for field in [
            "Content-Security-Policy: default-src 'none'; ",
            "X-Content-Type-Options: nosniff",
            "Cross-Origin-Resource-Policy: same-origin",
            "Cache-Control: no-store",
            "Referrer-Policy: no-referrer",
        ] {
            assert!(head.contains(field), "{path} without {field}: {head}");
        }
        assert!(!head.contains("unsafe-inline") && !head.contains("Access-Control"), "{head}");
    }
    let (_, html) = get(&proxy, "/", "Accept: text/html\r\n").await;
    for inline in ["<style", "style=", "onclick", "onload", "javascript:", "<script>", "https:", "http:"] {
        assert!(!html.contains(inline), "{inline}");
    }
    for path in ["/page.js", "/map.js", "/chart.js", "/format.js"] {
        let (_, script) = get(&proxy, path, "").await;
        for dangerous in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!script.contains(dangerous), "{path}: {dangerous}");
        }
    }
}

#[tokio::test]
async fn curl_gets_text_and_nothing_but_reading_is_allowed() {
    let proxy = Proxy::direct().await;
    let (head, text) = get(&proxy, "/", "Accept: */*\r\n").await;
    assert!(head.contains("Content-Type: text/plain"), "{head}");
    assert!(text.contains("reaches servers directly"), "{text}");
    let mut post = Peer::connect(proxy.address).await;
    post.say(format!("POST /status.json HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", proxy.address))
        .await;
    let refused = post.rest().await;
    assert!(
        refused.starts_with("HTTP/1.1 405 ") && refused.contains("\r\nAllow: GET, HEAD\r\n"),
        "{refused}"
    );
    let mut head = Peer::connect(proxy.address).await;
    head.say(format!("HEAD /events HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", proxy.address)).await;
    let head = head.rest().await;
    assert!(head.contains("Content-Type: text/event-stream") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(get(&proxy, "/nothing", "").await.0.starts_with("HTTP/1.1 404 "));
}

/// A request that is refused, sent after a good one on the same connection.
async fn later(proxy: &Proxy, request: &str) -> String {
    let mut reader = served(proxy).await;
    reader.say(request.replace("PROXY", &proxy.address.to_string())).await;
    reader.rest().await
}

/// A connection on which one request has been answered.
async fn served(proxy: &Proxy) -> Peer {
    let mut reader = asked(proxy, "/page.css", "").await;
    assert!(answer(&mut reader).await.0.starts_with("HTTP/1.1 200 "));
    reader
}

#[tokio::test]
async fn requests_that_follow_on_a_connection_are_answered_in_turn() {
    let proxy = Proxy::direct().await;
    let request =
        |method, path| format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nAccept: */*\r\n\r\n", proxy.address);
    let mut reader = Peer::connect(proxy.address).await;
    // The first byte alone decides the dialect; the rest of the requests comes at once.
    reader.say("G").await;
    let pipelined =
        [request("GET", "/status.json"), request("GET", "/nothing"), request("GET", "/")].concat();
    reader.say(&pipelined[1..]).await;
    let (head, json) = answer(&mut reader).await;
    assert!(head.starts_with("HTTP/1.1 200 ") && serde_json::from_str::<Snapshot>(&json).is_ok(), "{head}");
    assert!(answer(&mut reader).await.0.starts_with("HTTP/1.1 404 "));
    assert!(answer(&mut reader).await.1.contains("reaches servers directly"));
    reader.say(request("HEAD", "/page.css")).await;
    let head = reader.head().await;
    assert!(head.contains("Content-Type: text/css") && !head.contains("Content-Length: 0\r\n"), "{head}");
    reader.say(request("GET", "/icon.svg")).await;
    assert!(answer(&mut reader).await.1.starts_with("<svg"));
    reader.end();
    assert_eq!(reader.rest().await, "");
}

#[tokio::test]
async fn each_later_request_is_judged_like_the_first() {
    let proxy = Proxy::direct().await;
    for (status, request) in [
        ("421", "GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n"),
        ("421", "GET http://PROXY/status.json HTTP/1.1\r\nHost: PROXY\r\n\r\n"),
        ("421", "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\nhello"),
        ("421", "GET /status.json HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
        ("421", "GET /status.json HTTP/1.1\r\nHost: PROXY\r\nHost: evil.example\r\n\r\n"),
        ("421", "GET /status.json HTTP/1.1\r\nHost: localhost@evil.example\r\n\r\n"),
        ("421", "GET /status.json HTTP/1.0\r\n\r\n"),
        ("403", "GET /status.json HTTP/1.1\r\nHost: PROXY\r\nOrigin: http://evil.example\r\n\r\n"),
        ("405", "POST /status.json HTTP/1.1\r\nHost: PROXY\r\nContent-Length: 5\r\n\r\nhello"),
        ("400", "GET /status.json HTTP/1.1\r\nHost : PROXY\r\n\r\n"),
        ("400", "\x05\x01\x00"),
    ] {
        let refused = later(&proxy, request).await;
        assert_eq!(refused[..].split(' ').nth(1), Some(status), "{request}: {refused}");
        assert_eq!(refused.matches("HTTP/1.").count(), 1, "the connection ends: {refused}");
    }
    assert_eq!(proxy.dials(), 0);
    let refusals = crate::refusals::metric(&proxy, "refused_total").await;
    assert_eq!(refusals, ["{reason=\"malformed\",dialect=\"http\"} 2"]);
    let long = format!("GET / HTTP/1.1\r\nHost: PROXY\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let refused = later(&proxy, &long).await;
    assert!(refused.starts_with("HTTP/1.1 431 "), "{refused}");
}

#[tokio::test]
async fn a_refusal_arrives_whatever_the_client_has_sent_already() {
    let proxy = Proxy::direct().await;
    let body = "x".repeat(256 * 1024);
    let post =
        format!("POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{body}", proxy.address, body.len());
    let mut first = Peer::connect(proxy.address).await;
    first.say(&post).await;
    assert!(first.rest().await.starts_with("HTTP/1.1 405 "));
    assert!(later(&proxy, &post).await.starts_with("HTTP/1.1 405 "));
}

#[tokio::test]
async fn a_connection_on_which_no_whole_request_follows_is_closed_at_the_deadline() {
    let (proxy, clock) = (Proxy::direct().await, Clock::stop());
    for begun in ["", "GET /status.json HT"] {
        let mut reader = served(&proxy).await;
        reader.say(begun).await;
        clock.pass_to_deadline(HANDSHAKE, &reader).await;
        assert_eq!(reader.rest().await, "");
    }
}

#[tokio::test]
async fn when_the_node_drains_idle_connections_and_streams_end_at_once() {
    let proxy = Proxy::direct().await;
    let (mut stream, mut idle) = (asked(&proxy, "/events", "").await, asked(&proxy, "/page.css", "").await);
    stream.head().await;
    next(&mut stream).await;
    answer(&mut idle).await;
    proxy.local.drain.cancel();
    assert_eq!(idle.rest().await, "");
    assert!(stream.rest().await.ends_with("0\r\n\r\n"), "an orderly end");
    // The streams end although neither reader has closed its own end.
    proxy.local.tasks.close();
    within(proxy.local.tasks.wait()).await;
    drop((stream, idle));
}

#[tokio::test]
async fn users_of_a_unix_socket_get_the_page_too() {
    let proxy = Proxy::direct().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("proxy.sock");
    let port = Port::bind(&format!("unix:{}", path.display()).parse().unwrap(), 0o600).unwrap();
    let serving = tokio::spawn(listener::run(proxy.local.clone(), port, Apps::Proxy));
    let mut reader = UnixStream::connect(&path).await.unwrap();
    for path in ["/page.css", "/proxy.pac"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        within(reader.write_all(request.as_bytes())).await.unwrap();
    }
    reader.shutdown().await.unwrap();
    let mut answers = String::new();
    within(reader.read_to_string(&mut answers)).await.unwrap();
    let statuses: Vec<_> = answers.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")).collect();
    assert_eq!(
        statuses,
        ["200 OK", "404 Not Found"],
        "a unix socket is no proxy that a browser can be told of"
    );
    serving.abort();
}

#[tokio::test]
async fn the_stream_gives_a_snapshot_again_and_again_and_only_so_many_may_follow() {
    let proxy = Proxy::direct().await;
    let mut stream = asked(&proxy, "/events", "").await;
    assert!(stream.head().await.contains("Content-Type: text/event-stream\r\n"));
    let first = next(&mut stream).await;
    proxy.telemetry.note(Happening::Promoted, "<img src=x>", "\u{1b}[2J<script>");
    let second = next(&mut stream).await;
    assert!(second.at > first.at);
    let event = second.events.last().unwrap();
    assert_eq!(
        (event.who.as_str(), event.text.as_str()),
        ("<img src=x>", "?[2J<script>"),
        "one line, escaped by nobody yet"
    );

    let mut others = Vec::new();
    for _ in 1..MAX_FOLLOWERS {
        let mut other = asked(&proxy, "/events", "").await;
        assert!(other.head().await.starts_with("HTTP/1.1 200 "));
        others.push(other);
    }
    let refused = get(&proxy, "/events", "").await.0;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    drop(others);
    // A reader that has left is noticed by the next write, or the one after it.
    while asked(&proxy, "/events", "").await.head().await.starts_with("HTTP/1.1 503 ") {
        next(&mut stream).await;
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_is_given_up_and_its_place_is_free_again() {
    let proxy = Proxy::direct().await;
    // So many events that one snapshot fills what the kernel holds for a reader that reads nothing.
    for _ in 0..300 {
        proxy.telemetry.note(Happening::Query, "", "x".repeat(400));
    }
    let mut silent = Vec::new();
    for _ in 0..MAX_FOLLOWERS {
        let socket = crate::peer::narrow();
        let mut reader = Peer { stream: socket.connect(proxy.address).await.unwrap() };
        reader.say(format!("GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.address)).await;
        reader.head().await;
        silent.push(reader);
    }
    assert!(get(&proxy, "/events", "").await.0.starts_with("HTTP/1.1 503 "));
    while asked(&proxy, "/events", "").await.head().await.starts_with("HTTP/1.1 503 ") {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_proxy_configuration_names_the_port_that_it_was_asked_from() {
    let proxy = Proxy::direct().await;
    let (head, script) = get(&proxy, "/proxy.pac", "").await;
    assert!(head.contains("Content-Type: application/x-ns-proxy-autoconfig\r\n"), "{head}");
    assert!(script.contains(&format!("return \"PROXY {}\";", proxy.address)), "{script}");
}

#[tokio::test]
async fn metrics_are_in_the_text_format_and_follow_its_conventions() {
    let lab = Lab::new().await;
    let (proxy, origin) = (lab.proxy().await, Origin::new());
    let (mut app, mut server) = tunnel(&proxy, &origin).await;
    app.say("four").await;
    server.hear("four").await;
    let (head, page) = get(&proxy, "/metrics", "").await;
    assert!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    let samples = parsed(&page);
    assert_eq!(samples["laneway_sent_bytes_total{of=\"apps\"}"], 4.0);
    assert_eq!(samples["laneway_connections_open{of=\"apps\"}"], 1.0);
    let (name, id) = (&lab.gateway.node.name, lab.gateway.node.id.short());
    let link = format!("{{gateway=\"{name}\",id=\"{id}\",address=\"{}\"}}", lab.link_address);
    assert_eq!(samples[&format!("laneway_link_in_use{link}")], 1.0);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(samples[&format!("laneway_build_info{{version=\"{version}\"}}")], 1.0);
}

/// The samples of a page, checked as `promtool check metrics` does.
fn parsed(page: &str) -> HashMap<String, f64> {
    let (mut kinds, mut helped) = (HashMap::new(), HashSet::new());
    let mut samples = HashMap::new();
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').unwrap();
            assert!(helped.insert(name) && text.ends_with('.'), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(helped.contains(name) && kinds.insert(name, kind).is_none(), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(!name.contains("milli") && !name.contains("kilo"), "base units: {line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            assert!(kinds.contains_key(name) && name.starts_with("laneway_"), "{line}");
            assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "twice: {line}");
        }
    }
    samples
}
