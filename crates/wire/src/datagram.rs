//! Discovery datagrams: one fixed size, one fixed layout, authenticated.
//!
//! ```text
//!   0  4  magic "LANE"            40 16  sender's node id
//!   4  1  version (1)             56     body, by type
//!   5  1  type                    ..     zeros
//!   6  2  zero                   496 16  HMAC-SHA256 of bytes 0..496, cut to 128 bits
//!   8  8  group
//!  16  8  epoch
//!  24 16  nonce (query, offer: the query's; beacon: boot id and counter)
//! ```
//! The body of an offer and of a beacon (offsets from byte 56):
//!
//! ```text
//!   0  1  state                   18  2  maximum milliseconds until the next beacon
//!   1  1  reach                   20  4  claim
//!   2  2  link port               24  4  round
//!   4  2  weight                  28  1  number of active candidates
//!   6  2  load                    29  1  bit 0: preparing
//!   8  4  capacity                30  2  zero
//!  12  4  tunnels                 32 16  yields to (zero: none)
//!  16  1  number of peers         48 16  replaces (zero: none)
//!  17  1  policy                  64     peers: id 16, IP 16, port 2, state 1, zero 1
//! ```
//! Numbers are big-endian. A query and an offer have the same size, so that a gateway cannot be used to amplify
//! traffic. The HMAC of beacons and offers also covers the address that they are sent from. That of offers also covers
//! the address that they are sent to. A beacon or offer repeated from another address, or an offer sent to another
//! address, is therefore rejected. A datagram that deviates from this format is dropped without an answer.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use aws_lc_rs::{hkdf, hmac};

use super::id::{GroupId, NodeId};

/// Size of every datagram, in bytes. It is below the MTU of every network, so that no datagram is fragmented.
pub const SIZE: usize = 512;
/// Maximum number of other candidates in one offer or beacon.
pub const MOST_PEERS: usize = 10;

const MAGIC: [u8; 4] = *b"LANE";
const VERSION: u8 = 1;
const BODY: usize = 56;
const TAG: usize = SIZE - 16;
const PEER_SIZE: usize = 36;
const PEERS: usize = BODY + 64;

/// The state that a candidate announces for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Ready to become active.
    Standby,
    /// Selected: clients should use this candidate.
    Active,
    /// About to stop: it finishes its tunnels and should get no new ones.
    Draining,
    /// Currently unable to reach the server.
    Withdrawn,
}

/// How the active candidates are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The candidates with the highest product of measured capacity and declared weight.
    #[default]
    Strongest,
    /// The candidates with the least load.
    LeastBusy,
    /// A random choice in each round, the same on all nodes.
    Random,
    /// The candidates in turn, in the order of their ids.
    RoundRobin,
}

impl Policy {
    /// Every policy with its name and its description.
    pub const ALL: [(Self, &str, &str); 4] = [
        (
            Self::Strongest,
            "strongest",
            "The candidate with the most capacity, measured, times its declared weight",
        ),
        (Self::LeastBusy, "least-busy", "The candidate with the least load"),
        (Self::Random, "random", "One draw for each round, the same on all nodes"),
        (Self::RoundRobin, "round-robin", "One candidate after the other, in the order of their ids"),
    ];
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::ALL.iter().find(|(policy, ..)| policy == self).map_or("", |(_, word, _)| word);
        f.write_str(word)
    }
}

/// A text that is not the name of a [`Policy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a policy: strongest, least-busy, random or round-robin")]
pub struct UnknownPolicy;

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().find(|(_, word, _)| *word == text).map(|(policy, ..)| *policy).ok_or(UnknownPolicy)
    }
}

/// The part of an advert from which all nodes make the same selection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How the candidate selects the active ones.
    pub policy: Policy,
    /// How many candidates are active at a time, as configured on this candidate.
    pub active: u8,
    /// The candidate has been selected and is bringing its uplink up; it is not active yet.
    pub preparing: bool,
    /// Maximum time until its next beacon, in milliseconds.
    pub interval: u16,
    /// Of two active candidates, the one with the larger claim stays active: it became active knowing of the other.
    pub claim: u32,
    /// The number of the selection round; the largest number that any candidate announces is valid.
    pub round: u32,
    /// The candidate that is to become active in its place.
    pub yields_to: Option<NodeId>,
    /// The candidate in whose place it became active.
    pub replaces: Option<NodeId>,
}

