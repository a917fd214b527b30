//! The engine driven by hand: bytes in, bytes out, no runtime.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Method, Request, Response};
use laneway_limits::memory::Budget;
use proptest::prelude::*;

use super::frame::{self, END_HEADERS, END_STREAM, HEAD, Head, Kind, PREFACE};
use super::testing::config;
use super::*;

const CX: Context<'static> = Context::from_waker(Waker::noop());

fn post(path: &str) -> Request<()> {
    let uri = format!("https://gateway{path}");
    Request::builder().method(Method::POST).uri(uri).header("some", "field").body(()).unwrap()
}

fn bytes(length: usize) -> Bytes {
    (0..length).map(|n| (n * 7 % 251).to_le_bytes()[0]).collect()
}

/// What is ready now.
fn now<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    match poll(&mut { CX }) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn frames(mut bytes: &[u8]) -> Vec<(Head, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() {
        let head = Head::parse(*head);
        let (payload, rest) = rest.split_at(head.length as usize);
        frames.push((head, payload.to_vec()));
        bytes = rest;
    }
    frames
}

/// A server, and a client that is no more than the frames that the test writes.
struct Raw(Engine);

impl Raw {
    fn new(config: Config) -> Self {
        let mut raw = Self(Engine::server(config));
        raw.0.receive(PREFACE).unwrap();
        raw.write(Kind::Settings, 0, 0, &[]);
        raw.0.take_output();
        raw
    }

    /// Writes a frame that is in order.
    fn write(&mut self, kind: Kind, flags: u8, stream: u32, payload: &[u8]) {
        self.try_write(kind, flags, stream, payload).unwrap();
    }

