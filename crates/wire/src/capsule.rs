//! UDP datagrams on a stream: capsules (RFC 9297 §3.2) of HTTP datagrams with context id 0 (RFC 9298 §5).

use bytes::{Buf, Bytes, BytesMut};

/// Maximum payload of a UDP datagram, in bytes (RFC 9298 §5).
pub const LONGEST_PAYLOAD: usize = 65_527;
/// Size in bytes of the header that [`encode`] writes before the payload: type, length, context id. The length always
/// takes four bytes, which RFC 9000 §16 allows, so that a datagram can be received into the space after its header
/// before its length is known.
pub const HEAD: usize = 6;

/// Maximum length in bytes of a capsule from any encoder: the payload and a context id of up to eight bytes.
const LONGEST_CAPSULE: u64 = LONGEST_PAYLOAD as u64 + 8;
const DATAGRAM: u64 = 0;
const PAYLOAD: u64 = 0;

/// The stream does not carry capsules, or carries capsules that this side does not accept. It must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapsuleError {
    /// The capsule is longer than any datagram.
    #[error("a capsule of {0} bytes")]
    TooLong(u64),
    /// The stream ended in the middle of a capsule (RFC 9297 §3.3).
    #[error("half a capsule")]
    Cut,
    /// A datagram without a context id (RFC 9298 §4).
    #[error("a datagram without a context id")]
    NoContext,
}

/// The header of a datagram with `payload` bytes of payload, at most [`LONGEST_PAYLOAD`].
pub fn head(payload: usize) -> [u8; HEAD] {
    let length = u32::try_from(payload.min(LONGEST_PAYLOAD) + 1).expect("a datagram is shorter than 64 KiB");
    let [_, b, c, d] = length.to_be_bytes();
    // The leading bits 10 mean that the integer takes four bytes (RFC 9000 §16).
    [0, 0x80, b, c, d, 0]
}

/// Appends one datagram.
pub fn encode(payload: &[u8], into: &mut BytesMut) {
    into.extend_from_slice(&head(payload.len()));
    into.extend_from_slice(payload);
}

/// Decodes a stream incrementally. Buffers at most one capsule, in addition to the bytes pushed last.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of a capsule that has not arrived completely.
    begun: BytesMut,
    /// The bytes that have not been decoded yet.
    rest: Bytes,
}

impl Decoder {
    /// The memory of what was not decoded yet, in bytes.
    pub fn memory(&self) -> usize {
        self.begun.capacity() + self.rest.len()
    }

    /// Adds the next bytes of the stream. Call it when [`Decoder::datagram`] has returned `None`.
    pub fn push(&mut self, bytes: Bytes) {
        if self.rest.is_empty() {
            self.rest = bytes;
        } else {
            self.rest = [&self.rest[..], &bytes].concat().into();
        }
    }

    /// The payload of the next datagram; `None` if more bytes must arrive. Capsules of other types and datagrams of
    /// other contexts are skipped (RFC 9297 §3.2, RFC 9298 §4). A capsule that arrived in one piece is not copied.
    ///
    /// # Errors
    /// [`CapsuleError`]; the stream cannot be decoded any further.
    pub fn datagram(&mut self) -> Result<Option<Bytes>, CapsuleError> {
        while let Some((kind, mut value)) = self.capsule()? {
            if kind != DATAGRAM {
                continue;
            }
            let (context, length) = varint(&value).ok_or(CapsuleError::NoContext)?;
            value.advance(length);
            if context != PAYLOAD {
                continue;
            }
            if value.len() > LONGEST_PAYLOAD {
                return Err(CapsuleError::TooLong(value.len() as u64));
            }
            return Ok(Some(value));
        }
        Ok(None)
    }

    /// Checks that the stream may end here.
    ///
    /// # Errors
    /// [`CapsuleError::Cut`] if it ended in the middle of a capsule.
    pub fn finish(&self) -> Result<(), CapsuleError> {
        if self.begun.is_empty() && self.rest.is_empty() { Ok(()) } else { Err(CapsuleError::Cut) }
    }

