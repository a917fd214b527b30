//! Discovery datagrams: one fixed size, one fixed layout, authenticated, and signed where they announce a gateway.
//!
//! ```text
//!   0  4  magic "LANE"             40 16  sender's node id
//!   4  1  version (2)              56     body, by type
//!   5  1  type                    280 47  sender's name, masked (offer, beacon; else zero)
//!   6  2  zero                    327 105 sender's statement (offer, beacon; else zero)
//!   8  8  group                   432 64  Ed25519 signature by the sender's node key (offer, beacon; else zero)
//!  16  8  epoch                   496 16  HMAC-SHA256 of bytes 0..496, cut to 128 bits
//!  24 16  nonce (query, offer: the query's; beacon: zero)
//! ```
//! The body of an offer and of a beacon (offsets from byte 56):
//!
//! ```text
//!   0  1  state                   20  4  claim
//!   1  1  reach                   24  4  round
//!   2  2  link port               28  1  number of active candidates
//!   4  2  weight                  29  1  bit 0: preparing
//!   6  2  load                    30  2  zero
//!   8  4  capacity                32 16  yields to (zero: none)
//!  12  4  tunnels                 48 16  replaces (zero: none)
//!  16  1  number of peers         64  8  boot of the sender
//!  17  1  policy                  72  8  counter: of this beacon, or of the last beacon before this offer
//!  18  2  maximum milliseconds    80     peers: id 16, IP 16, port 2, state 1, zero 1
//!         until the next beacon
//! ```
//! Numbers are big-endian. A query and an offer have the same size, so that a gateway cannot be used to amplify
//! traffic.
//!
//! The HMAC proves that the sender has a key that all members share, or the invite. It is cheap, so it comes first: a
//! stranger cannot make a node verify signatures. It covers the address that a datagram is sent from, so a captured query
//! brings answers to nobody but the node that sent it. That of offers also covers the address that they are sent to.
//!
//! The signature proves which member announces itself. It covers everything before it, and the same addresses. Its key is
//! in the statement (105 bytes, opaque here), by which the group's authority vouches for the member's key, role and name.
//! The name is padded with zeros, and masked by a key of the group, so that strangers on the LAN do not learn it.
//!
//! A datagram that deviates from this format is dropped without an answer.

mod advert;
mod keys;
mod layout;
#[cfg(test)]
mod tests;

use super::id::{GroupId, NodeId};
pub use advert::{
    Advert, MAX_INTERVAL_MILLIS, MAX_LEADING_INTERVAL_MILLIS, Peer, Policy, Reach, Standing, State,
    UnknownPolicy,
};
pub use keys::{AnnouncedName, DatagramSigner, Keys, UnusableKey};
use layout::{BODY, MAGIC, NAME, PEERS, SEQUENCE, SIGNATURE, STATEMENT, TAG, Type, VERSION, array, port};
pub use layout::{Dropped, MOST_PEERS, NAME_SIZE, SIZE, STATEMENT_SIZE, Way};

