//! Both ends against another implementation, over a pipe.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, Version};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::time::timeout;

use super::frame::{self, END_HEADERS, END_STREAM, HEAD, Head, Kind, PREFACE};
use super::head::Fields;
use super::state::{Outgoing, Role, State};
use super::*;
use crate::wire::hpack::Decoder;

const PIPE: usize = 64 * 1024;

impl Wire for DuplexStream {
    fn poll_receive_into(
        &mut self,
        out: &mut [u8],
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(&mut out[..most]);
        ready!(Pin::new(self).poll_read(cx, &mut room))?;
        Poll::Ready(Ok(room.filled().len()))
    }
}

fn config() -> Config {
    crate::link::config()
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), what).await.expect("it happens")
}

fn post(path: &str) -> Request<()> {
    let uri = format!("https://gateway{path}");
    Request::builder().method(Method::POST).uri(uri).header("some", "field").body(()).unwrap()
}

/// A server that answers each request with its path, and then sends back what comes.
fn echo(far: DuplexStream) {
    tokio::spawn(async move {
        let mut connection = Connection::server(far, config());
        while let Some(Ok((request, respond))) = poll_fn(|cx| connection.poll_accept(cx)).await {
            tokio::spawn(async move {
                let path = request.uri().path().to_owned();
                let response = Response::builder().header("path", path).body(()).unwrap();
                let Ok(mut send) = respond.send(&response, false) else { return };
                let mut body = request.into_body();
                while let Some(Ok(data)) = poll_fn(|cx| body.poll_data(cx)).await {
                    body.release(data.len());
                    all(&mut send, data).await.unwrap();
                }
                send.send(Bytes::new(), true).unwrap();
            });
        }
    });
}

async fn all(send: &mut SendStream, mut data: Bytes) -> Result<(), Error> {
    while !data.is_empty() {
        let room = poll_fn(|cx| send.poll_room(data.len(), cx)).await?;
        send.send(data.split_to(room), false)?;
    }
    Ok(())
}

async fn body(body: &mut RecvStream) -> Result<BytesMut, Error> {
    let mut whole = BytesMut::new();
    while let Some(data) = poll_fn(|cx| body.poll_data(cx)).await {
        let data = data?;
        body.release(data.len());
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

fn bytes(length: usize) -> Bytes {
    (0..length).map(|n| (n * 7 % 251).to_le_bytes()[0]).collect()
}

#[tokio::test]
async fn another_client_sends_much_and_gets_it_back() {
    let (near, far) = duplex(PIPE);
    echo(far);
    let (requests, connection) = h2::client::handshake(near).await.unwrap();
    tokio::spawn(connection);
    for length in [0, 1, 16_384, 16_385, 1_000_000] {
        let (response, mut send) =
            requests.clone().ready().await.unwrap().send_request(post("/much"), false).unwrap();
        let data = bytes(length);
        let sending = async {
            let mut rest = data.clone();
            while !rest.is_empty() {
                send.reserve_capacity(rest.len());
                let room = poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
                send.send_data(rest.split_to(room), false).unwrap();
            }
            send.send_data(Bytes::new(), true).unwrap();
        };
        let receiving = async {
            let response = response.await.unwrap();
            assert_eq!(response.headers()["path"], "/much");
            let (mut body, mut whole) = (response.into_body(), BytesMut::new());
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                whole.extend_from_slice(&data);
            }
            whole
        };
        let ((), whole) = soon(futures_util::future::join(sending, receiving)).await;
        assert!(whole == data, "{length}");
    }
}

#[tokio::test]
async fn another_server_is_sent_much_and_sends_it_back() {
    let (near, far) = duplex(PIPE);
    tokio::spawn(async move {
        let mut connection =
            h2::server::Builder::new().enable_connect_protocol().handshake(far).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                assert_eq!(
                    (request.version(), &request.headers()["some"]),
                    (Version::HTTP_2, &"field".parse().unwrap())
                );
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                let mut body = request.into_body();
                while let Some(Ok(mut data)) = body.data().await {
                    body.flow_control().release_capacity(data.len()).unwrap();
                    while !data.is_empty() {
                        send.reserve_capacity(data.len());
                        let room = poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
                        send.send_data(data.split_to(room), false).unwrap();
                    }
                }
                send.send_data(Bytes::new(), true).unwrap();
            });
        }
    });
    let (requests, mut connection) = Connection::client(near, config());
    let mut ping = connection.ping_pong();
    tokio::spawn(async move { poll_fn(|cx| connection.poll_drive(cx)).await });
    soon(ping.ping()).await.unwrap();
    assert!(requests.has_extended_connect());
    for length in [0, 1, 16_385, 1_000_000] {
        let (response, mut send) = requests.send(post("/"), false).await.unwrap();
        let data = bytes(length);
        let sending = async {
            all(&mut send, data.clone()).await.unwrap();
            send.send(Bytes::new(), true).unwrap();
        };
        let receiving = async { body(&mut response.await.unwrap().into_body()).await.unwrap() };
        let ((), whole) = soon(futures_util::future::join(sending, receiving)).await;
        assert!(whole == data, "{length}");
    }
}

