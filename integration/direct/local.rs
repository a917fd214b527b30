//! The local port: which apps may use it, how many, for how long, and how their connections end.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::lab::{CONNECTIONS, HANDSHAKES, Lab, Proxy};
use crate::peer::{Origin, Peer, within};

fn socks(at: SocketAddr) -> Vec<u8> {
    [&[5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1][..], &at.port().to_be_bytes()].concat()
}

fn connect(at: SocketAddr) -> Vec<u8> {
    format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n").into_bytes()
}

const SOCKS_OPEN: &str = "\x05\0\x05\0\0\x01\0\0\0\0\0\0";
const CONNECT_OPEN: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

/// A tunnel of an app, and its other end.
async fn tunnel(proxy: &Proxy, origin: &Origin) -> (Peer, Peer) {
    let mut app = Peer::connect(proxy.address).await;
    app.say(socks(origin.address)).await;
    let server = origin.accept().await;
    app.hear(SOCKS_OPEN).await;
    (app, server)
}

#[tokio::test]
async fn a_socks_refusal_arrives_whatever_the_app_has_sent_already() {
    let proxy = Proxy::direct().await;
    let gone = Origin::new().address;
    let version_4 = [&[4, 1][..], &80_u16.to_be_bytes(), &[127, 0, 0, 1, 0]].concat();
    for (request, reply) in [
        (socks(gone), "\x05\0\x05\x05\0\x01\0\0\0\0\0\0"),
        (vec![5, 1, 0, 5, 2, 0, 1, 127, 0, 0, 1, 0, 80], "\x05\0\x05\x07\0\x01\0\0\0\0\0\0"),
        (vec![5, 1, 1], "\x05\u{fffd}"),
        (version_4, "\0[\0\0\0\0\0\0"),
    ] {
        let mut app = Peer::connect(proxy.address).await;
        app.say([request, vec![b'x'; 256 * 1024]].concat()).await;
        assert_eq!(app.rest().await, reply);
    }
}

#[tokio::test]
async fn silent_apps_make_room_for_one_that_sends_a_request() {
    let (proxy, origin) = (Proxy::direct().await, Origin::new());
    let mut silent = Vec::new();
    for number in 0..HANDSHAKES + 8 {
        let mut app = Peer::connect(proxy.address).await;
        // Some have sent a part: a partial request keeps no place either.
        app.say(["", "\x05", "GET http"][number % 3]).await;
        silent.push(app);
    }
    let (mut app, server) = tunnel(&proxy, &origin).await;
    tokio::spawn(server.echo());
    app.say("served").await;
    app.hear("served").await;
    let answer = silent[0].rest().await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn an_app_that_comes_when_all_places_are_taken_waits_for_one() {
    let (proxy, origin) = (Proxy::direct().await, Origin::new());
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(tunnel(&proxy, &origin).await);
    }
    let mut last = Peer::connect(proxy.address).await;
    last.say(socks(origin.address)).await;
    let (mut app, mut server) = held.pop().unwrap();
    for _ in 0..20 {
        app.say("x").await;
        server.hear("x").await;
        server.say("y").await;
        app.hear("y").await;
    }
    let early = last.stream.try_read(&mut [0; 2]);
    assert_eq!(early.unwrap_err().kind(), ErrorKind::WouldBlock, "served beside all the others");
    drop((app, server));
    let _server = origin.accept().await;
    last.hear(SOCKS_OPEN).await;
}