    fn capsule(&mut self) -> Result<Option<(u64, Bytes)>, CapsuleError> {
        if self.begun.is_empty()
            && let Some(frame) = Frame::read(&self.rest)?
            && frame.end <= self.rest.len()
        {
            let mut capsule = self.rest.split_to(frame.end);
            capsule.advance(frame.start);
            return Ok(Some((frame.kind, capsule)));
        }
        loop {
            let missing = match Frame::read(&self.begun)? {
                Some(frame) if frame.end <= self.begun.len() => {
                    let mut capsule = std::mem::take(&mut self.begun).freeze();
                    capsule.advance(frame.start);
                    return Ok(Some((frame.kind, capsule)));
                }
                Some(frame) => frame.end - self.begun.len(),
                None => 1,
            };
            if self.rest.is_empty() {
                return Ok(None);
            }
            let some = self.rest.split_to(missing.min(self.rest.len()));
            self.begun.extend_from_slice(&some);
        }
    }
}

/// A capsule's type, and the offsets at which its value starts and ends.
struct Frame {
    kind: u64,
    start: usize,
    end: usize,
}

impl Frame {
    fn read(bytes: &[u8]) -> Result<Option<Self>, CapsuleError> {
        let Some((kind, kind_length)) = varint(bytes) else { return Ok(None) };
        let Some((length, length_length)) = varint(&bytes[kind_length..]) else { return Ok(None) };
        if length > LONGEST_CAPSULE {
            return Err(CapsuleError::TooLong(length));
        }
        let start = kind_length + length_length;
        let end = start + usize::try_from(length).expect("it is not longer than a datagram");
        Ok(Some(Self { kind, start, end }))
    }
}

/// A variable-length integer and its length in bytes (RFC 9000 §16); `None` if it is incomplete.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    let rest = bytes.get(1..length)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte));
    Some((value, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn decode(pieces: &[&[u8]]) -> Result<Vec<Bytes>, CapsuleError> {
        let mut decoder = Decoder::default();
        let mut payloads = Vec::new();
        for piece in pieces {
            decoder.push(Bytes::copy_from_slice(piece));
            while let Some(payload) = decoder.datagram()? {
                payloads.push(payload);
            }
        }
        decoder.finish()?;
        Ok(payloads)
    }

    #[test]
    fn the_examples_of_rfc_9000_are_read() {
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ] {
            assert_eq!(varint(bytes), Some((value, bytes.len())));
            assert_eq!(varint(&bytes[..bytes.len() - 1]), None);
        }
    }

    #[test]
    fn a_datagram_of_another_writer_is_read_and_what_is_unknown_passed_over() {
        let stream = [
            &[0, 3, 0, b'h', b'i'][..],               // the shortest form
            &[0x40, 0, 0x40, 4, 0x40, 0, b'h', b'o'], // two bytes for each number
            &[0x3f, 2, 1, 2],                         // another type
            &[0, 3, 2, b'n', b'o'],                   // another context
            &[0, 1, 0],                               // an empty datagram
        ];
        assert_eq!(decode(&[&stream.concat()]).unwrap(), ["hi", "ho", ""]);
    }

    #[test]
    fn what_is_no_datagram_ends_the_stream() {
        assert_eq!(decode(&[&[0, 0]]), Err(CapsuleError::NoContext));
        assert_eq!(decode(&[&[0, 5, 0, 1]]), Err(CapsuleError::Cut));
        assert_eq!(decode(&[&[0x25, 0x80, 0xff, 0xff, 0xff]]), Err(CapsuleError::TooLong(0xff_ffff)));
        let mut longest = BytesMut::new();
        encode(&vec![7; LONGEST_PAYLOAD], &mut longest);
        assert_eq!(decode(&[&longest]).unwrap()[0].len(), LONGEST_PAYLOAD);
        let one_more = [&[0, 0x80, 0, 0xff, 0xf9, 0][..], &vec![7; LONGEST_PAYLOAD + 1]].concat();
        assert_eq!(decode(&[&one_more]), Err(CapsuleError::TooLong(LONGEST_PAYLOAD as u64 + 1)));
    }

    proptest! {
        #[test]
        fn datagrams_come_out_as_they_went_in_however_the_stream_is_cut(
            payloads in vec(vec(any::<u8>(), 0..200), 0..10),
            cuts in vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut stream = BytesMut::new();
            payloads.iter().for_each(|payload| encode(payload, &mut stream));
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
            prop_assert_eq!(decode(&pieces).unwrap(), payloads);
        }

        #[test]
        fn any_stream_is_decoded_or_refused_the_same_however_it_is_cut(
            stream in vec(prop_oneof![Just(0_u8), Just(1), Just(2), any::<u8>()], 0..400),
        ) {
            let whole = decode(&[&stream]);
            let bytes: Vec<_> = stream.chunks(1).collect();
            prop_assert_eq!(decode(&bytes), whole);
        }
    }
}
