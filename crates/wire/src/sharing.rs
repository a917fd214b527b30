//! How a large body goes from a gateway to a client in pieces that other members may bring: what the two say to each other on
//! the stream after the head of the response. Each message is a type, fields of fixed length in network byte order, and for
//! [`FromGateway::Data`] the bytes.

use std::net::{IpAddr, Ipv6Addr};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::id::{NodeId, hex, unhex};

/// The bytes of a piece; the last one of a body may be shorter.
pub const PIECE: u64 = 1024 * 1024;
/// The shortest body that is shared in pieces, in bytes. A shorter one is fetched before a member could be asked.
pub const LEAST: u64 = 4 * 1024 * 1024;
/// The longest body, in bytes: the number of its pieces is bounded.
pub const MOST: u64 = 64 * 1024 * 1024 * 1024;
/// The longest data of one message, in bytes.
pub const MOST_DATA: usize = 256 * 1024;
/// How many pieces a client may have asked the gateway for that have not come yet.
pub const MOST_WANTED: usize = 16;

/// The field of a CONNECT by which a client offers to take a body in pieces, and of a response by which the gateway accepts.
pub const FIELD: &str = "laneway-pieces";

/// The BLAKE3 hash of a piece.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceHash(pub [u8; 32]);

impl PieceHash {
    /// Parses 64 hexadecimal digits, the format that [`std::fmt::Display`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        unhex(text).map(Self)
    }
}

impl std::fmt::Display for PieceHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl std::fmt::Debug for PieceHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0[..4]))
    }
}

/// The number of pieces of a body of `total` bytes; `None` for one that is not shared.
#[must_use]
pub fn pieces(total: u64) -> Option<u32> {
    (LEAST..=MOST).contains(&total).then(|| u32::try_from(total.div_ceil(PIECE)).ok()).flatten()
}

/// The offsets of the first byte of the piece `index` of a body of `total` bytes, and of the one after its last.
#[must_use]
pub fn range(index: u32, total: u64) -> (u64, u64) {
    let start = (u64::from(index) * PIECE).min(total);
    (start, (start + PIECE).min(total))
}

/// What a client offers with the field [`FIELD`] of its CONNECT: a secret by which it recognizes the gateway's answer, which a
/// server cannot know, and where it serves pieces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The secret.
    pub secret: u64,
    /// The port at which it serves pieces; `None` if it does not.
    pub port: Option<u16>,
}

impl Offer {
    /// Parses what [`Offer::text`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (secret, port) = text.split_once(' ')?;
        let secret = u64::from_be_bytes(unhex(secret)?);
        let port: u16 = port.parse().ok()?;
        Some(Self { secret, port: (port != 0).then_some(port) })
    }

    /// The value of the field.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{} {}", self.answer(), self.port.unwrap_or(0))
    }

    /// The value of the field of a response that accepts the offer.
    #[must_use]
    pub fn answer(&self) -> String {
        hex(&self.secret.to_be_bytes())
    }
}

/// Bytes that are no valid message: the stream has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a malformed message about the pieces of a body")]
pub struct Malformed;

/// What the gateway says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromGateway {
    /// The hash of a piece, which the gateway vouches for.
    Listed {
        /// Its number, from 0.
        index: u32,
        /// Its hash.
        hash: PieceHash,
    },
    /// The next bytes of a piece that the client wants of the gateway.
    Data {
        /// The number of the piece.
        index: u32,
        /// The bytes, at most [`MOST_DATA`].
        bytes: Bytes,
    },
    /// A member that has pieces of this body, or gets them now.
    Member {
        /// The member's id.
        id: NodeId,
        /// Where its link to the gateway comes from.
        ip: IpAddr,
        /// Where it serves pieces.
        port: u16,
    },
    /// There is no other member.
    Alone,
    /// No more hashes come. Pieces without one come from the gateway.
    ListEnds,
    /// The body follows without messages, from the offset on that the client has said.
    Plain,
    /// The body does not follow without messages: others get it too, or this gateway has all of it.
    Pieces,
    /// This member has the piece that the client said was late, and is to be left alone.
    Fails {
        /// The member's id.
        id: NodeId,
    },
    /// No more bytes of this piece come, because the client has cancelled it.
    Cancelled {
        /// The number of the piece.
        index: u32,
    },
}

/// What the client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromClient {
    /// It wants this piece of the gateway.
    Want {
        /// Its number.
        index: u32,
    },
    /// It wants another member, instead of this one.
    Ask {
        /// The member that has failed it.
        instead: NodeId,
    },
    /// It has the first pieces of the body, and serves them. A client says so after each piece: so the gateway knows who is
    /// behind.
    Have {
        /// How many.
        count: u32,
    },
    /// It takes the rest of the body without messages, unless others get it too. [`FromGateway::Plain`] or
    /// [`FromGateway::Pieces`] answers.
    Plain {
        /// The offset of the first byte that it lacks.
        from: u64,
    },
    /// It has got this piece elsewhere, and no longer wants the rest. [`FromGateway::Cancelled`] answers, unless all bytes of
    /// the piece have been sent.
    Cancel {
        /// Its number.
        index: u32,
    },
    /// The member that it was sent to has not given it this piece for a while. [`FromGateway::Member`] or [`FromGateway::Alone`]
    /// answers if the gateway knows better; nothing does otherwise.
    Late {
        /// Its number.
        index: u32,
    },
    /// It does not keep this body, and so serves no pieces of it.
    Mute,
}

