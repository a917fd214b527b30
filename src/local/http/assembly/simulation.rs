//! Many clients get one large file from a gateway with a narrow line, with the clients' and the gateway's real choice of sources,
//! over lines that their transfers share evenly.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use super::*;
use crate::gateway::swarms::{Place, Swarms, Turn, Waiting};
use crate::wire::sharing::PIECE;

const MBIT: f64 = 125_000.0;
/// How long one waits for a member that says nothing.
const GONE: Duration = Duration::from_secs(30);
/// The longest step.
const STEP: Duration = Duration::from_millis(50);
/// When a run is given up.
const END: Duration = Duration::from_secs(1000);

/// Bytes per second of the gateway and of each client, and what is special about some clients.
struct Lan {
    gateway: f64,
    clients: Vec<Manner>,
    pieces: u32,
}

#[derive(Clone, Copy)]
struct Manner {
    line: f64,
    /// From then on it neither sends nor takes anything.
    hangs: Duration,
}

struct Client {
    assembly: Assembly,
    place: Place,
    manner: Manner,
    /// Since when it has each piece.
    has: Vec<Option<Instant>>,
    wanted: VecDeque<u32>,
    sending: Option<Sending>,
    given: Vec<u32>,
    done: Option<Duration>,
}

/// A piece that the gateway sends to a client, or is to send it.
enum Sending {
    Waits(u32, Waiting),
    Flows(u32, f64, Turn),
}

/// A piece that one client has asked of another one, and the bytes that are left of it.
struct Asked {
    of: usize,
    by: usize,
    index: u32,
    since: Instant,
    left: f64,
}

struct Lab {
    lan: Lan,
    start: Instant,
    now: Instant,
    clients: Vec<Client>,
    asked: Vec<Asked>,
    /// The bytes that the gateway has sent.
    sent: f64,
}

/// How a run ended.
#[derive(Debug)]
struct Outcome {
    /// The time of the last client that has not hung, as a multiple of what the gateway's line takes for the file.
    time: f64,
    /// The bytes that the gateway has sent, as a multiple of the file.
    sent: f64,
}

fn id(number: usize) -> NodeId {
    NodeId(u128::try_from(number).unwrap().to_be_bytes())
}

