//! How much one client may take of a gateway, and where nobody may go.

use std::time::{Duration, Instant};

use bytes::Bytes;
use laneway::failure::{Kind, Side};
use laneway::link::client::{Link, LinkTunnel};
use laneway::trust::certificate::Role;
use laneway::wire::target::Target;
use tokio::io::AsyncReadExt;

use crate::lab::{Lab, Proxy};
use crate::peer::{Origin, Peer, within};

async fn open(link: &Link, target: impl Into<Target>) -> Result<impl Sized, (Kind, Side)> {
    let opened = within(link.open(&target.into(), 1, Bytes::new())).await;
    opened.map_err(|failure| (failure.kind, failure.side))
}

#[tokio::test]
async fn a_client_has_so_many_tunnels_over_all_its_links_and_others_have_theirs() {
    let lab = Lab::with_limits("client-tunnels = 3").await;
    let origin = Origin::new();
    let links = [lab.link().await, lab.link().await];
    let mut held = Vec::new();
    for link in [&links[0], &links[1], &links[0]] {
        held.push(open(link, origin.address).await.unwrap());
    }
    for link in &links {
        assert_eq!(open(link, origin.address).await.err(), Some((Kind::LimitReached, Side::Gateway)));
        assert!(link.is_usable());
    }
    let proxy = lab.proxy().await;
    let mut app = Peer::connect(proxy.address).await;
    let at = origin.address;
    app.say(format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n")).await;
    let answer = app.head().await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("connection_limit_reached"), "{answer}");

    let other = lab.link_of(&lab.member(Role::Client).await).await;
    assert!(open(&other, origin.address).await.is_ok());
    drop(held.pop());
    // The gateway must learn of that first.
    while open(&links[1], origin.address).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_opens_too_fast_is_refused_and_others_are_not() {
    let lab = Lab::with_limits("client-opens = 2").await;
    let origin = Origin::new();
    let (link, other) = (lab.link().await, lab.link_of(&lab.member(Role::Client).await).await);
    let refused = loop {
        if let Err(refused) = open(&link, origin.address).await {
            break refused;
        }
    };
    assert_eq!(refused, (Kind::LimitReached, Side::Gateway));
    assert!(link.is_usable());
    assert!(open(&other, origin.address).await.is_ok());
}

#[tokio::test]
async fn a_client_that_moves_too_much_waits_in_both_directions() {
    // Bytes per second, and bytes: they take a second.
    const RATE: u32 = 250_000;
    const SIZE: usize = 250_000;
    // A client that was idle may run 250 ms ahead of its rate.
    const LEAST: Duration = Duration::from_millis(750);
    let lab = Lab::with_limits(&format!("client-rate = '{RATE}'")).await;
    let (link, origin) = (lab.link().await, Origin::new());
    for upload in [false, true] {
        let (mut tunnel, mut server) = open_tunnel(&link, &origin).await;
        let start = Instant::now();
        // A wait follows the bytes that cause it, so what is measured is the arrival of one more byte.
        for size in [SIZE, 1] {
            if upload {
                let (sent, ()) = tokio::join!(
                    within(tunnel.stream.outbox.send(vec![1; size].into())),
                    receive(&mut server, size),
                );
                sent.unwrap();
            } else {
                tokio::join!(server.say(vec![1; size]), download(&mut tunnel, size));
            }
        }
        let took = start.elapsed();
        assert!(took >= LEAST, "upload: {upload}: {took:?}");
    }
}

#[tokio::test]
async fn other_clients_do_not_wait_for_one_that_moves_too_much() {
    // Bytes per second. At this rate the first read of a bulk transfer, 4 KiB, is followed by a wait of two minutes, which
    // is longer than any step of a test may take.
    let lab = Lab::with_limits("client-rate = '32'").await;
    let origin = Origin::new();
    let other = lab.link_of(&lab.member(Role::Client).await).await;
    for upload in [false, true] {
        let link = lab.link_of(&lab.member(Role::Client).await).await;
        let (mut tunnel, mut server) = open_tunnel(&link, &origin).await;
        let moving = if upload {
            let moving = tokio::spawn(async move {
                while tunnel.stream.outbox.send(Bytes::from_static(&[1; 64 * 1024])).await.is_ok() {}
            });
            receive(&mut server, 4096).await;
            moving
        } else {
            let moving = tokio::spawn(async move { _ = server.flood().await });
            download(&mut tunnel, 4096).await;
            moving
        };
        let (mut quick, echo) = open_tunnel(&other, &origin).await;
        let echo = tokio::spawn(echo.echo());
        for _ in 0..10 {
            quick.stream.outbox.send(Bytes::from_static(b"q")).await.unwrap();
            assert_eq!(&within(quick.stream.inbox.next()).await.unwrap().unwrap()[..], b"q");
        }
        assert!(!moving.is_finished(), "upload: {upload}");
        moving.abort();
        echo.abort();
    }
}

async fn receive(server: &mut Peer, size: usize) {
    within(server.stream.read_exact(&mut vec![0; size])).await.unwrap();
}

/// Receives at least this many bytes of the server.
async fn download(tunnel: &mut LinkTunnel, size: usize) {
    let mut left = size;
    while left > 0 {
        let piece = within(tunnel.stream.inbox.next()).await.unwrap().unwrap();
        left = left.saturating_sub(piece.len());
    }
}

async fn open_tunnel(link: &Link, origin: &Origin) -> (LinkTunnel, Peer) {
    let target = Target::from(origin.address);
    let (tunnel, server) = tokio::join!(link.open(&target, 1, Bytes::new()), origin.accept());
    (tunnel.unwrap(), server)
}

#[tokio::test]
async fn a_node_that_is_its_own_client_is_a_loop() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let link = lab.link_of(&lab.gateway).await;
    assert_eq!(open(&link, origin.address).await.err(), Some((Kind::Loop, Side::Gateway)));
}

#[tokio::test]
async fn the_gateways_own_ports_are_a_loop_even_where_a_rule_names_them() {
    let lab = Lab::new().await;
    let link = lab.link().await;
    assert_eq!(open(&link, lab.link_address).await.err(), Some((Kind::Loop, Side::Gateway)));
}

#[tokio::test]
async fn the_local_port_itself_is_a_loop_in_every_dialect() {
    let lab = Lab::new().await;
    for proxy in [Proxy::direct().await, lab.proxy().await] {
        let at = proxy.address;
        for request in [
            format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\n\r\n"),
            format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n"),
        ] {
            let mut app = Peer::connect(at).await;
            app.say(request).await;
            let answer = app.head().await;
            assert!(
                answer.starts_with("HTTP/1.1 502 ") && answer.contains("proxy_loop_detected"),
                "{answer}"
            );
        }
        let mut app = Peer::connect(at).await;
        let port = at.port().to_be_bytes();
        app.say([&[5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1][..], &port].concat()).await;
        app.hear("\x05\0\x05\x02\0\x01\0\0\0\0\0\0").await;
        assert_eq!(proxy.dials(), 0);
    }
}

#[tokio::test]
async fn a_connect_that_comes_back_is_a_loop() {
    let (proxy, origin) = (Proxy::direct().await, Origin::new());
    let mut app = Peer::connect(proxy.address).await;
    let at = origin.address;
    app.say(format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\nVia: 1.1 a, 1.1 laneway-test\r\n\r\n")).await;
    let answer = app.head().await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("proxy_loop_detected"), "{answer}");
    assert_eq!(proxy.dials(), 0);
}
