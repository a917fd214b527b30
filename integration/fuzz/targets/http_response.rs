//! The head of a response: an accepted head means the same to a naive reader, also after it is written anew.

use std::time::SystemTime;

use bytes::BytesMut;
use http::Method;
use laneway::wire::http::{
    BodyLength, MAX_HEAD, Recipient, ResponseHead, Version, head_end, simple_response,
};

use super::http_request::{check_refusal, head_end_in_pieces, read_naively, version_text};

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
    if follows_the_grammar(head) {
        let ([version, status, reason], fields) = read_naively(head);
        assert_eq!(version, version_text(parsed.version));
        assert_eq!((status, &reason[..]), (parsed.status.to_string().into_bytes(), &parsed.reason[..]));
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
        let to = Recipient { version: client, keep_alive: true };
        parsed.write_forward("laneway", to, body, SystemTime::UNIX_EPOCH, &mut written);
        assert!(follows_the_grammar(&written), "{}", written.escape_ascii());
        assert_eq!(head_end(&written, 0), Some(written.len()));
        let ([version, status, _], fields) = read_naively(&written);
        assert_eq!(version, b"HTTP/1.1");
        assert_eq!(status, parsed.status.to_string().into_bytes());
        // Our own Via may make the head too large.
        if written.len() > MAX_HEAD {
            continue;
        }
        let again = ResponseHead::parse(&written, method).expect("a written head can be parsed");
        assert_eq!((again.status, &again.reason, again.body), (parsed.status, &parsed.reason, body));
        assert!(fields.iter().map(|(name, value)| (&name[..], &value[..])).eq(again.fields.iter()));
    }
    // The reason phrase of a peer in a response of the proxy itself.
    let reason = String::from_utf8_lossy(&parsed.reason);
    let own = simple_response(parsed.status, &reason, &[("X-Reason", &reason)], &reason, false);
    let end = head_end(&own, 0).expect("a whole response");
    assert_eq!(&own[end..], reason.as_bytes());
    assert_eq!(read_naively(&own[..end]).0[1], parsed.status.to_string().into_bytes());
}

/// Whether a head has no line that is repaired when it is read (RFC 9112 §4, §5).
fn follows_the_grammar(head: &[u8]) -> bool {
    let Some(text) = head.strip_suffix(b"\r\n\r\n") else { return false };
    let text: String = text.iter().copied().map(char::from).collect();
    let mut lines = text.split("\r\n");
    let is_text = |line: &str| line.chars().all(|char| char == '\t' || !char.is_ascii_control());
    let start = lines.next().unwrap_or_default();
    let status = start.strip_prefix("HTTP/1.1 ").or_else(|| start.strip_prefix("HTTP/1.0 "));
    let has_status = status.is_some_and(|status| {
        status.len() >= 3
            && status.chars().take(3).all(|char| char.is_ascii_digit())
            && matches!(status.chars().nth(3), None | Some(' '))
            && is_text(status)
    });
    let token = |char: char| char.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(char);
    has_status
        && lines.all(|line| {
            is_text(line)
                && line.split_once(':').is_some_and(|(name, _)| !name.is_empty() && name.chars().all(token))
        })
}
