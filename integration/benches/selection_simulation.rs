//! How the choice of the gateway scales: groups of up to 10,000 nodes in one process, on a virtual clock.
//!
//! Every node runs the same `Selection` that `laneway up` runs. The network loses one datagram in twenty for
//! each receiver; every node's clock starts elsewhere and runs up to 1% fast or slow; capacities are measured
//! anew at each look, with an error of up to 20%. Prints Markdown.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used, clippy::cast_possible_truncation)]
#![allow(clippy::cast_sign_loss, missing_docs)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use laneway::peers::selection::{Means, Options, Own, Prepared, Selection};
use laneway::wire::datagram::{Advert, Policy, Reach, State};
use laneway::wire::id::NodeId;

const SECOND: u64 = 1_000_000;
const MILLI: u64 = 1_000;
/// Of so many datagrams one is lost, for each receiver alone.
const LOSS: u64 = 20;
/// How long one datagram is under way: each quarter of the nodes has its own latency.
const LATENCY: [u64; 4] = [200, 500, 800, 1200];
/// How long a client waits for an answer on a link before it turns to the next gateway.
const SUSPECT: u64 = 250 * MILLI;
/// How often clients look.
const LOOK: u64 = 50 * MILLI;
/// So many clients are looked at closely; all others hear what they hear.
const OBSERVED: usize = 100;
/// A node that decides does so at least as often as the real one.
const REFRESH: u64 = 500 * MILLI;

