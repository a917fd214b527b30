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
    pair(false).0.seal_inner(inner)
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
            prop_assert!((HEADER + TAG..=HEADER + MAX_SEALED).contains(&length));
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
        (Vec::new(), RecordError::Unexpected),
        ([vec![1; MAX_PLAIN + 1], vec![23]].concat(), RecordError::TooLong),
        ([vec![1; MAX_PLAIN], vec![23, 0]].concat(), RecordError::TooLong),
        ([vec![23], vec![0; MAX_PLAIN + 1]].concat(), RecordError::TooLong),
        (vec![0; MAX_PLAIN + 2], RecordError::TooLong),
    ] {
        assert_eq!(pair(false).1.open_within(&mut record_of(&inner)), Err(expected));
    }
}

#[test]
fn a_record_of_the_largest_size_opens_with_and_without_padding() {
    for (inner, length) in
        [([vec![1; MAX_PLAIN], vec![23]].concat(), MAX_PLAIN), ([vec![23], vec![0; MAX_PLAIN]].concat(), 0)]
    {
        let opened = pair(false).1.open_within(&mut record_of(&inner));
        assert_eq!(opened, Ok((Content::Data, length)));
    }
}

#[test]
fn what_follows_a_header_that_is_wrong_is_not_awaited() {
    for (header, expected) in [
        ([21, 3, 3, 0, 30], Err(RecordError::Unexpected)),
        ([20, 3, 3, 0, 1], Err(RecordError::Unexpected)),
        ([23, 3, 3, 0, 15], Err(RecordError::Altered)),
        ([23, 3, 3, 0, 16], Ok(Some(21))),
        ([23, 3, 3, 0x41, 0], Ok(Some(HEADER + MAX_SEALED))),
        ([23, 3, 3, 0x41, 1], Err(RecordError::TooLong)),
    ] {
        assert_eq!(Opener::length(&header), expected, "{header:?}");
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

fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// HKDF-Expand-Label with an empty context (RFC 8446 §7.1), for at most 32 bytes.
fn expand(secret: &[u8], label: &str, length: u8) -> Vec<u8> {
    use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
    let label = format!("tls13 {label}");
    let info = [&[0, length, u8::try_from(label.len()).unwrap()], label.as_bytes(), &[0, 1]].concat();
    sign(&Key::new(HMAC_SHA256, secret), &info).as_ref()[..usize::from(length)].to_vec()
}

/// The keys of a traffic secret (RFC 8446 §7.3) for AES-128-GCM.
fn traffic_keys(secret: &str, sequence: u64) -> Keys {
    let secret = hex(secret);
    Keys::of(sequence, &AES_128_GCM, &expand(&secret, "key", 16), &expand(&secret, "iv", 12)).unwrap()
}

/// RFC 8448 §3: the application data and the farewells of a simple handshake, from both ends' traffic secrets on.
#[test]
fn the_records_of_rfc_8448_are_made_and_opened() {
    let client = "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
    let server = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
    let content: Vec<u8> = (0..50).collect();
    let (data, farewell) = ((Content::Data, &content[..]), (Content::Alert, &[1, 0][..]));
    // The first record of the server is a ticket, which this end does not send.
    let records = [
        (
            client,
            0,
            data,
            "1703030043 a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4",
        ),
        (client, 1, farewell, "1703030013 c9872760655666b74d7ff1153efd6db6d0b0e3"),
        (
            server,
            1,
            data,
            "1703030043 2e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d",
        ),
        (server, 2, farewell, "1703030013 b58fd67166ebf599d24720cfbe7efa7a8864a9"),
    ];
    for (secret, sequence, (kind, content), expected) in records {
        let expected = hex(expected);
        let mut record = vec![0; content.len() + OVERHEAD];
        Sealer(traffic_keys(secret, sequence)).seal(kind, &[content], &mut record);
        assert_eq!(record, expected);
        let mut out = vec![0; Opener::room(record.len())];
        let opened = Opener(traffic_keys(secret, sequence)).open_into(&record, &mut out);
        assert_eq!((opened, &out[..content.len()]), (Ok((kind, content.len())), content));
    }
}
