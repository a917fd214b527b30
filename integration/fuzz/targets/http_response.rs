//! The head of a response: what is accepted means the same to httparse, and still does once it is written anew.

use bytes::BytesMut;
use http::Method;
use laneway::wire::http::{
    BodyLength, MAX_FIELDS, MAX_HEAD, ResponseHead, Version, head_end, simple_response,
};

use super::http_request::{check_refusal, head_end_in_pieces};

/// `data` begins with a head.
pub fn run(data: &[u8]) {
    let Some(end) = head_end_in_pieces(data) else { return };
    for method in [Method::GET, Method::HEAD, Method::CONNECT] {
        match ResponseHead::parse(&data[..end], &method) {
            Ok(parsed) => check(&data[..end], &parsed, &method),
            Err(malformed) => check_refusal(malformed),
        }
    }
}

fn check(head: &[u8], parsed: &ResponseHead, method: &Method) {
    let folded = head.windows(3).any(|bytes| matches!(bytes, [b'\r', b'\n', b' ' | b'\t']));
    if !folded {
        let (status, version, fields) = httparse(head);
        assert_eq!((status, version == 1), (parsed.status, parsed.version == Version::Http11));
        assert!(fields.iter().map(|(name, value)| (&name[..], &value[..])).eq(parsed.fields.iter()));
    }
    if *method == Method::HEAD || matches!(parsed.status, 100..200 | 204 | 304) {
        assert_eq!(parsed.body, BodyLength::None);
    }
    if parsed.body == BodyLength::UntilClose {
        assert!(!parsed.keep_alive);
    }
    for client in [Version::Http10, Version::Http11] {
        let body = parsed.client_body(client);
        assert!(client == Version::Http11 || body != BodyLength::Chunked);
        assert!(client == Version::Http10 || body != BodyLength::UntilClose);
        let mut written = BytesMut::new();
        parsed.write_forward("laneway", client, true, body, &mut written);
        assert_eq!(head_end(&written, 0), Some(written.len()));
        let (status, version, fields) = httparse(&written);
        assert_eq!((status, version), (parsed.status, 1));
        // Our own Via may be one too many.
        if fields.len() > MAX_FIELDS || written.len() > MAX_HEAD {
            continue;
        }
        let again = ResponseHead::parse(&written, method).expect("what is written can be read");
        assert_eq!((again.status, &again.reason, again.body), (parsed.status, &parsed.reason, body));
    }
    // The reason phrase of a peer in an answer of our own.
    let reason = String::from_utf8_lossy(&parsed.reason);
    let own = simple_response(parsed.status, &reason, &[("X-Reason", &reason)], &reason, false);
    let end = head_end(&own, 0).expect("a whole answer");
    assert_eq!(&own[end..], reason.as_bytes());
    assert_eq!(httparse(&own[..end]).0, parsed.status);
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Status, minor version and fields.
fn httparse(head: &[u8]) -> (u16, u8, Pairs) {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS + 8];
    let mut response = httparse::Response::new(&mut fields);
    assert_eq!(response.parse(head), Ok(httparse::Status::Complete(head.len())));
    let (status, version) = (response.code.expect("whole"), response.version.expect("whole"));
    let fields = response.headers.iter().map(|field| (field.name.into(), field.value.into()));
    (status, version, fields.collect())
}
