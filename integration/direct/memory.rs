//! The memory of all tunnels is bounded; those that stand still pay for it, those that move do not.

use std::io::ErrorKind;

use bytes::Bytes;
use laneway::failure::{Kind, Side};
use laneway::link::client::{Link, LinkTunnel};
use laneway::memory::{Budget, Tally};
use laneway::trust::certificate::Role;
use laneway::wire::target::Target;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::lab::Lab;
use crate::peer::{Origin, Peer, narrow, within};
use crate::raw::{DATA, Raw, WINDOW_UPDATE, connect, frame};

const MIB: usize = 1024 * 1024;
const LIMIT: usize = 8 * MIB;
/// How much may come in before evicted tunnels have ended.
const SLACK: usize = 2 * MIB;
/// Tunnels that want a window of a MiB each: many times the limit, even after what the kernel takes.
const STUCK: u32 = 100;

/// A server whose connections hold little in the kernel: what they do not read waits in the tunnel.
fn narrow_origin() -> TcpListener {
    let socket = narrow();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket.listen(1024).unwrap()
}

async fn open(link: &Link, origin: &TcpListener) -> (LinkTunnel, Peer) {
    let target = Target::from(origin.local_addr().unwrap());
    let (tunnel, server) = tokio::join!(within(link.open(&target, 1, Bytes::new())), origin.accept());
    (tunnel.unwrap(), Peer { stream: server.unwrap().0 })
}

/// A tunnel of another member, which moves.
async fn moving(lab: &Lab) -> LinkTunnel {
    let link = lab.link_of(&lab.member(Role::Client).await).await;
    let (tunnel, server) = open(&link, &narrow_origin()).await;
    tokio::spawn(server.echo());
    tunnel
}

async fn echoes(tunnel: &mut LinkTunnel) {
    within(tunnel.stream.outbox.send(Bytes::from_static(b"still here"))).await.unwrap();
    assert_eq!(&within(tunnel.stream.inbox.next()).await.unwrap().unwrap()[..], b"still here");
}

fn assert_bounded(memory: &Budget) {
    assert!(memory.used() < LIMIT + SLACK, "{} bytes", memory.used());
}

#[tokio::test]
async fn when_memory_is_short_new_tunnels_are_refused_truthfully() {
    let lab = Lab::with_memory(2 * MIB as u64).await;
    let (link, origin) = (lab.link().await, Origin::new());
    let target = Target::from(origin.address);
    let mut tunnels = Vec::new();
    let failure = loop {
        match within(link.open(&target, 1, Bytes::new())).await {
            Ok(tunnel) => tunnels.push(tunnel),
            Err(failure) => break failure,
        }
    };
    assert_eq!((failure.kind, failure.side), (Kind::LimitReached, Side::Gateway));
    assert!((10..100).contains(&tunnels.len()), "{} tunnels", tunnels.len());
    // Another member has its share.
    let other = lab.link_of(&lab.member(Role::Client).await).await;
    assert!(within(other.open(&target, 1, Bytes::new())).await.is_ok());
    drop(tunnels);
    // The gateway must learn of that first.
    while within(link.open(&target, 1, Bytes::new())).await.is_err() {
        tokio::task::yield_now().await;
    }

    let proxy = lab.proxy_with_memory(LIMIT as u64).await;
    let mut held = Tally::of(&proxy.memory.account());
    held.add(LIMIT - LIMIT / 8);
    let mut app = Peer::connect(proxy.address).await;
    app.say(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
    let answer = app.head().await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("connection_limit_reached"), "{answer}");
}

#[tokio::test]
async fn while_memory_is_tight_windows_are_small() {
    let lab = Lab::with_memory(LIMIT as u64).await;
    let origin = Origin::new();
    let mut raw = Raw::connect(&lab, &lab.client).await;
    raw.output.say(connect(1, origin.address)).await;
    let mut server = origin.accept().await;
    let mut granted = Vec::new();
    for hold in [LIMIT * 5 / 8, 0] {
        let mut held = Tally::of(&lab.memory.account());
        held.add(hold);
        let sent = if hold > 0 { MIB } else { 16 * 1024 };
        for _ in 0..sent / (16 * 1024) {
            raw.output.say(frame(DATA, 0, 1, &[0; 16 * 1024])).await;
        }
        within(server.stream.read_exact(&mut vec![0; sent])).await.unwrap();
        // By the time it answers, the gateway has given back what it wants to.
        let mut window = 0;
        for frame in raw.ping().await {
            if (frame.kind, frame.stream) == (WINDOW_UPDATE, 1) {
                window += u32::from_be_bytes(frame.payload.try_into().unwrap()) as usize;
            }
        }
        granted.push(window);
        drop(held);
    }
    assert!((1..=64 * 1024).contains(&granted[0]), "while it is tight: {granted:?}");
    assert!(granted.iter().sum::<usize>() > MIB / 2, "after that: {granted:?}");
}

