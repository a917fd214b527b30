//! Members that break the rules of HTTP/2, or stay just within them: that may end their own link, but nobody
//! else's. One bad tunnel does nothing to its link.

use std::net::SocketAddr;

use bytes::Bytes;
use laneway::link::client::{Link, LinkTunnel};
use laneway::link::relay::{Progress, relay};
use laneway::link::tls;
use laneway::trust::certificate::Role;
use laneway::trust::membership::Membership;
use laneway::wire::target::Target;
use tokio_util::task::TaskTracker;

use crate::lab::Lab;
use crate::peer::{Origin, Peer, narrow, within};
use crate::raw::{
    CONTINUATION, DATA, END_STREAM, HEADERS, PING, RST_STREAM, Raw, RawGateway, SETTINGS, connect,
    established, frame, reset,
};

/// Streams of a client have odd numbers.
fn streams(count: u32) -> impl Iterator<Item = u32> + Clone {
    (0..count).map(|number| 2 * number + 1)
}

/// A link of another member than the flooder, and a tunnel of it that must go on.
struct Bystander {
    tunnel: LinkTunnel,
    link: Link,
    origin: Origin,
}

impl Bystander {
    async fn new(lab: &Lab) -> Self {
        let (link, origin) = (lab.link_of(&lab.member(Role::Client).await).await, Origin::new());
        let tunnel = Self::open(&link, &origin).await;
        Self { tunnel, link, origin }
    }

    async fn open(link: &Link, origin: &Origin) -> LinkTunnel {
        let target = Target::from(origin.address);
        let (tunnel, server) = tokio::join!(within(link.open(&target, 1, Bytes::new())), origin.accept());
        tokio::spawn(server.echo());
        tunnel.unwrap()
    }

    /// Checks that the old tunnel and a new one carry data.
    async fn goes_on(&mut self) {
        let mut new = Self::open(&self.link, &self.origin).await;
        for tunnel in [&mut self.tunnel, &mut new] {
            within(tunnel.stream.outbox.send(Bytes::from_static(b"undisturbed"))).await.unwrap();
            assert_eq!(&within(tunnel.stream.inbox.next()).await.unwrap().unwrap()[..], b"undisturbed");
        }
    }

    /// Checks that again and again until the flood is over.
    async fn goes_on_beside<T: Send + 'static>(
        &mut self,
        flood: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let flood = tokio::spawn(flood);
        loop {
            self.goes_on().await;
            if flood.is_finished() {
                return flood.await.unwrap();
            }
        }
    }
}

/// Writes what `what` makes, `times` times or until the link ends. Returns whether the link ended.
async fn repeat(raw: Raw, read: bool, times: usize, mut what: impl FnMut() -> Vec<u8> + Send) -> bool {
    let Raw { input, mut output } = raw;
    let reader = read.then(|| tokio::spawn(input.swallow()));
    for _ in 0..times {
        if !output.try_say(what()).await {
            return true;
        }
    }
    reader.inspect(|reader| reader.abort());
    false
}

#[tokio::test]
async fn rapid_resets_hurt_nobody_else() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let mut bystander = Bystander::new(&lab).await;
    let raw = Raw::connect(&lab, &lab.client).await;
    let (mut next, target) = (0, origin.address);
    let burst = move || {
        let some = streams(next + 500).skip(next as usize);
        next += 500;
        some.flat_map(|stream| [connect(stream, target), reset(stream)].concat()).collect()
    };
    bystander.goes_on_beside(repeat(raw, true, 200, burst)).await;
    bystander.goes_on().await;
}

#[tokio::test]
async fn an_endless_head_ends_its_own_link_only() {
    let lab = Lab::new().await;
    let mut bystander = Bystander::new(&lab).await;
    for block in [&b""[..], &[b'\0'; 8192]] {
        let mut raw = Raw::connect(&lab, &lab.client).await;
        raw.output.say(frame(HEADERS, 0, 1, b"\x02\x07CONNECT")).await;
        let more = frame(CONTINUATION, 0, 1, block);
        let ended = bystander.goes_on_beside(repeat(raw, true, 100_000, move || more.clone())).await;
        assert!(ended, "{} bytes a frame", block.len());
    }
    bystander.goes_on().await;
}