/// Whether a gateway reaches the configured servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// No server is configured, so there is nothing to probe.
    Unknown,
    /// At least one server answered the last probe.
    Reachable,
    /// No server answered the most recent probes.
    Unreachable,
}

/// Another candidate, as named in an offer or a beacon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub id: NodeId,
    /// The address on which it accepts links.
    pub link: SocketAddr,
    /// The state that it announced last.
    pub state: State,
}

/// What a candidate announces about itself in offers and beacons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    /// Its state.
    pub state: State,
    /// Whether it reaches the servers.
    pub reach: Reach,
    /// The TCP port on which it accepts links, at the address that the datagram came from.
    pub link_port: u16,
    /// Declared weight in percent; 100 is neutral.
    pub weight: u16,
    /// Load in permille of its capacity.
    pub load: u16,
    /// Measured capacity in Mbit/s.
    pub capacity: u32,
    /// Number of open tunnels.
    pub tunnels: u32,
    /// The values that the selection depends on.
    pub standing: Standing,
    /// Other candidates in rank order, at most [`MOST_PEERS`].
    pub peers: Vec<Peer>,
}

/// The content of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Asks which candidates are connected to the server.
    Query {
        /// Fresh random bytes that the offer repeats.
        nonce: [u8; 16],
    },
    /// A candidate's answer to a query, sent only to the node that asked.
    Offer {
        /// The nonce of the query.
        nonce: [u8; 16],
        /// What the candidate announces.
        advert: Advert,
    },
    /// A candidate's unsolicited announcement, sent to all nodes.
    Beacon {
        /// A random number, chosen anew each time the sender starts.
        boot: u64,
        /// Increases with each beacon of the same boot.
        counter: u64,
        /// What the candidate announces.
        advert: Advert,
    },
    /// Asks which node can admit the sender, a machine that has only an invite.
    JoinQuery {
        /// Fresh random bytes that the offer repeats.
        nonce: [u8; 16],
        /// The id of the invite.
        invite: [u8; 8],
    },
    /// The answer to a join query, from the authority's node.
    JoinOffer {
        /// The nonce of the query.
        nonce: [u8; 16],
        /// The TCP port for enrolment.
        link_port: u16,
    },
}

/// One datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The group that it belongs to.
    pub group: GroupId,
    /// The epoch of the discovery key that authenticates it.
    pub epoch: u64,
    /// The sender; all zeros from a machine that has not joined.
    pub sender: NodeId,
    /// Its content.
    pub message: Message,
}

/// The source and destination addresses of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The sender's address.
    pub from: SocketAddr,
    /// The receiver's own address, not a broadcast address, for every type whose tag covers it.
    pub to: SocketAddr,
}

/// Why a datagram was dropped. Dropped datagrams are counted and never answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// Wrong size, magic, version, type or content.
    #[error("not a laneway datagram of this version")]
    Form,
    /// It belongs to another group.
    #[error("of another group")]
    Group,
    /// The HMAC does not match.
    #[error("forged, or of another key")]
    Forged,
}

/// The keys of one group or of one invite: one key for each type of datagram.
pub struct Keys {
    by_type: [hmac::Key; 5],
}

#[derive(Clone, Copy)]
enum Type {
    Query = 1,
    Offer,
    Beacon,
    JoinQuery,
    JoinOffer,
}

impl Keys {
    /// Derives the keys from the discovery key of the group or of the invite (RFC 5869).
    pub fn new(discovery_key: &[u8; 32]) -> Self {
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, b"laneway discovery 1").extract(discovery_key);
        let key = |label: &[u8]| {
            let mut bytes = [0; 32];
            derived
                .expand(&[label], hmac::HMAC_SHA256)
                .and_then(|okm| okm.fill(&mut bytes))
                .expect("32 bytes are within what HKDF-SHA256 gives");
            hmac::Key::new(hmac::HMAC_SHA256, &bytes)
        };
        Self {
            by_type: [key(b"query"), key(b"offer"), key(b"beacon"), key(b"join query"), key(b"join offer")],
        }
    }

    fn tag(&self, kind: Type, head: &[u8], way: Way) -> [u8; 16] {
        let mut context = hmac::Context::with_key(&self.by_type[kind as usize - 1]);
        context.update(head);
        let (from, to) = kind.covers();
        for address in [from.then_some(way.from), to.then_some(way.to)].into_iter().flatten() {
            context.update(&plain_ip(address.ip()).octets());
            context.update(&address.port().to_be_bytes());
        }
        let mut tag = [0; 16];
        tag.copy_from_slice(&context.sign().as_ref()[..16]);
        tag
    }
}

