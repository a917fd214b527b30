//! A survey of the LAN for diagnosis: which gateways answer a broadcast query, which a unicast one, and whose beacons are
//! received. It works beside a running node without disturbing it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{sleep_until, timeout_at};

use super::discovery::link_address;
use super::keyring::{EPOCH, Keyring, OTHER_GROUP};
use super::verifier::{Arrival, Verifier};
use laneway_sys::lan::{self, Lan, LanSocket};
use laneway_sys::net;
use laneway_trust::group::Group;
use laneway_trust::random::random;
use laneway_wire::datagram::{Advert, Datagram, Message, Received, SIZE, Sequence, State, Way};
use laneway_wire::id::NodeId;

/// When queries are sent, in milliseconds: one lost datagram is not a finding.
const ROUNDS_MILLIS: [u64; 4] = [0, 150, 400, 800];
/// Maximum addresses that are queried by unicast.
const MAX_UNICAST: usize = 64;
/// Maximum gateways in the result.
const MAX_GATEWAYS: usize = 256;

/// Interval between two checks for missing announcements.
const STEP: Duration = Duration::from_millis(250);
/// Maximum machines of other groups in the result.
const MAX_OTHERS: usize = 16;

/// What to survey.
pub struct Options {
    /// This machine's membership.
    pub group: Arc<Group>,
    /// The UDP port where nodes listen.
    pub port: u16,
    /// Interfaces or addresses to use; empty for all.
    pub lans: Vec<String>,
    /// Links of gateways that are queried by unicast, besides those that answer.
    pub known: Vec<SocketAddr>,
    /// Duration of the survey.
    pub time: Duration,
    /// How much longer to wait for the announcements of active gateways that have answered: they announce themselves all the
    /// time.
    pub patience: Duration,
}

/// A gateway from which a datagram was received.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its id.
    pub id: NodeId,
    /// Its name, for which the authority vouches.
    pub name: String,
    /// The address at which it accepts links.
    pub link: SocketAddr,
    /// Its last advert.
    pub advert: Advert,
    /// The time of its answer to a broadcast query, if any.
    pub by_broadcast: Option<Duration>,
    /// The time of its answer to a unicast query, if any.
    pub by_unicast: Option<Duration>,
    /// Whether a beacon of it was received, which is a broadcast.
    pub beacon: bool,
}

/// The result.
#[derive(Debug, Default)]
pub struct Survey {
    /// The addresses from which queries were sent.
    pub asked_from: Vec<SocketAddr>,
    /// Whether the discovery port was in use, by a node or another program: then queries were sent from another port, where
    /// firewalls may drop the answers.
    pub port_taken: bool,
    /// The gateways, in the order of their links' addresses, without this machine's own.
    pub gateways: Vec<Seen>,
    /// Datagrams that could not be sent: the destination and the error.
    pub not_sent: Vec<(SocketAddr, io::Error)>,
    /// The addresses of machines of other groups, without those of this one.
    pub other_groups: BTreeSet<IpAddr>,
    /// Nodes that are on several machines, which therefore have the same keys.
    pub twins: Vec<Twin>,
    /// The LANs whose announcements were listened to, at the port of discovery.
    pub listened: Vec<Lan>,
}

/// One node on several machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twin {
    /// Its name, for which the authority vouches.
    pub name: String,
    /// The addresses of the machines, without those of this one.
    pub addresses: Vec<IpAddr>,
    /// Whether this machine is one of them.
    pub is_own: bool,
}

impl Survey {
    /// Whether no announcement of this active gateway has arrived from any of its addresses, although it has answered from an
    /// address on a LAN whose announcements were listened to.
    pub fn misses(&self, id: NodeId) -> bool {
        misses(id, self.gateways.iter(), &self.listened)
    }

    /// Each gateway once, with an IPv4 address of its link if it has any.
    pub fn links(&self) -> Vec<&Seen> {
        let mut links: Vec<&Seen> = Vec::new();
        // IPv4 addresses sort before IPv6 ones.
        for seen in &self.gateways {
            if links.iter().all(|known| known.id != seen.id) {
                links.push(seen);
            }
        }
        links
    }
}

