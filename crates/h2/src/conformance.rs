//! What RFC 9113, RFC 7541 and RFC 8441 say about a peer that keeps the rules, and about one that breaks them. Each case is
//! what the peer writes, and what it gets for that.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use http::{HeaderValue, Method, Request, Response};

use super::frame::{ACK, END_HEADERS, END_STREAM, HEAD, PADDED, PREFACE, PRIORITY_FLAG};
use super::testing::config;
use super::*;

mod client;
mod frames;
mod headers;
mod messages;
mod settings;
mod streams;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// END_STREAM and END_HEADERS.
const WHOLE: u8 = END_STREAM | END_HEADERS;
const CX: Context<'static> = Context::from_waker(Waker::noop());

/// What happens at one end or the other.
#[derive(Clone, Debug)]
enum Step {
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

use Step::{Alive, Answer, Begin, Drop, Write};

/// What the peer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// GOAWAY with this reason.
    Connection(Reason),
    /// RST_STREAM with this reason, and the connection goes on.
    Stream(u32, Reason),
    /// Neither, and the connection goes on.
    Nothing,
}

use Expect::{Connection, Nothing, Stream};

struct Case {
    /// The section, and what the peer does.
    rule: &'static str,
    steps: Vec<Step>,
    expect: Expect,
}

fn case(rule: &'static str, steps: Vec<Step>, expect: Expect) -> Case {
    Case { rule, steps, expect }
}

fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, l0, l1, l2] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    [&[l0, l1, l2, kind, flags, s0, s1, s2, s3], payload].concat()
}

/// The peer writes a frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Step {
    Write(raw(kind, flags, stream, payload))
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        hpack::encode(&mut block, name, value.as_bytes());
    }
    block
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "gateway")];
const POST: [(&str, &str); 4] = [(":method", "POST"), GET[1], GET[2], GET[3]];
const TUNNEL: [(&str, &str); 2] = [(":method", "CONNECT"), (":authority", "server:80")];

/// GET and more fields.
fn get(more: &[(&str, &str)]) -> Vec<u8> {
    block(&[&GET[..], more].concat())
}

/// POST and more fields.
fn post(more: &[(&str, &str)]) -> Vec<u8> {
    block(&[&POST[..], more].concat())
}

/// A whole request without a body.
fn asked(stream: u32) -> Step {
    frame(HEADERS, WHOLE, stream, &get(&[]))
}

/// A request whose body is to follow.
fn opened(stream: u32) -> Step {
    frame(HEADERS, END_HEADERS, stream, &post(&[]))
}

fn setting(id: u8, value: u32) -> Step {
    frame(SETTINGS, 0, 0, &[&[0, id][..], &value.to_be_bytes()].concat())
}

/// A server and its user, and what it has sent.
struct Server {
    engine: Engine,
    requests: Vec<(u32, Accepted)>,
    begun: Vec<SendStream>,
    sent: Vec<(u8, u8, u32, Vec<u8>)>,
}

impl Server {
    fn new(config: Config) -> Self {
        let mut engine = Engine::server(config);
        engine.receive(PREFACE).unwrap();
        engine.receive(&raw(SETTINGS, 0, 0, &[])).unwrap();
        engine.receive(&raw(SETTINGS, ACK, 0, &[])).unwrap();
        engine.take_output();
        Self { engine, requests: Vec::new(), begun: Vec::new(), sent: Vec::new() }
    }

    fn take(&mut self, stream: u32) -> Accepted {
        let at = self.requests.iter().position(|(id, _)| *id == stream).expect("the request was accepted");
        self.requests.remove(at).1
    }

    /// Does a step. False when the connection is over.
    fn step(&mut self, step: &Step) -> bool {
        let mut goes_on = true;
        match step {
            Write(bytes) => goes_on = self.engine.receive(bytes).is_ok(),
            Answer(stream) => drop(self.take(*stream).1.send(&Response::new(()), true)),
            Begin(stream) => {
                let (request, respond) = self.take(*stream);
                drop(request);
                self.begun.extend(respond.send(&Response::new(()), false));
            }
            Drop(stream) => drop(self.take(*stream)),
            Alive => {
                let mut ping = self.engine.ping_pong();
                assert!(pin!(ping.ping()).poll(&mut { CX }).is_pending());
                self.collect();
                let (_, _, _, payload) = self.sent.iter().rfind(|sent| sent.0 == PING).unwrap().clone();
                self.engine.receive(&raw(PING, ACK, 0, &payload)).unwrap();
                assert!(pin!(ping.ping()).poll(&mut { CX }).is_ready());
            }
        }
        while let Some(accepted) = self.engine.accept() {
            self.requests.push((accepted.1.stream(), accepted));
        }
        self.collect();
        goes_on
    }

    fn collect(&mut self) {
        self.sent.extend(frames_of(&self.engine.take_output()));
    }
}

fn frames_of(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() {
        let [l0, l1, l2, kind, flags, stream @ ..] = *head;
        let (payload, rest) = rest.split_at(u32::from_be_bytes([0, l0, l1, l2]) as usize);
        frames.push((kind, flags, u32::from_be_bytes(stream), payload.to_vec()));
        bytes = rest;
    }
    frames
}

/// What the frames say about faults.
fn verdict(sent: &[(u8, u8, u32, Vec<u8>)]) -> Vec<Expect> {
    let code = |bytes: &[u8]| Reason(u32::from_be_bytes(bytes.try_into().unwrap()));
    let verdict = |sent: &(u8, u8, u32, Vec<u8>)| match sent {
        (GOAWAY, _, _, payload) => Some(Connection(code(&payload[4..]))),
        (RST_STREAM, _, stream, payload) => Some(Stream(*stream, code(payload))),
        _ => None,
    };
    sent.iter().filter_map(verdict).collect()
}

/// Runs the cases against a server, and gives what differs.
fn check_with(config: Config, cases: Vec<Case>) {
    let mut wrong = Vec::new();
    for Case { rule, steps, expect } in cases {
        let mut server = Server::new(config);
        let (last, before) = steps.split_last().unwrap();
        for step in before {
            assert!(server.step(step), "{rule}: too early: {:?}", verdict(&server.sent));
        }
        server.sent.clear();
        let goes_on = server.step(last);
        let mut seen = verdict(&server.sent);
        if goes_on {
            // Faults of one stream, and what is no fault, leave the connection as it is.
            let alive = server.engine.receive(&raw(PING, 0, 0, b"go on???"));
            let answer = frames_of(&server.engine.take_output());
            if alive.is_err() || !answer.contains(&(PING, ACK, 0, b"go on???".to_vec())) {
                seen.push(Connection(Reason::NO_ERROR));
            }
        }
        let expected: Vec<Expect> = if expect == Nothing { Vec::new() } else { vec![expect] };
        if seen != expected || goes_on == matches!(expect, Connection(_)) {
            wrong.push(format!("{rule}: expected {expect:?}, seen {seen:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

fn check(cases: Vec<Case>) {
    check_with(config(), cases);
}