impl Datagram {
    /// The bytes of the datagram when it is sent between the addresses in `way`.
    pub fn encode(&self, keys: &Keys, way: Way) -> [u8; SIZE] {
        let (mut out, kind) = self.unsigned();
        let tag = keys.tag(kind, &out[..TAG], way);
        out[TAG..].copy_from_slice(&tag);
        out
    }

    /// The datagram with zeros in place of the tag, and its type.
    fn unsigned(&self) -> ([u8; SIZE], Type) {
        let mut out = [0; SIZE];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = VERSION;
        out[8..16].copy_from_slice(&self.group.0);
        out[16..24].copy_from_slice(&self.epoch.to_be_bytes());
        out[40..56].copy_from_slice(&self.sender.0);
        let kind = match &self.message {
            Message::Query { nonce } => {
                out[24..40].copy_from_slice(nonce);
                Type::Query
            }
            Message::Offer { nonce, advert } => {
                out[24..40].copy_from_slice(nonce);
                advert.write(&mut out);
                Type::Offer
            }
            Message::Beacon { boot, counter, advert } => {
                out[24..32].copy_from_slice(&boot.to_be_bytes());
                out[32..40].copy_from_slice(&counter.to_be_bytes());
                advert.write(&mut out);
                Type::Beacon
            }
            Message::JoinQuery { nonce, invite } => {
                out[24..40].copy_from_slice(nonce);
                out[BODY..BODY + 8].copy_from_slice(invite);
                Type::JoinQuery
            }
            Message::JoinOffer { nonce, link_port } => {
                out[24..40].copy_from_slice(nonce);
                out[BODY..BODY + 2].copy_from_slice(&link_port.to_be_bytes());
                Type::JoinOffer
            }
        };
        out[5] = kind as u8;
        (out, kind)
    }

    /// Parses a datagram that was sent between the addresses in `way`. Accepts only output of [`Datagram::encode`] with
    /// the same keys.
    ///
    /// # Errors
    /// [`Dropped`]; the cheapest checks come first.
    pub fn decode(bytes: &[u8], group: GroupId, keys: &Keys, way: Way) -> Result<Self, Dropped> {
        let Ok(bytes) = <&[u8; SIZE]>::try_from(bytes) else { return Err(Dropped::Form) };
        if bytes[..4] != MAGIC || bytes[4] != VERSION {
            return Err(Dropped::Form);
        }
        let kind = Type::read(bytes[5]).ok_or(Dropped::Form)?;
        if bytes[8..16] != group.0 {
            return Err(Dropped::Group);
        }
        let tag = keys.tag(kind, &bytes[..TAG], way);
        if aws_lc_rs::constant_time::verify_slices_are_equal(&tag, &bytes[TAG..]).is_err() {
            return Err(Dropped::Forged);
        }
        let nonce = array(bytes, 24);
        let message = match kind {
            Type::Query => Message::Query { nonce },
            Type::Offer => Message::Offer { nonce, advert: Advert::read(bytes)? },
            Type::Beacon => Message::Beacon {
                boot: u64::from_be_bytes(array(bytes, 24)),
                counter: u64::from_be_bytes(array(bytes, 32)),
                advert: Advert::read(bytes)?,
            },
            Type::JoinQuery => Message::JoinQuery { nonce, invite: array(bytes, BODY) },
            Type::JoinOffer => {
                Message::JoinOffer { nonce, link_port: port(u16::from_be_bytes(array(bytes, BODY)))? }
            }
        };
        let datagram = Self {
            group,
            epoch: u64::from_be_bytes(array(bytes, 16)),
            sender: NodeId(array(bytes, 40)),
            message,
        };
        // Encoding it again shows whether all unused bytes are zero.
        if datagram.unsigned().0[..TAG] == bytes[..TAG] { Ok(datagram) } else { Err(Dropped::Form) }
    }
}

/// The epoch in a datagram that has not been authenticated, to find its key. `None` if the size is not that of a
/// datagram.
pub fn epoch_named(bytes: &[u8]) -> Option<u64> {
    let bytes: &[u8; SIZE] = bytes.try_into().ok()?;
    Some(u64::from_be_bytes(array(bytes, 16)))
}