const LISTED: u8 = 1;
const DATA: u8 = 2;
const MEMBER: u8 = 3;
const ALONE: u8 = 4;
const LIST_ENDS: u8 = 5;
const BODY: u8 = 6;
const CANCELLED: u8 = 7;
const FAILS: u8 = 8;
const PIECES: u8 = 9;
const WANT: u8 = 1;
const ASK: u8 = 2;
const HAVE: u8 = 3;
const PLAIN: u8 = 4;
const CANCEL: u8 = 5;
const LATE: u8 = 6;
const MUTE: u8 = 7;

impl FromGateway {
    /// Appends the message to `out`.
    pub fn write(&self, out: &mut BytesMut) {
        match self {
            Self::Listed { index, hash } => {
                out.put_u8(LISTED);
                out.put_u32(*index);
                out.put_slice(&hash.0);
            }
            Self::Data { index, bytes } => {
                out.put_slice(&Self::data_head(*index, bytes.len()));
                out.put_slice(bytes);
            }
            Self::Member { id, ip, port } => {
                let ip = match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => *ip,
                };
                out.put_u8(MEMBER);
                out.put_slice(&id.0);
                out.put_slice(&ip.octets());
                out.put_u16(*port);
            }
            Self::Alone => out.put_u8(ALONE),
            Self::ListEnds => out.put_u8(LIST_ENDS),
            Self::Plain => out.put_u8(BODY),
            Self::Pieces => out.put_u8(PIECES),
            Self::Fails { id } => {
                out.put_u8(FAILS);
                out.put_slice(&id.0);
            }
            Self::Cancelled { index } => {
                out.put_u8(CANCELLED);
                out.put_u32(*index);
            }
        }
    }

    /// What comes before the `length` bytes of a [`FromGateway::Data`].
    #[must_use]
    pub fn data_head(index: u32, length: usize) -> [u8; 9] {
        let mut head = [DATA; 9];
        head[1..5].copy_from_slice(&index.to_be_bytes());
        head[5..].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        head
    }

    /// Takes the first message out of `buffer`; `None` while it is incomplete.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(buffer: &mut BytesMut) -> Result<Option<Self>, Malformed> {
        let Some(&kind) = buffer.first() else { return Ok(None) };
        let length = match kind {
            LISTED => 37,
            DATA => 9,
            MEMBER => 35,
            ALONE | LIST_ENDS | BODY | PIECES => 1,
            CANCELLED => 5,
            FAILS => 17,
            _ => return Err(Malformed),
        };
        if buffer.len() < length {
            return Ok(None);
        }
        if kind == DATA {
            let mut head = &buffer[1..9];
            let (index, count) = (head.get_u32(), head.get_u32() as usize);
            if count == 0 || count > MOST_DATA {
                return Err(Malformed);
            }
            if buffer.len() < length + count {
                return Ok(None);
            }
            buffer.advance(length);
            return Ok(Some(Self::Data { index, bytes: buffer.split_to(count).freeze() }));
        }
        let mut message = buffer.split_to(length);
        message.advance(1);
        Ok(Some(match kind {
            LISTED => {
                let index = message.get_u32();
                Self::Listed { index, hash: PieceHash(array(&mut message)) }
            }
            MEMBER => {
                let (id, ip) = (NodeId(array(&mut message)), Ipv6Addr::from(array::<16>(&mut message)));
                Self::Member { id, ip: ip.to_canonical(), port: message.get_u16() }
            }
            ALONE => Self::Alone,
            LIST_ENDS => Self::ListEnds,
            FAILS => Self::Fails { id: NodeId(array(&mut message)) },
            CANCELLED => Self::Cancelled { index: message.get_u32() },
            PIECES => Self::Pieces,
            _ => Self::Plain,
        }))
    }
}

impl FromClient {
    /// Appends the message to `out`.
    pub fn write(&self, out: &mut BytesMut) {
        match self {
            Self::Want { index } => {
                out.put_u8(WANT);
                out.put_u32(*index);
            }
            Self::Ask { instead } => {
                out.put_u8(ASK);
                out.put_slice(&instead.0);
            }
            Self::Have { count } => {
                out.put_u8(HAVE);
                out.put_u32(*count);
            }
            Self::Plain { from } => {
                out.put_u8(PLAIN);
                out.put_u64(*from);
            }
            Self::Mute => out.put_u8(MUTE),
            Self::Cancel { index } => {
                out.put_u8(CANCEL);
                out.put_u32(*index);
            }
            Self::Late { index } => {
                out.put_u8(LATE);
                out.put_u32(*index);
            }
        }
    }

