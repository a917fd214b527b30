//! Finding gateways on the LAN: query, offer, beacon, over UDP.
//!
//! A host without a default route cannot send to 255.255.255.255, so each LAN's own broadcast address (and
//! IPv6 link-local multicast) is used. A stateful firewall drops a unicast answer to a broadcast that left
//! from an ephemeral port, so queries leave from the discovery port itself.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::candidate::Announcement;
use super::directory::{Directory, Source};
use super::keyring::{Epochs, Keyring};
use laneway_limits::Bucket;
use laneway_limits::rate::{PerSource, Rate};
use laneway_sys::lan::{self, Ear, Heard, Lan};
use laneway_sys::net;
use laneway_telemetry::journal::Happening;
use laneway_trust::authority::JoinResponder;
use laneway_trust::membership::Membership;
use laneway_wire::datagram::{Datagram, Message, QUERY_MARK, SIZE, Way, invite_asked_for};
use laneway_wire::id::NodeId;

/// When queries leave after the first one, as long as no gateway is found: one lost datagram costs 100 ms.
pub(super) const RETRANSMIT_MILLIS: [u64; 6] = [100, 200, 400, 800, 1600, 3000];
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
/// How many answers one source gets; joiners are counted apart from members.
const ANSWERS: Rate = Rate::new(20, Duration::from_millis(100));
/// How many all sources together get: 16 Mbit/s.
const ANSWERS_IN_ALL: Rate = Rate::new(4000, Duration::from_micros(250));
/// How many gateways may answer one query.
const MOST_ANSWERS: usize = 4096;

/// What discovery needs to know.
pub struct Options {
    /// What is known of the group.
    pub membership: Arc<Membership>,
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
    pub joins: Option<(JoinResponder, u16)>,
    /// Is told which gateways have missed the group's news, and where they are.
    pub behind: Option<mpsc::Sender<(NodeId, SocketAddr)>>,
}

/// Discovery on all LANs of this machine.
pub struct Discovery {
    options: Options,
    keyring: Mutex<Arc<Keyring>>,
    directory: Arc<Directory>,
    announcements: watch::Receiver<Option<Announcement>>,
    ears: Mutex<HashMap<Lan, Arc<Ear>>>,
    asked: Mutex<HashMap<[u8; 16], Asked>>,
    epochs: Mutex<Epochs>,
    limits: Mutex<Limits>,
    boot: u64,
}

/// A query that waits for answers.
struct Asked {
    sent: Instant,
    /// A nonce is good once for each address of a gateway: an offer that somebody repeats is none.
    answered: HashSet<(NodeId, SocketAddr)>,
}

struct Limits {
    members: PerSource,
    joiners: PerSource,
    all: Bucket,
}

