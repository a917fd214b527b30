//! The words of a case: what the peer writes, and what it gets for that.

use super::{Reason, hpack};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const PRIORITY_FLAG: u8 = 0x20;
/// END_STREAM and END_HEADERS.
pub(crate) const WHOLE: u8 = END_STREAM | END_HEADERS;

/// What happens at one end or the other.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The peer writes these bytes.
    Write(Vec<u8>),
    /// The engine's user answers the request on this stream, and ends it.
    Answer(u32),
    /// It answers, and goes on.
    Begin(u32),
    /// It resets the stream, because it drops all handles.
    Drop(u32),
    /// The engine asks whether the peer is alive, and the peer answers.
    Alive,
}

pub(crate) use Step::{Alive, Answer, Begin, Drop, Write};

/// What the peer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// GOAWAY with this reason.
    Connection(Reason),
    /// RST_STREAM with this reason, and the connection goes on.
    Stream(u32, Reason),
    /// Neither, and the connection goes on.
    Nothing,
}

pub(crate) use Expect::{Connection, Nothing, Stream};

pub(crate) struct Case {
    /// The section, and what the peer does.
    pub(crate) rule: &'static str,
    pub(crate) steps: Vec<Step>,
    pub(crate) expect: Expect,
}

pub(crate) fn case(rule: &'static str, steps: Vec<Step>, expect: Expect) -> Case {
    Case { rule, steps, expect }
}

pub(crate) fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, l0, l1, l2] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    [&[l0, l1, l2, kind, flags, s0, s1, s2, s3], payload].concat()
}

/// The peer writes a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Step {
    Write(raw(kind, flags, stream, payload))
}

pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        hpack::encode(&mut block, name, value.as_bytes());
    }
    block
}

pub(crate) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "gateway")];
pub(crate) const POST: [(&str, &str); 4] = [(":method", "POST"), GET[1], GET[2], GET[3]];
pub(crate) const TUNNEL: [(&str, &str); 2] = [(":method", "CONNECT"), (":authority", "server:80")];

/// GET and more fields.
pub(crate) fn get(more: &[(&str, &str)]) -> Vec<u8> {
    block(&[&GET[..], more].concat())
}

/// POST and more fields.
pub(crate) fn post(more: &[(&str, &str)]) -> Vec<u8> {
    block(&[&POST[..], more].concat())
}

/// A whole request without a body.
pub(crate) fn asked(stream: u32) -> Step {
    frame(HEADERS, WHOLE, stream, &get(&[]))
}

/// A request whose body is to follow.
pub(crate) fn opened(stream: u32) -> Step {
    frame(HEADERS, END_HEADERS, stream, &post(&[]))
}

pub(crate) fn setting(id: u8, value: u32) -> Step {
    frame(SETTINGS, 0, 0, &[&[0, id][..], &value.to_be_bytes()].concat())
}

pub(crate) fn frames_of(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let [l0, l1, l2, kind, flags, stream @ ..] = *head;
        let (payload, rest) = rest.split_at(u32::from_be_bytes([0, l0, l1, l2]) as usize);
        frames.push((kind, flags, u32::from_be_bytes(stream), payload.to_vec()));
        bytes = rest;
    }
    frames
}

/// What the frames say about faults.
pub(crate) fn verdict(sent: &[(u8, u8, u32, Vec<u8>)]) -> Vec<Expect> {
    let code = |bytes: &[u8]| Reason(u32::from_be_bytes(bytes.try_into().unwrap()));
    let verdict = |sent: &(u8, u8, u32, Vec<u8>)| match sent {
        (GOAWAY, _, _, payload) => Some(Connection(code(&payload[4..]))),
        (RST_STREAM, _, stream, payload) => Some(Stream(*stream, code(payload))),
        _ => None,
    };
    sent.iter().filter_map(verdict).collect()
}
