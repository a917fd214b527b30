//! Records made and opened with made-up keys; that they are TLS is shown against rustls in the handshake's tests.

use super::*;
use proptest::prelude::*;
use rustls::crypto::cipher::{AeadKey, Iv};

fn secrets(chacha: bool) -> ConnectionTrafficSecrets {
    let (key, iv) = (AeadKey::from([7; 32]), Iv::from([9; NONCE_LEN]));
    if chacha {
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }
    } else {
        ConnectionTrafficSecrets::Aes256Gcm { key, iv }
    }
}

fn pair(chacha: bool) -> (Sealer, Opener) {
    let secrets = secrets(chacha);
    (Sealer::new(3, &secrets).unwrap(), Opener::new(3, &secrets).unwrap())
}

/// A record as another implementation might make it: any inner bytes, so padding and odd content types too.
fn record_of(inner: &[u8]) -> Vec<u8> {
    let mut keys = Keys::new(3, &secrets(false)).unwrap();
    let length = u16::try_from(inner.len() + TAG).unwrap().to_be_bytes();
    let header = [23, 3, 3, length[0], length[1]];
    let mut sealed = inner.to_vec();
    let nonce = keys.nonce();
    keys.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut sealed).unwrap();
    [&header[..], &sealed].concat()
}

proptest! {
    /// Any parts come out as one piece, both ways of opening agree, and the sequence numbers match.
    #[test]
    fn what_is_sealed_opens(
        messages in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..5), 1..4),
        chacha: bool,
    ) {
        let (mut sealer, mut opener) = pair(chacha);
        let (_, mut within) = pair(chacha);
        for parts in messages {
            let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
            let whole = parts.concat();
            let mut record = vec![0; whole.len() + OVERHEAD];
            prop_assert_eq!(sealer.seal(Content::Data, &parts, &mut record), record.len());
            prop_assert_eq!(Opener::length(&record), Ok(Some(record.len())));
            let mut out = vec![0; Opener::room(record.len())];
            let opened = opener.open_into(&record, &mut out);
            prop_assert_eq!(opened, Ok((Content::Data, whole.len())));
            prop_assert_eq!(&out[..whole.len()], &whole[..]);
            prop_assert_eq!(within.open_within(&mut record), Ok((Content::Data, whole.len())));
            prop_assert_eq!(&record[HEADER..HEADER + whole.len()], &whole[..]);
        }
    }

    /// No bit of a record may change, the header included.
    #[test]
    fn an_altered_record_never_opens(plain in prop::collection::vec(any::<u8>(), 0..200), bit: prop::sample::Index) {
        let (mut sealer, mut opener) = pair(false);
        let mut record = vec![0; plain.len() + OVERHEAD];
        sealer.seal(Content::Data, &[&plain], &mut record);
        let bit = bit.index(record.len() * 8);
        record[bit / 8] ^= 1 << (bit % 8);
        let mut out = vec![0; Opener::room(record.len())];
        prop_assert_eq!(opener.open_into(&record, &mut out), Err(RecordError::Altered));
    }

    #[test]
    fn any_bytes_have_a_length_or_none(bytes in prop::collection::vec(any::<u8>(), 0..8)) {
        if let Ok(Some(length)) = Opener::length(&bytes) {
            prop_assert!((HEADER + TAG + 1..=HEADER + MAX_SEALED).contains(&length));
        }
    }
}

#[test]
fn padding_comes_off() {
    let (_, mut opener) = pair(false);
    let mut record = record_of(b"bytes\0\0\x17\0\0\0");
    assert_eq!(opener.open_within(&mut record), Ok((Content::Data, 7)));
    assert_eq!(&record[HEADER..HEADER + 7], b"bytes\0\0");
}

#[test]
fn a_record_without_content_type_or_with_too_much_is_refused() {
    for (inner, expected) in [
        (vec![0; 5], RecordError::Unexpected),
        (b"x\x14".to_vec(), RecordError::Unexpected),
        ([vec![1; MAX_PLAIN + 1], vec![23]].concat(), RecordError::TooLong),
    ] {
        assert_eq!(pair(false).1.open_within(&mut record_of(&inner)), Err(expected));
    }
}

#[test]
fn a_record_out_of_order_is_refused() {
    let (mut sealer, mut opener) = pair(false);
    let mut records = [[0; 1 + OVERHEAD]; 2];
    for record in &mut records {
        sealer.seal(Content::Data, &[b"x"], record);
    }
    assert_eq!(opener.open_within(&mut records[1]), Err(RecordError::Altered));
}
