//! Bytes that may be sent twice: exactly one whole request or ClientHello, and nothing else.

use laneway::wire::http::{BodyLength, RequestHead, head_end};
use laneway::wire::replay::is_safe;

/// `data` is what an app has sent so far.
pub fn run(data: &[u8]) {
    if !is_safe(data) {
        return;
    }
    match data {
        [] => return,
        [22, ..] => check_hello(data),
        _ => {
            assert_eq!(head_end(data, 0), Some(data.len()));
            let request = RequestHead::parse(data).expect("only a valid request is repeated");
            assert!(matches!(request.method.as_str(), "GET" | "HEAD" | "OPTIONS"));
            assert!(request.body == BodyLength::None && request.upgrade.is_none());
        }
    }
    assert!(!is_safe(&[data, &data[..1]].concat()), "something follows");
    assert!(!is_safe(&data[..data.len() - 1]) || data.len() == 1, "it is incomplete");
}

/// One ClientHello (RFC 8446 §4.1.2) that fills its records, without `early_data`.
fn check_hello(data: &[u8]) {
    let (mut message, mut rest) = (Vec::new(), data);
    while let [22, _, _, high, low, after @ ..] = rest {
        let (body, after) = after.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        message.extend_from_slice(body);
        rest = after;
    }
    assert!(rest.is_empty());
    let length = usize::from(message[1]) << 16 | usize::from(message[2]) << 8 | usize::from(message[3]);
    assert_eq!((message[0], message.len()), (1, length + 4));
    // Type and length, version, random; then three vectors.
    let mut at = 4 + 2 + 32;
    at += 1 + usize::from(message[at]);
    at += 2 + usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
    at += 1 + usize::from(message[at]);
    let mut extensions = message.get(at + 2..).unwrap_or_default();
    while let [high, low, length_high, length_low, after @ ..] = extensions {
        assert_ne!([*high, *low], [0, 42], "early data is repeated");
        extensions = &after[usize::from(u16::from_be_bytes([*length_high, *length_low]))..];
    }
    assert!(extensions.is_empty());
}
