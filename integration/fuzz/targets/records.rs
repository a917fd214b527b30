//! The record layer of a link that is fed records of a member, who has the keys and seals what it likes: application data
//! comes out as it went in and in order, nothing follows a fault, no more than 32 records in a row carry no data, and nothing
//! depends on how much is opened at a time.

use laneway::link::fuzz::{Received, Records};

use super::input::Choices;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
/// The largest plaintext of a record with its type and padding, in bytes (RFC 8446 §5.4).
const LARGEST: usize = (1 << 14) + 1;
/// As many records in a row may carry no data.
const WITHOUT_DATA: u32 = 32;

/// `data` chooses the records.
pub fn run(data: &[u8]) {
    let whole = open(data, 1 << 15);
    assert_eq!(whole, open(data, 7), "the same records, opened in other parts");
}

/// What comes out, and the alert of either end when it is over.
fn open(data: &[u8], most: usize) -> (Vec<u8>, Option<(bool, u8)>) {
    let (mut records, mut choices) = (Records::default(), Choices(data));
    let (mut sent, mut heard, mut without_data) = (Vec::new(), Vec::new(), 0);
    while !choices.is_empty() {
        let inner = inner(&mut choices);
        let mut record = records.seal(&inner);
        let is_altered = choices.byte() % 16 == 0;
        if is_altered {
            let at = usize::from(choices.byte()) % record.len();
            record[at] ^= 1 << (choices.byte() % 8);
        }
        if let Some(content) = content(&inner).filter(|_| !is_altered) {
            sent.extend_from_slice(content);
            without_data = if content.is_empty() { without_data + 1 } else { 0 };
        } else {
            without_data += 1;
        }
        match records.receive(&record, most) {
            Received::Data(more) => heard.extend(more),
            Received::Ended => return (heard, None),
            Received::Over(by_peer, alert) => return (heard, Some((by_peer, alert))),
        }
        assert!(without_data <= WITHOUT_DATA, "{without_data} records without data");
        // An altered length makes the end wait for more.
        if is_altered {
            break;
        }
        assert_eq!(heard, sent);
    }
    (heard, None)
}

/// The plaintext of a record.
fn inner(choices: &mut Choices<'_>) -> Vec<u8> {
    let length = usize::from(choices.byte());
    let filled = |length: usize| (0..length).map(|at| at.to_le_bytes()[0]).collect::<Vec<u8>>();
    match choices.byte() % 8 {
        0 | 1 => with(&filled(length), DATA, 0),
        2 => with(&filled(length), DATA, length),
        // Around the largest size.
        3 => with(&filled(length), DATA, LARGEST + 1 - 2 * length),
        4 => with(&[24, 0, 0, 1, choices.byte() % 4], HANDSHAKE, 0),
        5 => with(&[1, choices.of(&[90, 90, 90, 0, 40])], ALERT, 0),
        6 => with(&filled(length % 8), choices.byte(), 0),
        _ => choices.0[..length.min(choices.0.len())].to_vec(),
    }
}

fn with(content: &[u8], kind: u8, padding: usize) -> Vec<u8> {
    [content, &[kind], &vec![0; padding]].concat()
}

/// The content, when it is application data.
fn content(inner: &[u8]) -> Option<&[u8]> {
    let last = inner.iter().rposition(|byte| *byte != 0)?;
    (inner[last] == DATA && inner.len() <= LARGEST).then(|| &inner[..last])
}