/// A client whose frames the test writes, and the server's handles of what it opens.
struct Raw {
    wire: DuplexStream,
    accepted: tokio::sync::mpsc::UnboundedReceiver<(Request<RecvStream>, SendResponse)>,
    ended: tokio::task::JoinHandle<Result<(), Error>>,
}

impl Raw {
    async fn new(config: Config) -> Self {
        let (mut near, far) = duplex(PIPE);
        let (told, accepted) = tokio::sync::mpsc::unbounded_channel();
        let ended = tokio::spawn(async move {
            let mut connection = Connection::server(far, config);
            loop {
                match poll_fn(|cx| connection.poll_accept(cx)).await {
                    Some(Ok(accepted)) => drop(told.send(accepted)),
                    Some(Err(error)) => return Err(error),
                    None => return Ok(()),
                }
            }
        });
        near.write_all(PREFACE).await.unwrap();
        let mut raw = Self { wire: near, accepted, ended };
        raw.write(Kind::Settings, 0, 0, &[]).await;
        raw
    }

    async fn write(&mut self, kind: Kind, flags: u8, stream: u32, payload: &[u8]) {
        let mut bytes = Vec::new();
        frame::write(&mut bytes, kind, flags, stream, payload);
        // A connection that has ended takes nothing.
        let _ = self.wire.write_all(&bytes).await;
    }

    async fn open(&mut self, stream: u32) {
        self.write(Kind::Headers, END_HEADERS, stream, &head::request(&post("/"))).await;
    }

    async fn read(&mut self) -> Option<(Head, Vec<u8>)> {
        let mut head = [0; HEAD];
        soon(self.wire.read_exact(&mut head)).await.ok()?;
        let head = Head::parse(head);
        let mut payload = vec![0; head.length as usize];
        soon(self.wire.read_exact(&mut payload)).await.ok()?;
        Some((head, payload))
    }

    /// The next frame of this kind.
    async fn next(&mut self, kind: Kind) -> (Head, Vec<u8>) {
        loop {
            let frame = self.read().await.expect("a frame of that kind");
            if frame.0.kind == kind {
                return frame;
            }
        }
    }

