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
use super::rate::{Bucket, PerSource, Rate};
use crate::net::{self, Ear, Heard, Lan};
use crate::telemetry::journal::Happening;
use crate::trust::authority::Doorbell;
use crate::trust::board::Board;
use crate::wire::datagram::{Datagram, Keys, Message, QUERY_MARK, SIZE, Way, invite_asked_for};
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
/// How many answers one source gets; joiners are counted apart from members.
const ANSWERS: Rate = Rate(20, Duration::from_millis(100));
/// How many all sources together get: 16 Mbit/s.
const ANSWERS_IN_ALL: Rate = Rate(4000, Duration::from_micros(250));
/// How many gateways may answer one query.
const MOST_ANSWERS: usize = 4096;

/// What discovery needs to know.
pub struct Options {
    /// What is known of the group.
    pub board: Arc<Board>,
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
    pub joins: Option<(Doorbell, u16)>,
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
            keyring: Mutex::new(Arc::new(Keyring::new(options.board.group()))),
            options,
            directory,
            announcements,
            ears: Mutex::default(),
            asked: Mutex::default(),
            epochs: Mutex::default(),
            limits: Mutex::new(Limits {
                members: PerSource::new(ANSWERS),
                joiners: PerSource::new(ANSWERS),
                all: Bucket::new(ANSWERS_IN_ALL, Instant::now()),
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
            let text = format!("who is connected to the server? asked by {lans} addresses of this node");
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
        self.tell_in(&keyring, keyring.group.news.epoch(), ear, message, to).await;
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
        let group = self.options.board.group();
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
        if datagram.sender == self.options.id || keyring.group.news.revokes(datagram.sender) {
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
            && epoch < keyring.group.news.epoch()
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
        kind(&mut limits).take(source.ip(), now) && limits.all.take(ANSWERS_IN_ALL, now)
    }

    async fn answer_join(&self, bytes: &[u8], invite: [u8; 8], from: SocketAddr, mouth: &Ear) {
        let Some((doorbell, link_port)) = &self.options.joins else { return };
        let (group, now) = (self.options.board.group(), Instant::now());
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
            epoch: group.news.epoch(),
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
mod tests {
    use super::*;
    use crate::trust::authority::{Authority, Uses};
    use crate::trust::certificate::Role;
    use crate::trust::group::Group;
    use crate::trust::state::StateDir;
    use crate::wire::datagram::{Advert, Reach, Standing, State};

    const ONE: NodeId = NodeId([1; 16]);
    const TWO: NodeId = NodeId([2; 16]);

    /// Discovery of one member, with the ear of loopback, and what somebody else says to it.
    struct Lab {
        _directory: tempfile::TempDir,
        state: StateDir,
        authority: Authority,
        board: Arc<Board>,
        discovery: Arc<Discovery>,
        mouth: Ear,
        missed: mpsc::Receiver<(NodeId, SocketAddr)>,
        announce: watch::Sender<Option<Announcement>>,
    }

    fn lab() -> Lab {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        let board = Board::new(Authority::create(&state, "office", "first").unwrap());
        let authority = Authority::load(&state).unwrap().unwrap();
        let (behind, missed) = mpsc::channel(8);
        let options = Options {
            board: board.clone(),
            id: board.group().node.id,
            port: 7420,
            own_port: 7420,
            lans: vec![],
            joins: Some((Doorbell::new(authority.clone()), 7421)),
            behind: Some(behind),
        };
        let (announce, announced) = watch::channel(None);
        let discovery = Discovery::new(options, Arc::default(), announced);
        let lan = net::lans(&["127.0.0.1".into()]).unwrap().pop().unwrap();
        let mouth = Ear::unicast(&lan, 0).unwrap();
        Lab { _directory: directory, state, authority, board, discovery, mouth, missed, announce }
    }

    impl Lab {
        /// The group as somebody knows it who has missed what follows.
        fn group(&self) -> Arc<Group> {
            self.board.group()
        }

        async fn hear_as(&self, group: &Group, from: SocketAddr, sender: NodeId, message: Message) {
            let keys = Keys::new(group.news.discovery_key());
            let datagram = Datagram { group: group.id, epoch: group.news.epoch(), sender, message };
            self.hear(&datagram.encode(&keys, Way { from, to: self.mouth.own }), from).await;
        }

        async fn hear(&self, bytes: &[u8], from: SocketAddr) {
            let heard = Heard { size: bytes.len(), from, neighbour: true };
            self.discovery.react(bytes, heard, true, &self.mouth).await;
        }

        fn ask(&self, nonce: [u8; 16]) {
            let asked = Asked { sent: Instant::now(), answered: HashSet::new() };
            locked(&self.discovery.asked).insert(nonce, asked);
        }

        fn state_of(&self, link: SocketAddr) -> Option<State> {
            self.discovery.directory.at(link)?.state(Instant::now())
        }

        fn revoke(&self, id: NodeId) {
            self.authority.revoke(&id.to_string()).unwrap();
            let news = Group::load(&self.state).unwrap().unwrap().news;
            self.board.hear(news.sealed()).unwrap();
        }
    }

    fn at(n: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, n], 7420))
    }

    fn advert(state: State) -> Advert {
        Advert {
            state,
            reach: Reach::Reachable,
            link_port: 7420,
            weight: 100,
            load: 0,
            capacity: 1,
            tunnels: 0,
            standing: Standing { interval: 60_000, ..Standing::default() },
            peers: vec![],
        }
    }

    fn offer(nonce: [u8; 16], state: State) -> Message {
        Message::Offer { nonce, advert: advert(state) }
    }

    fn beacon(counter: u64, state: State) -> Message {
        Message::Beacon { boot: 1, counter, advert: advert(state) }
    }

    #[tokio::test]
    async fn an_offer_counts_once_and_only_when_it_was_asked_for() {
        let lab = lab();
        let group = lab.group();
        lab.hear_as(&group, at(2), ONE, offer([5; 16], State::Active)).await;
        assert_eq!(lab.state_of(at(2)), None, "nobody asked");
        lab.ask([5; 16]);
        lab.hear_as(&group, at(2), ONE, offer([5; 16], State::Active)).await;
        assert_eq!(lab.state_of(at(2)), Some(State::Active));
        lab.hear_as(&group, at(2), ONE, beacon(1, State::Draining)).await;
        lab.hear_as(&group, at(2), ONE, offer([5; 16], State::Active)).await;
        assert_eq!(lab.state_of(at(2)), Some(State::Draining), "a repeated offer was believed");
        // Another gateway, and another address of the same one, answer the same query.
        for (address, id) in [(at(3), TWO), (at(4), ONE)] {
            lab.hear_as(&group, address, id, offer([5; 16], State::Active)).await;
            assert_eq!(lab.state_of(address), Some(State::Active));
        }
    }

    #[tokio::test]
    async fn who_was_put_out_is_not_heard_and_cannot_speak_for_others() {
        let mut lab = lab();
        let before = lab.group();
        lab.revoke(TWO);
        let after = lab.group();
        lab.hear_as(&before, at(2), TWO, beacon(1, State::Active)).await;
        assert_eq!(lab.state_of(at(2)), None, "it was heard by its own name");
        // One that has missed the news is heard, and somebody is told that it did.
        lab.hear_as(&before, at(3), ONE, beacon(1, State::Active)).await;
        assert_eq!(lab.state_of(at(3)), Some(State::Active));
        assert_eq!(lab.missed.try_recv(), Ok((ONE, at(3))));
        // Once it has them, the old key does not speak for it any more.
        lab.hear_as(&after, at(3), ONE, beacon(2, State::Active)).await;
        lab.hear_as(&before, at(3), ONE, beacon(3, State::Withdrawn)).await;
        assert_eq!(lab.state_of(at(3)), Some(State::Active));
        assert!(lab.missed.try_recv().is_err());
    }

    async fn hear_back(ear: &Ear) -> Vec<u8> {
        let mut bytes = [0; SIZE + 1];
        let heard = tokio::time::timeout(Duration::from_secs(30), ear.hear(&mut bytes)).await;
        bytes[..heard.expect("an answer").unwrap().size].to_vec()
    }

    #[tokio::test]
    async fn a_query_in_an_old_epoch_is_answered_in_that_epoch_and_one_of_a_revoked_node_never() {
        let lab = lab();
        let before = lab.group();
        let announcement = Announcement { advert: advert(State::Active), beacons: 0, answers_one_in: 1 };
        lab.announce.send_replace(Some(announcement));
        lab.revoke(TWO);
        let lan = net::lans(&["127.0.0.1".into()]).unwrap().pop().unwrap();
        let asker = Ear::unicast(&lan, 0).unwrap();
        lab.hear_as(&before, asker.own, TWO, Message::Query { nonce: [1; 16] }).await;
        for (group, nonce) in [(&before, [2; 16]), (&lab.group(), [3; 16])] {
            lab.hear_as(group, asker.own, ONE, Message::Query { nonce }).await;
            let keys = Keys::new(group.news.discovery_key());
            let way = Way { from: lab.mouth.own, to: asker.own };
            let answer = Datagram::decode(&hear_back(&asker).await, group.id, &keys, way).unwrap();
            // The first that comes is the answer to the second query: the first got none.
            assert_eq!(answer.message, offer(nonce, State::Active));
        }
    }

    #[tokio::test]
    async fn forged_join_queries_use_up_nothing_and_joiners_have_answers_of_their_own() {
        let lab = lab();
        let group = lab.group();
        let code = lab.authority.invite(Role::Client, Uses::Times(1), None, None).unwrap();
        let lan = net::lans(&["127.0.0.1".into()]).unwrap().pop().unwrap();
        let joiner = Ear::unicast(&lan, 0).unwrap();
        let way = Way { from: joiner.own, to: lab.mouth.own };
        let query = |nonce, key: &[u8; 32]| {
            let message = Message::JoinQuery { nonce, invite: code.invite };
            let datagram = Datagram { group: group.id, epoch: 0, sender: NodeId([0; 16]), message };
            datagram.encode(&Keys::new(key), way)
        };
        // Far more than one source gets, of somebody who does not know the secret, and of members.
        for _ in 0..100 {
            lab.hear(&query([1; 16], &[0; 32]), joiner.own).await;
            lab.hear_as(&group, joiner.own, ONE, Message::Query { nonce: [1; 16] }).await;
        }
        lab.hear(&query([2; 16], &code.discovery_key()), joiner.own).await;
        let keys = Keys::new(&code.discovery_key());
        let back = Way { from: lab.mouth.own, to: joiner.own };
        let answer = Datagram::decode(&hear_back(&joiner).await, group.id, &keys, back).unwrap();
        assert_eq!(answer.message, Message::JoinOffer { nonce: [2; 16], link_port: 7421 });
    }

    #[tokio::test]
    async fn one_source_gets_a_bounded_number_of_answers() {
        let lab = lab();
        let start = Instant::now();
        let granted =
            (0..1000).filter(|_| lab.discovery.may_answer(|limits| &mut limits.members, at(2), start));
        assert_eq!(granted.count(), 20);
        let mut sources = (0..200_u8).flat_map(|host| [host; 25]);
        let in_all = sources.by_ref().filter(|host| {
            let source = SocketAddr::from(([10, 0, 0, *host], 1));
            lab.discovery.may_answer(|limits| &mut limits.joiners, source, start)
        });
        assert_eq!(in_all.count(), 4000 - 20);
    }

    #[tokio::test]
    async fn the_sockets_of_a_lan_go_together_and_it_can_be_heard_again() {
        let free = std::net::UdpSocket::bind("127.0.0.46:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let lab = lab();
        let options = Options {
            board: lab.board.clone(),
            id: ONE,
            port,
            own_port: port,
            lans: vec!["127.0.0.46".into()],
            joins: None,
            behind: None,
        };
        let discovery = Discovery::new(options, Arc::default(), watch::channel(None).1);
        let mut listeners = JoinSet::new();
        assert_eq!(discovery.bind(&mut listeners).unwrap().len(), 1);
        assert_eq!(listeners.len(), 1, "what ends is the LAN, and not one socket of it");
        listeners.shutdown().await;
        locked(&discovery.ears).clear();
        assert_eq!(discovery.bind(&mut listeners).unwrap().len(), 1);
    }
}
