//! The layout of datagrams: sizes, offsets and types.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Size of every datagram, in bytes. It is below the MTU of every network, so that no datagram is fragmented.
pub const SIZE: usize = 512;
/// Maximum number of other candidates in one offer or beacon.
pub const MOST_PEERS: usize = 4;
/// Size of a sender's name, in bytes: what the other parts leave.
pub const NAME_SIZE: usize = 47;
/// Size of a member's statement, in bytes.
pub const STATEMENT_SIZE: usize = 105;

/// Size of one entry of the list of peers, in bytes.
pub(super) const PEER_SIZE: usize = 36;

pub(super) const MAGIC: [u8; 4] = *b"LANE";
pub(super) const VERSION: u8 = 2;
pub(super) const BODY: usize = 56;
pub(super) const SEQUENCE: usize = BODY + 64;
pub(super) const PEERS: usize = SEQUENCE + 16;
pub(super) const ADVERT_END: usize = PEERS + MOST_PEERS * PEER_SIZE;
pub(super) const NAME: usize = STATEMENT - NAME_SIZE;
pub(super) const STATEMENT: usize = SIGNATURE - STATEMENT_SIZE;
pub(super) const SIGNATURE: usize = TAG - 64;
pub(super) const TAG: usize = SIZE - 16;

const _: () = assert!(ADVERT_END == NAME, "the name follows the list of peers");

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
    /// The signature does not match.
    #[error("not signed by its sender")]
    Signature,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Query = 1,
    Offer,
    Beacon,
    JoinQuery,
    JoinOffer,
}

impl Type {
    pub(super) fn read(byte: u8) -> Option<Self> {
        [Self::Query, Self::Offer, Self::Beacon, Self::JoinQuery, Self::JoinOffer]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    /// Whether the sender's node key signs it.
    pub(super) fn is_signed(self) -> bool {
        matches!(self, Self::Offer | Self::Beacon)
    }

    /// The addresses that tag and signature cover. No datagram can be repeated from another address than its sender's,
    /// and an answer is valid only for the node that asked.
    pub(super) fn covered(self, way: Way) -> impl Iterator<Item = SocketAddr> {
        let to = matches!(self, Self::Offer | Self::JoinOffer).then_some(way.to);
        std::iter::once(way.from).chain(to)
    }
}

pub(super) fn port(port: u16) -> Result<u16, Dropped> {
    if port == 0 { Err(Dropped::Form) } else { Ok(port) }
}

/// An address as IPv6; an IPv4 address becomes an IPv4-mapped one (RFC 4291 §2.5.5.2).
pub(super) fn plain_ip(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