fn misses<'a>(id: NodeId, all: impl Iterator<Item = &'a Seen>, listened: &[Lan]) -> bool {
    let mut has_answered = false;
    for seen in all.filter(|seen| seen.id == id) {
        if seen.beacon || seen.advert.state != State::Active {
            return false;
        }
        let is_near = listened.iter().any(|lan| lan.net.contains(&net::plain(seen.link).ip()));
        has_answered |= is_near && (seen.by_broadcast.is_some() || seen.by_unicast.is_some());
    }
    has_answered
}

/// How a query was sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cast {
    Broadcast,
    Unicast,
}

/// A survey in progress.
struct Progress {
    keyring: Keyring,
    /// One for each address: two machines with the same keys do not count for each other.
    verifiers: HashMap<IpAddr, Verifier>,
    own: NodeId,
    port: u16,
    /// The queries sent, by nonce.
    queries: HashMap<[u8; 16], (Cast, Instant)>,
    seen: BTreeMap<SocketAddr, Seen>,
    not_sent: BTreeMap<SocketAddr, io::Error>,
    heard: Heard,
    own_addresses: HashSet<IpAddr>,
    other_groups: BTreeSet<IpAddr>,
}

/// The addresses from which each gateway was heard, each with the sequence of its last datagram. One machine counts all its
/// beacons, at whatever address; two machines with the same keys count separately.
#[derive(Debug, Default)]
struct Heard(BTreeMap<NodeId, (String, BTreeMap<IpAddr, Sequence>)>);

impl Heard {
    /// How far the counters of one machine may be apart at two addresses: by its beacons between the two datagrams.
    const APART: u64 = 6;
    /// Maximum addresses of one gateway that are noted.
    const MAX_ADDRESSES: usize = 16;

    fn note(&mut self, id: NodeId, name: &str, sequence: Sequence, from: IpAddr) {
        let (_, heard) = self.0.entry(id).or_insert_with(|| (name.to_owned(), BTreeMap::new()));
        if heard.len() < Self::MAX_ADDRESSES || heard.contains_key(&from) {
            heard.insert(from, sequence);
        }
    }

    /// The nodes that are on several machines. `own` is the node of this machine, which is at none of these addresses.
    fn twins(self, own: NodeId) -> Vec<Twin> {
        let each = self.0.into_iter().map(|(id, (name, heard))| {
            let differs = |one: &Sequence, other: &Sequence| {
                one.boot != other.boot || one.counter.abs_diff(other.counter) > Self::APART
            };
            let is_other = |sequence: &Sequence| heard.values().any(|other| differs(sequence, other));
            let elsewhere = heard.iter().filter(|(_, sequence)| id == own || is_other(sequence));
            Twin { name, addresses: elsewhere.map(|(address, _)| *address).collect(), is_own: id == own }
        });
        each.filter(|twin| !twin.addresses.is_empty()).collect()
    }
}

/// Surveys the LAN.
///
/// # Errors
/// When this machine's interfaces cannot be listed.
pub async fn look(options: Options) -> io::Result<Survey> {
    let lans = lan::lans(&options.lans)?;
    let (sockets, port_taken) = bind(&lans, options.port);
    let mut progress = Progress {
        own: options.group.node.id,
        keyring: Keyring::new(options.group),
        verifiers: HashMap::new(),
        port: options.port,
        queries: HashMap::new(),
        seen: BTreeMap::new(),
        not_sent: BTreeMap::new(),
        heard: Heard::default(),
        own_addresses: net::own_addresses().unwrap_or_default(),
        other_groups: BTreeSet::new(),
    };
    let start = Instant::now();
    let end = start + options.time;
    for millis in ROUNDS_MILLIS {
        progress.receive_until(&sockets, (start + Duration::from_millis(millis)).min(end)).await;
        progress.query(&sockets, &options.known).await;
    }
    progress.receive_until(&sockets, end).await;
    let listens = sockets.iter().filter(|(_, _, broadcasts)| broadcasts.is_some());
    let listened: Vec<_> = listens.map(|(lan, ..)| lan.clone()).collect();
    let last = end + options.patience;
    while Instant::now() < last && progress.misses_any(&listened) {
        progress.receive_until(&sockets, (Instant::now() + STEP).min(last)).await;
    }
    Ok(Survey {
        asked_from: sockets.iter().map(|(_, socket, _)| socket.own).collect(),
        port_taken,
        gateways: progress.seen.into_values().collect(),
        not_sent: progress.not_sent.into_iter().collect(),
        other_groups: progress.other_groups,
        twins: progress.heard.twins(progress.own),
        listened,
    })
}