    fn try_write(&mut self, kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Result<(), Reason> {
        let mut bytes = Vec::new();
        frame::write(&mut bytes, kind, flags, stream, payload);
        self.0.receive(&bytes).map(|count| assert_eq!(count, bytes.len()))
    }

    fn open(&mut self, stream: u32) {
        self.write(Kind::Headers, END_HEADERS, stream, &fields::request(&post("/")));
    }

    /// The frames of this kind that the server sends now.
    fn read(&mut self, kind: Kind) -> Vec<(Head, Vec<u8>)> {
        let mut frames = frames(&self.0.take_output());
        frames.retain(|(head, _)| head.kind == kind);
        frames
    }
}

#[test]
fn a_fault_of_the_connection_ends_it_with_a_goaway_that_gives_the_reason() {
    let head = fields::request(&post("/"));
    let cases: &[(Kind, u8, u32, &[u8], Reason)] = &[
        (Kind::Data, 0, 0, b"x", Reason::PROTOCOL_ERROR),
        (Kind::Data, 0, 5, b"x", Reason::PROTOCOL_ERROR),
        (Kind::Data, frame::PADDED, 1, &[9, 1], Reason::PROTOCOL_ERROR),
        (Kind::Headers, END_HEADERS, 2, &head, Reason::PROTOCOL_ERROR),
        (Kind::Headers, END_HEADERS, 0, &head, Reason::PROTOCOL_ERROR),
        (Kind::Headers, END_HEADERS, 3, &[0x80], Reason::COMPRESSION_ERROR),
        (Kind::Headers, END_HEADERS, 3, &[0; 17_000], Reason::ENHANCE_YOUR_CALM),
        (Kind::Continuation, END_HEADERS, 1, &head, Reason::PROTOCOL_ERROR),
        (Kind::PushPromise, END_HEADERS, 1, &head, Reason::PROTOCOL_ERROR),
        (Kind::Settings, 0, 1, &[], Reason::PROTOCOL_ERROR),
        (Kind::Settings, 0, 0, &[0; 5], Reason::FRAME_SIZE_ERROR),
        (Kind::Settings, frame::ACK, 0, &[0; 6], Reason::FRAME_SIZE_ERROR),
        (Kind::Ping, 0, 0, &[0; 7], Reason::FRAME_SIZE_ERROR),
        (Kind::ResetStream, 0, 7, &[0; 4], Reason::PROTOCOL_ERROR),
        (Kind::ResetStream, 0, 1, &[0; 3], Reason::FRAME_SIZE_ERROR),
        (Kind::WindowUpdate, 0, 0, &[0; 4], Reason::PROTOCOL_ERROR),
        (Kind::WindowUpdate, 0, 0, &[0x7f, 0xff, 0xff, 0xff], Reason::FLOW_CONTROL_ERROR),
        (Kind::WindowUpdate, 0, 9, &[0, 0, 0, 1], Reason::PROTOCOL_ERROR),
        (Kind::GoAway, 0, 0, &[0; 7], Reason::FRAME_SIZE_ERROR),
    ];
    for (kind, flags, stream, payload, reason) in cases {
        let mut raw = Raw::new(config());
        raw.open(1);
        let (_request, mut respond) = raw.0.accept().unwrap();
        assert_eq!(raw.try_write(*kind, *flags, *stream, payload), Err(*reason), "{kind:?} {flags} {stream}");
        let said = raw.read(Kind::GoAway);
        assert_eq!(said.last().unwrap().1[4..], reason.code().to_be_bytes(), "{kind:?} {flags} {stream}");
        assert!(now(|cx| respond.poll_reset(cx)).unwrap().is_of_connection());
    }
    let too_long = Head { length: config().max_frame_size + 1, kind: Kind::Data, flags: 0, stream: 1 };
    assert_eq!(Raw::new(config()).0.receive(&too_long.bytes()), Err(Reason::FRAME_SIZE_ERROR));
    let mut raw = Raw::new(config());
    raw.write(Kind::Headers, 0, 1, &head[..3]);
    let interrupted = raw.try_write(Kind::Ping, 0, 0, &[0; 8]);
    assert_eq!(interrupted, Err(Reason::PROTOCOL_ERROR), "a header block is not interrupted");
    assert_eq!(Engine::server(config()).receive(&[b'x'; PREFACE.len()]), Err(Reason::PROTOCOL_ERROR));
}

#[test]
fn a_fault_on_one_stream_resets_that_one_only() {
    let mut raw = Raw::new(Config { stream_window: 10, ..config() });
    let cases: [(Kind, u8, &[u8], Reason); 4] = [
        (Kind::Data, 0, &[0; 11], Reason::FLOW_CONTROL_ERROR),
        (Kind::WindowUpdate, 0, &[0; 4], Reason::PROTOCOL_ERROR),
        (Kind::WindowUpdate, 0, &[0x7f, 0xff, 0xff, 0xff], Reason::FLOW_CONTROL_ERROR),
        (Kind::Headers, END_HEADERS, &[], Reason::PROTOCOL_ERROR),
    ];
    for (stream, (kind, flags, payload, reason)) in [1, 3, 5, 7].into_iter().zip(cases) {
        raw.open(stream);
        let _held = raw.0.accept().unwrap();
        raw.write(kind, flags, stream, payload);
        let [(head, code)] = &raw.read(Kind::ResetStream)[..] else { panic!("one reset") };
        assert_eq!((head.stream, Reason(frame::number(code).unwrap())), (stream, reason));
    }
    // Fields that are no request.
    raw.write(Kind::Headers, END_HEADERS | END_STREAM, 9, &[0x82]);
    assert_eq!(raw.read(Kind::ResetStream)[0].0.stream, 9);
    raw.open(11);
    assert_eq!(raw.0.accept().unwrap().0.headers()["some"], "field");
}

#[test]
fn data_is_sent_within_the_peers_windows_which_follow_its_settings() {
    let mut raw = Raw::new(config());
    raw.write(Kind::Settings, 0, 0, &[0, 4, 0, 0, 0, 10]);
    raw.open(1);
    let (request, respond) = raw.0.accept().unwrap();
    drop(request);
    let mut send = respond.send(&Response::new(()), false).unwrap();
    let mut rest = bytes(30);
    let mut read = |raw: &mut Raw| {
        while !rest.is_empty()
            && let Some(capacity) = now(|cx| send.poll_capacity(rest.len(), cx))
        {
            send.send_data(rest.split_to(capacity.unwrap()), false).unwrap();
        }
        raw.read(Kind::Data).into_iter().flat_map(|(_, payload)| payload).collect::<Vec<_>>()
    };
    assert_eq!(read(&mut raw), bytes(30)[..10]);
    raw.write(Kind::WindowUpdate, 0, 1, &5u32.to_be_bytes());
    assert_eq!(read(&mut raw), bytes(30)[10..15]);
    // Less than before: what was sent already counts.
    raw.write(Kind::Settings, 0, 0, &[0, 4, 0, 0, 0, 8]);
    raw.write(Kind::WindowUpdate, 0, 1, &4u32.to_be_bytes());
    assert_eq!(read(&mut raw), bytes(30)[15..17]);
    raw.write(Kind::Settings, 0, 0, &[0, 4, 0, 0, 0, 100]);
    assert_eq!(read(&mut raw), bytes(30)[17..]);
    drop(send);
    assert_eq!(raw.read(Kind::ResetStream)[0].0.stream, 1, "it has no handle any more");
}

#[test]
fn a_peer_that_does_not_read_the_answers_is_not_read_from() {
    let mut raw = Raw::new(config());
    let mut pings = Vec::new();
    for number in 0..5000u64 {
        frame::write(&mut pings, Kind::Ping, 0, 0, &number.to_be_bytes());
    }
    let (mut rest, mut answers) = (&pings[..], 0u64);
    while !rest.is_empty() {
        let count = raw.0.receive(rest).unwrap();
        assert!((1..=1024 * 17).contains(&count), "{count} bytes at once");
        rest = &rest[count..];
        for (head, payload) in raw.read(Kind::Ping) {
            assert_eq!((head.flags, payload), (frame::ACK, answers.to_be_bytes().to_vec()));
            answers += 1;
        }
    }
    assert_eq!(answers, 5000);
}

#[test]
fn settings_that_change_all_the_time_end_the_connection() {
    let mut raw = Raw::new(config());
    for window in 0..99 {
        raw.write(Kind::Settings, 0, 0, &[0, 4, 0, 0, 0, window]);
    }
    assert_eq!(raw.try_write(Kind::Settings, 0, 0, &[]), Err(Reason::ENHANCE_YOUR_CALM));
}

#[test]
fn streams_that_are_reset_before_they_are_accepted_are_bounded() {
    let mut raw = Raw::new(Config { max_pending_resets: 3, ..config() });
    for stream in [1, 3, 5] {
        raw.open(stream);
        raw.write(Kind::ResetStream, 0, stream, &[0; 4]);
    }
    assert!(raw.0.accept().is_none(), "nobody waits for an answer");
    for stream in [7, 9, 11] {
        raw.open(stream);
        raw.write(Kind::ResetStream, 0, stream, &[0; 4]);
    }
    raw.open(13);
    let result = raw.try_write(Kind::ResetStream, 0, 13, &[0; 4]);
    assert_eq!(result, Err(Reason::ENHANCE_YOUR_CALM));
}

#[test]
fn tiny_frames_cost_what_their_bytes_cost() {
    let mut raw = Raw::new(config());
    raw.open(1);
    let (request, _respond) = raw.0.accept().unwrap();
    for _ in 0..10_000 {
        raw.write(Kind::Data, 0, 1, b"x");
    }
    raw.write(Kind::Data, frame::PADDED | END_STREAM, 1, &[3, b'y', 0, 0, 0]);
    let mut body = request.into_body();
    let mut pieces = Vec::new();
    while let Some(data) = now(|cx| body.poll_data(cx)).expect("data, or the end") {
        pieces.push(data.unwrap().len());
    }
    assert!(pieces.len() <= 3 && pieces.iter().sum::<usize>() == 10_001, "{pieces:?}");
}

#[test]
fn a_drain_accepts_what_was_under_way_and_the_connection_ends_with_it() {
    let (requests, mut client) = Engine::client(config());
    let mut server = Engine::server(config());
    let open = |path| now(|cx| pin!(requests.send(post(path), true)).poll(cx));
    let (response, _send) = open("/before").unwrap().unwrap();
    exchange(&mut client, &mut server, usize::MAX);
    server.drain();
    let (_, _late) = open("/under-way").unwrap().unwrap();
    exchange(&mut client, &mut server, usize::MAX);
    assert!(open("/after").unwrap().unwrap_err().is_of_connection());
    for path in ["/before", "/under-way"] {
        let (request, respond) = server.accept().unwrap();
        assert_eq!(request.uri().path(), path);
        respond.send(&Response::new(()), true).unwrap();
    }
    exchange(&mut client, &mut server, usize::MAX);
    assert!(now(|cx| pin!(response).poll(cx)).unwrap().is_ok());
    assert!(matches!(server.try_finish(), Finish::Farewell));
    exchange(&mut client, &mut server, usize::MAX);
    assert!(matches!(server.try_finish(), Finish::Finished(Ok(()))));
    assert!(matches!(client.try_finish(), Finish::Farewell));
}

/// Moves all output of both ends to the other, in parts of at most `part` bytes.
fn exchange(one: &mut Engine, other: &mut Engine, part: usize) {
    loop {
        let (to_other, to_one) = (one.take_output(), other.take_output());
        if to_other.is_empty() && to_one.is_empty() {
            return;
        }
        for (bytes, to) in [(to_other, &mut *other), (to_one, &mut *one)] {
            for part in bytes.chunks(part) {
                assert_eq!(to.receive(part).unwrap(), part.len());
            }
        }
    }
}

proptest! {
    /// However the bytes are cut, a body arrives whole, and so does its echo.
    #[test]
    fn bodies_arrive_whole(length in 0usize..300_000, part in 1usize..70_000, window in 1u32..100_000) {
        let config = Config { stream_window: window, ..config() };
        let (requests, mut client) = Engine::client(config);
        let mut server = Engine::server(config);
        let (mut response, mut up) = now(|cx| pin!(requests.send(post("/"), false)).poll(cx)).unwrap().unwrap();
        exchange(&mut client, &mut server, part);
        let (request, respond) = server.accept().unwrap();
        let (mut request, mut down) = (request.into_body(), respond.send(&Response::new(()), false).unwrap());
        exchange(&mut client, &mut server, part);
        let mut response = now(|cx| Pin::new(&mut response).poll(cx)).unwrap().unwrap().into_body();
        let (mut rest, mut echoed, mut received) = (bytes(length), Bytes::new(), Vec::new());
        let mut ended = [false; 2];
        for _ in 0..1_000_000 {
            if !rest.is_empty() && let Some(capacity) = now(|cx| up.poll_capacity(rest.len(), cx)) {
                up.send_data(rest.split_to(capacity.unwrap()), false).unwrap();
            }
            if rest.is_empty() && !std::mem::replace(&mut ended[0], true) {
                up.send_data(Bytes::new(), true).unwrap();
            }
            exchange(&mut client, &mut server, part);
            if echoed.is_empty() && !ended[1] {
                match now(|cx| request.poll_data(cx)) {
                    Some(Some(data)) => echoed = data.unwrap(),
                    Some(None) => {
                        ended[1] = true;
                        down.send_data(Bytes::new(), true).unwrap();
                    }
                    None => {}
                }
            }
            if !echoed.is_empty() && let Some(capacity) = now(|cx| down.poll_capacity(echoed.len(), cx)) {
                let data = echoed.split_to(capacity.unwrap());
                request.release_capacity(data.len());
                down.send_data(data, false).unwrap();
            }
            exchange(&mut client, &mut server, part);
            match now(|cx| response.poll_data(cx)) {
                Some(Some(data)) => {
                    let data = data.unwrap();
                    response.release_capacity(data.len());
                    received.extend_from_slice(&data);
                }
                Some(None) => break,
                None => {}
            }
        }
        prop_assert!(received == bytes(length));
    }

    /// The peer never has more window than was announced; and when all was read, it has most of it, so it is never stuck.
    #[test]
    fn no_window_is_lost(steps in prop::collection::vec((0u32..600, 0u32..600), 1..200)) {
        const WINDOW: u32 = 1000;
        let mut raw = Raw::new(Config { stream_window: WINDOW, ..config() });
        raw.open(1);
        let (request, _respond) = raw.0.accept().unwrap();
        let mut body = request.into_body();
        let updates = |raw: &mut Raw| -> u32 {
            let updates = raw.read(Kind::WindowUpdate).into_iter().filter(|(head, _)| head.stream == 1);
            updates.map(|(_, payload)| frame::number(&payload).unwrap()).sum()
        };
        let (mut window, mut held) = (WINDOW, 0);
        for (arrives, is_read) in steps {
            let arrives = arrives.min(window);
            raw.write(Kind::Data, 0, 1, &bytes(arrives as usize));
            let is_read = is_read.min(held + arrives);
            body.release_capacity(is_read as usize);
            held = held + arrives - is_read;
            window = window - arrives + updates(&mut raw);
            prop_assert!(window + held <= WINDOW);
        }
        body.release_capacity(held as usize);
        window += updates(&mut raw);
        prop_assert!(window > WINDOW / 2, "{}", window);
    }

    /// Whatever arrives, nothing panics, and only whole frames are sent.
    #[test]
    fn arbitrary_frames_never_panic(written in prop::collection::vec(
        (0u8..11, any::<u8>(), 0u32..8, prop::collection::vec(any::<u8>(), 0..40)), 0..60,
    )) {
        let mut raw = Raw::new(config());
        raw.open(1);
        let mut accepted = Vec::new();
        for (kind, flags, stream, payload) in written {
            let [_, l0, l1, l2] = u32::try_from(payload.len()).unwrap().to_be_bytes();
            let [s0, s1, s2, s3] = stream.to_be_bytes();
            let bytes = [&[l0, l1, l2, kind, flags, s0, s1, s2, s3][..], &payload].concat();
            let result = raw.0.receive(&bytes);
            frames(&raw.0.take_output());
            accepted.extend(raw.0.accept());
            if result.is_err() {
                break;
            }
        }
    }
}

#[test]
fn streams_that_the_server_reset_itself_do_not_lower_the_count_of_those_that_the_client_did() {
    let mut raw = Raw::new(Config { max_pending_resets: 10, ..config() });
    // Ten that the server resets for a fault, one that can be accepted, and ten that the client resets.
    for stream in (1..21).step_by(2) {
        raw.open(stream);
        raw.write(Kind::WindowUpdate, 0, stream, &[0; 4]);
    }
    raw.open(21);
    for stream in (23..43).step_by(2) {
        raw.open(stream);
        raw.write(Kind::ResetStream, 0, stream, &[0; 4]);
    }
    // The ten before it are gone with this, and the ten after it still wait.
    let _accepted = raw.0.accept().unwrap();
    raw.open(43);
    let one_more = raw.try_write(Kind::ResetStream, 0, 43, &[0; 4]);
    assert_eq!(one_more, Err(Reason::ENHANCE_YOUR_CALM));
}

#[test]
fn a_stream_without_an_owner_of_which_the_peer_takes_nothing_is_reset() {
    let budget = Budget::new(1 << 30);
    let mut raw = Raw::new(config());
    raw.0.charge_to(&budget.account());
    for stream in [1, 3] {
        raw.open(stream);
        let (_request, respond) = raw.0.accept().unwrap();
        let mut send = respond.send(&Response::new(()), false).unwrap();
        send.send_data(bytes(10_000), true).unwrap();
        if stream == 1 {
            // The client takes back the window that the answer was queued for.
            raw.write(Kind::Settings, 0, 0, &[0, 4, 0, 0, 0, 0]);
        }
    }
    raw.0.take_output();
    assert!(raw.0.has_ownerless());
    let mut reset = Vec::new();
    for tick in 0..20 {
        raw.0.tick();
        // The client takes a little of one stream again and again.
        raw.write(Kind::WindowUpdate, 0, 3, &[0, 0, 0, 100]);
        for (head, _) in frames(&raw.0.take_output()) {
            if head.kind == Kind::ResetStream {
                reset.push((tick, head.stream));
            }
        }
    }
    assert_eq!(reset, [(5, 1)], "only the one that has stalled");
    raw.write(Kind::WindowUpdate, 0, 3, &[0, 0, 0x7f, 0xff]);
    raw.0.take_output();
    raw.0.tick();
    assert!(!raw.0.has_ownerless());
}

#[test]
fn a_client_that_does_not_read_its_answers_is_not_read_from_whatever_it_asks() {
    let mut raw = Raw::new(config());
    let mut bytes = Vec::new();
    let head = fields::request(&post("/"));
    let mut taken = 0;
    for stream in (1..100_000).step_by(2) {
        bytes.clear();
        frame::write(&mut bytes, Kind::Headers, END_HEADERS | END_STREAM, stream, &head);
        taken = raw.0.receive(&bytes).unwrap();
        if taken < bytes.len() {
            break;
        }
        let (_request, respond) = raw.0.accept().unwrap();
        respond.send(&Response::builder().header("why", "x".repeat(200)).body(()).unwrap(), true).unwrap();
    }
    assert!(taken < bytes.len());
    raw.0.count_memory(0);
    assert!(raw.0.memory().0 < 512 * 1024, "{:?}", raw.0.memory());
}

#[test]
fn short_blocks_that_stand_for_long_lists_of_fields_are_not_decoded_before_others_are_accepted() {
    let mut raw = Raw::new(config());
    let head = fields::request(&post("/"));
    let mut opened = 0;
    for stream in (1..1000).step_by(2) {
        let mut bytes = Vec::new();
        frame::write(&mut bytes, Kind::Headers, END_HEADERS, stream, &head);
        if raw.0.receive(&bytes).unwrap() < bytes.len() {
            break;
        }
        opened += 1;
    }
    assert_eq!(opened, 64);
    assert!(raw.0.accept().is_some());
    assert!(raw.0.room().is_some());
}

/// Each stream was kept until the peer widened the connection's window, which it need never do.
#[test]
fn streams_that_end_while_they_wait_for_the_connections_window_are_forgotten() {
    let mut raw = Raw::new(config());
    raw.open(1);
    let (_request, respond) = raw.0.accept().unwrap();
    let mut first = respond.send(&Response::new(()), false).unwrap();
    let window = now(|cx| first.poll_capacity(1 << 20, cx)).unwrap().unwrap();
    first.send_data(bytes(window), false).unwrap();
    raw.0.take_output();
    for stream in (3..20_003).step_by(2) {
        raw.open(stream);
        let (_request, respond) = raw.0.accept().unwrap();
        let mut waits = respond.send(&Response::new(()), false).unwrap();
        assert!(now(|cx| waits.poll_capacity(1, cx)).is_none());
        raw.write(Kind::ResetStream, 0, stream, &[0, 0, 0, 8]);
        raw.0.take_output();
    }
    raw.0.count_memory(0);
    assert!(raw.0.memory().0 < 16 * 1024, "{:?}", raw.0.memory());
}