impl Discovery {
    /// Discovery that fills `directory` and tells what `announcements` holds.
    pub fn new(
        options: Options,
        directory: Arc<Directory>,
        announcements: watch::Receiver<Option<Announcement>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            keyring: Mutex::new(Arc::new(Keyring::new(options.membership.group()))),
            options,
            directory,
            announcements,
            ears: Mutex::default(),
            asked: Mutex::default(),
            epochs: Mutex::default(),
            limits: Mutex::new(Limits {
                members: PerSource::new(ANSWERS),
                joiners: PerSource::new(ANSWERS),
                all: Bucket::default(),
            }),
            boot: u64::from_be_bytes(random()),
        })
    }

    /// Binds the sockets of all LANs that exist now and gives their addresses.
    ///
    /// # Errors
    /// When a discovery port is taken by another node on the same address.
    pub fn bind(self: &Arc<Self>, listeners: &mut JoinSet<Lan>) -> io::Result<Vec<SocketAddr>> {
        let mut bound = Vec::new();
        for lan in lan::lans(&self.options.lans)? {
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
            let alone = self.clone().listen(lan.clone(), unicast.clone(), unicast.clone());
            match Ear::everybody(&lan, self.options.port) {
                Ok(ear) => {
                    let everybody = self.clone().listen(lan, Arc::new(ear), unicast);
                    // When one ends both do: the other one would keep the port from the next look.
                    listeners.spawn(async { tokio::select!(lan = alone => lan, lan = everybody => lan) });
                }
                Err(error) => {
                    tracing::warn!(interface = lan.interface, %error, "cannot hear broadcasts");
                    listeners.spawn(alone);
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
        let (mut round, mut searching) = (1_usize, false);
        let mut asked_at = Instant::now();
        let mut ask_at = asked_at + pause(0);
        let mut said = 0;
        loop {
            let asking = *wanted.borrow_and_update();
            if !asking {
                // Asked for again at once, it waits for the answers to what it has just asked.
                (round, ask_at) = (1, asked_at + pause(0));
            } else if ask_at <= Instant::now() {
                if !searching {
                    round = 0;
                }
                self.ask(round == 0).await;
                asked_at = Instant::now();
                ask_at = asked_at + pause(round).mul_f64(jitter());
                round += 1;
            }
            searching = asking;
            let announcement = announcements.borrow_and_update().clone();
            if let Some(Announcement { advert, beacons, .. }) = announcement
                && beacons != said
            {
                said = beacons;
                counter += 1;
                self.tell_everybody(Message::Beacon { boot: self.boot, counter, advert }, |_| true).await;
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
            asked.retain(|_, asked| now.duration_since(asked.sent) < NONCE_LIFE);
            if asked.len() >= MOST_NONCES {
                return;
            }
            asked.insert(nonce, Asked { sent: now, answered: HashSet::new() });
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
        // Everybody on the LAN hears it: at first it is said once, not once by each protocol.
        let by = |lan: &Lan| !first || lan.net.addr().is_ipv4() || !self.has_ipv4(lan);
        let lans = self.tell_everybody(message, by).await;
        if first {
            tracing::info!(lans, port = self.options.port, "query sent");
            let text = format!("who is connected to the server? asked on {lans} of this node's addresses");
            self.directory.telemetry().note(Happening::Query, "", text);
        }
    }

    async fn tell_everybody(&self, message: Message, by: impl Fn(&Lan) -> bool) -> usize {
        let mut told = 0;
        for (lan, ear) in self.ears().iter().filter(|(lan, _)| by(lan)) {
            self.tell(ear, message.clone(), lan.everybody(self.options.port)).await;
            told += 1;
        }
        told
    }

    /// Whether the interface of `lan` has an IPv4 address too.
    fn has_ipv4(&self, lan: &Lan) -> bool {
        let others = locked(&self.ears);
        others.keys().any(|other| other.interface == lan.interface && other.net.addr().is_ipv4())
    }

    async fn tell(&self, ear: &Ear, message: Message, to: SocketAddr) {
        let keyring = self.keyring();
        self.tell_in(&keyring, keyring.group.update.epoch(), ear, message, to).await;
    }

    /// In an epoch that the receiver knows.
    async fn tell_in(&self, keyring: &Keyring, epoch: u64, ear: &Ear, message: Message, to: SocketAddr) {
        let Some(keys) = keyring.keys(epoch) else { return };
        let (group, sender) = (keyring.group.id, self.options.id);
        let said = &self.directory.telemetry().discovery;
        match &message {
            Message::Query { .. } => said.queries.one(),
            Message::Beacon { .. } => said.beacons.one(),
            Message::Offer { .. } => said.offers.one(),
            Message::JoinQuery { .. } | Message::JoinOffer { .. } => {}
        }
        let bytes = Datagram { group, epoch, sender, message }.encode(keys, Way { from: ear.own, to });
        if let Err(error) = ear.tell(&bytes, to).await {
            tracing::debug!(%to, %error, "datagram not sent");
        }
    }

    /// The keys of the group as it is now.
    fn keyring(&self) -> Arc<Keyring> {
        let group = self.options.membership.group();
        let mut keyring = locked(&self.keyring);
        if !Arc::ptr_eq(&keyring.group, &group) {
            *keyring = Arc::new(Keyring::new(group));
        }
        keyring.clone()
    }

    fn ears(&self) -> Vec<(Lan, Arc<Ear>)> {
        locked(&self.ears).iter().map(|(lan, ear)| (lan.clone(), ear.clone())).collect()
    }

    /// Hears one socket until its interface goes away.
    async fn listen(self: Arc<Self>, lan: Lan, ear: Arc<Ear>, mouth: Arc<Ear>) -> Lan {
        let mut buffer = [0; SIZE + 1];
        let mut failures = 0;
        let mut announcements = self.announcements.clone();
        let mut answers = true;
        while failures < 10 {
            // Where hundreds start at once each would be woken by the queries of all.
            let answered = announcements.borrow_and_update().is_some();
            if answered != std::mem::replace(&mut answers, answered) {
                ear.ignore((!answers).then_some(QUERY_MARK));
            }
            let heard = tokio::select! {
                heard = ear.hear(&mut buffer) => heard,
                Ok(()) = announcements.changed() => continue,
            };
            match heard {
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
        // Where the system does not drop it already.
        let is_query = bytes.get(QUERY_MARK.0) == Some(&QUERY_MARK.1);
        if is_query && self.announcements.borrow().is_none() {
            return;
        }
        let keyring = self.keyring();
        let way = Way { from: heard.from, to: mouth.own };
        let said = &self.directory.telemetry().discovery;
        let Some(datagram) = keyring.decode(bytes, way) else { return said.dropped.one() };
        if datagram.sender == self.options.id || keyring.group.update.revokes(datagram.sender) {
            return;
        }
        let (now, sender, epoch) = (Instant::now(), datagram.sender, datagram.epoch);
        match datagram.message {
            Message::Query { nonce } => {
                said.queries_heard.one();
                let announcement = self.announcements.borrow().clone();
                if let Some(Announcement { advert, answers_one_in, .. }) = announcement
                    && (alone || lot(&nonce).is_multiple_of(answers_one_in))
                    && self.may_answer(|limits| &mut limits.members, heard.from, now)
                {
                    tracing::debug!(client = %heard.from, epoch, "query answered");
                    let offer = Message::Offer { nonce, advert };
                    // Who has missed the news understands no other key.
                    self.tell_in(&keyring, epoch, mouth, offer, heard.from).await;
                }
            }
            Message::Offer { nonce, advert } => {
                said.offers_heard.one();
                let link = link_address(heard.from, advert.link_port);
                let asked = self.answered(&nonce, sender, heard.from);
                if let Some(sent) = asked.filter(|_| self.is_believed(&keyring, sender, epoch, link)) {
                    let round_trip = now.saturating_duration_since(sent);
                    tracing::debug!(gateway = %sender.short(), address = %link, "offer heard");
                    self.directory.offered(sender, link, advert, round_trip, now);
                }
            }
            Message::Beacon { boot, counter, advert } => {
                said.beacons_heard.one();
                let link = link_address(heard.from, advert.link_port);
                if self.is_believed(&keyring, sender, epoch, link) {
                    self.directory.beaconed(sender, link, advert, (boot, counter), now);
                }
            }
            Message::JoinQuery { .. } | Message::JoinOffer { .. } => {}
        }
    }

    /// When the query with this nonce was sent, if this gateway has not answered it yet from there.
    fn answered(&self, nonce: &[u8; 16], gateway: NodeId, from: SocketAddr) -> Option<Instant> {
        let mut queries = locked(&self.asked);
        let query = queries.get_mut(nonce)?;
        (query.answered.len() < MOST_ANSWERS && query.answered.insert((gateway, from))).then_some(query.sent)
    }

    /// Whether this may be the sender's word. One that is behind is reported to whoever brings it the news.
    fn is_believed(&self, keyring: &Keyring, sender: NodeId, epoch: u64, link: SocketAddr) -> bool {
        let believed = locked(&self.epochs).goes_on(sender, epoch);
        if believed
            && epoch < keyring.group.update.epoch()
            && let Some(behind) = &self.options.behind
        {
            // It will speak again when there is room.
            let _ = behind.try_send((sender, link));
        }
        believed
    }

    fn may_answer(
        &self,
        kind: impl FnOnce(&mut Limits) -> &mut PerSource,
        source: SocketAddr,
        now: Instant,
    ) -> bool {
        let mut limits = locked(&self.limits);
        kind(&mut limits).take(source.ip(), now) && ANSWERS_IN_ALL.take(&mut limits.all, now)
    }

    async fn answer_join(&self, bytes: &[u8], invite: [u8; 8], from: SocketAddr, mouth: &Ear) {
        let Some((doorbell, link_port)) = &self.options.joins else { return };
        let (group, now) = (self.options.membership.group(), Instant::now());
        let Some(keys) = doorbell.keys(&invite, now) else { return };
        let Ok(asked) = Datagram::decode(bytes, group.id, &keys, Way { from, to: mouth.own }) else {
            return;
        };
        let Message::JoinQuery { nonce, .. } = asked.message else { return };
        // Only now: who cannot prove anything must not use up what those get who can.
        if !self.may_answer(|limits| &mut limits.joiners, from, now) {
            return;
        }
        let offer = Datagram {
            group: group.id,
            epoch: group.update.epoch(),
            sender: self.options.id,
            message: Message::JoinOffer { nonce, link_port: *link_port },
        };
        if let Err(error) = mouth.tell(&offer.encode(&keys, Way { from: mouth.own, to: from }), from).await {
            tracing::debug!(to = %from, %error, "join offer not sent");
        }
    }
}

/// The link of the gateway that sent a datagram; the scope of a link-local address is kept.
pub(super) fn link_address(from: SocketAddr, port: u16) -> SocketAddr {
    let mut link = net::plain(from);
    link.set_port(port);
    link
}

pub(super) fn random<const N: usize>() -> [u8; N] {
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

#[cfg(test)]
mod tests;
