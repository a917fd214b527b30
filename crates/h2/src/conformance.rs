//! What RFC 9113, RFC 7541 and RFC 8441 say about a peer that keeps the rules, and about one that breaks them. Each case is
//! what the peer writes, and what it gets for that. The cases of requests run here against the engine, and in
//! `integration/direct/conformance.rs` against a gateway over TLS.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use http::{HeaderValue, Method, Request, Response};

use super::frame::PREFACE;
use super::testing::config;
use super::*;
use cases::*;

mod cases;
mod client;
mod engine;
mod frames;
mod headers;
mod messages;
mod settings;
mod streams;

const CX: Context<'static> = Context::from_waker(Waker::noop());

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

/// Runs the cases against a server, and returns what differs.
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
            // Faults of one stream, and what is not a fault, leave the connection as it is.
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
