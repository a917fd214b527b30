//! UDP ASSOCIATE at the local port: which datagrams are carried where, and which are dropped.

mod bounds;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use laneway::failure::{Kind, Side};
use laneway::link::request::Transport;
use laneway::local::associate::MOST_DESTINATIONS;
use laneway::wire::capsule;
use tokio::io::AsyncReadExt;
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use crate::lab::{Lab, Proxy};
use crate::peer::{Peer, within};
use crate::raw::{HEADERS, RawGateway, established};
use crate::refusals::metric;

/// An association of an app, with a UDP socket of the app's.
struct App {
    control: Peer,
    socket: UdpSocket,
}

impl App {
    async fn associate(proxy: &Proxy) -> Self {
        Self::asking(&header("0.0.0.0:0".parse().unwrap()), "127.0.0.1:0", proxy).await
    }

    /// An association requested with this header as its address, with a UDP socket at `address`.
    async fn asking(requested: &[u8], address: &str, proxy: &Proxy) -> Self {
        let mut control = Peer::connect(proxy.address).await;
        control.say([5, 1, 0, 5, 3, 0]).await;
        control.say(&requested[3..]).await;
        let mut reply = [0; 12];
        within(control.stream.read_exact(&mut reply)).await.unwrap();
        let [5, 0, 5, 0, 0, 1, 127, 0, 0, 1, high, low] = reply else { panic!("{reply:?}") };
        let socket = UdpSocket::bind(address).await.unwrap();
        let relay = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::from_be_bytes([high, low])));
        socket.connect(relay).await.unwrap();
        Self { control, socket }
    }

    async fn say(&self, to: SocketAddr, payload: impl AsRef<[u8]>) {
        self.socket.send(&[&header(to), payload.as_ref()].concat()).await.unwrap();
    }

    /// Expects this payload from this server.
    async fn hear(&self, from: SocketAddr, payload: impl AsRef<[u8]>) {
        let heard = hear(&self.socket).await.0;
        assert_eq!(heard, [&header(from), payload.as_ref()].concat(), "{}", heard.escape_ascii());
    }
}

fn header(address: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(v4) = address else {
        let SocketAddr::V6(v6) = address else { unreachable!() };
        return [&[0, 0, 0, 4][..], &v6.ip().octets(), &v6.port().to_be_bytes()].concat();
    };
    [&[0, 0, 0, 1][..], &v4.ip().octets(), &v4.port().to_be_bytes()].concat()
}

async fn hear(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 1 << 16];
    let (length, from) = within(socket.recv_from(&mut buffer)).await.unwrap();
    buffer.truncate(length);
    (buffer, from)
}

/// A server on a port of its own.
struct Server(UdpSocket, SocketAddr);

impl Server {
    async fn new() -> Self {
        Self::at("127.0.0.1:0").await
    }

    async fn at(address: &str) -> Self {
        let socket = UdpSocket::bind(address).await.unwrap();
        let address = socket.local_addr().unwrap();
        Self(socket, address)
    }

    /// Expects this payload next; gives its sender.
    async fn hear(&self, payload: impl AsRef<[u8]>) -> SocketAddr {
        let (heard, from) = hear(&self.0).await;
        assert_eq!(heard, payload.as_ref(), "{}", heard.escape_ascii());
        from
    }

    async fn say(&self, to: SocketAddr, payload: impl AsRef<[u8]>) {
        self.0.send_to(payload.as_ref(), to).await.unwrap();
    }
}

/// One datagram to the server and one back. As apps do, this one asks again when nothing comes: a datagram may be lost.
async fn exchange(app: &App, server: &Server) -> SocketAddr {
    let gateway = loop {
        app.say(server.1, "question").await;
        if let Ok(gateway) = timeout(Duration::from_secs(2), server.hear("question")).await {
            break gateway;
        }
    };
    server.say(gateway, "answer").await;
    app.hear(server.1, "answer").await;
    gateway
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain for {what}");
}

