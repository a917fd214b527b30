//! Finding gateways on the LAN, with queries, offers and beacons over UDP.
//!
//! A host without a default route cannot send to 255.255.255.255, so each LAN's own broadcast address (and IPv6 link-local
//! multicast) is used. A stateful firewall drops a unicast answer to a broadcast that was sent from an ephemeral port, so
//! queries are sent from the discovery port itself.

mod answer_limits;
mod bounds;
mod queries;
mod receive;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::boot::Boot;
use super::candidate::Announcement;
use super::directory::{Directory, Source};
use super::keyring::Keyring;
use super::verifier::Verifier;
use answer_limits::AnswerLimits;
use bounds::Bounds;
use laneway_sys::lan::{self, Lan, LanSocket};
use laneway_sys::net;
use laneway_telemetry::journal::Happening;
use laneway_trust::authority::JoinResponder;
use laneway_trust::membership::Membership;
use laneway_trust::random::random;
use laneway_wire::datagram::{Datagram, Message, QUERY_MARK, SIZE, Sequence, Way};
use laneway_wire::id::NodeId;
use queries::PendingQueries;

/// Intervals between queries while no gateway is found, in milliseconds. A lost datagram costs 100 ms.
pub(super) const RETRANSMIT_MILLIS: [u64; 6] = [100, 200, 400, 800, 1600, 3000];
/// Interval between two queries after that.
const QUERY_INTERVAL: Duration = Duration::from_secs(5);
/// Interval between two scans of the interfaces.
const RESCAN_INTERVAL: Duration = Duration::from_secs(3);
/// Minimum time between two searches that are logged as news.
const SEARCH_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum known gateways that are also queried by unicast.
const MAX_UNICAST: usize = 16;
/// Failures in a row after which a socket is closed; its interface is probably gone.
const MAX_FAILURES: u32 = 10;

/// The settings of discovery.
pub struct Options {
    /// The group.
    pub membership: Arc<Membership>,
    /// This node.
    pub id: NodeId,
    /// The UDP port where nodes listen.
    pub port: u16,
    /// The UDP port to send queries from: the same, except beside a running node.
    pub own_port: u16,
    /// Interfaces or addresses to use; empty for all.
    pub lans: Vec<String>,
    /// Answers joiners, with the TCP port at which they enrol, on a node that holds the authority.
    pub joins: Option<(JoinResponder, u16)>,
    /// Receives the gateways that have missed a group update, and their addresses.
    pub behind: Option<mpsc::Sender<(NodeId, SocketAddr)>>,
    /// The number of this run.
    pub boot: Arc<Boot>,
}

/// Discovery on all LANs of this machine.
pub struct Discovery {
    options: Options,
    keyring: Mutex<Arc<Keyring>>,
    directory: Arc<Directory>,
    announcements: watch::Receiver<Option<Announcement>>,
    /// The socket of each LAN that sends, and receives unicast datagrams.
    senders: Mutex<HashMap<Lan, Arc<LanSocket>>>,
    queries: Mutex<PendingQueries>,
    verifier: Mutex<Verifier>,
    limits: Mutex<AnswerLimits>,
    bounds: Mutex<Bounds>,
    /// The number of beacons sent.
    beacons: AtomicU64,
    /// When the start of a search was last logged as news.
    search_logged: Mutex<Option<Instant>>,
}

