//! A malicious member: it has a certificate and the group's discovery key, and makes false claims with them.

use super::Host;
use super::group::{START, state};
use laneway::link::tls;
use laneway::sys::state::StateDir;
use laneway::trust::group::Group;
use laneway::wire::datagram::{
    Advert, AnnouncedName, Datagram, DatagramSigner, Keys, Message, Reach, Received, SIZE, Sequence,
    Standing, State, Way,
};
use laneway::wire::id::NodeId;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// The UDP port of discovery.
pub(super) const PORT: u16 = 7420;
/// The LAN's broadcast address.
pub(crate) const BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 255);
/// Where the sender's statement is in a beacon.
const STATEMENT: std::ops::Range<usize> = 327..432;
/// Where the sender's state is in a beacon.
const STATE: usize = 56;

/// The keys of the group's datagrams, read from a member's state directory.
pub(crate) struct Forger {
    pub(crate) group: Group,
    keys: Keys,
}

/// A host that claims to be the only active gateway.
pub(crate) struct Rogue {
    connections: Arc<AtomicUsize>,
    heard: Arc<AtomicU64>,
}

impl Forger {
    /// The keys of this member.
    pub(crate) fn of(host: &Host) -> Forger {
        Self::load(state(host))
    }

    /// The keys of the member with this state directory.
    pub(super) fn load(directory: impl Into<PathBuf>) -> Forger {
        let state = StateDir::open(directory.into()).unwrap();
        let group = Group::load(&state).unwrap().expect("it has joined");
        Forger { keys: Keys::new(group.update.discovery_key()), group }
    }

    /// The beacon of an active gateway with more capacity than any.
    pub(crate) fn beacon(
        &self,
        from: SocketAddr,
        sender: NodeId,
        counter: u64,
        link_port: u16,
    ) -> [u8; SIZE] {
        let sequence = Sequence { boot: 7, counter };
        let message = Message::Beacon { sequence, advert: advert(link_port) };
        self.encode(sender, message, Way { from, to: from })
    }

    /// A beacon with everything of the attacker's choice.
    pub(crate) fn announce(
        &self,
        signer: &DatagramSigner,
        sender: NodeId,
        sequence: Sequence,
        advert: Advert,
        from: SocketAddr,
    ) -> [u8; SIZE] {
        let (group, epoch) = (self.group.id, self.group.update.epoch());
        let message = Message::Beacon { sequence, advert };
        Datagram { group, epoch, sender, message }.encode(&self.keys, Way { from, to: from }, Some(signer))
    }

    /// This member's key with the name and the statement of `victim`, taken from a beacon of that member.
    pub(crate) fn impostor(&self, victim: &Host, beacon: &[u8; SIZE]) -> DatagramSigner {
        let statement = beacon[STATEMENT].try_into().expect("105 bytes");
        let name = AnnouncedName::new(&victim.name);
        DatagramSigner::new(self.group.key.secret_pkcs8_der(), statement, name).unwrap()
    }

    fn encode(&self, sender: NodeId, message: Message, way: Way) -> [u8; SIZE] {
        let (group, epoch) = (self.group.id, self.group.update.epoch());
        Datagram { group, epoch, sender, message }.encode(&self.keys, way, Some(&self.group.signer))
    }
}

/// A UDP socket on a host of the lab, with this TTL.
pub(crate) fn socket(host: &Host, from: Ipv4Addr, ttl: u32) -> UdpSocket {
    let socket = host.inside(|| UdpSocket::bind((from, PORT))).unwrap();
    socket.set_broadcast(true).unwrap();
    socket.set_ttl(ttl).unwrap();
    socket
}

/// A socket that sends from another host's discovery port.
pub(crate) fn spoofing(host: &Host, from: Ipv4Addr) -> UdpSocket {
    let socket = host.inside(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.set_ip_transparent_v4(true).unwrap();
        socket.bind(&SocketAddr::from((from, PORT)).into()).unwrap();
        socket
    });
    socket.set_broadcast(true).unwrap();
    socket.set_ttl_v4(255).unwrap();
    socket.into()
}

/// Everything that this gateway says to everybody.
pub(crate) struct Recorder {
    receiver: UdpSocket,
    gateway: Ipv4Addr,
}

impl Recorder {
    /// Listens on `host`, which needs no key for it.
    pub(crate) fn start(host: &Host, gateway: &Host) -> Recorder {
        let receiver = host.inside(|| UdpSocket::bind((BROADCAST, PORT))).unwrap();
        receiver.set_read_timeout(Some(START)).unwrap();
        Recorder { receiver, gateway: gateway.address() }
    }