#[tokio::test]
async fn uploads_that_servers_do_not_read_are_reset_before_the_gateways_memory_is_full() {
    let lab = Lab::with_memory(LIMIT as u64).await;
    let (link, origin) = (lab.link().await, narrow_origin());
    let mut moving = moving(&lab).await;
    let (mut uploads, mut servers) = (JoinSet::new(), Vec::new());
    let mut tunnels = Vec::new();
    for _ in 0..STUCK {
        let (tunnel, server) = open(&link, &origin).await;
        tunnels.push(tunnel);
        servers.push(server);
    }
    for (number, mut tunnel) in tunnels.into_iter().enumerate() {
        uploads.spawn(async move {
            while tunnel.stream.outbox.send(vec![0; 64 * 1024].into()).await.is_ok() {}
            number
        });
    }
    let reset = within(async {
        loop {
            echoes(&mut moving).await;
            assert_bounded(&lab.memory);
            if let Some(reset) = uploads.try_join_next() {
                return reset.unwrap();
            }
        }
    })
    .await;
    let end = within(servers[reset].stream.read_to_end(&mut Vec::new())).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset, "never an orderly end");
    assert!(uploads.len() >= 4, "no more are reset than need be");
    echoes(&mut moving).await;
}

#[tokio::test]
async fn downloads_of_a_member_that_reads_nothing_are_reset_before_the_gateways_memory_is_full() {
    let lab = Lab::with_memory(LIMIT as u64).await;
    let origin = Origin::new();
    let mut moving = moving(&lab).await;
    let Raw { input: _input, mut output } = Raw::with_window(&lab, &lab.client, 1 << 30).await;
    let (mut servers, mut floods) = (Vec::new(), JoinSet::new());
    for stream in 0..STUCK {
        output.say(connect(2 * stream + 1, origin.address)).await;
        servers.push(origin.accept().await);
    }
    for server in servers {
        floods.spawn(server.flood());
    }
    let error = within(async {
        loop {
            echoes(&mut moving).await;
            assert_bounded(&lab.memory);
            if let Some(error) = floods.try_join_next() {
                return error.unwrap();
            }
        }
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    echoes(&mut moving).await;
}

/// Asks for an endless download: by SOCKS5, or by a request whose answer could be resumed.
async fn ask(proxy: std::net::SocketAddr, origin: &Origin, socks: bool) -> (TcpStream, Peer) {
    let mut app = Peer { stream: narrow().connect(proxy).await.unwrap() };
    let at = origin.address;
    if socks {
        app.say([&[5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1][..], &at.port().to_be_bytes()].concat()).await;
        (app.stream, origin.accept().await)
    } else {
        // A name of its own, so that no request waits for the response to another one.
        let own = app.stream.local_addr().unwrap().port();
        app.say(format!("GET http://{at}/{own} HTTP/1.1\r\nHost: {at}\r\n\r\n")).await;
        let mut server = origin.accept().await;
        server.head().await;
        server
            .say(format!("HTTP/1.1 200 OK\r\nETag: \"a\"\r\nContent-Length: {}\r\n\r\n", 1_u64 << 40))
            .await;
        (app.stream, server)
    }
}

#[tokio::test]
async fn downloads_that_apps_do_not_read_are_reset_before_the_clients_memory_is_full() {
    for socks in [true, false] {
        let lab = Lab::new().await;
        let proxy = lab.proxy_with_memory(LIMIT as u64).await;
        let origin = Origin::new();
        let (mut moving, server) = ask(proxy.address, &origin, true).await;
        moving.read_exact(&mut [0; 12]).await.unwrap();
        let mut moving = Peer { stream: moving };
        tokio::spawn(server.echo());
        let (mut pairs, mut apps, mut floods) = (Vec::new(), Vec::new(), JoinSet::new());
        for _ in 0..STUCK {
            pairs.push(ask(proxy.address, &origin, socks).await);
        }
        for (app, server) in pairs {
            apps.push(app);
            floods.spawn(server.flood());
        }
        within(async {
            while floods.try_join_next().is_none() {
                moving.say("still here").await;
                moving.hear("still here").await;
                assert_bounded(&proxy.memory);
            }
        })
        .await;
        assert!(floods.len() >= 4, "no more are reset than need be");
        let mut resets = 0;
        for app in &mut apps {
            // The downloads that are left go on for ever.
            let mut some = vec![0; 4 * MIB];
            if let Err(error) = within(app.read_exact(&mut some)).await {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "never an orderly end");
                resets += 1;
            }
        }
        assert!(resets > 0);
    }
}