impl Discovery {
    /// Discovery that fills `directory` and sends `announcements`.
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
            senders: Mutex::default(),
            queries: Mutex::default(),
            verifier: Mutex::default(),
            limits: Mutex::default(),
            bounds: Mutex::default(),
            beacons: AtomicU64::new(0),
            search_logged: Mutex::default(),
        })
    }

    /// Opens the sockets of all LANs that exist now and have none, and returns their addresses.
    ///
    /// # Errors
    /// When another node uses the discovery port on the same address.
    pub fn bind(self: &Arc<Self>, listeners: &mut JoinSet<Lan>) -> io::Result<Vec<SocketAddr>> {
        let mut bound = Vec::new();
        for lan in lan::lans(&self.options.lans)? {
            if locked(&self.senders).contains_key(&lan) {
                continue;
            }
            let unicast = match LanSocket::unicast(&lan, self.options.own_port) {
                Ok(socket) => Arc::new(socket),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    let own = lan.own(self.options.own_port);
                    return Err(io::Error::new(error.kind(), format!("UDP {own}: {error}")));
                }
                // Such as an IPv6 address still being checked for duplicates. The next scan tries it again.
                Err(error) => {
                    tracing::debug!(interface = lan.interface, address = %lan.net.addr(), %error, "not used yet");
                    continue;
                }
            };
            bound.push(unicast.own);
            locked(&self.senders).insert(lan.clone(), unicast.clone());
            let unicasts = self.clone().listen(lan.clone(), unicast.clone(), unicast.clone());
            match LanSocket::broadcast(&lan, self.options.port, &unicast) {
                Ok(None) => drop(listeners.spawn(unicasts)),
                Ok(Some(receiver)) => {
                    let broadcasts = self.clone().listen(lan, Arc::new(receiver), unicast);
                    // When one listener ends, both do: the other would still hold the port at the next scan.
                    listeners.spawn(async { tokio::select!(lan = unicasts => lan, lan = broadcasts => lan) });
                }
                Err(error) => {
                    tracing::warn!(interface = lan.interface, %error, "broadcasts cannot be received");
                    listeners.spawn(unicasts);
                }
            }
        }
        Ok(bound)
    }

    /// Sends queries, answers and beacons until it is dropped. `listeners` is the set that [`Discovery::bind`] filled.
    pub async fn run(self: Arc<Self>, mut listeners: JoinSet<Lan>) {
        let mut wanted = self.directory.wanted();
        let mut announcements = self.announcements.clone();
        // One query at the start in any case: a candidate should know the others before it announces itself.
        self.query(true).await;
        let mut scans = tokio::time::interval(RESCAN_INTERVAL);
        let (mut round, mut searching) = (1_usize, false);
        let mut queried_at = Instant::now();
        let mut query_at = queried_at + pause(0);
        let mut beacons_sent = 0;
        loop {
            let is_wanted = *wanted.borrow_and_update();
            if !is_wanted {
                // If a gateway is wanted again soon, the answers to the last query are awaited first.
                (round, query_at) = (1, queried_at + pause(0));
            } else if query_at <= Instant::now() {
                if !searching {
                    round = 0;
                }
                self.query(round == 0).await;
                queried_at = Instant::now();
                query_at = queried_at + pause(round).mul_f64(jitter());
                round += 1;
            }
            searching = is_wanted;
            let announcement = announcements.borrow_and_update().clone();
            if let Some(Announcement { advert, beacons, .. }) = announcement
                && beacons != beacons_sent
            {
                beacons_sent = beacons;
                self.beacons.fetch_add(1, Relaxed);
                self.broadcast(Message::Beacon { sequence: self.sequence(), advert }, |_| true).await;
            }
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                Ok(()) = announcements.changed() => {}
                () = tokio::time::sleep_until(query_at.into()), if is_wanted => {}
                _ = scans.tick() => {
                    if let Err(error) = self.bind(&mut listeners) {
                        tracing::debug!(%error, "an interface cannot be used");
                    }
                }
                Some(ended) = listeners.join_next() => {
                    if let Ok(lan) = ended {
                        tracing::info!(interface = lan.interface, address = %lan.net.addr(), "interface gone");
                        locked(&self.senders).remove(&lan);
                    }
                }
            }
        }
    }

    /// Queries every LAN, and the known gateways by unicast.
    async fn query(&self, first: bool) {
        let now = Instant::now();
        let Some(nonce) = locked(&self.queries).begin(now) else { return };
        let known = self.directory.ranked(now).into_iter();
        let known = known.filter(|gateway| gateway.source != Source::Static);
        let known: Vec<_> = known.take(MAX_UNICAST).collect();
        let message = Message::Query { nonce };
        for gateway in known {
            let to = SocketAddr::new(gateway.link.ip(), self.options.port);
            for (lan, sender) in self.senders() {
                if lan.net.contains(&to.ip()) {
                    self.send(&sender, message.clone(), to).await;
                }
            }
        }
        // All nodes receive a broadcast, so the first one is sent once, not by both IPv4 and IPv6.
        let on = |lan: &Lan| !first || lan.net.addr().is_ipv4() || !self.has_ipv4(lan);
        let lans = self.broadcast(message, on).await;
        // While no gateway has a way out, links come and go, and each time a search begins.
        let is_news = locked(&self.search_logged).is_none_or(|at| now >= at + SEARCH_LOG_INTERVAL);
        if first && !is_news {
            tracing::debug!(lans, port = self.options.port, "query sent again");
        } else if first {
            *locked(&self.search_logged) = Some(now);
            tracing::info!(lans, port = self.options.port, "query sent");
            let text = format!("discovery query sent from {lans} of this node's addresses");
            self.directory.telemetry().note(Happening::Query, "", text);
        }
    }

    /// Where the last beacon stands among all that this node has sent.
    fn sequence(&self) -> Sequence {
        Sequence { boot: self.options.boot.number(), counter: self.beacons.load(Relaxed) }
    }

    /// Broadcasts on the LANs that `on` selects. Returns their number.
    async fn broadcast(&self, message: Message, on: impl Fn(&Lan) -> bool) -> usize {
        let mut lans = 0;
        for (lan, sender) in self.senders().iter().filter(|(lan, _)| on(lan)) {
            self.send(sender, message.clone(), lan.everybody(self.options.port)).await;
            lans += 1;
        }
        lans
    }

    /// Whether the interface of `lan` also has an IPv4 address.
    fn has_ipv4(&self, lan: &Lan) -> bool {
        let others = locked(&self.senders);
        others.keys().any(|other| other.interface == lan.interface && other.net.addr().is_ipv4())
    }

    /// Sends a message in the current epoch.
    async fn send(&self, sender: &LanSocket, message: Message, to: SocketAddr) {
        let keyring = self.keyring();
        self.send_in(&keyring, keyring.group.update.epoch(), sender, message, to).await;
    }

    /// Sends a message in an epoch whose key the receiver has.
    async fn send_in(
        &self,
        keyring: &Keyring,
        epoch: u64,
        socket: &LanSocket,
        message: Message,
        to: SocketAddr,
    ) {
        let keys = keyring.keys(epoch);
        let (group, sender) = (keyring.group.id, self.options.id);
        let counts = &self.directory.telemetry().discovery;
        match &message {
            Message::Query { .. } => counts.queries.one(),
            Message::Beacon { .. } => counts.beacons.one(),
            Message::Offer { .. } => counts.offers.one(),
            Message::JoinQuery { .. } | Message::JoinOffer { .. } => {}
        }
        let bytes = Datagram { group, epoch, sender, message }.encode(
            keys,
            Way { from: socket.own, to },
            Some(&keyring.group.signer),
        );
        if let Err(error) = socket.send(&bytes, to).await {
            tracing::debug!(%to, %error, "datagram not sent");
        }
    }

    /// The keys of the current group.
    fn keyring(&self) -> Arc<Keyring> {
        let group = self.options.membership.group();
        let mut keyring = locked(&self.keyring);
        if !Arc::ptr_eq(&keyring.group, &group) {
            *keyring = Arc::new(Keyring::new(group));
        }
        keyring.clone()
    }

    fn senders(&self) -> Vec<(Lan, Arc<LanSocket>)> {
        locked(&self.senders).iter().map(|(lan, sender)| (lan.clone(), sender.clone())).collect()
    }

    /// Receives from one socket until its interface is gone. Answers are sent from `sender`.
    async fn listen(self: Arc<Self>, lan: Lan, receiver: Arc<LanSocket>, sender: Arc<LanSocket>) -> Lan {
        let mut buffer = [0; SIZE + 1];
        let mut failures = 0;
        let mut announcements = self.announcements.clone();
        let mut answers = true;
        while failures < MAX_FAILURES {
            // The kernel drops queries that this node does not answer: when hundreds of nodes start together, each would
            // be woken by the queries of all.
            let answers_now = announcements.borrow_and_update().is_some();
            if answers_now != std::mem::replace(&mut answers, answers_now) {
                receiver.ignore((!answers).then_some(QUERY_MARK));
            }
            let received = tokio::select! {
                received = receiver.receive(&mut buffer) => received,
                Ok(()) = announcements.changed() => continue,
            };
            match received {
                Ok(received) => {
                    failures = 0;
                    if received.neighbour && lan.net.contains(&net::plain(received.from).ip()) {
                        let unicast = Arc::ptr_eq(&receiver, &sender);
                        self.handle(&buffer[..received.size], received, unicast, &sender).await;
                    }
                }
                // A receive also reports the ICMP error of an earlier datagram.
                Err(error) => {
                    tracing::debug!(interface = lan.interface, %error, "discovery socket");
                    failures += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        lan
    }
}

/// The link of the gateway that sent a datagram; the scope of a link-local address is kept.
pub(super) fn link_address(from: SocketAddr, port: u16) -> SocketAddr {
    let mut link = net::plain(from);
    link.set_port(port);
    link
}

/// The interval after the query of this round.
fn pause(round: usize) -> Duration {
    RETRANSMIT_MILLIS.get(round).map_or(QUERY_INTERVAL, |millis| Duration::from_millis(*millis))
}

/// A random factor from 0.9 to 1.1, so that periodic actions of several nodes do not coincide.
pub fn jitter() -> f64 {
    let [byte] = random::<1>();
    0.9 + f64::from(byte) / 255.0 * 0.2
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