#[tokio::test]
async fn floods_of_settings_and_pings_that_nobody_reads_the_answers_of_hurt_nobody_else() {
    let lab = Lab::new().await;
    let mut bystander = Bystander::new(&lab).await;
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]).repeat(1000);
    let pings = frame(PING, 0, 0, b"12345678").repeat(1000);
    for flood in [settings, pings] {
        for read in [true, false] {
            let raw = Raw::connect(&lab, &lab.client).await;
            let flood = flood.clone();
            // A member that does not read the answers is no longer read: it never gets through.
            let flooding = tokio::spawn(repeat(raw, read, 300, move || flood.clone()));
            for _ in 0..20 {
                bystander.goes_on().await;
            }
            flooding.abort();
        }
    }
    bystander.goes_on().await;
}

#[tokio::test]
async fn a_member_that_takes_nothing_hurts_nobody_else() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let mut bystander = Bystander::new(&lab).await;
    // Without a window for any stream; then with one, but without ever reading what comes.
    for (window, reads) in [(0, true), (1 << 30, false)] {
        let Raw { input, mut output } = Raw::with_window(&lab, &lab.client, window).await;
        output.say(streams(300).flat_map(|stream| connect(stream, origin.address)).collect::<Vec<_>>()).await;
        let reader = reads.then(|| tokio::spawn(input.swallow()));
        let mut floods = Vec::new();
        for _ in 0..300 {
            floods.push(tokio::spawn(origin.accept().await.flood()));
        }
        for _ in 0..20 {
            bystander.goes_on().await;
        }
        assert!(lab.memory.used() < 300 * (1 << 20), "{} bytes", lab.memory.used());
        floods.iter().for_each(|flood| flood.abort());
        reader.inspect(|reader| reader.abort());
    }
}

#[tokio::test]
async fn some_hundred_tunnels_that_are_given_up_at_once_do_not_close_the_link() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let mut raw = Raw::connect(&lab, &lab.client).await;
    let burst = streams(500).flat_map(|stream| [connect(stream, origin.address), reset(stream)].concat());
    raw.output.say(burst.collect::<Vec<_>>()).await;
    raw.ping().await;
}

/// A client and a gateway that only says what the test says.
async fn scripted() -> (Lab, Link, Raw) {
    let lab = Lab::new().await;
    let gateway = RawGateway::new(&lab.gateway);
    let config = tls::link_client(&lab.client).unwrap();
    let tasks = TaskTracker::new();
    let membership = Membership::new(lab.client.clone());
    let (link, raw) =
        tokio::join!(Link::dial(gateway.address, None, config, membership, &tasks), gateway.accept());
    (lab, link.unwrap(), raw)
}

async fn open(link: &Link, raw: &mut Raw) -> (LinkTunnel, u32) {
    let target: SocketAddr = ([192, 0, 2, 1], 80).into();
    let target = Target::from(target);
    let answer = async {
        let stream = raw.next(HEADERS).await.stream;
        raw.output.say(established(stream)).await;
        stream
    };
    let (tunnel, stream) = tokio::join!(within(link.open(&target, 1, Bytes::new())), answer);
    (tunnel.unwrap(), stream)
}

/// Opens and drops `count` downloads, and lets `late` frames of each arrive after that. Returns how many resets came back.
async fn abort_downloads(count: usize, late: usize) -> usize {
    let (_lab, link, mut raw) = scripted().await;
    let mut tunnels = Vec::new();
    for _ in 0..count {
        tunnels.push(open(&link, &mut raw).await);
    }
    let streams: Vec<_> = tunnels.iter().map(|(_, stream)| *stream).collect();
    drop(tunnels);
    for _ in 0..count {
        raw.next(RST_STREAM).await;
    }
    let frames = |stream: &u32| frame(DATA, 0, *stream, &[0; 512]).repeat(late);
    raw.output.say(streams.iter().flat_map(frames).collect::<Vec<_>>()).await;
    let back = raw.ping().await;
    let (mut tunnel, stream) = open(&link, &mut raw).await;
    raw.output.say(frame(DATA, 0, stream, b"alive")).await;
    assert_eq!(&within(tunnel.stream.inbox.next()).await.unwrap().unwrap()[..], b"alive");
    back.iter().filter(|frame| frame.kind == RST_STREAM).count()
}

#[tokio::test]
async fn what_arrives_of_five_hundred_aborted_downloads_is_no_offence() {
    assert_eq!(abort_downloads(500, 8).await, 0);
}

