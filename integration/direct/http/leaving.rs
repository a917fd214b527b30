//! An app that goes away, and one that has only ended its own direction: both send a FIN after the request.

use std::io::ErrorKind;
use std::time::Duration;

use laneway::local::listener::{self, Apps};
use laneway::local::port::Port;
use laneway::wire::datagram::State;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::sleep;

use super::Pair;
use crate::lab::{Lab, Proxy};
use crate::peer::{Origin, Peer, within};

/// The ways to an event stream: a plain request or a tunnel, directly or over a link.
async fn ways() -> [(Pair, bool); 4] {
    let lab = Box::leak(Box::new(Lab::new().await));
    [
        (Pair::new().await, false),
        (Pair::over(lab.proxy().await).await, false),
        (Pair::new().await, true),
        (Pair::over(lab.proxy().await).await, true),
    ]
}

/// Asks for an event stream, through a tunnel or not. Gives the server's connection.
async fn subscribe(pair: &mut Pair, tunnelled: bool) -> Peer {
    if !tunnelled {
        return pair.ask("GET /events", "Accept: text/event-stream\r\n").await.0;
    }
    let at = pair.origin.address;
    pair.app.say(format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n")).await;
    pair.app.head().await;
    pair.app.say("GET /events HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let mut server = pair.origin.accept().await;
    server.head().await;
    server
}

/// The first event, and the head before it.
async fn first_event(server: &mut Peer, app: &mut Peer) {
    server.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nevent 1\n\n").await;
    app.head().await;
    let mut event = Vec::new();
    while !event.windows(9).any(|bytes| bytes == b"event 1\n\n") {
        within(app.stream.read_buf(&mut event)).await.unwrap();
    }
}

/// How long a test watches that nothing happens: a dozen checks of the app's socket.
const A_WHILE: Duration = Duration::from_millis(300);

/// Longer than an app that waits for no answer stays.
const WAITED: Duration = Duration::from_millis(1500);

/// Waits until no connection of an app is open.
async fn none_open(proxy: &Proxy) {
    within(async {
        while proxy.telemetry.apps.usage(0).open > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Waits until nobody receives what the server sends.
async fn nobody_listens(server: Peer) {
    let error = within(server.flood()).await;
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
}

#[tokio::test]
async fn an_app_that_leaves_an_event_stream_frees_the_servers_connection() {
    for begun in [false, true] {
        for (mut pair, tunnelled) in ways().await {
            let mut server = subscribe(&mut pair, tunnelled).await;
            if begun {
                first_event(&mut server, &mut pair.app).await;
            }
            // The server sends nothing: the end of the app alone must be noticed.
            let Pair { app, proxy, .. } = pair;
            drop(app);
            assert_eq!(server.rest().await, "", "begun: {begun}, tunnelled: {tunnelled}");
            nobody_listens(server).await;
            none_open(&proxy).await;
        }
    }
}

#[tokio::test]
async fn an_app_that_ends_its_direction_after_its_request_waits_for_the_answer_and_frees_the_server_when_it_leaves()
 {
    for leaves in [false, true] {
        for (mut pair, tunnelled) in ways().await {
            let mut server = subscribe(&mut pair, tunnelled).await;
            pair.app.end();
            sleep(A_WHILE).await;
            assert_eq!(pair.proxy.telemetry.apps.usage(0).open, 1, "tunnelled: {tunnelled}");
            if leaves {
                drop(std::mem::replace(&mut pair.app, Peer::connect(pair.proxy.address).await));
                assert_eq!(server.rest().await, "");
                nobody_listens(server).await;
                none_open(&pair.proxy).await;
            } else {
                server.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate").await;
                drop(server);
                pair.app.head().await;
                assert_eq!(pair.app.rest().await, "late");
            }
        }
    }
}

/// An app that has given up a request which waited for a gateway may repeat it, and it must not be served twice.
#[tokio::test]
async fn a_request_that_waits_for_a_gateway_is_never_sent_once_its_app_has_left() {
    let lab = Lab::new().await;
    let mut pair = Pair::over(lab.proxy_to(&[]).await).await;
    pair.proxy.holds_for(Duration::from_secs(3600));
    for (line, fields, body) in [("POST /left", "Content-Length: 4\r\n", "body"), ("GET /left", "", "")] {
        let request = pair.request(line, fields);
        pair.app.say(request + body).await;
        within(async {
            while pair.proxy.telemetry.apps.usage(0).open == 0 {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        sleep(WAITED).await;
        pair.app = Peer::connect(pair.proxy.address).await;
        none_open(&pair.proxy).await;
    }
    // This app does not wait for an answer, and what it has sent must arrive.
    let mut other = Peer::connect(pair.proxy.address).await;
    other.say(pair.request("POST /told", "Content-Length: 0\r\n")).await;
    drop(other);
    sleep(WAITED).await;
    pair.proxy.hears(lab.gateway.node.id, lab.link_address, State::Active);
    let mut server = pair.origin.accept().await;
    let head = server.head().await;
    assert!(head.starts_with("POST /told "), "{head}");
    let (mut server, head) = pair.ask("GET /next", "").await;
    assert!(head.starts_with("GET /next "), "{head}");
    server.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    pair.app.head().await;
    pair.app.hear("ok").await;
}

#[tokio::test]
async fn a_pipelined_request_does_not_hide_that_the_app_has_gone() {
    let mut pair = Pair::new().await;
    let mut server = subscribe(&mut pair, false).await;
    let next = pair.request("GET /next", "");
    pair.app.say(next).await;
    drop(pair.app);
    assert_eq!(server.rest().await, "");
}

/// What an app has sent before it closed its socket arrives, however slowly the server reads it.
#[tokio::test]
async fn an_upload_arrives_whole_although_the_app_closes_its_socket_after_it() {
    const SIZE: usize = 8 << 20;
    let lab = Lab::new().await;
    for proxy in [Proxy::direct().await, lab.proxy().await] {
        let origin = Origin::new();
        let at = origin.address;
        let mut app = Peer::connect(proxy.address).await;
        app.say(format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n")).await;
        app.head().await;
        let mut server = origin.accept().await;
        let upload = tokio::spawn(async move {
            app.say(vec![b'x'; SIZE]).await;
            drop(app);
        });
        let mut received = 0;
        while received < SIZE {
            let mut some = vec![0; 256 << 10];
            let count = within(server.stream.read(&mut some)).await.unwrap();
            assert!(count > 0, "cut off after {received}");
            received += count;
            sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(server.rest().await, "");
        upload.await.unwrap();
    }
}

/// A unix socket has no address to look for, and reports a close by itself.
#[tokio::test]
async fn an_app_on_a_unix_socket_is_seen_to_leave_too() {
    let pair = Pair::new().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("proxy.sock");
    let port = Port::bind(&format!("unix:{}", path.display()).parse().unwrap(), 0o600).unwrap();
    let serving = tokio::spawn(listener::run(pair.proxy.local.clone(), port, Apps::Proxy));
    let mut app = UnixStream::connect(&path).await.unwrap();
    app.write_all(pair.request("GET /events", "").as_bytes()).await.unwrap();
    let mut server = pair.origin.accept().await;
    server.head().await;
    app.shutdown().await.unwrap();
    sleep(A_WHILE).await;
    let nothing = server.stream.try_read(&mut [0]);
    assert!(nothing.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "{nothing:?}");
    drop(app);
    assert_eq!(server.rest().await, "");
    serving.abort();
}