#[tokio::test]
async fn the_page_is_for_users_of_this_machine_and_not_for_other_sites() {
    let proxy = Proxy::direct().await;
    let own = format!("127.0.0.1:{}", proxy.address.port());
    for (request, fields, status) in [
        ("GET /", format!("Host: {own}"), 200),
        ("GET /?a", "Host: LocalHost".into(), 200),
        ("GET /", "Host: localhost.:1080".into(), 200),
        ("HEAD /", "Host: [::1]:1080".into(), 200),
        ("GET /", format!("Host: {own}\r\nSec-Fetch-Site: none"), 200),
        ("GET /", format!("Host: {own}\r\nSec-Fetch-Site: same-origin\r\nOrigin: http://{own}"), 200),
        ("GET /", "Host: rebound.example".into(), 421),
        ("GET /", "Host: 192.0.2.1".into(), 421),
        ("GET /", "Host: localhost.example".into(), 421),
        ("GET /", format!("Host: {own}\r\nSec-Fetch-Site: cross-site"), 403),
        ("GET /", format!("Host: {own}\r\nSec-Fetch-Site: same-site"), 403),
        ("GET /", format!("Host: {own}\r\nOrigin: http://evil.example"), 403),
        ("GET /", format!("Host: {own}\r\nOrigin: null"), 403),
        ("GET /", format!("Host: {own}\r\nOrigin: http://127.0.0.1:1"), 403),
        ("GET /nothing", format!("Host: {own}"), 404),
        ("DELETE /", format!("Host: {own}"), 405),
    ] {
        let mut app = Peer::connect(proxy.address).await;
        app.say(format!("{request} HTTP/1.1\r\n{fields}\r\nConnection: close\r\n\r\n")).await;
        let head = app.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request} {fields}: {head}");
        let fields = head.to_ascii_lowercase();
        assert!(fields.contains("content-security-policy: default-src 'none'"), "{head}");
        assert!(
            fields.contains("x-content-type-options: nosniff") && !fields.contains("access-control"),
            "{head}"
        );
        let body = app.rest().await;
        assert_eq!(body.is_empty(), request.starts_with("HEAD"), "{body}");
    }
}

#[tokio::test]
async fn a_form_that_a_web_page_posts_is_not_served_as_a_proxy_request() {
    let (proxy, origin) = (Proxy::direct().await, Origin::new());
    let at = origin.address;
    let hidden = format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\n\r\n");
    let mut app = Peer::connect(proxy.address).await;
    let length = hidden.len();
    app.say(format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{hidden}")).await;
    let answer = app.rest().await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && !answer[12..].contains("HTTP/1.1 "), "{answer}");
    assert_eq!(proxy.dials(), 0);
}

#[tokio::test]
async fn half_a_close_passes_in_both_directions_of_a_connect_tunnel() {
    let lab = Lab::new().await;
    for proxy in [Proxy::direct().await, lab.proxy().await] {
        let origin = Origin::new();
        for app_first in [true, false] {
            let mut app = Peer::connect(proxy.address).await;
            app.say(connect(origin.address)).await;
            let mut server = origin.accept().await;
            app.hear(CONNECT_OPEN).await;
            let (first, second) = if app_first { (&mut app, &mut server) } else { (&mut server, &mut app) };
            first.say("question").await;
            first.end();
            assert_eq!(second.rest().await, "question");
            second.say("answer").await;
            second.end();
            assert_eq!(first.rest().await, "answer");
        }
    }
}

#[tokio::test]
async fn an_app_that_has_ended_its_direction_gets_the_answer_to_its_request() {
    let lab = Lab::new().await;
    for proxy in [Proxy::direct().await, lab.proxy().await] {
        let origin = Origin::new();
        let at = origin.address;
        let mut app = Peer::connect(proxy.address).await;
        app.say(format!("POST http://{at}/ HTTP/1.1\r\nHost: {at}\r\nContent-Length: 4\r\n\r\nbody")).await;
        app.end();
        let mut server = origin.accept().await;
        server.head().await;
        server.hear("body").await;
        server.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        app.head().await;
        assert_eq!(app.rest().await, "ok");
    }
}

/// A gateway on threads of its own, which can be lost like a machine.
async fn losable() -> (Runtime, Lab) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().unwrap();
    let lab = runtime.spawn(Lab::new()).await.unwrap();
    (runtime, lab)
}

