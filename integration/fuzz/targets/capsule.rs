//! A stream of capsules, whole and in pieces, compared with an implementation of RFC 9297 that has all of it at once.

use bytes::{Bytes, BytesMut};
use laneway::wire::capsule::{CapsuleError, Decoder, LONGEST_PAYLOAD, encode};

/// `data` is what the peer sends on a stream before it ends its direction.
pub fn run(data: &[u8]) {
    let want = reference(data);
    assert_eq!(decode(&mut std::iter::once(data)), want, "whole");
    assert_eq!(decode(&mut super::input::pieces(data)), want, "in pieces");
    let mut again = BytesMut::new();
    want.0.iter().for_each(|payload| encode(payload, &mut again));
    assert_eq!(decode(&mut super::input::pieces(&again)), (want.0, Ok(())), "written and read");
}

/// The datagrams, and how the stream ended.
type Outcome = (Vec<Bytes>, Result<(), CapsuleError>);

fn decode(pieces: &mut dyn Iterator<Item = &[u8]>) -> Outcome {
    let (mut decoder, mut payloads) = (Decoder::default(), Vec::new());
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.datagram() {
                Ok(Some(payload)) => payloads.push(payload),
                Ok(None) => break,
                Err(error) => return (payloads, Err(error)),
            }
        }
    }
    (payloads, decoder.finish())
}

fn reference(mut data: &[u8]) -> Outcome {
    let mut payloads = Vec::new();
    while !data.is_empty() {
        let Some((kind, length, rest)) =
            varint(data).and_then(|(kind, rest)| varint(rest).map(|(length, rest)| (kind, length, rest)))
        else {
            return (payloads, Err(CapsuleError::Cut));
        };
        if length > LONGEST_PAYLOAD as u64 + 8 {
            return (payloads, Err(CapsuleError::TooLong(length)));
        }
        let Some((value, rest)) = usize::try_from(length).ok().and_then(|end| rest.split_at_checked(end))
        else {
            return (payloads, Err(CapsuleError::Cut));
        };
        data = rest;
        if kind != 0 {
            continue;
        }
        match varint(value) {
            None => return (payloads, Err(CapsuleError::NoContext)),
            Some((0, payload)) if payload.len() > LONGEST_PAYLOAD => {
                return (payloads, Err(CapsuleError::TooLong(payload.len() as u64)));
            }
            Some((0, payload)) => payloads.push(Bytes::copy_from_slice(payload)),
            Some(_) => {}
        }
    }
    (payloads, Ok(()))
}

/// RFC 9000, appendix A.1.
fn varint(data: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, mut rest) = data.split_first()?;
    let mut value = u64::from(first & 0x3f);
    for _ in 1..1 << (first >> 6) {
        let (&next, after) = rest.split_first()?;
        (value, rest) = ((value << 8) + u64::from(next), after);
    }
    Some((value, rest))
}