#[tokio::test]
async fn datagrams_of_any_size_go_over_the_link_and_back() {
    let (lab, server) = (Lab::new().await, Server::new().await);
    let proxy = lab.proxy().await;
    let app = App::associate(&proxy).await;
    let gateway = exchange(&app, &server).await;
    for length in [0, 1, 1200, 9000, 65_000] {
        let payload = vec![7; length];
        app.say(server.1, &payload).await;
        assert_eq!(server.hear(&payload).await, gateway, "one destination, one socket");
        server.say(gateway, &payload).await;
        app.hear(server.1, &payload).await;
    }
    // With its header the answer is too long for a datagram.
    server.say(gateway, vec![7; 65_507]).await;
    server.say(gateway, "next").await;
    app.hear(server.1, "next").await;
    assert_eq!(proxy.dials(), 0);
}

#[tokio::test]
async fn names_and_ipv6_are_destinations_too() {
    let (lab, server) = (Lab::new().await, Server::new().await);
    let proxy = lab.proxy().await;
    let app = App::associate(&proxy).await;
    let header = [b"\0\0\0\x03\x09LocalHost".as_slice(), &server.1.port().to_be_bytes()].concat();
    app.socket.send(&[&header[..], b"question"].concat()).await.unwrap();
    let gateway = server.hear("question").await;
    server.say(gateway, "answer").await;
    assert_eq!(hear(&app.socket).await.0, [&header[..], b"answer"].concat(), "as the app named it");

    let (lab, server) = (Lab::with_access("::1").await, Server::at("[::1]:0").await);
    let proxy = lab.proxy().await;
    exchange(&App::associate(&proxy).await, &server).await;
}

#[tokio::test]
async fn a_gateway_connects_directly() {
    let (proxy, server) = (Proxy::direct().await, Server::new().await);
    exchange(&App::associate(&proxy).await, &server).await;
}

#[tokio::test]
async fn malformed_datagrams_and_those_of_others_are_dropped() {
    let (lab, server) = (Lab::new().await, Server::new().await);
    let proxy = lab.proxy().await;
    let app = App::associate(&proxy).await;
    let relay = app.socket.peer_addr().unwrap();
    let good = [&header(server.1)[..], b"bad"].concat();
    let neighbour = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    neighbour.send_to(&good, relay).await.unwrap();
    let (mut fragment, mut kind) = (good.clone(), good.clone());
    (fragment[2], kind[3]) = (1, 2);
    for bad in [&fragment[..], &kind, &good[..9], &[]] {
        app.socket.send(bad).await.unwrap();
    }
    // All datagrams that are dropped came before this one.
    let gateway = exchange(&app, &server).await;

    // Now the app's port is known.
    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    other.send_to(&good, relay).await.unwrap();
    exchange(&app, &server).await;
    // The gateway accepts datagrams of the destination only.
    let stranger = Server::new().await;
    stranger.say(gateway, "bad").await;
    exchange(&app, &server).await;
    let dropped = ["foreign\"} 2", "fragment\"} 1", "malformed\"} 1", "truncated\"} 2"];
    assert_eq!(metric(&proxy, "udp_dropped_total{reason=\"").await, dropped);
}

#[tokio::test]
async fn what_an_app_has_in_reserved_bytes_does_not_matter() {
    let (lab, server) = (Lab::new().await, Server::new().await);
    let proxy = lab.proxy().await;
    let app = App::associate(&proxy).await;
    let mut question = [&header(server.1)[..], b"question"].concat();
    question[..2].copy_from_slice(&[1, 0xff]);
    app.socket.send(&question).await.unwrap();
    let gateway = server.hear("question").await;
    server.say(gateway, "answer").await;
    app.hear(server.1, "answer").await;
}