/// The sockets of each LAN: the one that sends queries, and the one that receives broadcasts, if there is one.
type Sockets = Vec<(Lan, LanSocket, Option<LanSocket>)>;

fn bind(lans: &[Lan], port: u16) -> (Sockets, bool) {
    let is_taken = |lan: &Lan| {
        LanSocket::unicast(lan, port).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    };
    let taken = lans.iter().any(is_taken);
    let own_port = if taken { 0 } else { port };
    let sockets = lans.iter().filter_map(|lan| {
        let sender = LanSocket::unicast(lan, own_port).ok()?;
        let broadcasts = LanSocket::broadcast(lan, port, &sender).ok().flatten();
        Some((lan.clone(), sender, broadcasts))
    });
    (sockets.collect(), taken)
}

impl Progress {
    async fn query(&mut self, sockets: &Sockets, known: &[SocketAddr]) {
        for (lan, sender, _) in sockets {
            self.send(sender, lan.everybody(self.port), Cast::Broadcast).await;
        }
        let seen: Vec<_> = self.seen.keys().copied().collect();
        let mut links: Vec<_> = known.iter().copied().chain(seen).collect();
        links.sort();
        links.dedup();
        for link in links.into_iter().take(MAX_UNICAST) {
            let to = SocketAddr::new(link.ip(), self.port);
            for (_, sender, _) in sockets.iter().filter(|(lan, ..)| lan.net.contains(&to.ip())) {
                self.send(sender, scoped(to, link), Cast::Unicast).await;
            }
        }
    }

    async fn send(&mut self, sender: &LanSocket, to: SocketAddr, cast: Cast) {
        let nonce = random();
        let group = self.keyring.group.clone();
        let epoch = group.update.epoch();
        let keys = self.keyring.keys(epoch);
        // Not this node's id: a gateway that runs here would take the query for its own.
        let datagram =
            Datagram { group: group.id, epoch, sender: NodeId([0; 16]), message: Message::Query { nonce } };
        let bytes = datagram.encode(keys, Way { from: sender.own, to }, None);
        self.queries.insert(nonce, (cast, Instant::now()));
        if let Err(error) = sender.send(&bytes, to).await {
            self.not_sent.insert(to, error);
        }
    }

    async fn receive_until(&mut self, sockets: &Sockets, end: Instant) {
        let all = sockets.iter().flat_map(|(lan, sender, broadcasts)| {
            [Some((lan, sender, sender)), broadcasts.as_ref().map(|receiver| (lan, receiver, sender))]
        });
        let mut receiving: FuturesUnordered<_> =
            all.flatten().map(|(lan, receiver, sender)| receive(lan, receiver, sender)).collect();
        while let Ok(Some((lan, receiver, sender, received))) = timeout_at(end.into(), receiving.next()).await
        {
            match received {
                Some((bytes, from)) => self.handle(&bytes, from, sender.own),
                // A receive also reports the ICMP error of an earlier datagram.
                None => sleep_until((Instant::now() + Duration::from_millis(5)).into()).await,
            }
            receiving.push(receive(lan, receiver, sender));
        }
    }

    /// Whether announcements of an active gateway are still missing.
    fn misses_any(&self, listened: &[Lan]) -> bool {
        self.seen.values().any(|seen| misses(seen.id, self.seen.values(), listened))
    }

