//! The head of a request: what is accepted means the same to httparse, and still does once it is written anew.

use bytes::BytesMut;
use laneway::wire::http::{
    BodyLength, MAX_FIELDS, MAX_HEAD, Malformed, RequestHead, RequestTarget, Version, head_end,
};
use laneway::wire::target::Target;

/// `data` begins with a head.
pub fn run(data: &[u8]) {
    let Some(end) = head_end_in_pieces(data) else { return };
    let (head, rest) = data.split_at(end);
    let parsed = match RequestHead::parse(head) {
        Ok(parsed) => parsed,
        Err(malformed) => return check_refusal(malformed),
    };
    assert!(rest.is_empty() || RequestHead::parse(data).is_err(), "a head with more than a head");
    let (method, _, version, fields) = httparse(head);
    assert_eq!(method, parsed.method.as_str());
    assert_eq!(version == 1, parsed.version == Version::Http11);
    assert!(fields.iter().map(|(name, value)| (&name[..], &value[..])).eq(parsed.fields.iter()));
    assert!(parsed.body != BodyLength::UntilClose);
    if let RequestTarget::Absolute { host, port, .. } | RequestTarget::Authority { host, port } =
        &parsed.target
        && let Ok(target) = Target::new(host, *port)
    {
        assert_eq!(target.to_string().parse(), Ok(target));
    }
    check_forwarded(&parsed);
}

/// Finds the end of the head as it arrives piece by piece, which must be where it is in the whole.
pub(super) fn head_end_in_pieces(data: &[u8]) -> Option<usize> {
    let (mut seen, mut found) = (0, None);
    for piece in super::input::pieces(data) {
        let searched = seen;
        seen += piece.len();
        found = head_end(&data[..seen], searched);
        if found.is_some() {
            break;
        }
    }
    assert_eq!(found, head_end(data, 0));
    found
}

pub(super) fn check_refusal(malformed: Malformed) {
    assert!((400..600).contains(&malformed.status()));
    assert!(malformed.to_string().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
}

/// What goes to the server: one request, the same one, to every reader.
fn check_forwarded(parsed: &RequestHead) {
    let mut written = BytesMut::new();
    parsed.write_forward("laneway", &mut written);
    assert_eq!(head_end(&written, 0), Some(written.len()));
    let (method, path, version, fields) = httparse(&written);
    assert_eq!((method.as_str(), version), (parsed.method.as_str(), 1));
    if let RequestTarget::Absolute { path_and_query, .. } = &parsed.target {
        assert_eq!(&path, path_and_query);
    }
    for (name, _) in &fields {
        let hop = ["proxy-authorization", "proxy-connection", "keep-alive", "te", "trailer"];
        assert!(!hop.iter().any(|hop| hop.as_bytes().eq_ignore_ascii_case(name)));
    }
    // Our own Via may be one too many, and an HTTP/1.0 request needs no Host.
    let hostless = parsed.fields.get("host").is_none()
        && matches!(parsed.target, RequestTarget::Origin { .. } | RequestTarget::Asterisk);
    if hostless || fields.len() > MAX_FIELDS || written.len() > MAX_HEAD {
        return;
    }
    let again = RequestHead::parse(&written).expect("what is written can be read");
    assert_eq!((&again.method, again.body, again.upgrade), (&parsed.method, parsed.body, parsed.upgrade));
    assert!(again.keep_alive && again.via_names("laneway"));
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Method, path, minor version and fields.
fn httparse(head: &[u8]) -> (String, String, u8, Pairs) {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS + 8];
    let mut request = httparse::Request::new(&mut fields);
    assert_eq!(request.parse(head), Ok(httparse::Status::Complete(head.len())));
    let (method, path) = (request.method.expect("whole"), request.path.expect("whole"));
    let version = request.version.expect("whole");
    let fields = request.headers.iter().map(|field| (field.name.into(), field.value.into()));
    (method.into(), path.into(), version, fields.collect())
}