    /// The next beacon.
    pub(crate) fn next(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        loop {
            let (count, sender) = self.receiver.recv_from(&mut bytes).expect("the gateway beacons");
            if sender.ip() == self.gateway && count == SIZE && bytes[5] == 3 {
                return bytes;
            }
        }
    }

    /// All beacons up to the first in this state.
    pub(crate) fn until(&self, state: u8) -> Vec<[u8; SIZE]> {
        let mut all = vec![self.next()];
        while all.last().is_none_or(|beacon| beacon[STATE] != state) {
            all.push(self.next());
        }
        all
    }
}

impl Rogue {
    /// Answers every query that reaches `host`, sends beacons all the time, and accepts links with its certificate.
    pub(crate) fn start(host: &Host) -> Rogue {
        let forger = Forger::of(host);
        let own = SocketAddr::from((host.address(), PORT));
        let config = tls::link_server(&forger.group).unwrap();
        let broadcaster = socket(host, host.address(), 255);
        let receiver = host.inside(|| UdpSocket::bind((BROADCAST, PORT))).unwrap();
        let listener = host.inside(|| TcpListener::bind(own)).unwrap();
        let (connections, heard) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
        let rogue = Rogue { connections: connections.clone(), heard: heard.clone() };

        announce(forger, own, broadcaster, receiver);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                connections.fetch_add(1, Ordering::Relaxed);
                let (config, heard) = (config.clone(), heard.clone());
                thread::spawn(move || {
                    let mut connection = rustls::ServerConnection::new(config).unwrap();
                    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
                    let mut bytes = [0; 4096];
                    // Everything that a client sends to it after the handshake.
                    while let Ok(count @ 1..) = std::io::Read::read(&mut tls, &mut bytes) {
                        heard.fetch_add(count as u64, Ordering::Relaxed);
                    }
                });
            }
        });
        rogue
    }

    /// The number of times that it was dialled.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The number of bytes that clients sent to it after the handshake.
    pub(crate) fn received(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }
}

/// Sends beacons all the time, and answers every query that `receiver` hears, as the only active gateway.
pub(super) fn announce(forger: Forger, own: SocketAddr, broadcaster: UdpSocket, receiver: UdpSocket) {
    let sender = forger.group.node.id;
    let answering = broadcaster.try_clone().unwrap();
    let (forger, counter) = (Arc::new(forger), Arc::<AtomicU64>::default());
    let (beaconing, beacons) = (forger.clone(), counter.clone());
    thread::spawn(move || {
        loop {
            let number = beacons.fetch_add(1, Ordering::Relaxed) + 1;
            let beacon = beaconing.beacon(own, sender, number, PORT);
            if broadcaster.send_to(&beacon, (BROADCAST, PORT)).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    });
    let unicast = answering.try_clone().unwrap();
    for asked in [receiver, unicast] {
        let (forger, counter, answering) = (forger.clone(), counter.clone(), answering.try_clone().unwrap());
        thread::spawn(move || answer_queries(&forger, own, &counter, &asked, &answering));
    }
}

/// Answers the queries that `asked` hears.
fn answer_queries(
    forger: &Forger,
    own: SocketAddr,
    beacons: &AtomicU64,
    asked: &UdpSocket,
    answering: &UdpSocket,
) {
    let mut bytes = [0; SIZE];
    while let Ok((count, from)) = asked.recv_from(&mut bytes) {
        let way = Way { from, to: own };
        let query = Datagram::decode(&bytes[..count], forger.group.id, &forger.keys, way);
        if let Ok(Received::Unsigned(Datagram { message: Message::Query { nonce }, .. })) = query {
            let sequence = Sequence { boot: 7, counter: beacons.load(Ordering::Relaxed) };
            let offer = Message::Offer { nonce, sequence, advert: advert(PORT) };
            let offer = forger.encode(forger.group.node.id, offer, Way { from: own, to: from });
            let _ = answering.send_to(&offer, from);
        }
    }
}

/// What an active gateway with more capacity than any announces.
pub(crate) fn advert(link_port: u16) -> Advert {
    Advert {
        state: State::Active,
        reach: Reach::Reachable,
        link_port,
        weight: 1000,
        load: 0,
        capacity: 1_000_000,
        tunnels: 0,
        standing: Standing { active: 1, interval: 1000, claim: 1000, ..Standing::default() },
        peers: vec![],
    }
}
