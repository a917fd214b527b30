//! Finding gateways on the LAN: query, offer, beacon, over UDP.
//!
//! A host without a default route cannot send to 255.255.255.255, so each LAN's own broadcast address (and
//! IPv6 link-local multicast) is used. A stateful firewall drops a unicast answer to a broadcast that left
//! from an ephemeral port, so queries leave from the discovery port itself.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::candidate::Announcement;
use super::directory::{Directory, Source};
use super::rate::PerSource;
use crate::net::{self, Ear, Heard, Lan};
use crate::wire::datagram::{Datagram, Keys, Message, SIZE, Way, invite_asked_for};
use crate::wire::id::{GroupId, NodeId};

/// When queries leave after the first one, as long as no gateway is found: one lost datagram costs 100 ms.
const RETRANSMIT_MILLIS: [u64; 6] = [100, 200, 400, 800, 1600, 3000];
/// Between two queries after that.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at the interfaces.
const LOOK: Duration = Duration::from_secs(3);
/// How long an answer to a query is waited for.
const NONCE_LIFE: Duration = Duration::from_secs(10);
/// How many queries may wait for answers.
const MOST_NONCES: usize = 256;
/// How many known gateways are asked by unicast besides.
const MOST_ASKED: usize = 16;
/// How many answers one source gets at once, and how fast it earns another.
const ANSWERS: (u32, Duration) = (20, Duration::from_millis(100));

/// Finds the secret of an invite: what a join query is authenticated with.
pub type InviteKey = dyn Fn([u8; 8]) -> Option<[u8; 32]> + Send + Sync;

/// What discovery needs to know.
pub struct Options {
    /// The group.
    pub group: GroupId,
    /// The group's epoch.
    pub epoch: u64,
    /// The group's discovery key.
    pub discovery_key: [u8; 32],
    /// This node.
    pub id: NodeId,
    /// The UDP port where nodes listen.
    pub port: u16,
    /// The UDP port to ask from: the same, except beside a running node.
    pub own_port: u16,
    /// Interfaces or addresses to use; empty for all.
    pub lans: Vec<String>,
    /// Where this node's group can be joined, when it holds the authority: the finder of invites and the
    /// TCP port.
    pub joins: Option<(Box<InviteKey>, u16)>,
}

/// Discovery on all LANs of this machine.
pub struct Discovery {
    options: Options,
    keys: Keys,
    directory: Arc<Directory>,
    announcements: watch::Receiver<Option<Announcement>>,
    ears: Mutex<HashMap<Lan, Arc<Ear>>>,
    asked: Mutex<HashMap<[u8; 16], Instant>>,
    answers: Mutex<PerSource>,
    boot: u64,
}