#[tokio::test]
async fn a_lost_link_is_a_reset_for_the_app_in_every_dialect() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
    let until_close = "HTTP/1.0 200 OK\r\n\r\n";
    for (dialect, said) in [("socks", ""), ("connect", ""), ("get", answer), ("get", until_close)] {
        let (runtime, lab) = losable().await;
        let (proxy, origin) = (lab.proxy().await, Origin::new());
        let at = origin.address;
        let mut app = Peer::connect(proxy.address).await;
        app.say(match dialect {
            "socks" => socks(at),
            "connect" => connect(at),
            // For an app of HTTP/1.0 an orderly end would complete the response.
            _ => format!("GET http://{at}/ HTTP/1.0\r\n\r\n").into_bytes(),
        })
        .await;
        let mut server = origin.accept().await;
        match dialect {
            "socks" => app.hear(SOCKS_OPEN).await,
            "connect" => app.hear(CONNECT_OPEN).await,
            _ => drop(server.head().await),
        }
        server.say(format!("{said}half of it")).await;
        if dialect == "get" {
            app.head().await;
        }
        app.hear("half of it").await;
        runtime.shutdown_background();
        assert_eq!(app.rest_before_reset().await, "", "{dialect} {said}");
    }
}

/// A request that must not be sent twice ends with its link. The server is not to blame, and the app learns that.
#[tokio::test]
async fn a_request_that_is_lost_with_its_link_is_told_as_such() {
    let (runtime, lab) = losable().await;
    let (proxy, origin) = (lab.proxy().await, Origin::new());
    let at = origin.address;
    let mut app = Peer::connect(proxy.address).await;
    app.say(format!("POST http://{at}/ HTTP/1.1\r\nHost: {at}\r\nContent-Length: 4\r\n\r\nbody")).await;
    let mut server = origin.accept().await;
    server.head().await;
    server.hear("body").await;
    runtime.shutdown_background();
    let head = app.head().await;
    assert!(head.starts_with("HTTP/1.1 502 ") && head.contains("; side=link;"), "{head}");
    let said = format!("broke before {at} had answered; whether it has the request is not known\n");
    let answer = app.rest().await;
    assert!(answer.starts_with("the link to the gateway ") && answer.ends_with(&said), "{answer}");
}

/// A server that answers no connection attempt: its listen queue is full, so the system drops further ones.
async fn unanswering() -> (SocketAddr, Vec<std::net::TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut open = vec![socket.into()];
    while let Ok(Ok(queued)) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        open.push(queued.into_std().unwrap());
    }
    (address, open)
}

#[tokio::test]
async fn a_connection_is_held_no_longer_than_the_hold_time_though_a_gateway_fails_meanwhile() {
    let (runtime, lab) = losable().await;
    let proxy = lab.proxy().await;
    within(proxy.links.up().wait_for(|links| !links.is_empty())).await.unwrap();
    proxy.holds_for(Duration::from_secs(3));
    let (silent, _queued) = unanswering().await;
    let mut app = Peer::connect(proxy.address).await;
    app.say(connect(silent)).await;
    let link = proxy.links.up().borrow()[0].clone();
    while link.state.tunnels() == 0 {
        tokio::task::yield_now().await;
    }
    // A search that began anew with the next attempt would take this hold time, and outlast the test.
    proxy.holds_for(Duration::from_secs(3600));
    runtime.shutdown_background();
    let answer = within(app.head()).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn an_exhausted_link_is_replaced_before_it_ends_and_its_tunnels_go_on() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let proxy = lab.proxy().await;
    let (mut old, server) = tunnel(&proxy, &origin).await;
    tokio::spawn(server.echo());
    let mut standing = proxy.links.up();
    let worn = standing.borrow()[0].clone();
    worn.state.mark_exhausted();
    let replaced = |links: &Vec<laneway::link::client::Link>| {
        assert!(!links.is_empty(), "make before break");
        !links.iter().any(|link| std::sync::Arc::ptr_eq(&link.state, &worn.state))
    };
    within(standing.wait_for(replaced)).await.unwrap();
    let (mut new, server) = tunnel(&proxy, &origin).await;
    tokio::spawn(server.echo());
    for app in [&mut old, &mut new] {
        app.say("goes on").await;
        app.hear("goes on").await;
    }
    assert_eq!(worn.state.tunnels(), 1, "nothing new on the old one");
}
