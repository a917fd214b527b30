//! One look at the LAN for whoever wants to know what works: which gateways answer a broadcast, which a question to them
//! alone, and whose beacons are heard. It asks beside a running node, and disturbs none.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{sleep_until, timeout_at};

use super::discovery::{link_address, random};
use super::keyring::Keyring;
use laneway_sys::lan::{self, Ear, Lan};
use laneway_sys::net;
use laneway_trust::group::Group;
use laneway_wire::datagram::{Advert, Datagram, Message, SIZE, Way};
use laneway_wire::id::NodeId;

/// When the questions leave; one lost datagram is no finding.
const ROUNDS_MILLIS: [u64; 4] = [0, 150, 400, 800];
/// How many addresses are asked alone.
const MOST_ASKED: usize = 64;
/// How many gateways are noted.
const MOST_GATEWAYS: usize = 256;

/// What to look at.
pub struct Options {
    /// This machine's membership.
    pub group: Arc<Group>,
    /// The UDP port where nodes listen.
    pub port: u16,
    /// Interfaces or addresses to use; empty for all.
    pub lans: Vec<String>,
    /// Links of gateways that are asked alone besides those that are heard.
    pub known: Vec<SocketAddr>,
    /// How long to look.
    pub time: Duration,
}

/// A gateway that was heard.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its id.
    pub id: NodeId,
    /// Where it accepts links.
    pub link: SocketAddr,
    /// What it says of itself.
    pub advert: Advert,
    /// How soon it answered a broadcast, if it did.
    pub by_broadcast: Option<Duration>,
    /// How soon it answered a question to it alone, if it did.
    pub by_unicast: Option<Duration>,
    /// Whether a beacon of it was heard, which is a broadcast to this machine.
    pub beacon: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Survey {
    /// The addresses that were asked from.
    pub asked_from: Vec<SocketAddr>,
    /// Whether the discovery port was taken, by a node that runs here or by something else: the questions left from
    /// another port, where firewalls may drop the answers.
    pub port_taken: bool,
    /// Gateways, by the address of their link. Never this machine's own.
    pub gateways: Vec<Seen>,
    /// Datagrams that this machine did not let out: whereto, and why.
    pub not_sent: Vec<(SocketAddr, io::Error)>,
}

impl Survey {
    /// One link address of each gateway that was heard, an IPv4 one if it has any.
    pub fn links(&self) -> Vec<(SocketAddr, NodeId)> {
        let mut links: Vec<(SocketAddr, NodeId)> = Vec::new();
        // They are in the order of their addresses.
        for seen in &self.gateways {
            if links.iter().all(|(_, id)| *id != seen.id) {
                links.push((seen.link, seen.id));
            }
        }
        links
    }
}

/// How a question was put.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Means {
    Broadcast,
    Unicast,
}

struct Look {
    keyring: Keyring,
    own: NodeId,
    port: u16,
    asked: HashMap<[u8; 16], (Means, Instant)>,
    seen: BTreeMap<SocketAddr, Seen>,
    not_sent: BTreeMap<SocketAddr, io::Error>,
}

/// Looks.
///
/// # Errors
/// When this machine's interfaces cannot be listed.
pub async fn look(options: Options) -> io::Result<Survey> {
    let lans = lan::lans(&options.lans)?;
    let (ears, port_taken) = bind(&lans, options.port);
    let mut look = Look {
        own: options.group.node.id,
        keyring: Keyring::new(options.group),
        port: options.port,
        asked: HashMap::new(),
        seen: BTreeMap::new(),
        not_sent: BTreeMap::new(),
    };
    let start = Instant::now();
    let end = start + options.time;
    for millis in ROUNDS_MILLIS {
        look.hear_until(&ears, (start + Duration::from_millis(millis)).min(end)).await;
        look.ask(&ears, &options.known).await;
    }
    look.hear_until(&ears, end).await;
    Ok(Survey {
        asked_from: ears.iter().map(|(_, ear, _)| ear.own).collect(),
        port_taken,
        gateways: look.seen.into_values().collect(),
        not_sent: look.not_sent.into_iter().collect(),
    })
}

/// The sockets of each LAN: the one that asks, and the one that hears broadcasts, where there can be one.
type Ears = Vec<(Lan, Ear, Option<Ear>)>;

fn bind(lans: &[Lan], port: u16) -> (Ears, bool) {
    let is_taken =
        |lan: &Lan| Ear::unicast(lan, port).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
    let taken = lans.iter().any(is_taken);
    let own_port = if taken { 0 } else { port };
    let ears = lans.iter().filter_map(|lan| {
        let ear = Ear::unicast(lan, own_port).ok()?;
        Some((lan.clone(), ear, Ear::everybody(lan, port).ok()))
    });
    (ears.collect(), taken)
}

