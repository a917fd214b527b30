//! Records of a peer that keeps the rules of RFC 8446 §4.6, §5 and §6, and of peers that do not.

use super::*;
use crate::fuzz::{Received, Records};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const UPDATE: &[u8] = &[KEY_UPDATE, 0, 0, 1, 0];
const USER_CANCELED: &[u8] = &[1, 90];

const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const RECORD_OVERFLOW: u8 = 22;
const ILLEGAL_PARAMETER: u8 = 47;
const DECODE_ERROR: u8 = 50;

/// The peer seals this content, and it is opened.
fn send(records: &mut Records, kind: u8, content: &[u8]) -> Received {
    let record = records.seal(&[content, &[kind]].concat());
    records.receive(&record, 1 << 15)
}

fn nothing() -> Received {
    Received::Data(Vec::new())
}

#[test]
fn each_fault_has_its_alert() {
    let much = vec![1; (1 << 14) + 1];
    let padded = [&[DATA][..], &vec![0; (1 << 14) + 1]].concat();
    let cases: [(&str, Vec<u8>, u8); 18] = [
        ("§5.4: no content type", vec![0; 3], UNEXPECTED_MESSAGE),
        ("§5.4: nothing at all", Vec::new(), UNEXPECTED_MESSAGE),
        ("§5: an unknown content type", vec![1, 24], UNEXPECTED_MESSAGE),
        ("§5: change_cipher_spec", vec![1, 20], UNEXPECTED_MESSAGE),
        ("§5.1: more than 2^14 bytes", [&much[..], &[DATA]].concat(), RECORD_OVERFLOW),
        ("§5.4: more than 2^14 + 1 bytes with padding", padded, RECORD_OVERFLOW),
        ("§5.4: an empty alert", vec![ALERT], UNEXPECTED_MESSAGE),
        ("§5.4: an empty handshake message", vec![HANDSHAKE], UNEXPECTED_MESSAGE),
        ("§5.1: half an alert", vec![2, ALERT], DECODE_ERROR),
        ("§5.1: two alerts", vec![1, 90, 1, 90, ALERT], DECODE_ERROR),
        ("§4.6.3: KeyUpdate of another length", vec![KEY_UPDATE, 0, 0, 2, 0, 0, HANDSHAKE], DECODE_ERROR),
        ("§4.6.3: half a KeyUpdate", vec![KEY_UPDATE, 0, 0, 1, HANDSHAKE], DECODE_ERROR),
        ("§4.6.3: KeyUpdate with another value", vec![KEY_UPDATE, 0, 0, 1, 2, HANDSHAKE], ILLEGAL_PARAMETER),
        ("§5.1: two in one record", [UPDATE, UPDATE, &[HANDSHAKE]].concat(), UNEXPECTED_MESSAGE),
        ("§4.6.1: a ticket for a server", vec![4, 0, 0, 0, HANDSHAKE], UNEXPECTED_MESSAGE),
        ("§4.6.2: a request for another certificate", vec![13, 0, 0, 0, HANDSHAKE], UNEXPECTED_MESSAGE),
        ("§4: ClientHello again", vec![1, 0, 0, 0, HANDSHAKE], UNEXPECTED_MESSAGE),
        ("§4.4.4: Finished again", vec![20, 0, 0, 0, HANDSHAKE], UNEXPECTED_MESSAGE),
    ];
    for (rule, inner, alert) in cases {
        let mut records = Records::default();
        let record = records.seal(&inner);
        assert_eq!(records.receive(&record, 1 << 15), Received::Over(false, alert), "{rule}");
        // The same where the content does not fit into the caller's memory at once.
        let mut records = Records::default();
        let record = records.seal(&inner);
        assert_eq!(records.receive(&record, 1), Received::Over(false, alert), "{rule}, in place");
    }
    for (rule, bytes, alert) in [
        ("§5.2: an alert that is not protected", vec![ALERT, 3, 3, 0, 2, 2, 40], UNEXPECTED_MESSAGE),
        ("§5.2: too long", vec![DATA, 3, 3, 0x41, 1], RECORD_OVERFLOW),
        ("§5.2: too short", vec![DATA, 3, 3, 0, 15], BAD_RECORD_MAC),
        ("§5.2: altered", [&[DATA, 3, 3, 0, 20][..], &[7; 20]].concat(), BAD_RECORD_MAC),
    ] {
        assert_eq!(Records::default().receive(&bytes, 1), Received::Over(false, alert), "{rule}");
    }
}

#[test]
fn alerts_end_the_connection_and_a_farewell_ends_it_in_good_order() {
    let mut records = Records::default();
    assert_eq!(send(&mut records, ALERT, &[2, 40]), Received::Over(true, 40));
    let mut records = Records::default();
    assert_eq!(send(&mut records, ALERT, &[1, 40]), Received::Over(true, 40), "whatever its level (§6)");
    let mut records = Records::default();
    assert_eq!(send(&mut records, DATA, b"last"), Received::Data(b"last".to_vec()));
    assert_eq!(send(&mut records, ALERT, &[1, 0]), Received::Ended);
    assert_eq!(send(&mut records, DATA, b"after it"), Received::Ended, "what follows is ignored (§6.1)");
}

#[test]
fn no_more_than_32_records_in_a_row_may_carry_no_data() {
    let empty = (DATA, &b""[..]);
    let kinds = [empty, (ALERT, USER_CANCELED), (HANDSHAKE, UPDATE)];
    for (kind, content) in kinds {
        let mut records = Records::default();
        for _ in 0..3 {
            for number in 0..MAX_WITHOUT_DATA {
                assert_eq!(send(&mut records, kind, content), nothing(), "{kind}, number {number}");
            }
            assert_eq!(send(&mut records, DATA, b"x"), Received::Data(b"x".to_vec()));
        }
        for _ in 0..MAX_WITHOUT_DATA {
            assert_eq!(send(&mut records, kind, content), nothing());
        }
        assert_eq!(send(&mut records, kind, content), Received::Over(false, UNEXPECTED_MESSAGE));
    }
    let mut records = Records::default();
    for number in 0..MAX_WITHOUT_DATA as usize {
        let (kind, content) = kinds[number % kinds.len()];
        assert_eq!(send(&mut records, kind, content), nothing());
    }
    assert_eq!(send(&mut records, DATA, b""), Received::Over(false, UNEXPECTED_MESSAGE), "of any kind");
}

#[test]
fn changes_of_the_key_have_to_be_earned_by_data() {
    let mut records = Records::default();
    for number in 0..KEY_CHANGES {
        assert_eq!(send(&mut records, DATA, b"x"), Received::Data(b"x".to_vec()));
        assert_eq!(send(&mut records, HANDSHAKE, UPDATE), nothing(), "number {number}");
    }
    for _ in 0..3 {
        for _ in 0..BYTES_PER_KEY_CHANGE >> 14 {
            assert!(matches!(send(&mut records, DATA, &[1; 1 << 14]), Received::Data(_)));
        }
        assert_eq!(send(&mut records, HANDSHAKE, UPDATE), nothing(), "after so much data");
    }
    assert_eq!(send(&mut records, DATA, b"x"), Received::Data(b"x".to_vec()));
    assert_eq!(send(&mut records, HANDSHAKE, UPDATE), Received::Over(false, UNEXPECTED_MESSAGE));
}