/// The id of the invite in a join query that has not been authenticated, to find its key. `None` if it is not a join
/// query.
pub fn invite_asked_for(bytes: &[u8]) -> Option<[u8; 8]> {
    let bytes: &[u8; SIZE] = bytes.try_into().ok()?;
    let asks = bytes[..4] == MAGIC && bytes[4] == VERSION && bytes[5] == Type::JoinQuery as u8;
    asks.then(|| array(bytes, BODY))
}

/// Offset and value of the byte that marks a datagram as a query. A node that answers no queries can drop such
/// datagrams without authenticating them.
pub const QUERY_MARK: (usize, u8) = (5, Type::Query as u8);

impl Type {
    fn read(byte: u8) -> Option<Self> {
        [Self::Query, Self::Offer, Self::Beacon, Self::JoinQuery, Self::JoinOffer]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    /// Whether the tag covers the sender's address, and whether it covers the receiver's. An announcement of a gateway
    /// cannot be replayed from another address, and an answer is valid only for the node that asked.
    fn covers(self) -> (bool, bool) {
        match self {
            Self::Query | Self::JoinQuery => (false, false),
            Self::Beacon => (true, false),
            Self::Offer | Self::JoinOffer => (true, true),
        }
    }
}

impl Advert {
    fn write(&self, out: &mut [u8; SIZE]) {
        let body = &mut out[BODY..TAG];
        body[0] = self.state.byte();
        body[1] = match self.reach {
            Reach::Unknown => 0,
            Reach::Reachable => 1,
            Reach::Unreachable => 2,
        };
        body[2..4].copy_from_slice(&self.link_port.to_be_bytes());
        body[4..6].copy_from_slice(&self.weight.to_be_bytes());
        body[6..8].copy_from_slice(&self.load.to_be_bytes());
        body[8..12].copy_from_slice(&self.capacity.to_be_bytes());
        body[12..16].copy_from_slice(&self.tunnels.to_be_bytes());
        self.standing.write(body);
        let peers = &self.peers[..self.peers.len().min(MOST_PEERS)];
        body[16] = u8::try_from(peers.len()).expect("at most MOST_PEERS");
        for (peer, slot) in peers.iter().zip(out[PEERS..TAG].chunks_exact_mut(PEER_SIZE)) {
            slot[..16].copy_from_slice(&peer.id.0);
            slot[16..32].copy_from_slice(&plain_ip(peer.link.ip()).octets());
            slot[32..34].copy_from_slice(&peer.link.port().to_be_bytes());
            slot[34] = peer.state.byte();
        }
    }

    fn read(bytes: &[u8; SIZE]) -> Result<Self, Dropped> {
        let body = &bytes[BODY..TAG];
        let count = usize::from(body[16]);
        if count > MOST_PEERS {
            return Err(Dropped::Form);
        }
        let peers = bytes[PEERS..TAG].chunks_exact(PEER_SIZE).take(count).map(|slot| {
            let ip = Ipv6Addr::from(array::<16>(slot, 16));
            let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
            Ok(Peer {
                id: NodeId(array(slot, 0)),
                link: SocketAddr::new(ip, port(u16::from_be_bytes(array(slot, 32)))?),
                state: State::read(slot[34])?,
            })
        });
        Ok(Self {
            state: State::read(body[0])?,
            reach: match body[1] {
                0 => Reach::Unknown,
                1 => Reach::Reachable,
                2 => Reach::Unreachable,
                _ => return Err(Dropped::Form),
            },
            link_port: port(u16::from_be_bytes(array(body, 2)))?,
            weight: u16::from_be_bytes(array(body, 4)),
            load: u16::from_be_bytes(array(body, 6)),
            capacity: u32::from_be_bytes(array(body, 8)),
            tunnels: u32::from_be_bytes(array(body, 12)),
            standing: Standing::read(body)?,
            peers: peers.collect::<Result<_, _>>()?,
        })
    }
}

impl Standing {
    fn write(&self, body: &mut [u8]) {
        body[17] = match self.policy {
            Policy::Strongest => 0,
            Policy::LeastBusy => 1,
            Policy::Random => 2,
            Policy::RoundRobin => 3,
        };
        body[18..20].copy_from_slice(&self.interval.to_be_bytes());
        body[20..24].copy_from_slice(&self.claim.to_be_bytes());
        body[24..28].copy_from_slice(&self.round.to_be_bytes());
        body[28] = self.active;
        body[29] = u8::from(self.preparing);
        body[32..48].copy_from_slice(&self.yields_to.map_or([0; 16], |id| id.0));
        body[48..64].copy_from_slice(&self.replaces.map_or([0; 16], |id| id.0));
    }