impl Look {
    async fn ask(&mut self, ears: &Ears, known: &[SocketAddr]) {
        for (lan, ear, _) in ears {
            self.tell(ear, lan.everybody(self.port), Means::Broadcast).await;
        }
        let heard: Vec<_> = self.seen.keys().copied().collect();
        let mut alone: Vec<_> = known.iter().copied().chain(heard).collect();
        alone.sort();
        alone.dedup();
        for link in alone.into_iter().take(MOST_ASKED) {
            let to = SocketAddr::new(link.ip(), self.port);
            for (_, ear, _) in ears.iter().filter(|(lan, ..)| lan.net.contains(&to.ip())) {
                self.tell(ear, scoped(to, link), Means::Unicast).await;
            }
        }
    }

    async fn tell(&mut self, ear: &Ear, to: SocketAddr, means: Means) {
        let nonce = random();
        let group = self.keyring.group.clone();
        let epoch = group.update.epoch();
        let Some(keys) = self.keyring.keys(epoch) else { return };
        // Not its own id: a gateway that runs here would take that for an echo.
        let datagram =
            Datagram { group: group.id, epoch, sender: NodeId([0; 16]), message: Message::Query { nonce } };
        let bytes = datagram.encode(keys, Way { from: ear.own, to });
        self.asked.insert(nonce, (means, Instant::now()));
        if let Err(error) = ear.tell(&bytes, to).await {
            self.not_sent.insert(to, error);
        }
    }

    async fn hear_until(&mut self, ears: &Ears, end: Instant) {
        let all = ears.iter().flat_map(|(lan, ear, everybody)| {
            [Some((lan, ear, ear)), everybody.as_ref().map(|hearing| (lan, hearing, ear))]
        });
        let mut hearing: FuturesUnordered<_> =
            all.flatten().map(|(lan, ear, mouth)| hear(lan, ear, mouth)).collect();
        while let Ok(Some((lan, ear, mouth, heard))) = timeout_at(end.into(), hearing.next()).await {
            match heard {
                Some((bytes, from)) => self.react(&bytes, from, mouth.own),
                // An ICMP error of an earlier datagram is reported here too.
                None => sleep_until((Instant::now() + Duration::from_millis(5)).into()).await,
            }
            hearing.push(hear(lan, ear, mouth));
        }
    }

    fn react(&mut self, bytes: &[u8], from: SocketAddr, to: SocketAddr) {
        let Some(datagram) = self.keyring.decode(bytes, Way { from, to }) else { return };
        let id = datagram.sender;
        if id == self.own || self.keyring.group.update.revokes(id) {
            return;
        }
        let (advert, answered) = match datagram.message {
            Message::Offer { nonce, advert } => match self.asked.get(&nonce) {
                Some((means, sent)) => (advert, Some((*means, sent.elapsed()))),
                None => return,
            },
            Message::Beacon { advert, .. } => (advert, None),
            Message::Query { .. } | Message::JoinQuery { .. } | Message::JoinOffer { .. } => return,
        };
        let link = link_address(from, advert.link_port);
        if self.seen.len() >= MOST_GATEWAYS && !self.seen.contains_key(&link) {
            return;
        }
        let new =
            || Seen { id, link, advert: advert.clone(), by_broadcast: None, by_unicast: None, beacon: false };
        let seen = self.seen.entry(link).or_insert_with(new);
        seen.advert = advert;
        match answered {
            Some((Means::Broadcast, time)) => drop(seen.by_broadcast.get_or_insert(time)),
            Some((Means::Unicast, time)) => drop(seen.by_unicast.get_or_insert(time)),
            None => seen.beacon = true,
        }
    }
}

/// The next datagram of a neighbour on this LAN; none for an error, or for one that is not.
async fn hear<'a>(
    lan: &'a Lan,
    ear: &'a Ear,
    mouth: &'a Ear,
) -> (&'a Lan, &'a Ear, &'a Ear, Option<(Vec<u8>, SocketAddr)>) {
    let mut buffer = [0; SIZE + 1];
    let heard = match ear.hear(&mut buffer).await {
        Ok(heard) if heard.neighbour && lan.net.contains(&net::plain(heard.from).ip()) => {
            Some((buffer[..heard.size].to_vec(), heard.from))
        }
        _ => None,
    };
    (lan, ear, mouth, heard)
}

/// The scope of a link-local address is kept.
fn scoped(mut to: SocketAddr, link: SocketAddr) -> SocketAddr {
    if let (SocketAddr::V6(to), SocketAddr::V6(link)) = (&mut to, link) {
        to.set_scope_id(link.scope_id());
    }
    to
}