impl Discovery {
    /// Discovery that fills `directory` and tells what `announcements` holds.
    pub fn new(
        options: Options,
        directory: Arc<Directory>,
        announcements: watch::Receiver<Option<Announcement>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            keys: Keys::new(&options.discovery_key),
            options,
            directory,
            announcements,
            ears: Mutex::default(),
            asked: Mutex::default(),
            answers: Mutex::new(PerSource::new(ANSWERS.0, ANSWERS.1)),
            boot: u64::from_be_bytes(random()),
        })
    }

    /// Binds the sockets of all LANs that exist now and gives their addresses.
    ///
    /// # Errors
    /// When a discovery port is taken by another node on the same address.
    pub fn bind(self: &Arc<Self>, listeners: &mut JoinSet<Lan>) -> io::Result<Vec<SocketAddr>> {
        let mut bound = Vec::new();
        for lan in net::lans(&self.options.lans)? {
            if locked(&self.ears).contains_key(&lan) {
                continue;
            }
            let unicast = match Ear::unicast(&lan, self.options.own_port) {
                Ok(ear) => Arc::new(ear),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    let own = lan.own(self.options.own_port);
                    return Err(io::Error::new(error.kind(), format!("UDP {own}: {error}")));
                }
                // An IPv6 address that is still being checked for duplicates, for one; the next look finds it.
                Err(error) => {
                    tracing::debug!(interface = lan.interface, address = %lan.net.addr(), %error, "not used yet");
                    continue;
                }
            };
            bound.push(unicast.own);
            locked(&self.ears).insert(lan.clone(), unicast.clone());
            listeners.spawn(self.clone().listen(lan.clone(), unicast.clone(), unicast.clone()));
            match Ear::everybody(&lan, self.options.port) {
                Ok(ear) => {
                    listeners.spawn(self.clone().listen(lan, Arc::new(ear), unicast));
                }
                Err(error) => {
                    tracing::warn!(interface = lan.interface, %error, "cannot hear broadcasts");
                }
            }
        }
        Ok(bound)
    }

    /// Asks, answers and beacons until it is dropped. `listeners` is what [`Discovery::bind`] filled.
    pub async fn run(self: Arc<Self>, mut listeners: JoinSet<Lan>) {
        let mut wanted = self.directory.wanted();
        let mut announcements = self.announcements.clone();
        // Once at the start in any case: a candidate should know the others before it speaks.
        self.ask(true).await;
        let mut looks = tokio::time::interval(LOOK);
        let mut counter = 0_u64;
        let mut round = 1_usize;
        let mut ask_at = Instant::now() + pause(0);
        let mut said = 0;
        loop {
            let asking = *wanted.borrow_and_update();
            if !asking {
                (round, ask_at) = (0, Instant::now());
            } else if ask_at <= Instant::now() {
                self.ask(round == 0).await;
                ask_at = Instant::now() + pause(round).mul_f64(jitter());
                round += 1;
            }
            let announcement = announcements.borrow_and_update().clone();
            if let Some(Announcement { advert, beacons, .. }) = announcement
                && beacons != said
            {
                said = beacons;
                counter += 1;
                self.tell_everybody(Message::Beacon { boot: self.boot, counter, advert }).await;
            }
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                Ok(()) = announcements.changed() => {}
                () = tokio::time::sleep_until(ask_at.into()), if asking => {}
                _ = looks.tick() => {
                    if let Err(error) = self.bind(&mut listeners) {
                        tracing::debug!(%error, "an interface cannot be used");
                    }
                }
                Some(ended) = listeners.join_next() => {
                    if let Ok(lan) = ended {
                        tracing::info!(interface = lan.interface, address = %lan.net.addr(), "interface gone");
                        locked(&self.ears).remove(&lan);
                    }
                }
            }
        }
    }

    /// Asks every LAN, and the gateways known by address, who is connected to the server.
    async fn ask(&self, first: bool) {
        let nonce = random();
        let now = Instant::now();
        {
            let mut asked = locked(&self.asked);
            asked.retain(|_, sent| now.duration_since(*sent) < NONCE_LIFE);
            if asked.len() >= MOST_NONCES {
                return;
            }
            asked.insert(nonce, now);
        }
        let known = self.directory.ranked(now).into_iter();
        let known = known.filter(|gateway| gateway.source != Source::Static);
        let known: Vec<_> = known.take(MOST_ASKED).collect();
        let message = Message::Query { nonce };
        for gateway in known {
            let to = SocketAddr::new(gateway.link.ip(), self.options.port);
            for (lan, ear) in self.ears() {
                if lan.net.contains(&to.ip()) {
                    self.tell(&ear, message.clone(), to).await;
                }
            }
        }
        let lans = self.tell_everybody(message).await;
        if first {
            tracing::info!(lans, port = self.options.port, "query sent");
        }
    }

    async fn tell_everybody(&self, message: Message) -> usize {
        let ears = self.ears();
        for (lan, ear) in &ears {
            self.tell(ear, message.clone(), lan.everybody(self.options.port)).await;
        }
        ears.len()
    }

    async fn tell(&self, ear: &Ear, message: Message, to: SocketAddr) {
        let (group, epoch, sender) = (self.options.group, self.options.epoch, self.options.id);
        let bytes = Datagram { group, epoch, sender, message }.encode(&self.keys, Way { from: ear.own, to });
        if let Err(error) = ear.tell(&bytes, to).await {
            tracing::debug!(%to, %error, "datagram not sent");
        }
    }

    fn ears(&self) -> Vec<(Lan, Arc<Ear>)> {
        locked(&self.ears).iter().map(|(lan, ear)| (lan.clone(), ear.clone())).collect()
    }

    /// Hears one socket until its interface goes away.
    async fn listen(self: Arc<Self>, lan: Lan, ear: Arc<Ear>, mouth: Arc<Ear>) -> Lan {
        let mut buffer = [0; SIZE + 1];
        let mut failures = 0;
        while failures < 10 {
            match ear.hear(&mut buffer).await {
                Ok(heard) => {
                    failures = 0;
                    if heard.neighbour && lan.net.contains(&net::plain(heard.from).ip()) {
                        let alone = Arc::ptr_eq(&ear, &mouth);
                        self.react(&buffer[..heard.size], heard, alone, &mouth).await;
                    }
                }
                // An ICMP error of an earlier datagram is reported here too.
                Err(error) => {
                    tracing::debug!(interface = lan.interface, %error, "discovery socket");
                    failures += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        lan
    }

    /// `alone` says that the datagram came to this node alone.
    async fn react(&self, bytes: &[u8], heard: Heard, alone: bool, mouth: &Ear) {
        if let Some(invite) = invite_asked_for(bytes) {
            return self.answer_join(bytes, invite, heard.from, mouth).await;
        }
        let Ok(datagram) =
            Datagram::decode(bytes, self.options.group, &self.keys, Way { from: heard.from, to: mouth.own })
        else {
            return;
        };
        if datagram.sender == self.options.id {
            return;
        }
        let now = Instant::now();
        match datagram.message {
            Message::Query { nonce } => {
                let announcement = self.announcements.borrow().clone();
                if let Some(Announcement { advert, answers_one_in, .. }) = announcement
                    && (alone || lot(&nonce).is_multiple_of(answers_one_in))
                    && locked(&self.answers).take(heard.from.ip(), now)
                {
                    tracing::debug!(client = %heard.from, "query answered");
                    self.tell(mouth, Message::Offer { nonce, advert }, heard.from).await;
                }
            }
            Message::Offer { nonce, advert } => {
                let sent = locked(&self.asked).get(&nonce).copied();
                if let Some(sent) = sent {
                    let round_trip = now.duration_since(sent);
                    let link = link_address(heard.from, advert.link_port);
                    tracing::debug!(gateway = %datagram.sender.short(), address = %link, "offer heard");
                    self.directory.offered(datagram.sender, link, advert, round_trip, now);
                }
            }
            Message::Beacon { boot, counter, advert } => {
                let link = link_address(heard.from, advert.link_port);
                self.directory.beaconed(datagram.sender, link, advert, (boot, counter), now);
            }
            Message::JoinQuery { .. } | Message::JoinOffer { .. } => {}
        }
    }

    async fn answer_join(&self, bytes: &[u8], invite: [u8; 8], from: SocketAddr, mouth: &Ear) {
        let Some((invites, link_port)) = &self.options.joins else { return };
        if !locked(&self.answers).take(from.ip(), Instant::now()) {
            return;
        }
        let Some(keys) = invites(invite).map(|key| Keys::new(&key)) else { return };
        let Ok(asked) = Datagram::decode(bytes, self.options.group, &keys, Way { from, to: mouth.own })
        else {
            return;
        };
        let Message::JoinQuery { nonce, .. } = asked.message else { return };
        let offer = Datagram {
            group: self.options.group,
            epoch: self.options.epoch,
            sender: self.options.id,
            message: Message::JoinOffer { nonce, link_port: *link_port },
        };
        if let Err(error) = mouth.tell(&offer.encode(&keys, Way { from: mouth.own, to: from }), from).await {
            tracing::debug!(to = %from, %error, "join offer not sent");
        }
    }
}

/// Asks the LAN who can admit the holder of an invite; gives the address where to enrol, or `None` when
/// nobody answers in time.
///
/// # Errors
/// When no LAN can be asked: no interface is up, or the port is taken (then try port 0).
pub async fn find_signer(
    group: GroupId,
    invite: [u8; 8],
    key: &[u8; 32],
    port: u16,
    own_port: u16,
    only: &[String],
) -> io::Result<Option<SocketAddr>> {
    let keys = Keys::new(key);
    let mut ears = Vec::new();
    for lan in net::lans(only)? {
        match Ear::unicast(&lan, own_port) {
            Ok(ear) => ears.push((ear, lan)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            // One that is still being checked for duplicates, as after a cable was plugged in, keeps no other from use.
            Err(error) => {
                tracing::debug!(interface = lan.interface, address = %lan.net.addr(), %error, "not used")
            }
        }
    }
    if ears.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NetworkUnreachable, "no network interface is up"));
    }
    let nonce = random();
    let query =
        Datagram { group, epoch: 0, sender: NodeId([0; 16]), message: Message::JoinQuery { nonce, invite } };
    for wait in RETRANSMIT_MILLIS.map(Duration::from_millis) {
        for (ear, lan) in &ears {
            let to = lan.everybody(port);
            if let Err(error) = ear.tell(&query.encode(&keys, Way { from: ear.own, to }), to).await {
                tracing::debug!(%to, %error, "join query not sent");
            }
        }
        let answers = ears.iter().map(|(ear, lan)| Box::pin(hear_signer(ear, lan, group, &keys, nonce)));
        if let Ok((signer, _, _)) =
            tokio::time::timeout(wait, futures_util::future::select_all(answers)).await
        {
            return Ok(Some(signer));
        }
    }
    Ok(None)
}

