//! DNS queries, and the answers to them.

use laneway::wire::dns::{Decision, Query, Reason, ResponseCode, encode_datagram, failure};

/// `data` is a message that arrived by UDP or over a link.
pub fn run(data: &[u8]) {
    match Decision::of(data) {
        Decision::Ignore => assert!(data.len() < 12 || data[2] & 0x80 > 0, "a query is not answered"),
        Decision::Answer(query, _, answer) => check(data, query.as_ref().as_ref(), &answer),
        Decision::Ask(query) => {
            let failed = failure(ResponseCode::ServFail, Reason::NetworkError, "it is so");
            let answer = encode_datagram(&query.answer(&failed), query.payload());
            assert!(answer.len() <= query.payload());
            check(data, Some(&query), &answer);
            let Decision::Ask(forwarded) = Decision::of(&query.to_link()) else {
                panic!("the gateway does not ask what the client asks");
            };
            assert_eq!(forwarded.key(), query.key(), "the gateway asks something else");
            drop(query.subject());
        }
    }
}

/// Checks that the answer has the query's id and opcode, and its question if that could be parsed.
fn check(data: &[u8], query: Option<&Query>, answer: &[u8]) {
    assert!(answer.len() >= 12);
    assert_eq!(answer[..2], data[..2], "the id");
    assert_eq!(answer[2] & 0xf9, data[2] & 0x79 | 0x80, "QR, the opcode and RD");
    match (query, Decision::of(&queried(answer))) {
        (None, _) => assert_eq!(answer.len(), 12),
        (Some(query), Decision::Ask(read)) => assert_eq!(read.question(), query.question()),
        (Some(query), Decision::Answer(read, ..)) => {
            assert_eq!(read.as_ref().as_ref().expect("it can be read").question(), query.question());
        }
        (Some(_), Decision::Ignore) => panic!("it is none"),
    }
}

/// The same message as a query.
fn queried(answer: &[u8]) -> Vec<u8> {
    let mut query = answer.to_vec();
    query[2] &= 0x79;
    query
}