fn main() {
    let groups = [(10, 2), (10, 10), (100, 10), (100, 100), (1_000, 100), (10_000, 1_000)];
    println!(
        "| nodes | candidates | beacons/s in the group | per candidate | first 2 s: beacons, queries, offers \
         | agreed after start | after kill -9: median, worst | after withdrawal | after a partition \
         | client without a gateway, worst: kill, withdrawal, partition | hand-overs/h without cause |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    // Each group lives in a thread of its own.
    let rows = std::thread::scope(|scope| {
        let rows = groups.map(|(nodes, candidates)| scope.spawn(move || scale(nodes, candidates)));
        rows.map(|row| row.join().unwrap())
    });
    rows.iter().for_each(|row| println!("{row}"));
    println!();
    println!("| policy | active | hand-overs/h | with nobody active | beacons/s |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for (policy, name) in [
        (Policy::Strongest, "strongest"),
        (Policy::LeastBusy, "least-busy"),
        (Policy::Random, "random, --rotate 300"),
        (Policy::RoundRobin, "round-robin, --rotate 300"),
    ] {
        for active in [1, 3] {
            let mut group = Group::new(100, 10, policy, active, 300);
            group.run(60 * SECOND);
            let (before, from) = (group.promotions, group.sent);
            group.vacant = 0;
            group.only_observed = true;
            group.run(3600 * SECOND);
            let hand_overs = group.promotions - before;
            let rate = (group.sent - from) as f64 / 3600.0;
            println!("| {name} | {active} | {hand_overs} | {} ms | {rate:.1} |", group.vacant / MILLI);
        }
    }
}

/// One row: start, quiet, some deaths, a withdrawal, a partition.
fn scale(nodes: usize, candidates: usize) -> String {
    let started = Instant::now();
    let mut group = Group::new(nodes, candidates, Policy::Strongest, 1, 3600);
    let start = group.until_agreed(30 * SECOND);
    group.run((2 * SECOND).saturating_sub(group.time));
    let first = format!("{}, {}, {}", group.sent, group.queries, group.offers);
    // The strongest may take the role over from whoever was first.
    group.run(45 * SECOND);
    let (quiet, kills) = match candidates {
        ..100 => (3600, 5),
        100..1_000 => (900, 5),
        _ => (60, 3),
    };
    group.only_observed = true;
    let (from, promoted) = (group.sent, group.promotions);
    group.run(quiet * SECOND);
    let rate = (group.sent - from) as f64 / quiet as f64;
    let flaps = (group.promotions - promoted) as f64 * 3600.0 / quiet as f64;
    group.only_observed = false;

    let mut deaths = Vec::new();
    group.worst_gap = 0;
    for _ in 0..kills {
        let dead = group.active()[0];
        group.kill(dead);
        deaths.push(group.until_agreed(30 * SECOND));
        group.run(5 * SECOND);
        group.revive(dead);
        group.run(5 * SECOND);
    }
    let gap_of_kill = std::mem::take(&mut group.worst_gap);
    deaths.sort_unstable();

    let unable = group.active()[0];
    group.nodes[unable].able = false;
    group.wake(unable);
    let withdrawal = group.until_agreed(30 * SECOND);
    group.run(5 * SECOND);
    group.nodes[unable].able = true;
    let gap_of_withdrawal = std::mem::take(&mut group.worst_gap);
    group.run(5 * SECOND);

    group.partitioned = true;
    group.run(20 * SECOND);
    group.partitioned = false;
    let healed = group.until_agreed(30 * SECOND);
    group.run(2 * SECOND);
    let gap_of_partition = group.worst_gap;
    eprintln!(
        "{nodes} nodes, {candidates} candidates: {:.1} s of real time",
        started.elapsed().as_secs_f64()
    );
    let gaps = [gap_of_kill, gap_of_withdrawal, gap_of_partition].map(seconds).join(", ");
    // Where every node is a candidate there are no clients to ask.
    let gaps = if group.observed().is_empty() { "no clients".into() } else { gaps };
    format!(
        "| {nodes} | {candidates} | {rate:.1} | {:.2} | {first} | {} | {}, {} | {} | {} | {gaps} | {flaps:.1} in {quiet} s |",
        rate / candidates as f64,
        seconds(start),
        seconds(deaths[kills / 2]),
        seconds(deaths[kills - 1]),
        seconds(withdrawal),
        seconds(healed),
    )
}

fn seconds(micros: u64) -> String {
    if micros == u64::MAX { "never".into() } else { format!("{:.2} s", micros as f64 / 1e6) }
}

struct Node {
    id: NodeId,
    link: SocketAddr,
    selection: Selection,
    is_candidate: bool,
    alive: bool,
    able: bool,
    state: State,
    capacity: u32,
    answers_one_in: u64,
    advert: Option<Advert>,
    boot: u64,
    counter: u64,
    /// When its clock started, and its speed in millionths.
    clock: Instant,
    speed: u64,
    /// It is to decide then; a decision that was put off is not made.
    wake: u64,
    client: Client,
}

#[derive(Clone, Copy, Default)]
struct Client {
    /// The candidate that it uses, and since when that is of no use.
    uses: Option<usize>,
    lost: Option<u64>,
    tries_at: u64,
    asks: usize,
}

enum Event {
    Wake(usize),
    Beacon { from: usize, quarter: usize, advert: Box<Advert>, boot: u64, counter: u64 },
    Ask(usize),
    Look,
}

struct Group {
    time: u64,
    base: Instant,
    nodes: Vec<Node>,
    candidates: usize,
    options: Options,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    pending: std::collections::HashMap<u64, Event>,
    order: u64,
    draws: u64,
    sent: u64,
    queries: u64,
    offers: u64,
    promotions: u64,
    partitioned: bool,
    /// In long quiet stretches only candidates and observed clients hear.
    only_observed: bool,
    worst_gap: u64,
    vacant: u64,
    vacant_since: Option<u64>,
    ever_active: bool,
    agreed: bool,
}

impl Group {
    fn new(nodes: usize, candidates: usize, policy: Policy, active: u8, rotate: u64) -> Self {
        let rotate = Duration::from_secs(rotate);
        let (link_port, weight, prepares) = (7420, 100, false);
        let mut group = Self {
            time: 0,
            base: Instant::now(),
            nodes: Vec::with_capacity(nodes),
            candidates,
            options: Options { policy, active, rotate, link_port, weight, prepares },
            events: BinaryHeap::new(),
            pending: std::collections::HashMap::new(),
            order: 0,
            draws: 0,
            sent: 0,
            queries: 0,
            offers: 0,
            promotions: 0,
            partitioned: false,
            only_observed: false,
            worst_gap: 0,
            vacant: 0,
            vacant_since: None,
            ever_active: false,
            agreed: false,
        };
        for n in 0..nodes {
            let node = group.node(n);
            group.nodes.push(node);
            // The power is back: all start within a tenth of a second.
            let at = group.random() % (100 * MILLI);
            if n < candidates {
                group.nodes[n].wake = at;
                group.at(at, Event::Wake(n));
            } else {
                group.at(at, Event::Ask(n));
            }
        }
        group.at(0, Event::Look);
        group
    }

    fn node(&mut self, n: usize) -> Node {
        let halves = [self.random(), self.random()];
        let mut id = [0; 16];
        id[..8].copy_from_slice(&halves[0].to_be_bytes());
        id[8..].copy_from_slice(&halves[1].to_be_bytes());
        let [_, high, middle, low] = (n as u32).to_be_bytes();
        // Machines differ by a factor of four.
        let capacity = 1_000 + (self.random() % 3_000) as u32;
        Node {
            id: NodeId(id),
            link: SocketAddr::from(([10, high, middle, low], 7420)),
            selection: self.selection(NodeId(id), n),
            is_candidate: n < self.candidates,
            alive: true,
            able: true,
            state: State::Withdrawn,
            capacity,
            answers_one_in: 1,
            advert: None,
            boot: 1,
            counter: 0,
            clock: self.base + Duration::from_secs(self.random() % 1_000_000),
            speed: 990_000 + self.random() % 20_000,
            wake: u64::MAX,
            client: Client::default(),
        }
    }

    fn selection(&mut self, id: NodeId, n: usize) -> Selection {
        let mut selection = Selection::new(id, self.random());
        if n < self.candidates {
            selection.stand(self.options.clone());
        }
        selection
    }

    fn run(&mut self, micros: u64) {
        let end = self.time + micros;
        while let Some(Reverse((at, order))) = self.events.peek().copied() {
            if at > end {
                break;
            }
            self.events.pop();
            self.time = self.time.max(at);
            let event = self.pending.remove(&order).unwrap();
            self.react(event);
        }
        self.time = end;
    }

    /// Runs until all candidates and clients have agreed for a moment; the time that this took.
    fn until_agreed(&mut self, most: u64) -> u64 {
        let from = self.time;
        while self.time < from + most {
            self.run(LOOK);
            if self.agreed && self.agrees() {
                return self.time - from;
            }
            self.agreed = self.agrees();
        }
        u64::MAX
    }

    fn agrees(&mut self) -> bool {
        let active = self.active();
        if active.len() != usize::from(self.options.active) {
            return false;
        }
        for n in self.observed() {
            let now = self.local(n);
            let first = self.nodes[n].selection.ranked(now).first().and_then(|gateway| gateway.id);
            if !active.iter().any(|active| Some(self.nodes[*active].id) == first) {
                return false;
            }
        }
        true
    }

    fn react(&mut self, event: Event) {
        match event {
            Event::Wake(n) => {
                if self.nodes[n].wake <= self.time && self.nodes[n].alive {
                    self.decide(n);
                }
            }
            Event::Beacon { from, quarter, advert, boot, counter } => {
                let (id, link) = (self.nodes[from].id, self.nodes[from].link);
                let hearing = if self.only_observed { self.observed().end } else { self.nodes.len() };
                for n in (quarter..hearing).step_by(LATENCY.len()) {
                    if n == from || !self.nodes[n].alive || self.is_cut(from, n) || self.is_lost() {
                        continue;
                    }
                    let now = self.local(n);
                    let means = Means::Beacon(boot, counter);
                    let heard = self.nodes[n].selection.heard(id, link, &advert, means, now);
                    if heard && self.nodes[n].is_candidate {
                        self.decide(n);
                    }
                }
            }
            Event::Ask(n) => self.ask(n),
            Event::Look => {
                for n in self.observed() {
                    self.look(n);
                }
                self.at(self.time + LOOK, Event::Look);
            }
        }
    }

    fn decide(&mut self, n: usize) {
        let (now, noise) = (self.local(n), self.random() % 41);
        let node = &mut self.nodes[n];
        let own = Own {
            able: node.able,
            reach: if node.able { Reach::Reachable } else { Reach::Unreachable },
            prepared: Prepared::No,
            draining: false,
            load: if node.state == State::Active { 100 + noise as u16 } else { noise as u16 },
            capacity: node.capacity * (80 + noise as u32) / 100,
            tunnels: 0,
        };
        let decision = node.selection.decide(&own, now).unwrap();
        node.answers_one_in = decision.answers_one_in.into();
        let promoted = node.state != State::Active && decision.advert.state == State::Active;
        node.state = decision.advert.state;
        node.advert = Some(decision.advert.clone());
        let local = decision.wake.duration_since(node.clock).as_micros() as u64;
        let wake = (local * 1_000_000 / node.speed + 1).clamp(self.time + 1, self.time + REFRESH);
        // Most decisions change nothing: the wake-up that waits already is early enough.
        let waits = node.wake > self.time && node.wake <= wake;
        if !waits {
            node.wake = wake;
        }
        let (boot, counter) = (node.boot, node.counter + u64::from(decision.beacon));
        node.counter = counter;
        if !waits {
            self.at(wake, Event::Wake(n));
        }
        self.promotions += u64::from(promoted);
        self.count_vacancy();
        if decision.beacon {
            self.sent += 1;
            for (quarter, latency) in LATENCY.iter().enumerate() {
                let advert = Box::new(decision.advert.clone());
                self.at(self.time + latency, Event::Beacon { from: n, quarter, advert, boot, counter });
            }
        }
    }

    /// A client asks until it knows a gateway; candidates answer as their selection says.
    fn ask(&mut self, n: usize) {
        let now = self.local(n);
        let known =
            self.nodes[n].selection.ranked(now).first().is_some_and(|gateway| gateway.heard.is_some());
        if known {
            return;
        }
        let pause =
            [100, 200, 400, 800, 1600, 3000].get(self.nodes[n].client.asks).map_or(5000, |pause| *pause);
        self.nodes[n].client.asks += 1;
        self.queries += 1;
        self.at(self.time + pause * MILLI, Event::Ask(n));
        for candidate in 0..self.candidates {
            let lot = self.random();
            let node = &self.nodes[candidate];
            let (id, link, advert) = (node.id, node.link, node.advert.clone());
            if lot.is_multiple_of(node.answers_one_in)
                && let Some(advert) = advert
                && !self.is_lost()
            {
                self.offers += 1;
                if self.is_lost() {
                    continue;
                }
                let means = Means::Offer(Duration::from_millis(1));
                self.nodes[n].selection.heard(id, link, &advert, means, now);
            }
        }
    }

    /// What a client does about its link.
    fn look(&mut self, n: usize) {
        let (now, time) = (self.local(n), self.time);
        let mut client = self.nodes[n].client;
        if let Some(used) = client.uses {
            if !self.is_usable(n, used) {
                let lost = *client.lost.get_or_insert(time);
                self.worst_gap = self.worst_gap.max(time - lost);
                if time >= lost + SUSPECT {
                    let link = self.nodes[used].link;
                    self.nodes[n].selection.suspect(link, now);
                    client.uses = None;
                }
            } else {
                client.lost = None;
            }
        }
        if client.uses.is_none() && time >= client.tries_at {
            let ranked = self.nodes[n].selection.ranked(now);
            let first = ranked.first().map(|gateway| gateway.link);
            let index = |link: SocketAddr| match link.ip() {
                std::net::IpAddr::V4(ip) => (u32::from_be_bytes(ip.octets()) & 0xff_ffff) as usize,
                std::net::IpAddr::V6(_) => usize::MAX,
            };
            match first {
                Some(link) if self.is_usable(n, index(link)) => {
                    client = Client { uses: Some(index(link)), lost: None, ..client };
                }
                Some(link) => {
                    self.nodes[n].selection.suspect(link, now);
                    client.tries_at = time + SUSPECT;
                }
                None => {}
            }
        }
        if let Some(lost) = client.lost {
            self.worst_gap = self.worst_gap.max(time - lost);
        }
        // A link to one that is not active any more is left for the active one, which is dialled first.
        if let Some(used) = client.uses
            && self.nodes[used].state != State::Active
            && let Some(first) = self.nodes[n].selection.ranked(now).first()
            && let Some(active) =
                self.active().into_iter().find(|active| self.nodes[*active].link == first.link)
            && self.is_usable(n, active)
        {
            client = Client { uses: Some(active), lost: None, ..client };
        }
        self.nodes[n].client = client;
    }

    fn is_usable(&self, client: usize, gateway: usize) -> bool {
        let node = &self.nodes[gateway];
        node.alive && node.able && !self.is_cut(client, gateway)
    }

    fn is_cut(&self, one: usize, other: usize) -> bool {
        self.partitioned && one % 2 != other % 2
    }

    fn kill(&mut self, n: usize) {
        self.nodes[n].alive = false;
        self.count_vacancy();
    }

    fn revive(&mut self, n: usize) {
        let id = self.nodes[n].id;
        self.nodes[n].selection = self.selection(id, n);
        self.nodes[n].boot += 1;
        self.nodes[n].state = State::Withdrawn;
        self.nodes[n].alive = true;
        self.wake(n);
    }

    fn wake(&mut self, n: usize) {
        self.nodes[n].wake = self.time;
        self.at(self.time, Event::Wake(n));
    }

    fn active(&self) -> Vec<usize> {
        let nodes = self.nodes[..self.candidates].iter().enumerate();
        nodes.filter(|(_, node)| node.alive && node.state == State::Active).map(|(n, _)| n).collect()
    }

    fn count_vacancy(&mut self) {
        let nodes = &self.nodes[..self.candidates.min(self.nodes.len())];
        let active = nodes.iter().any(|node| node.alive && node.state == State::Active);
        self.ever_active |= active;
        if active {
            self.vacant += self.vacant_since.take().map_or(0, |since| self.time - since);
        } else if self.ever_active {
            self.vacant_since.get_or_insert(self.time);
        }
    }

    /// The clients that are looked at closely. Where every node is a candidate there are none.
    fn observed(&self) -> std::ops::Range<usize> {
        self.candidates..self.nodes.len().min(self.candidates + OBSERVED)
    }

    fn local(&self, n: usize) -> Instant {
        let node = &self.nodes[n];
        node.clock + Duration::from_micros(self.time * node.speed / 1_000_000)
    }

    fn at(&mut self, time: u64, event: Event) {
        self.order += 1;
        self.pending.insert(self.order, event);
        self.events.push(Reverse((time, self.order)));
    }

    fn is_lost(&mut self) -> bool {
        self.random().is_multiple_of(LOSS)
    }

    fn random(&mut self) -> u64 {
        self.draws += 1;
        let mut mixed = self.draws.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