    /// Takes the first message out of `buffer`; `None` while it is incomplete.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(buffer: &mut BytesMut) -> Result<Option<Self>, Malformed> {
        let Some(&kind) = buffer.first() else { return Ok(None) };
        let length = match kind {
            WANT | HAVE | CANCEL | LATE => 5,
            ASK => 17,
            PLAIN => 9,
            MUTE => 1,
            _ => return Err(Malformed),
        };
        if buffer.len() < length {
            return Ok(None);
        }
        let mut message = buffer.split_to(length);
        message.advance(1);
        Ok(Some(match kind {
            WANT => Self::Want { index: message.get_u32() },
            HAVE => Self::Have { count: message.get_u32() },
            PLAIN => Self::Plain { from: message.get_u64() },
            MUTE => Self::Mute,
            CANCEL => Self::Cancel { index: message.get_u32() },
            LATE => Self::Late { index: message.get_u32() },
            _ => Self::Ask { instead: NodeId(array(&mut message)) },
        }))
    }
}

/// The next bytes of a message, whose length was checked.
fn array<const N: usize>(message: &mut BytesMut) -> [u8; N] {
    let mut array = [0; N];
    message.copy_to_slice(&mut array);
    array
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn examples() -> Vec<FromGateway> {
        let ip = |text: &str| text.parse().unwrap();
        vec![
            FromGateway::Listed { index: 7, hash: PieceHash([9; 32]) },
            FromGateway::Data { index: 1, bytes: Bytes::from_static(b"abc") },
            FromGateway::Member { id: NodeId([1; 16]), ip: ip("192.0.2.1"), port: 7420 },
            FromGateway::Member { id: NodeId([2; 16]), ip: ip("2001:db8::1"), port: 1 },
            FromGateway::Alone,
            FromGateway::ListEnds,
            FromGateway::Plain,
            FromGateway::Pieces,
            FromGateway::Cancelled { index: 8 },
            FromGateway::Fails { id: NodeId([5; 16]) },
        ]
    }

    #[test]
    fn messages_are_read_back_however_they_are_cut() {
        let own = [
            FromClient::Want { index: 3 },
            FromClient::Ask { instead: NodeId([4; 16]) },
            FromClient::Have { count: u32::MAX },
            FromClient::Plain { from: 1 << 40 },
            FromClient::Cancel { index: 6 },
            FromClient::Late { index: 0 },
            FromClient::Mute,
        ];
        let (mut one, mut two) = (BytesMut::new(), BytesMut::new());
        examples().iter().for_each(|message| message.write(&mut one));
        own.iter().for_each(|message| message.write(&mut two));
        let (mut from_gateway, mut from_client) = (Vec::new(), Vec::new());
        let (mut left, mut right) = (BytesMut::new(), BytesMut::new());
        for byte in one {
            left.put_u8(byte);
            from_gateway.extend(FromGateway::read(&mut left).unwrap());
        }
        for byte in two {
            right.put_u8(byte);
            from_client.extend(FromClient::read(&mut right).unwrap());
        }
        assert_eq!(from_gateway, examples());
        assert_eq!(from_client, own);
        assert!(left.is_empty() && right.is_empty());
    }

    #[test]
    fn data_that_is_longer_than_a_message_may_be_or_empty_is_malformed() {
        for length in [0, MOST_DATA + 1, usize::MAX] {
            let mut buffer = BytesMut::from(&FromGateway::data_head(0, length)[..]);
            assert_eq!(FromGateway::read(&mut buffer), Err(Malformed), "{length}");
        }
    }

    #[test]
    fn a_body_is_cut_into_pieces_that_cover_it() {
        assert_eq!(
            [LEAST - 1, LEAST, LEAST + 1, MOST, MOST + 1].map(pieces),
            [None, Some(4), Some(5), Some(65_536), None]
        );
        assert_eq!(range(4, LEAST + 1), (LEAST, LEAST + 1));
        assert_eq!(range(9, LEAST + 1), (LEAST + 1, LEAST + 1));
    }

    #[test]
    fn an_offer_is_read_back_and_its_answer_says_nothing_but_the_secret() {
        for port in [None, Some(7420)] {
            let offer = Offer { secret: 0x0123_4567_89ab_cdef, port };
            assert_eq!(Offer::parse(&offer.text()), Some(offer));
            assert_eq!(offer.answer(), "0123456789abcdef");
        }
        for text in ["", "0123456789abcdef", "0123456789abcdef 70000", "123 1", "0123456789abcdef 1 2"] {
            assert_eq!(Offer::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = FromGateway::read(&mut buffer) {}
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = FromClient::read(&mut buffer) {}
        }
    }
}