#[tokio::test]
async fn whatever_address_an_app_requests_its_datagrams_are_carried() {
    let (lab, server) = (Lab::new().await, Server::new().await);
    let proxy = lab.proxy().await;
    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let by_name = |name: &[u8], port: u16| {
        [&[0, 0, 0, 3, u8::try_from(name.len()).unwrap()], name, &port.to_be_bytes()].concat()
    };
    for requested in [
        // Its destination.
        header(server.1),
        header("192.0.2.1:443".parse().unwrap()),
        header("[2001:db8::1]:443".parse().unwrap()),
        by_name(b"server.example", 443),
        by_name(b"", 0),
        // A port without an address, which is not its own; all zero.
        header(SocketAddr::from(([0, 0, 0, 0], nobody.port()))),
        header("[::]:0".parse().unwrap()),
    ] {
        let app = App::asking(&requested, "127.0.0.1:0", &proxy).await;
        exchange(&app, &server).await;
    }
    assert!(metric(&proxy, "udp_dropped_total{reason=\"").await.is_empty());
}

#[tokio::test]
async fn an_app_that_announces_its_port_gets_the_association_back_from_another() {
    let (lab, server) = (Lab::new().await, Server::new().await);
    let proxy = lab.proxy().await;
    let mine = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let app = App::asking(&header(mine), &mine.to_string(), &proxy).await;
    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let say = async |payload: &str| {
        let datagram = [&header(server.1)[..], payload.as_bytes()].concat();
        other.send_to(&datagram, app.socket.peer_addr().unwrap()).await.unwrap();
    };
    say("first").await;
    server.hear("first").await;
    exchange(&app, &server).await;
    say("dropped").await;
    exchange(&app, &server).await;
}

