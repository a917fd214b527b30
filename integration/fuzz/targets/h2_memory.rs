//! A server's end of an HTTP/2 connection with its handles, driven through any sequence of steps: after each of them the
//! memory that is counted is what a walk through all queues finds, and all of it is charged; at the end nothing is left.

use std::io::IoSlice;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::Response;
use laneway::h2::{Config, Engine, MAX_PIECES, RecvStream, SendResponse, SendStream};
use laneway::memory::{Account, Budget, Kind, LINK, TUNNEL};

use super::input::Choices;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `POST https://g/` in the static table of HPACK (RFC 7541, appendix A).
const POST: &[u8] = &[0x83, 0x87, 0x84, 0x41, 1, b'g'];
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// Lengths of bodies on both sides of what decides how they are kept.
const LENGTHS: [usize; 7] = [0, 1, 100, 2100, 16_383, 20_000, 65_000];

fn config() -> Config {
    Config {
        max_frame_size: 64 * 1024,
        stream_window: 100_000,
        connection_window: 1 << 20,
        send_buffer: 64 * 1024,
        max_header_list_size: 16 * 1024,
        max_concurrent_streams: 20,
        max_pending_resets: 10,
    }
}

/// The handles of one stream.
#[derive(Default)]
struct Stream {
    receive: Option<RecvStream>,
    respond: Option<SendResponse>,
    send: Option<SendStream>,
}

struct Connection {
    engine: Engine,
    streams: Vec<Stream>,
    accounts: Vec<Arc<Account>>,
    next: u32,
    /// What the peer has sent, and the engine has not taken yet.
    pending: Vec<u8>,
    failed: bool,
}

/// `data` is a sequence of steps.
pub fn run(data: &[u8]) {
    let budget = Budget::new(1 << 40);
    let holder = budget.holder();
    let accounts: Vec<_> =
        [Kind::Link, Kind::Tunnel, Kind::Tunnel].map(|kind| holder.account(kind)).into_iter().collect();
    let mut connection = Connection {
        engine: Engine::server(config()),
        streams: Vec::new(),
        accounts,
        next: 1,
        pending: PREFACE.to_vec(),
        failed: false,
    };
    connection.engine.charge_to(&connection.accounts[0]);
    connection.receive(&frame(SETTINGS, 0, 0, &[]), usize::MAX);
    let mut choices = Choices(data);
    while !choices.is_empty() {
        connection.step(&mut choices);
        connection.check(&budget);
    }
    connection.streams.clear();
    connection.check(&budget);
    drop(connection);
    assert_eq!(budget.used(), 0, "everything is closed");
}

impl Connection {
    fn check(&mut self, budget: &Budget) {
        self.engine.count_memory(0);
        let (counted, walked) = self.engine.memory();
        assert_eq!(counted, walked);
        assert_eq!(budget.used(), LINK + 2 * TUNNEL + counted, "all of it is charged");
    }

    /// The peer sends `bytes`, of which `most` arrive now.
    fn receive(&mut self, bytes: &[u8], most: usize) {
        self.pending.extend_from_slice(bytes);
        let now = most.min(self.pending.len());
        if self.failed {
            return self.pending.clear();
        }
        match self.engine.receive(&self.pending[..now]) {
            Ok(count) => drop(self.pending.drain(..count)),
            Err(_) => self.failed = true,
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let step = choices.byte();
        // One of the streams that were opened, or the next one.
        let stream = (u32::from(choices.byte()) * 2 + 1) % (self.next + 2);
        let number = choices.byte();
        let length = LENGTHS[usize::from(number) % LENGTHS.len()];
        let flags = number >> 7;
        // A frame may arrive in parts.
        let most = if choices.byte().is_multiple_of(4) { usize::from(number) } else { usize::MAX };
        match step % 16 {
            0 => {
                self.receive(&frame(HEADERS, 4 | flags, self.next, POST), most);
                self.next += 2;
            }
            1 => self.receive(&frame(DATA, flags, stream, &vec![1; length]), most),
            2 => {
                let window = [0, 10, 70_000, 1 << 20][usize::from(number) % 4];
                self.receive(
                    &frame(SETTINGS, 0, 0, &[&[0, 4][..], &u32::to_be_bytes(window)].concat()),
                    most,
                );
            }
            3 => self.receive(&frame(WINDOW_UPDATE, 0, stream * u32::from(flags), &[0, 0, number, 1]), most),
            4 => self.receive(&frame(RESET, 0, stream, &[0, 0, 0, 8]), most),
            5 => self.receive(&frame(PING, 0, 0, b"12345678"), most),
            6 => {
                self.receive(&frame(HEADERS, 0, self.next, &POST[..3]), most);
                self.receive(&frame(CONTINUATION, 4 * flags, self.next, &POST[3..]), most);
                self.next += 2;
            }
            7 => self.receive(&[], most),
            8 => {
                if let Some((request, respond)) = self.engine.accept() {
                    let receive = Some(request.into_body());
                    self.streams.push(Stream { receive, respond: Some(respond), send: None });
                }
            }
            9 => self.write(number),
            10 => self.engine.tick(),
            11 if flags > 0 => self.engine.drain(),
            11 => self.receive(&frame(GOAWAY, 0, 0, &[0; 8]), most),
            _ if self.streams.is_empty() => {}
            step => self.handle(step, usize::from(number), length, choices),
        }
    }

    /// The peer reads a part of the output.
    fn write(&mut self, number: u8) {
        if self.engine.has_output() {
            let mut slices = [IoSlice::new(&[]); MAX_PIECES];
            let count = self.engine.output(&mut slices);
            let all: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            self.engine.written(all * usize::from(number) / 255);
        }
    }

    /// The owner of a stream does something with it.
    fn handle(&mut self, step: u8, number: usize, length: usize, choices: &mut Choices<'_>) {
        let cx = &mut Context::from_waker(Waker::noop());
        let (count, account) = (self.streams.len(), &self.accounts[1 + number % 2]);
        let stream = &mut self.streams[usize::from(choices.byte()) % count];
        match (step, number % 3) {
            (12, 0) => {
                if let Some(respond) = stream.respond.take() {
                    stream.send = respond.send(&Response::new(()), number > 200).ok();
                }
            }
            (12, 1) => {
                stream.respond.iter_mut().for_each(|respond| respond.charge_to(account));
                stream.send.iter_mut().for_each(|send| send.charge_to(account));
            }
            (13, _) => {
                if let Some(send) = &mut stream.send
                    && let Poll::Ready(Ok(capacity)) = send.poll_capacity(length.max(1), cx)
                {
                    let _ = send.send_data(Bytes::from(vec![2; length.min(capacity)]), number > 200);
                }
            }
            (14, _) => {
                if let Some(receive) = &mut stream.receive
                    && let Poll::Ready(Some(Ok(data))) = receive.poll_data(cx)
                {
                    receive.release_capacity(data.len());
                }
            }
            (15, 0) => stream.receive = None,
            (15, 1) => stream.send = None,
            (15, _) => drop(self.streams.swap_remove(number % count)),
            _ => {}
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_memory_of_a_connection_is_what_its_queues_hold(data in prop::collection::vec(any::<u8>(), 0..1500)) {
            super::run(&data);
        }
    }
}
