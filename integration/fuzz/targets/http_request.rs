//! The head of a request: an accepted head means the same to a naive reader, also after it is written anew.

use bytes::BytesMut;
use laneway::wire::http::{BodyLength, MAX_HEAD, Malformed, RequestHead, RequestTarget, Version, head_end};
use laneway::wire::target::Target;

/// `data` begins with a head.
pub fn run(data: &[u8]) {
    let Some(end) = head_end_in_pieces(data) else { return };
    let (head, rest) = data.split_at(end);
    let parsed = match RequestHead::parse(head) {
        Ok(parsed) => parsed,
        Err(malformed) => return check_refusal(malformed),
    };
    assert!(rest.is_empty() || RequestHead::parse(data).is_err(), "a head with bytes after it");
    let ([method, _, version], fields) = read_naively(head);
    assert_eq!(method, parsed.method.as_str().as_bytes());
    // A later minor version is read as 1.1.
    let is_later = matches!(&version[..], [.., b'.', b'2'..=b'9']) && version.starts_with(b"HTTP/1.");
    assert!(is_later && parsed.version == Version::Http11 || version == version_text(parsed.version));
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

/// Finds the end of a head that arrives in pieces, which must be the same as for the whole.
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

/// The bytes that go to the server must be the same single request for every reader.
fn check_forwarded(parsed: &RequestHead) {
    let mut written = BytesMut::new();
    parsed.write_forward("laneway", &mut written);
    assert_eq!(head_end(&written, 0), Some(written.len()));
    let ([method, target, version], fields) = read_naively(&written);
    assert_eq!((&method[..], &version[..]), (parsed.method.as_str().as_bytes(), &b"HTTP/1.1"[..]));
    if let RequestTarget::Absolute { path_and_query, .. } = &parsed.target {
        assert_eq!(target, path_and_query[..]);
    }
    for (name, _) in &fields {
        let hop = ["proxy-authorization", "proxy-connection", "keep-alive", "te", "trailer"];
        assert!(!hop.iter().any(|hop| hop.as_bytes().eq_ignore_ascii_case(name)));
    }
    // An HTTP/1.0 request needs no Host, and our own Via may make the head too large.
    let hostless = parsed.fields.get("host").is_none()
        && matches!(parsed.target, RequestTarget::Origin { .. } | RequestTarget::Asterisk);
    if hostless || written.len() > MAX_HEAD {
        return;
    }
    let again = RequestHead::parse(&written).expect("a written head can be parsed");
    assert_eq!((&again.method, again.body, again.upgrade), (&parsed.method, parsed.body, parsed.upgrade));
    assert!(fields.iter().map(|(name, value)| (&name[..], &value[..])).eq(again.fields.iter()));
    assert!(again.keep_alive && again.via_names("laneway"));
}

pub(super) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// The three parts of the first line of a head, and its fields, as a reader sees them that knows only CRLF, SP and
/// colon. It shares no code with the parser.
pub(super) fn read_naively(head: &[u8]) -> ([Vec<u8>; 3], Pairs) {
    let text = head.strip_suffix(b"\r\n\r\n").expect("an accepted head ends with an empty line");
    // Each byte as the character with its number.
    let text: String = text.iter().copied().map(char::from).collect();
    let text = text.trim_start_matches("\r\n");
    let bytes = |text: &str| {
        text.chars().map(|char| u8::try_from(char).expect("made from a byte")).collect::<Vec<u8>>()
    };
    let mut lines = text.split("\r\n");
    let mut parts = lines.next().unwrap_or_default().splitn(3, ' ');
    let start_line = std::array::from_fn(|_| bytes(parts.next().unwrap_or_default()));
    let field = |line: &str| {
        let (name, value) = line.split_once(':').expect("an accepted field line has a colon");
        let blanks = [' ', '\t'];
        (bytes(name), bytes(value.trim_matches(blanks)))
    };
    (start_line, lines.map(field).collect())
}

pub(super) fn version_text(version: Version) -> &'static [u8] {
    match version {
        Version::Http10 => b"HTTP/1.0",
        Version::Http11 => b"HTTP/1.1",
    }
}