    fn read(body: &[u8]) -> Result<Self, Dropped> {
        let named = |at| Some(NodeId(array(body, at))).filter(|id| id.0 != [0; 16]);
        Ok(Self {
            policy: match body[17] {
                0 => Policy::Strongest,
                1 => Policy::LeastBusy,
                2 => Policy::Random,
                3 => Policy::RoundRobin,
                _ => return Err(Dropped::Form),
            },
            interval: u16::from_be_bytes(array(body, 18)),
            claim: u32::from_be_bytes(array(body, 20)),
            round: u32::from_be_bytes(array(body, 24)),
            active: body[28],
            preparing: body[29] & 1 != 0,
            yields_to: named(32),
            replaces: named(48),
        })
    }
}

impl State {
    fn byte(self) -> u8 {
        match self {
            Self::Standby => 0,
            Self::Active => 1,
            Self::Draining => 2,
            Self::Withdrawn => 3,
        }
    }

    fn read(byte: u8) -> Result<Self, Dropped> {
        [Self::Standby, Self::Active, Self::Draining, Self::Withdrawn]
            .into_iter()
            .find(|state| state.byte() == byte)
            .ok_or(Dropped::Form)
    }

    /// The name that is shown to users.
    pub fn word(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Withdrawn => "withdrawn",
        }
    }
}

impl Reach {
    /// The name that is shown to users.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "not probed",
            Self::Reachable => "reachable",
            Self::Unreachable => "unreachable",
        }
    }
}

fn port(port: u16) -> Result<u16, Dropped> {
    if port == 0 { Err(Dropped::Form) } else { Ok(port) }
}