#[tokio::test]
async fn an_association_ends_with_its_connection() {
    let (lab, server) = (Lab::new().await, Server::new().await);
    let proxy = lab.proxy().await;
    let App { control, socket } = App::associate(&proxy).await;
    let app = App { control, socket };
    exchange(&app, &server).await;
    // The gateway counts the link, too.
    let held = lab.memory.used();
    assert!(held > 0 && proxy.memory.used() > 0);
    let App { control, socket } = app;
    drop(control);
    until("both ends to forget it", || {
        lab.memory.used() + laneway::memory::TUNNEL <= held && proxy.memory.used() == 0
    })
    .await;
    // Nobody listens there any more.
    within(async {
        loop {
            match socket.send(b"x").await {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
                _ => sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await;
}

#[tokio::test]
async fn datagrams_that_the_rules_refuse_are_not_sent_and_others_are() {
    let (lab, server) = (Lab::with_access("127.0.0.1").await, Server::new().await);
    let proxy = lab.proxy().await;
    let app = App::associate(&proxy).await;
    let forbidden = Server::at("127.0.0.2:0").await;
    app.say(forbidden.1, "bad").await;
    exchange(&app, &server).await;
    let link = lab.link().await;
    for (target, kind) in [(forbidden.1, Kind::AddressForbidden), (lab.link_address, Kind::Loop)] {
        let failure = link.open_by(Transport::Udp, &target.into(), 1, Bytes::new()).await.unwrap_err();
        assert_eq!((failure.kind, failure.side), (kind, Side::Gateway));
    }
    let heard = forbidden.0.try_recv(&mut [0; 9]);
    assert_eq!(heard.unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_clients_limit_counts_destinations_as_tunnels() {
    let limits = "client-tunnels = 1";
    let (lab, one, two) = (Lab::with_limits(limits).await, Server::new().await, Server::new().await);
    let link = lab.link().await;
    let open = |server: &Server| {
        let (link, target) = (link.clone(), server.1.into());
        async move { link.open_by(Transport::Udp, &target, 1, Bytes::new()).await }
    };
    let _first = open(&one).await.unwrap();
    assert_eq!(open(&two).await.unwrap_err().kind, Kind::LimitReached);
}

#[tokio::test]
async fn the_least_recently_used_destination_makes_room() {
    let lab = Lab::new().await;
    let proxy = lab.proxy().await;
    let app = App::associate(&proxy).await;
    let mut servers = Vec::new();
    for _ in 0..MOST_DESTINATIONS {
        servers.push(Server::new().await);
    }
    let mut gateways = Vec::new();
    for server in &servers {
        gateways.push(exchange(&app, server).await);
    }
    // The first one is the newest now.
    sleep(Duration::from_millis(5)).await;
    assert_eq!(exchange(&app, &servers[0]).await, gateways[0]);
    exchange(&app, &Server::new().await).await;
    assert_eq!(exchange(&app, &servers[0]).await, gateways[0]);
    let link = proxy.links.up().borrow()[0].clone();
    let most = u32::try_from(MOST_DESTINATIONS).unwrap();
    until("one to be forgotten", || link.state.tunnels() == most).await;
    assert_ne!(exchange(&app, &servers[1]).await, gateways[1], "another socket");
}

#[tokio::test]
async fn a_server_that_starts_later_is_reached_then() {
    let lab = Lab::new().await;
    let proxy = lab.proxy().await;
    let app = App::associate(&proxy).await;
    let address = Server::new().await.1;
    // Nothing listens there: ICMP reports it, and the stream ends.
    let opened = lab.link().await.open_by(Transport::Udp, &address.into(), 1, Bytes::new()).await;
    let mut tunnel = opened.unwrap().stream;
    let mut nobody = BytesMut::new();
    capsule::encode(b"nobody", &mut nobody);
    tunnel.outbox.send(nobody.freeze()).await.unwrap();
    assert!(within(tunnel.inbox.next()).await.is_err());

    app.say(address, "lost, or early").await;
    exchange(&app, &Server::new().await).await;
    let server = Server::at(&address.to_string()).await;
    let gateway = loop {
        app.say(address, "question").await;
        tokio::select! {
            (_, gateway) = hear(&server.0) => break gateway,
            () = sleep(Duration::from_millis(20)) => {}
        }
    };
    server.say(gateway, "answer").await;
    app.hear(address, "answer").await;
}

#[tokio::test]
async fn a_stream_of_nonsense_ends_and_the_link_stays() {
    let (lab, server) = (Lab::new().await, Server::new().await);
    let link = lab.link().await;
    let target = server.1.into();
    let open = || within(link.open_by(Transport::Udp, &target, 1, Bytes::new()));
    // A capsule longer than any datagram; a datagram without a context.
    for bad in [&[0, 0x80, 1, 0, 9][..], &[0, 0]] {
        let mut tunnel = open().await.unwrap().stream;
        tunnel.outbox.send(Bytes::copy_from_slice(bad)).await.unwrap();
        assert!(within(tunnel.inbox.next()).await.is_err());
    }
    let mut tunnel = open().await.unwrap().stream;
    let mut stream = BytesMut::from(&b"\x3f\x03new\0\x04\x01odd"[..]);
    capsule::encode(b"question", &mut stream);
    tunnel.outbox.send(stream.freeze()).await.unwrap();
    let gateway = server.hear("question").await;
    server.say(gateway, "answer").await;
    let heard = within(tunnel.inbox.next()).await.unwrap().unwrap();
    assert_eq!(heard, b"\0\x80\0\0\x07\0answer"[..]);
    tunnel.outbox.finish().unwrap();
    assert_eq!(within(tunnel.inbox.next()).await.unwrap(), None, "ended orderly");
}

#[tokio::test]
async fn a_gateway_that_reads_nothing_costs_datagrams_and_no_memory() {
    let lab = Lab::new().await;
    let raw = RawGateway::new(&lab.gateway);
    let proxy = lab.proxy_to(&[raw.address]).await;
    let app = App::associate(&proxy).await;
    let server: SocketAddr = "127.0.0.1:9".parse().unwrap();
    app.say(server, "first").await;
    let mut link = raw.accept().await;
    let asked = link.next(HEADERS).await;
    link.output.say(established(asked.stream)).await;
    // From now on there is no window update.
    let swallow = tokio::spawn(link.input.swallow());
    let mut most = 0;
    for number in 0..20_000 {
        app.say(server, [7; 1000]).await;
        if number % 50 == 0 {
            tokio::task::yield_now().await;
        }
        most = most.max(proxy.memory.used());
    }
    assert!(most > 128 * 1024, "something waited: {most}");
    assert!(most < 512 * 1024, "20 MB were sent, and {most} bytes of them waited");
    drop(link.output);
    swallow.abort();
}