fn hash(index: u32) -> PieceHash {
    PieceHash([u8::try_from(index % 251).unwrap(); 32])
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of bytes")]
fn in_bytes(bytes: f64) -> usize {
    bytes as usize
}

fn whole() -> Bytes {
    static PIECE_OF_ZEROS: [u8; 1 << 20] = [0; 1 << 20];
    Bytes::from_static(&PIECE_OF_ZEROS)
}

impl Lab {
    fn new(lan: Lan) -> Self {
        let (start, swarms) = (Instant::now(), Arc::<Swarms>::default());
        let client = |(number, manner): (usize, &Manner)| {
            let from = SocketAddr::from((u32::try_from(number + 1).unwrap().to_be_bytes(), 50000));
            let place = swarms.enter(1, id(number), (Some(from), None), Some(7420));
            let mut assembly = Assembly::new(u64::from(lan.pieces) * PIECE).unwrap();
            (0..lan.pieces).for_each(|index| assembly.listed(index, hash(index)));
            assembly.list_ended();
            let has = vec![None; lan.pieces as usize];
            let mut client = Client {
                assembly,
                place,
                manner: *manner,
                has,
                wanted: VecDeque::new(),
                sending: None,
                given: Vec::new(),
                done: None,
            };
            client.name(start);
            client
        };
        let clients = lan.clients.iter().enumerate().map(client).collect();
        Self { lan, start, now: start, clients, asked: Vec::new(), sent: 0.0 }
    }

    fn hangs(&self, number: usize) -> bool {
        self.now - self.start >= self.clients[number].manner.hangs
    }

    fn run(mut self) -> Outcome {
        while self.now - self.start < END {
            (0..self.clients.len()).for_each(|number| self.act(number));
            self.fail_late();
            let is_done = |number: usize| self.clients[number].done.is_some() || self.hangs(number);
            if (0..self.clients.len()).all(is_done) {
                break;
            }
            self.flow();
        }
        let size = f64::from(self.lan.pieces) * PIECE as f64;
        let one = size / self.lan.gateway;
        let is_judged =
            |number: &usize| !self.hangs(*number) && self.clients[*number].manner.line >= self.lan.gateway;
        let times = (0..self.clients.len()).filter(is_judged);
        let last = times.map(|number| self.clients[number].done.unwrap_or(END)).max().unwrap();
        Outcome { time: last.as_secs_f64() / one, sent: self.sent / size }
    }

    /// Lets a client take what has come and ask for more, and the gateway begin to send.
    fn act(&mut self, number: usize) {
        let now = self.now;
        if self.hangs(number) {
            // The gateway does not know.
            return self.clients[number].send(self.now);
        }
        if self.clients[number].done.is_some() {
            return;
        }
        let client = &mut self.clients[number];
        while client.assembly.take().is_some() {
            if let Some(piece) = client.assembly.finished() {
                client.has[usize::try_from(piece.start / PIECE).unwrap()] = Some(self.now);
                let count = client.assembly.finished_count();
                client.place.has(count, client.given.contains(&(count - 1)), self.now);
            }
        }
        if client.assembly.is_done() {
            client.done = Some(self.now - self.start);
            client.sending = None;
            client.place.complete();
            return;
        }
        for action in client.assembly.actions(self.now, false, |_| false) {
            match action {
                Action::Member(index, _, of, _) => {
                    let of = usize::try_from(u128::from_be_bytes(of.0)).unwrap();
                    let left = PIECE as f64;
                    self.asked.push(Asked { of, by: number, index, since: self.now, left });
                }
                Action::Gateway(index) => client.wanted.push_back(index),
                Action::Cancel(index) => {
                    client.wanted.retain(|wanted| *wanted != index);
                    client.sending.take_if(|sending| sending.index() == index);
                    assert!(client.assembly.cancelled(index));
                }
                Action::Ask(instead) => {
                    client.place.failed(instead, now);
                    client.name(now);
                }
                Action::Late(index) => {
                    if let Some(instead) = client.place.late(index, now, |_| true) {
                        client.assembly.named(instead.named.map(|named| (named.id, named.at)));
                    }
                }
                Action::Own(..) => unreachable!(),
            }
        }
        client.send(self.now);
    }

    /// Ends what has taken too long.
    fn fail_late(&mut self) {
        let (now, start, clients) = (self.now, self.start, &mut self.clients);
        let is_late = |asked: &mut Asked| {
            let Client { has, manner, .. } = &clients[asked.of];
            let hangs = now - start >= manner.hangs;
            let since = has[asked.index as usize].or(hangs.then_some(asked.since));
            since.is_some_and(|since| now >= asked.since.max(since) + GONE)
        };
        let late: Vec<_> = self.asked.extract_if(.., is_late).collect();
        for Asked { of, by, index, .. } in late {
            let client = &mut clients[by];
            client.assembly.came(index, Some(id(of)), None, now);
            if client.assembly.failed(id(of)).is_some() {
                client.place.failed(id(of), now);
                client.name(now);
            }
        }
    }

    /// Lets time pass until something has come, or for one step.
    fn flow(&mut self) {
        let from_gateway: Vec<_> = (0..self.clients.len())
            .filter(|number| {
                matches!(self.clients[*number].sending, Some(Sending::Flows(..))) && !self.hangs(*number)
            })
            .collect();
        let flows = |asked: &Asked| {
            self.clients[asked.of].has[asked.index as usize].is_some()
                && !self.hangs(asked.of)
                && !self.hangs(asked.by)
        };
        // The pieces that a client asks of another one come in order.
        let is_first = |asked: &Asked| {
            let same = |other: &&Asked| (other.of, other.by) == (asked.of, asked.by) && flows(other);
            self.asked.iter().filter(same).all(|other| asked.index <= other.index)
        };
        let is_next = |at: &usize| flows(&self.asked[*at]) && is_first(&self.asked[*at]);
        let from_members: Vec<_> = (0..self.asked.len()).filter(is_next).collect();
        // Lines carry equally much in each direction.
        let of_members = || from_members.iter().map(|at| &self.asked[*at]);
        let up = |number: usize| of_members().filter(|asked| asked.of == number).count() as f64;
        let down = |number: usize| {
            of_members().filter(|asked| asked.by == number).count() as f64
                + f64::from(u8::from(from_gateway.contains(&number)))
        };
        let line = |number: usize| self.clients[number].manner.line;
        let of_gateway = self.lan.gateway / from_gateway.len().max(1) as f64;
        let gateway: Vec<_> = from_gateway
            .iter()
            .map(|number| (*number, of_gateway.min(line(*number) / down(*number))))
            .collect();
        let members: Vec<_> = from_members
            .iter()
            .map(|at| {
                let Asked { of, by, .. } = self.asked[*at];
                (*at, (line(of) / up(of)).min(line(by) / down(by)))
            })
            .collect();
        let mut time = STEP.as_secs_f64();
        for (number, rate) in &gateway {
            if let Some(Sending::Flows(_, left, _)) = &self.clients[*number].sending {
                time = time.min(left / rate);
            }
        }
        members.iter().for_each(|(at, rate)| time = time.min(self.asked[*at].left / rate));
        self.now += Duration::from_secs_f64(time) + Duration::from_micros(1);
        for (number, rate) in gateway {
            let client = &mut self.clients[number];
            let Some(Sending::Flows(index, left, turn)) = &mut client.sending else { unreachable!() };
            turn.takes(in_bytes(rate * time), self.now);
            client.place.takes(self.now);
            (*left, self.sent) = (*left - rate * time, self.sent + rate * time);
            if *left < 1.0 {
                assert!(client.assembly.data(*index, whole()));
                client.given.push(*index);
                client.sending = None;
                client.send(self.now);
            }
        }
        for (at, rate) in members {
            let asked = &mut self.asked[at];
            asked.left -= rate * time;
            if rate > 32_768.0 {
                self.clients[asked.by].assembly.heard(asked.index, id(asked.of), self.now);
            }
        }
        for asked in self.asked.extract_if(.., |asked| asked.left < 1.0) {
            self.clients[asked.by].assembly.came(asked.index, Some(id(asked.of)), Some(whole()), self.now);
        }
    }
}

impl Client {
    fn name(&mut self, now: Instant) {
        self.assembly.named(self.place.name(now, |_| true).map(|named| (named.id, named.at)));
    }

    fn send(&mut self, now: Instant) {
        if self.sending.is_none() {
            self.sending = self.wanted.pop_front().map(|index| Sending::Waits(index, self.place.wait()));
        }
        if let Some(Sending::Waits(index, waiting)) = &self.sending
            && let Some(turn) = waiting.take(now)
        {
            self.sending = Some(Sending::Flows(*index, PIECE as f64, turn));
        }
    }
}

impl Sending {
    fn index(&self) -> u32 {
        match self {
            Self::Waits(index, _) | Self::Flows(index, ..) => *index,
        }
    }
}

fn lan(gateway: f64, line: f64, count: usize, pieces: u32) -> Lan {
    Lan {
        gateway: gateway * MBIT,
        clients: vec![Manner { line: line * MBIT, hangs: Duration::MAX }; count],
        pieces,
    }
}

#[test]
fn fifty_clients_take_at_most_three_times_as_long_as_one_however_narrow_the_lines_are() {
    let lines = [(100.0, 1000.0), (10.0, 1000.0), (10.0, 100.0), (3.0, 50.0), (1.0, 10.0), (100.0, 100.0)];
    for (gateway, line) in lines {
        let outcome = Lab::new(lan(gateway, line, 50, 24)).run();
        assert!(outcome.time <= 3.0 && outcome.sent <= 3.0, "{gateway} Mbit/s, {line} Mbit/s: {outcome:?}");
    }
}

/// The first member passes everything on, and the next ones about half of it each.
#[test]
fn members_that_hang_or_are_slow_cost_time_and_the_others_get_the_file() {
    let never = Duration::MAX;
    let cases = [(0..1, 3.5), (1..3, 3.0), (0..10, 12.0), (20..40, 3.5)];
    for (which, bound) in cases {
        for (line, hangs) in [(100.0, Duration::ZERO), (100.0, Duration::from_secs(8)), (1.0, never)] {
            let mut lan = lan(10.0, 100.0, 50, 24);
            which.clone().for_each(|number| lan.clients[number] = Manner { line: line * MBIT, hangs });
            let outcome = Lab::new(lan).run();
            assert!(outcome.time <= bound, "{which:?}, {line} Mbit/s, hang after {hangs:?}: {outcome:?}");
        }
    }
}
