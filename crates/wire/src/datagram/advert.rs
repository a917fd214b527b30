//! What a candidate announces about itself in offers and beacons, and its bytes.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::layout::{ADVERT_END, BODY, Dropped, MOST_PEERS, PEER_SIZE, PEERS, SIZE, array, plain_ip, port};
use crate::id::NodeId;

/// Maximum interval that a candidate may announce, in milliseconds. A candidate counts as silent after three and a half
/// intervals, so every silence is noticed within 70 s, whatever is announced.
pub const MAX_INTERVAL_MILLIS: u16 = 20_000;
/// The maximum for a candidate that is active, draining, or bringing its uplink up: others wait for it, so its silence
/// is noticed within 3.5 s.
pub const MAX_LEADING_INTERVAL_MILLIS: u16 = 1_000;

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
    /// Maximum time until its next beacon, in milliseconds; at most [`MAX_INTERVAL_MILLIS`].
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

impl Advert {
    pub(super) fn write(&self, out: &mut [u8; SIZE]) {
        let body = &mut out[BODY..ADVERT_END];
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
        for (peer, slot) in peers.iter().zip(out[PEERS..ADVERT_END].chunks_exact_mut(PEER_SIZE)) {
            slot[..16].copy_from_slice(&peer.id.0);
            slot[16..32].copy_from_slice(&plain_ip(peer.link.ip()).octets());
            slot[32..34].copy_from_slice(&peer.link.port().to_be_bytes());
            slot[34] = peer.state.byte();
        }
    }

    pub(super) fn read(bytes: &[u8; SIZE]) -> Result<Self, Dropped> {
        let body = &bytes[BODY..ADVERT_END];
        let count = usize::from(body[16]);
        if count > MOST_PEERS {
            return Err(Dropped::Form);
        }
        let peers = bytes[PEERS..ADVERT_END].chunks_exact(PEER_SIZE).take(count).map(|slot| {
            let ip = Ipv6Addr::from(array::<16>(slot, 16));
            let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
            Ok(Peer {
                id: NodeId(array(slot, 0)),
                link: SocketAddr::new(ip, port(u16::from_be_bytes(array(slot, 32)))?),
                state: State::read(slot[34])?,
            })
        });
        let (state, standing) = (State::read(body[0])?, Standing::read(body)?);
        if standing.interval > max_interval(state, standing.preparing) {
            return Err(Dropped::Form);
        }
        Ok(Self {
            state,
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
            standing,
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
            Self::Unknown => "unproved",
            Self::Reachable => "reachable",
            Self::Unreachable => "unreachable",
        }
    }
}

/// The longest interval, in milliseconds, that a candidate in this state may announce.
fn max_interval(state: State, preparing: bool) -> u16 {
    match state {
        State::Active | State::Draining => MAX_LEADING_INTERVAL_MILLIS,
        _ if preparing => MAX_LEADING_INTERVAL_MILLIS,
        State::Standby | State::Withdrawn => MAX_INTERVAL_MILLIS,
    }
}