/// An address as IPv6; an IPv4 address becomes an IPv4-mapped one (RFC 4291 §2.5.5.2).
fn plain_ip(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GROUP: GroupId = GroupId([7; 8]);

    fn way() -> Way {
        Way { from: "10.0.0.8:7420".parse().unwrap(), to: "10.0.0.9:7420".parse().unwrap() }
    }

    fn state() -> impl Strategy<Value = State> {
        prop_oneof![Just(State::Standby), Just(State::Active), Just(State::Draining), Just(State::Withdrawn)]
    }

    fn peer() -> impl Strategy<Value = Peer> {
        let ip = prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<u64>()
                .prop_map(|host| { IpAddr::from(Ipv6Addr::from((0xfd00_u128 << 112) | u128::from(host))) })
        ];
        (any::<[u8; 16]>(), ip, 1..=u16::MAX, state()).prop_map(|(id, ip, port, state)| Peer {
            id: NodeId(id),
            link: SocketAddr::new(ip, port),
            state,
        })
    }

    fn standing() -> impl Strategy<Value = Standing> {
        let policy = prop_oneof![
            Just(Policy::Strongest),
            Just(Policy::LeastBusy),
            Just(Policy::Random),
            Just(Policy::RoundRobin)
        ];
        let named = || proptest::option::of((1..=u128::MAX).prop_map(|id| NodeId(id.to_be_bytes())));
        let numbers = (any::<u8>(), any::<bool>(), any::<u16>(), any::<u32>(), any::<u32>());
        (policy, numbers, named(), named()).prop_map(
            |(policy, (active, preparing, interval, claim, round), yields_to, replaces)| Standing {
                policy,
                active,
                preparing,
                interval,
                claim,
                round,
                yields_to,
                replaces,
            },
        )
    }

    fn advert() -> impl Strategy<Value = Advert> {
        let reach = prop_oneof![Just(Reach::Unknown), Just(Reach::Reachable), Just(Reach::Unreachable)];
        let numbers = (1..=u16::MAX, any::<u16>(), any::<u16>(), any::<u32>(), any::<u32>());
        (state(), reach, numbers, standing(), proptest::collection::vec(peer(), 0..=MOST_PEERS)).prop_map(
            |(state, reach, (link_port, weight, load, capacity, tunnels), standing, peers)| Advert {
                state,
                reach,
                link_port,
                weight,
                load,
                capacity,
                tunnels,
                standing,
                peers,
            },
        )
    }

    fn message() -> impl Strategy<Value = Message> {
        prop_oneof![
            any::<[u8; 16]>().prop_map(|nonce| Message::Query { nonce }),
            (any::<[u8; 16]>(), advert()).prop_map(|(nonce, advert)| Message::Offer { nonce, advert }),
            (any::<u64>(), any::<u64>(), advert()).prop_map(|(boot, counter, advert)| Message::Beacon {
                boot,
                counter,
                advert
            }),
            (any::<[u8; 16]>(), any::<[u8; 8]>())
                .prop_map(|(nonce, invite)| Message::JoinQuery { nonce, invite }),
            (any::<[u8; 16]>(), 1..=u16::MAX)
                .prop_map(|(nonce, link_port)| Message::JoinOffer { nonce, link_port }),
        ]
    }

    fn datagram() -> impl Strategy<Value = Datagram> {
        (any::<u64>(), any::<[u8; 16]>(), message()).prop_map(|(epoch, sender, message)| Datagram {
            group: GROUP,
            epoch,
            sender: NodeId(sender),
            message,
        })
    }

    proptest! {
        #[test]
        fn a_datagram_reads_back(datagram in datagram(), key: [u8; 32]) {
            let keys = Keys::new(&key);
            let bytes = datagram.encode(&keys, way());
            prop_assert_eq!(epoch_named(&bytes), Some(datagram.epoch));
            prop_assert_eq!(Datagram::decode(&bytes, GROUP, &keys, way()), Ok(datagram));
        }

        #[test]
        fn one_changed_bit_is_noticed(datagram in datagram(), bit in 0..SIZE * 8) {
            let keys = Keys::new(&[1; 32]);
            let mut bytes = datagram.encode(&keys, way());
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Datagram::decode(&bytes, GROUP, &keys, way()).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let keys = Keys::new(&[1; 32]);
            prop_assert!(Datagram::decode(&bytes, GROUP, &keys, way()).is_err());
            let _ = (invite_asked_for(&bytes), epoch_named(&bytes));
        }

        #[test]
        fn arbitrary_bodies_with_a_right_tag_never_panic(kind in 1_u8..=5, body in proptest::collection::vec(any::<u8>(), TAG - BODY)) {
            let keys = Keys::new(&[1; 32]);
            let query = Datagram { group: GROUP, epoch: 1, sender: NodeId([0; 16]), message: Message::Query { nonce: [0; 16] } };
            let mut bytes = query.encode(&keys, way());
            bytes[5] = kind;
            bytes[BODY..TAG].copy_from_slice(&body);
            let kind = Type::read(kind).unwrap();
            let tag = keys.tag(kind, &bytes[..TAG], way());
            bytes[TAG..].copy_from_slice(&tag);
            let _ = Datagram::decode(&bytes, GROUP, &keys, way());
        }
    }

    #[test]
    fn an_offer_to_another_address_another_group_and_another_key_are_dropped() {
        let keys = Keys::new(&[1; 32]);
        let offer = Message::JoinOffer { nonce: [3; 16], link_port: 7420 };
        let datagram = Datagram { group: GROUP, epoch: 1, sender: NodeId([2; 16]), message: offer };
        let bytes = datagram.encode(&keys, way());
        let elsewhere = "10.0.0.7:7420".parse().unwrap();
        for way in [Way { to: elsewhere, ..way() }, Way { from: elsewhere, ..way() }] {
            assert_eq!(Datagram::decode(&bytes, GROUP, &keys, way), Err(Dropped::Forged));
        }
        assert_eq!(Datagram::decode(&bytes, GroupId([8; 8]), &keys, way()), Err(Dropped::Group));
        assert_eq!(Datagram::decode(&bytes, GROUP, &Keys::new(&[2; 32]), way()), Err(Dropped::Forged));
        assert_eq!(Datagram::decode(&bytes[1..], GROUP, &keys, way()), Err(Dropped::Form));
    }

    #[test]
    fn a_query_and_its_type_cannot_be_swapped() {
        let keys = Keys::new(&[1; 32]);
        let query = Message::Query { nonce: [3; 16] };
        let datagram = Datagram { group: GROUP, epoch: 1, sender: NodeId([2; 16]), message: query };
        let mut bytes = datagram.encode(&keys, way());
        bytes[5] = Type::JoinQuery as u8;
        assert_eq!(Datagram::decode(&bytes, GROUP, &keys, way()), Err(Dropped::Forged));
    }
}