/// Orders all beacons that one node has sent: first by the run of the node, then within the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence {
    /// The number of the sender's run. It increases with each start.
    pub boot: u64,
    /// The number of the beacon in this run, from 1. In an offer: of the last beacon before it.
    pub counter: u64,
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
        /// The sender's run, and its last beacon.
        sequence: Sequence,
        /// What the candidate announces.
        advert: Advert,
    },
    /// A candidate's unsolicited announcement, sent to all nodes.
    Beacon {
        /// The sender's run, and the number of this beacon.
        sequence: Sequence,
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

/// A datagram whose HMAC is right: the sender has the group's key, or the invite.
#[derive(Debug)]
pub enum Received {
    /// A query, a join query or a join offer. These carry no signature.
    Unsigned(Datagram),
    /// An offer or a beacon. It counts only after its signature has been verified.
    Signed(Box<Unverified>),
}

/// An offer or a beacon whose signature has not been verified.
#[derive(Debug)]
pub struct Unverified {
    datagram: Datagram,
    bytes: [u8; SIZE],
    kind: Type,
    way: Way,
}

impl Datagram {
    /// The bytes of the datagram when it is sent between the addresses in `way`. An offer or a beacon without a `signer` is
    /// accepted by nobody.
    pub fn encode(&self, keys: &Keys, way: Way, signer: Option<&DatagramSigner>) -> [u8; SIZE] {
        let (mut out, kind) = self.unsigned();
        if let Some(signer) = signer.filter(|_| kind.is_signed()) {
            out[NAME..STATEMENT].copy_from_slice(&keys.mask(self.sender, signer.name().0));
            out[STATEMENT..SIGNATURE].copy_from_slice(signer.statement());
            let signature = signer.sign(kind, &out[..SIGNATURE], way);
            out[SIGNATURE..TAG].copy_from_slice(&signature);
        }
        let tag = keys.tag(kind, &out[..TAG], way);
        out[TAG..].copy_from_slice(&tag);
        out
    }

    /// The datagram with zeros in place of name, statement, signature and tag, and its type.
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
            Message::Offer { nonce, sequence, advert } => {
                out[24..40].copy_from_slice(nonce);
                sequence.write(&mut out);
                advert.write(&mut out);
                Type::Offer
            }
            Message::Beacon { sequence, advert } => {
                sequence.write(&mut out);
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
    pub fn decode(bytes: &[u8], group: GroupId, keys: &Keys, way: Way) -> Result<Received, Dropped> {
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
            Type::Offer => {
                Message::Offer { nonce, sequence: Sequence::read(bytes), advert: Advert::read(bytes)? }
            }
            Type::Beacon => Message::Beacon { sequence: Sequence::read(bytes), advert: Advert::read(bytes)? },
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
        let known = if kind.is_signed() { NAME } else { TAG };
        if datagram.unsigned().0[..known] != bytes[..known] {
            return Err(Dropped::Form);
        }
        Ok(match kind.is_signed() {
            true => Received::Signed(Box::new(Unverified { datagram, bytes: *bytes, kind, way })),
            false => Received::Unsigned(datagram),
        })
    }
}

impl Received {
    /// The node that is named as the sender.
    pub fn sender(&self) -> NodeId {
        match self {
            Self::Unsigned(datagram) => datagram.sender,
            Self::Signed(unverified) => unverified.sender(),
        }
    }
}

impl Unverified {
    /// The node that is named as the sender.
    pub fn sender(&self) -> NodeId {
        self.datagram.sender
    }

    /// The sender's statement.
    pub fn statement(&self) -> &[u8; STATEMENT_SIZE] {
        self.bytes[STATEMENT..SIGNATURE].first_chunk().expect("the statement ends where the signature begins")
    }

    /// The epoch whose keys authenticate it.
    pub fn epoch(&self) -> u64 {
        self.datagram.epoch
    }

    /// The sender's name, unmasked by the keys of [`Unverified::epoch`].
    pub fn name(&self, keys: &Keys) -> AnnouncedName {
        AnnouncedName(keys.mask(self.datagram.sender, array(&self.bytes, NAME)))
    }

    /// Where it stands among the sender's beacons.
    pub fn sequence(&self) -> Sequence {
        Sequence::read(&self.bytes)
    }

    /// The nonce of the query that it answers; `None` for a beacon.
    pub fn answers(&self) -> Option<[u8; 16]> {
        match self.datagram.message {
            Message::Offer { nonce, .. } => Some(nonce),
            _ => None,
        }
    }

    /// The datagram, if the owner of this raw Ed25519 public key signed it.
    ///
    /// # Errors
    /// [`Dropped::Signature`].
    pub fn verify(self, public_key: &[u8; 32]) -> Result<Datagram, Dropped> {
        let signature = &self.bytes[SIGNATURE..TAG];
        if keys::is_signed_by(public_key, self.kind, &self.bytes[..SIGNATURE], self.way, signature) {
            Ok(self.datagram)
        } else {
            Err(Dropped::Signature)
        }
    }
}

impl Sequence {
    fn write(self, out: &mut [u8; SIZE]) {
        out[SEQUENCE..SEQUENCE + 8].copy_from_slice(&self.boot.to_be_bytes());
        out[SEQUENCE + 8..PEERS].copy_from_slice(&self.counter.to_be_bytes());
    }

    fn read(bytes: &[u8; SIZE]) -> Self {
        let number = |at| u64::from_be_bytes(array(bytes, at));
        Self { boot: number(SEQUENCE), counter: number(SEQUENCE + 8) }
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