async fn hear_signer(ear: &Ear, lan: &Lan, group: GroupId, keys: &Keys, nonce: [u8; 16]) -> SocketAddr {
    let mut buffer = [0; SIZE + 1];
    loop {
        let Ok(heard) = ear.hear(&mut buffer).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Ok(datagram) =
            Datagram::decode(&buffer[..heard.size], group, keys, Way { from: heard.from, to: ear.own })
        else {
            continue;
        };
        match datagram.message {
            Message::JoinOffer { nonce: echoed, link_port }
                if echoed == nonce && lan.net.contains(&heard.from.ip()) && heard.neighbour =>
            {
                return link_address(heard.from, link_port);
            }
            _ => {}
        }
    }
}

/// The link of the gateway that sent a datagram; the scope of a link-local address is kept.
fn link_address(from: SocketAddr, port: u16) -> SocketAddr {
    let mut link = net::plain(from);
    link.set_port(port);
    link
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

/// A number of the query's own: each retransmission has a new nonce, so that others answer it.
fn lot(nonce: &[u8; 16]) -> u32 {
    u32::from_be_bytes([nonce[0], nonce[1], nonce[2], nonce[3]])
}

/// How long to wait after the query of this round.
fn pause(round: usize) -> Duration {
    RETRANSMIT_MILLIS.get(round).map_or(PATIENCE, |millis| Duration::from_millis(*millis))
}

/// A factor from 0.9 to 1.1: what is done again and again should not be done in step.
pub fn jitter() -> f64 {
    let [byte] = random::<1>();
    0.9 + f64::from(byte) / 255.0 * 0.2
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