    fn note_other_group(&mut self, ip: IpAddr) {
        if self.other_groups.len() < MAX_OTHERS && !self.own_addresses.contains(&ip) {
            self.other_groups.insert(ip);
        }
    }

    /// Notes a beacon in a later epoch than this machine has: the gateway has an update that is still on its way here. An answer
    /// is in the epoch of its query.
    fn note_beacon(&mut self, ip: IpAddr) {
        let known = self.seen.values_mut().filter(|seen| net::plain(seen.link).ip() == ip);
        known.for_each(|seen| seen.beacon = true);
    }

    /// Handles one datagram that was sent to this machine.
    fn handle(&mut self, bytes: &[u8], from: SocketAddr, to: SocketAddr) {
        let unverified = match self.keyring.decode(bytes, Way { from, to }) {
            Ok(Received::Signed(unverified)) => unverified,
            Err(OTHER_GROUP) => return self.note_other_group(net::plain(from).ip()),
            Err(EPOCH) => return self.note_beacon(net::plain(from).ip()),
            _ => return,
        };
        let (id, now) = (unverified.sender(), Instant::now());
        let query = unverified.answers().map(|nonce| self.queries.get(&nonce).copied());
        let ip = net::plain(from).ip();
        let is_own = id == self.own;
        if is_own && self.own_addresses.contains(&ip) || query == Some(None) {
            return;
        }
        let query = query.flatten();
        let (arrival, sequence) =
            (Arrival { from, asked: query.map(|(_, sent)| sent), now }, unverified.sequence());
        if self.verifiers.len() >= MAX_GATEWAYS && !self.verifiers.contains_key(&ip) {
            return;
        }
        let verifier = self.verifiers.entry(ip).or_default();
        let Ok(verified) = verifier.verify(*unverified, &self.keyring, arrival) else { return };
        let name = verified.name.text().map_or_else(|| id.short(), str::to_owned);
        self.heard.note(id, &name, sequence, ip);
        if is_own {
            return;
        }
        let answered = query.map(|(cast, sent)| (cast, now.saturating_duration_since(sent)));
        let (Message::Offer { advert, .. } | Message::Beacon { advert, .. }) = verified.datagram.message
        else {
            return;
        };
        let link = link_address(from, advert.link_port);
        if self.seen.len() >= MAX_GATEWAYS && !self.seen.contains_key(&link) {
            return;
        }
        let new = || Seen {
            id,
            name,
            link,
            advert: advert.clone(),
            by_broadcast: None,
            by_unicast: None,
            beacon: false,
        };
        let seen = self.seen.entry(link).or_insert_with(new);
        seen.advert = advert;
        match answered {
            Some((Cast::Broadcast, time)) => drop(seen.by_broadcast.get_or_insert(time)),
            Some((Cast::Unicast, time)) => drop(seen.by_unicast.get_or_insert(time)),
            None => seen.beacon = true,
        }
    }
}

/// The next datagram; `None` for an error, or for one that is not from this LAN.
async fn receive<'a>(
    lan: &'a Lan,
    receiver: &'a LanSocket,
    sender: &'a LanSocket,
) -> (&'a Lan, &'a LanSocket, &'a LanSocket, Option<(Vec<u8>, SocketAddr)>) {
    let mut buffer = [0; SIZE + 1];
    let received = match receiver.receive(&mut buffer).await {
        Ok(heard) if heard.neighbour && lan.net.contains(&net::plain(heard.from).ip()) => {
            Some((buffer[..heard.size].to_vec(), heard.from))
        }
        _ => None,
    };
    (lan, receiver, sender, received)
}

/// `to` with the scope of a link-local `link`.
fn scoped(mut to: SocketAddr, link: SocketAddr) -> SocketAddr {
    if let (SocketAddr::V6(to), SocketAddr::V6(link)) = (&mut to, link) {
        to.set_scope_id(link.scope_id());
    }
    to
}
