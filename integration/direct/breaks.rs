//! Connections that break while both directions are in use: the system reports that only once, to a write or to a read.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::lab::{Lab, Proxy};
use crate::peer::{Origin, Peer};

/// How long a write must make no progress to count as blocked.
const A_WHILE: Duration = Duration::from_millis(300);
/// Which direction notices a break first is a matter of chance.
const ROUNDS: usize = 6;

/// Sends until nothing more is taken, so that the node which passes it on waits to write.
async fn fill(peer: &mut Peer) {
    let block = vec![b'x'; 64 << 10];
    while timeout(A_WHILE, peer.stream.write_all(&block)).await.is_ok_and(|written| written.is_ok()) {}
}

/// A tunnel, or a request with a long body whose response ends only with its connection: the app's end and the
/// server's.
async fn open(proxy: &Proxy, is_tunnel: bool) -> (Peer, Peer) {
    let origin = Origin::new();
    let at = origin.address;
    let mut app = Peer::connect(proxy.address).await;
    app.say(match is_tunnel {
        true => format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n"),
        false => format!("POST http://{at}/ HTTP/1.0\r\nContent-Length: 1000000000\r\n\r\n"),
    })
    .await;
    let mut server = origin.accept().await;
    match is_tunnel {
        true => drop(app.head().await),
        false => drop(server.head().await),
    }
    (app, server)
}

#[tokio::test]
async fn a_server_that_breaks_during_an_upload_never_ends_its_answer_orderly() {
    let lab = Lab::new().await;
    for proxy in [Proxy::direct().await, lab.proxy().await] {
        for round in 0..ROUNDS {
            let is_tunnel = round % 2 == 0;
            let (mut app, mut server) = open(&proxy, is_tunnel).await;
            fill(&mut app).await;
            if !is_tunnel {
                server.say("HTTP/1.1 200 OK\r\n\r\n").await;
                app.head().await;
            }
            server.say("half of it").await;
            app.hear("half of it").await;
            server.reset();
            assert_eq!(app.rest_before_reset().await, "", "tunnel: {is_tunnel}");
        }
    }
}

#[tokio::test]
async fn an_app_that_breaks_during_a_download_never_ends_its_upload_orderly() {
    let lab = Lab::new().await;
    for proxy in [Proxy::direct().await, lab.proxy().await] {
        let (mut app, mut server) = open(&proxy, true).await;
        fill(&mut server).await;
        app.say("half of it").await;
        server.hear("half of it").await;
        app.reset();
        assert_eq!(server.rest_before_reset().await, "");
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_the_end_of_an_upload_arrives_whatever_becomes_of_the_rest() {
    let lab = Lab::new().await;
    for proxy in [Proxy::direct().await, lab.proxy().await] {
        for ends in [true, false] {
            let (mut app, server) = open(&proxy, true).await;
            fill(&mut app).await;
            assert_eq!(server.stream.try_write(b"answer").unwrap(), 6);
            if ends {
                server.end();
            }
            // With unread data this is a reset.
            drop(server);
            app.hear("answer").await;
        }
    }
}