#[tokio::test]
async fn what_arrives_of_six_thousand_aborted_downloads_is_none_either() {
    assert_eq!(abort_downloads(6_000, 1).await, 0);
}

#[tokio::test]
async fn what_arrives_of_five_hundred_uploads_that_servers_reset_is_no_offence() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let mut raw = Raw::connect(&lab, &lab.client).await;
    for stream in streams(500) {
        raw.output.say(connect(stream, origin.address)).await;
        origin.accept().await.reset();
        raw.next(RST_STREAM).await;
    }
    for stream in streams(500) {
        raw.output.say(frame(DATA, 0, stream, &[0; 512]).repeat(8)).await;
    }
    assert!(raw.ping().await.iter().all(|frame| frame.kind != RST_STREAM));
}

/// Just less than the window of a stream, a byte a frame.
const SINGLE_BYTES: usize = 1_000_000;

async fn say_single_bytes(raw: &mut Raw, stream: u32) {
    let some = frame(DATA, 0, stream, b"x").repeat(1000);
    for number in 0..SINGLE_BYTES / 1000 {
        raw.output.say(&some).await;
        // Answers the pings of the other end, too.
        if number % 50 == 0 {
            raw.ping().await;
        }
    }
}

#[tokio::test]
async fn a_million_one_byte_frames_to_a_server_that_does_not_read_do_not_close_the_link() {
    let lab = Lab::new().await;
    let mut raw = Raw::connect(&lab, &lab.client).await;
    let socket = narrow();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    raw.output.say(connect(1, listener.local_addr().unwrap())).await;
    let mut server = Peer { stream: listener.accept().await.unwrap().0 };
    assert_eq!(raw.next(HEADERS).await.stream, 1);
    say_single_bytes(&mut raw, 1).await;
    raw.ping().await;
    raw.output.say(frame(DATA, END_STREAM, 1, b"")).await;
    assert_eq!(server.rest().await.len(), SINGLE_BYTES);
}

#[tokio::test]
async fn a_million_one_byte_frames_to_an_app_that_does_not_read_do_not_close_the_link() {
    let (_lab, link, mut raw) = scripted().await;
    let (tunnel, stream) = open(&link, &mut raw).await;
    let apps = Origin::new();
    let (connected, inner) = tokio::join!(narrow().connect(apps.address), apps.accept());
    let mut app = Peer { stream: connected.unwrap() };
    socket2::SockRef::from(&inner.stream).set_send_buffer_size(4096).unwrap();
    let relaying = tokio::spawn(async move {
        let LinkTunnel { stream: mut tunnel, gateway: _gateway, .. } = tunnel;
        relay(&inner.stream, &mut tunnel, &Progress::default(), None).await
    });
    say_single_bytes(&mut raw, stream).await;
    raw.ping().await;
    raw.output.say(frame(DATA, END_STREAM, stream, b"")).await;
    assert_eq!(app.rest().await.len(), SINGLE_BYTES);
    app.end();
    relaying.await.unwrap().unwrap();
}

#[tokio::test]
async fn no_empty_frame_is_ever_sent_that_ends_nothing() {
    let (_lab, link, mut raw) = scripted().await;
    let (mut tunnel, stream) = open(&link, &mut raw).await;
    for _ in 0..3 {
        tunnel.stream.outbox.send(Bytes::new()).await.unwrap();
        tunnel.stream.outbox.send_reserved(Bytes::new()).unwrap();
    }
    tunnel.stream.outbox.send(Bytes::from_static(b"x")).await.unwrap();
    tunnel.stream.outbox.finish().unwrap();
    let first = raw.next(DATA).await;
    assert_eq!((first.stream, &first.payload[..]), (stream, &b"x"[..]));
    if first.flags & END_STREAM == 0 {
        assert_eq!(raw.next(DATA).await.flags & END_STREAM, END_STREAM);
    }
}

#[tokio::test]
async fn a_gateway_that_floods_ends_its_own_link_and_nothing_else() {
    let (_lab, link, mut raw) = scripted().await;
    let (mut tunnel, stream) = open(&link, &mut raw).await;
    raw.output.say(frame(HEADERS, 0, stream, b"")).await;
    let more = frame(CONTINUATION, 0, stream, &[0; 8192]);
    assert!(repeat(raw, true, 100_000, move || more.clone()).await);
    within(link.unusable()).await;
    assert!(within(tunnel.stream.inbox.next()).await.is_err(), "never an orderly end");
}