    async fn reason(mut self) -> Reason {
        let (_, payload) = self.next(Kind::GoAway).await;
        assert!(soon(self.ended).await.unwrap().is_err());
        Reason(u32::from_be_bytes(*payload.last_chunk().unwrap()))
    }
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_connection_and_says_why() {
    let head = head::request(&post("/"));
    let cases: &[(Kind, u8, u32, &[u8], Reason)] = &[
        (Kind::Data, 0, 0, b"x", Reason::PROTOCOL_ERROR),
        (Kind::Data, 0, 5, b"x", Reason::PROTOCOL_ERROR),
        (Kind::Data, frame::PADDED, 1, &[9, 1], Reason::PROTOCOL_ERROR),
        (Kind::Headers, END_HEADERS, 2, &head, Reason::PROTOCOL_ERROR),
        (Kind::Headers, END_HEADERS, 0, &head, Reason::PROTOCOL_ERROR),
        (Kind::Headers, END_HEADERS, 3, &[0x80], Reason::COMPRESSION_ERROR),
        (Kind::Headers, END_HEADERS, 3, &[0; 17_000], Reason::ENHANCE_YOUR_CALM),
        (Kind::Headers, 0, 3, &[], Reason::ENHANCE_YOUR_CALM),
        (Kind::Continuation, END_HEADERS, 1, &head, Reason::PROTOCOL_ERROR),
        (Kind::PushPromise, END_HEADERS, 1, &head, Reason::PROTOCOL_ERROR),
        (Kind::Settings, 0, 1, &[], Reason::PROTOCOL_ERROR),
        (Kind::Settings, 0, 0, &[0; 5], Reason::FRAME_SIZE_ERROR),
        (Kind::Settings, frame::ACK, 0, &[0; 6], Reason::FRAME_SIZE_ERROR),
        (Kind::Ping, 0, 0, &[0; 7], Reason::FRAME_SIZE_ERROR),
        (Kind::ResetStream, 0, 7, &[0; 4], Reason::PROTOCOL_ERROR),
        (Kind::ResetStream, 0, 1, &[0; 3], Reason::FRAME_SIZE_ERROR),
        (Kind::Priority, 0, 1, &[0; 4], Reason::FRAME_SIZE_ERROR),
        (Kind::WindowUpdate, 0, 0, &[0; 4], Reason::PROTOCOL_ERROR),
        (Kind::WindowUpdate, 0, 0, &[0x7f, 0xff, 0xff, 0xff], Reason::FLOW_CONTROL_ERROR),
        (Kind::WindowUpdate, 0, 9, &[0, 0, 0, 1], Reason::PROTOCOL_ERROR),
        (Kind::GoAway, 0, 0, &[0; 7], Reason::FRAME_SIZE_ERROR),
    ];
    for (kind, flags, stream, payload, reason) in cases {
        let mut raw = Raw::new(config()).await;
        raw.open(1).await;
        raw.write(*kind, *flags, *stream, payload).await;
        assert_eq!(raw.reason().await, *reason, "{kind:?} {flags} {stream}");
    }
    let mut raw = Raw::new(config()).await;
    let too_long = Head { length: config().frame + 1, kind: Kind::Data, flags: 0, stream: 1 };
    raw.wire.write_all(&too_long.bytes()).await.unwrap();
    assert_eq!(raw.reason().await, Reason::FRAME_SIZE_ERROR);
    let mut raw = Raw::new(config()).await;
    raw.write(Kind::Headers, 0, 1, &head[..3]).await;
    raw.write(Kind::Ping, 0, 0, &[0; 8]).await;
    assert_eq!(raw.reason().await, Reason::PROTOCOL_ERROR, "a block is not interrupted");
}

#[tokio::test]
async fn what_is_wrong_on_one_stream_resets_that_one_only() {
    let mut raw = Raw::new(Config { window: 10, ..config() }).await;
    let mut streams = [1, 3, 5, 7].into_iter();
    let mut expect = async |raw: &mut Raw, kind, flags, payload: &[u8], reason: Reason| {
        let stream = streams.next().unwrap();
        raw.open(stream).await;
        let _held = soon(raw.accepted.recv()).await.unwrap();
        raw.write(kind, flags, stream, payload).await;
        let (head, payload) = raw.next(Kind::ResetStream).await;
        assert_eq!((head.stream, Reason(frame::number(&payload).unwrap())), (stream, reason));
    };
    expect(&mut raw, Kind::Data, 0, &[0; 11], Reason::FLOW_CONTROL_ERROR).await;
    expect(&mut raw, Kind::WindowUpdate, 0, &[0; 4], Reason::PROTOCOL_ERROR).await;
    expect(&mut raw, Kind::WindowUpdate, 0, &[0x7f, 0xff, 0xff, 0xff], Reason::FLOW_CONTROL_ERROR).await;
    expect(&mut raw, Kind::Headers, END_HEADERS, &[], Reason::PROTOCOL_ERROR).await;
    // A head that is none.
    raw.write(Kind::Headers, END_HEADERS | END_STREAM, 9, &[0x82]).await;
    let (head, _) = raw.next(Kind::ResetStream).await;
    assert_eq!(head.stream, 9);
    raw.open(11).await;
    assert_eq!(soon(raw.accepted.recv()).await.unwrap().0.headers()["some"], "field");
}

#[tokio::test]
async fn windows_are_kept_in_both_directions_and_follow_new_settings() {
    let mut raw = Raw::new(config()).await;
    raw.write(Kind::Settings, 0, 0, &[0, 4, 0, 0, 0, 10]).await;
    raw.open(1).await;
    let (request, respond) = soon(raw.accepted.recv()).await.unwrap();
    drop(request);
    let mut send = respond.send(&Response::new(()), false).unwrap();
    let sending = tokio::spawn(async move { all(&mut send, bytes(30)).await });
    assert_eq!(raw.next(Kind::Data).await.1, bytes(30)[..10]);
    raw.write(Kind::WindowUpdate, 0, 1, &5u32.to_be_bytes()).await;
    assert_eq!(raw.next(Kind::Data).await.1, bytes(30)[10..15]);
    // Less than before: what was sent already counts.
    raw.write(Kind::Settings, 0, 0, &[0, 4, 0, 0, 0, 8]).await;
    raw.write(Kind::WindowUpdate, 0, 1, &4u32.to_be_bytes()).await;
    assert_eq!(raw.next(Kind::Data).await.1, bytes(30)[15..17]);
    raw.write(Kind::Settings, 0, 0, &[0, 4, 0, 0, 0, 100]).await;
    assert_eq!(raw.next(Kind::Data).await.1, bytes(30)[17..]);
    soon(sending).await.unwrap().unwrap();
    assert_eq!(raw.next(Kind::ResetStream).await.0.stream, 1, "nobody holds it any more");
}

#[tokio::test]
async fn a_peer_that_does_not_read_the_answers_is_not_read_from() {
    let mut raw = Raw::new(config()).await;
    let mut ping = Vec::new();
    frame::write(&mut ping, Kind::Ping, 0, 0, &[1; 8]);
    let pings = ping.repeat(1000);
    let mut written = 0;
    // The pipe takes some, and then nobody does.
    while timeout(Duration::from_millis(300), raw.wire.write_all(&pings)).await.is_ok() {
        written += 1;
        assert!(written < 100, "it is kept, or dropped");
    }
    assert!(written > 2);
    // And all are answered once they are.
    for _ in 0..written * 1000 {
        raw.next(Kind::Ping).await;
    }
}

#[tokio::test]
async fn settings_that_change_all_the_time_end_the_connection() {
    let mut raw = Raw::new(config()).await;
    for window in 0..99 {
        raw.write(Kind::Settings, 0, 0, &[0, 4, 0, 0, 0, window]).await;
    }
    raw.write(Kind::Ping, 0, 0, &[1; 8]).await;
    raw.next(Kind::Ping).await;
    raw.write(Kind::Settings, 0, 0, &[]).await;
    assert_eq!(raw.reason().await, Reason::ENHANCE_YOUR_CALM);
}

#[tokio::test]
async fn a_drained_end_takes_what_was_under_way_and_ends_when_it_has_ended() {
    let (near, far) = duplex(PIPE);
    let (told, mut accepted) = tokio::sync::mpsc::unbounded_channel();
    let drain = std::sync::Arc::new(tokio::sync::Notify::new());
    let wanted = drain.clone();
    let server = tokio::spawn(async move {
        let mut connection = Connection::server(far, config());
        loop {
            tokio::select! {
                next = poll_fn(|cx| connection.poll_accept(cx)) => match next {
                    Some(next) => told.send(next.unwrap()).unwrap(),
                    None => return,
                },
                () = wanted.notified() => connection.drain(),
            }
        }
    });
    let (requests, mut connection) = Connection::client(near, config());
    let client = tokio::spawn(async move { poll_fn(|cx| connection.poll_drive(cx)).await });
    let (response, mut send) = requests.send(post("/"), false).await.unwrap();
    let (request, respond) = soon(accepted.recv()).await.unwrap();
    drain.notify_one();
    let refused = loop {
        match requests.send(post("/"), true).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert!(refused.is_of_link());
    let mut answer = respond.send(&Response::new(()), false).unwrap();
    answer.send(Bytes::from_static(b"still"), true).unwrap();
    send.send(Bytes::from_static(b"here"), true).unwrap();
    assert_eq!(soon(body(&mut request.into_body())).await.unwrap(), b"here"[..]);
    assert_eq!(soon(body(&mut soon(response).await.unwrap().into_body())).await.unwrap(), b"still"[..]);
    drop((answer, send));
    // What came in between, if anything did, is not answered.
    while let Ok(next) = accepted.try_recv() {
        drop(next);
    }
    soon(server).await.unwrap();
    soon(client).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_end_of_the_connection_is_the_end_of_its_streams() {
    let (near, far) = duplex(PIPE);
    let (requests, mut connection) = Connection::client(near, config());
    let client = tokio::spawn(async move { poll_fn(|cx| connection.poll_drive(cx)).await });
    let (response, mut send) = requests.send(post("/"), false).await.unwrap();
    drop(far);
    assert!(soon(response).await.unwrap_err().is_of_link());
    assert!(soon(poll_fn(|cx| send.poll_over(cx))).await.is_of_link());
    assert!(send.send(Bytes::from_static(b"x"), false).is_err());
    assert!(soon(requests.send(post("/"), true)).await.is_err());
    assert!(soon(client).await.unwrap().unwrap_err().io().is_some());
}

#[tokio::test]
async fn tiny_frames_cost_what_their_bytes_cost() {
    let mut raw = Raw::new(config()).await;
    raw.open(1).await;
    let (request, _respond) = soon(raw.accepted.recv()).await.unwrap();
    let mut frames = Vec::new();
    for _ in 0..10_000 {
        frame::write(&mut frames, Kind::Data, 0, 1, b"x");
    }
    frame::write(&mut frames, Kind::Data, frame::PADDED | END_STREAM, 1, &[3, b'y', 0, 0, 0]);
    raw.wire.write_all(&frames).await.unwrap();
    raw.write(Kind::Ping, 0, 0, &[0; 8]).await;
    raw.next(Kind::Ping).await;
    let mut body = request.into_body();
    let mut pieces = Vec::new();
    while let Some(data) = soon(poll_fn(|cx| body.poll_data(cx))).await {
        pieces.push(data.unwrap().len());
    }
    assert!(pieces.len() <= 3 && pieces.iter().sum::<usize>() == 10_001, "{pieces:?}");
}

/// What the state says to the peer's window of stream 1.
fn updates(state: &mut State) -> u32 {
    let mut sum = 0;
    while let Some(Outgoing::Control(frames)) = state.outgoing() {
        let mut rest = &frames[..];
        while let Some((head, tail)) = rest.split_first_chunk::<HEAD>() {
            let head = Head::parse(*head);
            let (payload, tail) = tail.split_at(head.length as usize);
            rest = tail;
            if (head.kind, head.stream) == (Kind::WindowUpdate, 1) {
                sum += frame::number(payload).unwrap();
            }
        }
    }
    sum
}

proptest! {
    /// The peer never has more window than was announced; and when all was read, it has most of it, so it is never stuck.
    #[test]
    fn no_window_is_lost(steps in prop::collection::vec((0u32..600, 0u32..600), 1..200)) {
        const WINDOW: u32 = 1000;
        let mut state = State::new(Role::Server, Config { window: WINDOW, ..config() });
        updates(&mut state);
        let settings = Head { length: 0, kind: Kind::Settings, flags: 0, stream: 0 };
        state.received(&settings, &[]).unwrap();
        let fields = Fields::read(&mut Decoder::default(), &head::request(&post("/")), 1000).unwrap();
        state.headers(1, fields, false).unwrap();
        state.accept().unwrap();
        let (mut window, mut held) = (WINDOW, 0);
        for (arrives, is_read) in steps {
            let arrives = arrives.min(window);
            state.data(1, bytes(arrives as usize), arrives, false).unwrap();
            let is_read = is_read.min(held + arrives);
            state.release(1, is_read);
            held = held + arrives - is_read;
            window = window - arrives + updates(&mut state);
            prop_assert!(window + held <= WINDOW);
        }
        state.release(1, held);
        window += updates(&mut state);
        prop_assert!(window > WINDOW / 2, "{}", window);
    }

    /// Whatever comes, nothing panics and nothing hangs: the connection ends, or waits for more.
    #[test]
    fn arbitrary_frames_never_panic(frames in prop::collection::vec(
        (0u8..11, any::<u8>(), 0u32..8, prop::collection::vec(any::<u8>(), 0..40)), 0..60,
    )) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut raw = Raw::new(config()).await;
            raw.open(1).await;
            for (kind, flags, stream, payload) in frames {
                let length = u32::try_from(payload.len()).unwrap();
                let [_, l0, l1, l2] = length.to_be_bytes();
                let [s0, s1, s2, s3] = stream.to_be_bytes();
                let bytes = [&[l0, l1, l2, kind, flags, s0, s1, s2, s3][..], &payload].concat();
                if raw.wire.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            raw.wire.shutdown().await.unwrap();
            let Raw { mut wire, accepted, ended } = raw;
            let mut said = Vec::new();
            soon(wire.read_to_end(&mut said)).await.unwrap();
            let _ = soon(ended).await.unwrap();
            drop(accepted);
        });
    }
}
