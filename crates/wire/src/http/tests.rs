//! Whole heads: where they end, that nothing panics, that a naive reader sees the same in what is accepted and in what
//! is written, that forwarding keeps the meaning, and that a head which was made ambiguous is refused.

use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use http::Method;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;

#[test]
fn head_ends() {
    for (text, want) in [
        ("", None),
        ("GET / HTTP/1.1\r\nHost: h\r\n", None),
        ("GET / HTTP/1.1\r\nHost: h\r\n\r", None),
        ("GET / HTTP/1.1\r\n\r\nbody\r\n\r\n", Some(18)),
        ("\r\n\r\nGET / HTTP/1.1\r\n\r\n", Some(22)),
        ("\r\n\r\n\r\n\r\nA\r\n\r\n", Some(13)),
        ("\r\n\r\n\r\n\r\n", None),
        ("\r\n\r\n\r\n\r\n\r\n\r\n", Some(12)),
        ("A\n\nb", Some(3)),
        ("A\n\r\nb", Some(4)),
        ("A\r\n\nb", Some(4)),
        ("A\r\r\n\r\r\nb", Some(7)),
        ("A\r\r\n\r\r", None),
        ("A\n\r\r\r\nb", None),
    ] {
        assert_eq!(head_end(text.as_bytes(), 0), want, "{text:?}");
    }
}

#[test]
fn bare_line_feeds_end_the_head_so_that_it_is_refused_without_waiting() {
    let text = b"GET / HTTP/1.1\nHost: h\n\n";
    assert_eq!(head_end(text, 0), Some(text.len()));
    assert_eq!(RequestHead::parse(text).unwrap_err(), Malformed::LineBreak);
}

#[test]
fn malformed_sentences_are_one_plain_line() {
    assert_eq!(
        Malformed::BothLengths.to_string(),
        "a message with both Content-Length and Transfer-Encoding is refused (request smuggling)"
    );
    assert_eq!(Malformed::HeadTooLarge.to_string(), "a message head larger than 64 KiB is refused");
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn pairs(fields: &Fields) -> Pairs {
    fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

/// A head as the simplest reader sees it, which knows only CRLF, SP and colon: the three parts of its first line
/// and its fields. It shares no code with the parser.
fn read_naively(head: &[u8]) -> ([Vec<u8>; 3], Pairs) {
    let text = head.strip_suffix(b"\r\n\r\n").unwrap_or_else(|| panic!("{}", head.escape_ascii()));
    // Each byte as the character with its number.
    let text: String = text.iter().copied().map(char::from).collect();
    let text = text.trim_start_matches("\r\n");
    let bytes = |text: &str| text.chars().map(|char| u8::try_from(char).unwrap()).collect::<Vec<u8>>();
    let mut lines = text.split("\r\n");
    let mut parts = lines.next().unwrap().splitn(3, ' ');
    let start_line = std::array::from_fn(|_| bytes(parts.next().unwrap_or_default()));
    let field = |line: &str| {
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("{line:?} has no colon"));
        let blanks = [' ', '\t'];
        (bytes(name), bytes(value.trim_matches(blanks)))
    };
    (start_line, lines.map(field).collect())
}

fn version_of(text: &[u8]) -> Version {
    match text {
        b"HTTP/1.0" => Version::Http10,
        // A later minor version is read as 1.1.
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Version::Http11,
        _ => panic!("{}", text.escape_ascii()),
    }
}

/// Whether a field is written anew, not copied.
fn is_rewritten(name: &[u8]) -> bool {
    ["host", "content-length", "transfer-encoding", "via", "connection", "upgrade", "max-forwards"]
        .iter()
        .any(|other| other.as_bytes().eq_ignore_ascii_case(name))
}

/// What must hold for every request that is accepted.
fn check_request(text: &[u8]) {
    let Ok(head) = RequestHead::parse(text) else { return };
    let ([method, _, version], fields) = read_naively(text);
    assert_eq!(method, head.method.as_str().as_bytes());
    assert_eq!(version_of(&version), head.version);
    assert_eq!(fields, pairs(&head.fields));

    let mut out = BytesMut::new();
    head.write_forward("laneway", &mut out);
    let ([method, target, version], written) = read_naively(&out);
    assert_eq!((&method[..], version_of(&version)), (head.method.as_str().as_bytes(), Version::Http11));
    if let RequestTarget::Absolute { path_and_query, .. } = &head.target {
        assert_eq!(target, path_and_query[..]);
    }
    // What is copied was there before, in this order.
    let mut received = fields.iter();
    for field in written.iter().filter(|(name, _)| !is_rewritten(name)) {
        assert!(received.any(|other| other == field), "{}", out.escape_ascii());
    }
    // Without `Host`, which HTTP/1.0 allows, the written HTTP/1.1 request lacks one too.
    let hostless = head.fields.get("host").is_none()
        && matches!(head.target, RequestTarget::Origin { .. } | RequestTarget::Asterisk);
    if out.len() > MAX_HEAD || hostless {
        return;
    }
    let again = RequestHead::parse(&out).unwrap_or_else(|error| panic!("{error}: {}", out.escape_ascii()));
    assert_eq!(written, pairs(&again.fields));
    assert_eq!((again.body, &again.method, again.upgrade), (head.body, &head.method, head.upgrade));
    assert!(again.keep_alive && again.via_names("laneway"));
    assert_eq!(head_end(&out, 0), Some(out.len()));
}

/// What must hold for every response that is accepted.
fn check_response(text: &[u8], method: &Method) {
    let Ok(head) = ResponseHead::parse(text, method) else { return };
    let status = head.status.to_string().into_bytes();
    if follows_the_grammar(text) {
        let ([version, read_status, reason], fields) = read_naively(text);
        assert_eq!((version_of(&version), &read_status), (head.version, &status));
        assert_eq!((&reason[..], fields), (&head.reason[..], pairs(&head.fields)));
    }
    for client in [Version::Http10, Version::Http11] {
        let mut out = BytesMut::new();
        let body = head.client_body(client);
        let to = Recipient { version: client, keep_alive: true };
        head.write_forward("laneway", to, body, SystemTime::UNIX_EPOCH, &mut out);
        assert!(follows_the_grammar(&out), "{}", out.escape_ascii());
        let ([version, written_status, _], written) = read_naively(&out);
        assert_eq!((version_of(&version), &written_status), (Version::Http11, &status));
        let framing = |name: &[u8]| {
            name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding")
        };
        assert!(written.iter().filter(|(name, _)| framing(name)).count() <= 1, "{}", out.escape_ascii());
        if out.len() > MAX_HEAD {
            continue;
        }
        let again = ResponseHead::parse(&out, method).unwrap();
        assert_eq!(written, pairs(&again.fields));
        assert_eq!(again.body, body, "{}", out.escape_ascii());
        assert_eq!((again.status, &again.reason), (head.status, &head.reason));
    }
}

/// Whether a response head has no line that is repaired when it is read (RFC 9112 §4, §5).
fn follows_the_grammar(head: &[u8]) -> bool {
    let Some(text) = head.strip_suffix(b"\r\n\r\n") else { return false };
    let text: String = text.iter().copied().map(char::from).collect();
    let mut lines = text.split("\r\n");
    let is_text = |line: &str| line.chars().all(|char| char == '\t' || !char.is_ascii_control());
    let start: Vec<char> = lines.next().unwrap_or_default().chars().collect();
    let version: String = start.iter().take(9).collect();
    let code = start.get(9..12).is_some_and(|code| code.iter().all(char::is_ascii_digit));
    let has_status = matches!(&*version, "HTTP/1.0 " | "HTTP/1.1 ") && code;
    let token = |char: char| char.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(char);
    let is_field = |line: &str| {
        line.split_once(':').is_some_and(|(name, _)| !name.is_empty() && name.chars().all(token))
    };
    has_status
        && matches!(start.get(12), None | Some(' '))
        && is_text(&start.iter().collect::<String>())
        && lines.all(|line| is_text(line) && is_field(line))
}

/// The outcome for a head that arrives in these pieces: where it ends, and how it is judged.
fn parse_in_pieces(text: &[u8], cuts: &[usize]) -> Option<(usize, Result<Pairs, Malformed>)> {
    let mut searched = 0;
    for seen in cuts.iter().copied().chain([text.len()]) {
        if let Some(end) = head_end(&text[..seen], searched) {
            let parsed = RequestHead::parse(&text[..end]);
            return Some((end, parsed.map(|head| pairs(&head.fields))));
        }
        searched = seen;
    }
    None
}

/// Field lines: most are ordinary, the others are used in smuggling.
fn field_lines() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        20 => "[A-Za-z][A-Za-z0-9_-]{0,12}:[ \t]{0,2}[!-~\u{80}-\u{ff}]([ -~]{0,20}[!-~])?[ \t]{0,2}\r\n",
        1 => (0..100_u64).prop_map(|length| format!("Content-Length: {length}\r\n")),
        1 => Just("Transfer-Encoding: chunked\r\n".to_owned()),
        1 => "Connection: (close|keep-alive|upgrade|host|via|[a-z-]{1,8})(, [a-z]{1,4})?\r\n",
        1 => "Upgrade: (websocket|h2c)\r\n",
        1 => "(TE|Trailer|Keep-Alive|Proxy-Authorization|Via|Expect|Max-Forwards): [a-z0-9 ,()-]{0,16}\r\n",
        1 => "X-Folded: a\r\n[ \t]b\r\n",
        1 => "X-Blank[ \t]: a\r\n",
    ];
    prop::collection::vec(line, 0..8).prop_map(|lines| lines.concat())
}

fn requests() -> impl Strategy<Value = String> {
    let method = "GET|HEAD|POST|OPTIONS|TRACE|PATCH|X-[A-Z!~]{1,5}";
    let target = "http://([a-z0-9._-]{1,10}|\\[::[0-9a-f]{1,4}\\])(:[1-9][0-9]{0,3})?(/[!-\"$-~\u{e4}]{0,20}|\\?[a-z=&]{0,5})?\
                  |/[!-\"$-~\u{e4}]{0,20}|/|\\*";
    (method, target, "1\\.[01]", "[a-z.]{1,8}(:80)?", field_lines()).prop_map(
        |(method, target, version, host, lines)| {
            format!("{method} {target} HTTP/{version}\r\nHost: {host}\r\n{lines}\r\n")
        },
    )
}

fn responses() -> impl Strategy<Value = String> {
    ("1\\.[01]", "(1|2|3|4|5)0[0-4]|101|304|999", "( [ -~\u{e4}]{0,12})?", field_lines()).prop_map(
        |(version, status, reason, lines)| format!("HTTP/{version} {status}{reason}\r\n{lines}\r\n"),
    )
}

/// `text` after a few bytes were overwritten, inserted or removed, mostly with bytes that have a meaning in a head.
fn damaged(text: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![prop::sample::select(&b"\r\n \t:\0,;0\x7f\xff"[..]), any::<u8>()];
    let edit = (any::<prop::sample::Index>(), byte, 0..4);
    (text, prop::collection::vec(edit, 1..3)).prop_map(|(text, edits)| {
        let mut text = text.into_bytes();
        for (at, byte, action) in edits {
            let at = at.index(text.len());
            match action {
                0 => text[at] = byte,
                1 => text.insert(at, byte),
                2 => {
                    text.insert(at, b'\n');
                    text.insert(at, b'\r');
                }
                _ => drop(text.remove(at)),
            }
        }
        text
    })
}

fn methods() -> impl Strategy<Value = Method> {
    prop::sample::select(vec![Method::GET, Method::HEAD, Method::POST])
}

/// An ordinary request, whose meaning is known without a parser.
#[derive(Debug, Clone)]
struct Plain {
    method: &'static str,
    host: String,
    port: u16,
    path: String,
    fields: Vec<(String, String)>,
    body: BodyLength,
}

fn plain() -> impl Strategy<Value = Plain> {
    (
        prop::sample::select(vec!["GET", "POST", "PUT", "DELETE"]),
        "[a-z][a-z0-9.-]{0,20}|fe80::[1-9]",
        1..=u16::MAX,
        "/[!-\"$-~]{0,30}",
        prop::collection::vec(("X-[A-Za-z0-9]{1,10}", "([!-~]([ -~]{0,30}[!-~])?)?"), 0..10),
        prop_oneof![
            Just(BodyLength::None),
            any::<u64>().prop_map(BodyLength::Exact),
            Just(BodyLength::Chunked)
        ],
    )
        .prop_map(|(method, host, port, path, fields, body)| Plain {
            method,
            host,
            port,
            path,
            fields,
            body,
        })
}

impl Plain {
    fn bracketed_host(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }

    fn text(&self) -> String {
        let Plain { method, port, path, fields, body, .. } = self;
        let host = self.bracketed_host();
        let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let framing = match body {
            BodyLength::Exact(length) => format!("Content-Length: {length}\r\n"),
            BodyLength::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            _ => String::new(),
        };
        format!("{method} http://{host}:{port}{path} HTTP/1.1\r\nHost: x\r\n{lines}{framing}\r\n")
    }
}

/// An edit that makes two recipients read a request differently, or that no recipient may take.
#[derive(Debug, Clone)]
enum Ambiguity {
    /// Removes the CR of this line, or the LF.
    Break { line: prop::sample::Index, keep: &'static str },
    /// Inserts a byte that is not text, anywhere.
    Control { at: prop::sample::Index, byte: u8 },
    /// Puts a blank before the colon of this field.
    BlankBeforeColon { field: prop::sample::Index, blank: char },
    /// Puts a blank before the name of this field, which is a fold or white space before the first field.
    BlankBeforeName { field: prop::sample::Index, blank: char },
    /// Adds these lines at the end.
    Lines(&'static str),
}

fn ambiguous() -> impl Strategy<Value = Ambiguity> {
    let index = any::<prop::sample::Index>;
    let blank = prop::sample::select(vec![' ', '\t']);
    prop_oneof![
        (index(), prop::sample::select(vec!["\n", "\r", "\r\r\n", "\n\r\n"]))
            .prop_map(|(line, keep)| Ambiguity::Break { line, keep }),
        (index(), prop::sample::select(b"\0\x01\x08\x0b\x0c\r\n\x1f\x7f".to_vec()))
            .prop_map(|(at, byte)| Ambiguity::Control { at, byte }),
        (index(), blank.clone()).prop_map(|(field, blank)| Ambiguity::BlankBeforeColon { field, blank }),
        (index(), blank).prop_map(|(field, blank)| Ambiguity::BlankBeforeName { field, blank }),
        prop::sample::select(vec![
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1, 2\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding: \u{b}chunked\r\n",
            "Host: other\r\n",
            "no-colon\r\n",
            ": no-name\r\n",
        ])
        .prop_map(Ambiguity::Lines),
    ]
}

impl Ambiguity {
    /// The edited head, and the reasons that it may be refused for.
    fn apply(&self, text: &str) -> (Vec<u8>, Vec<Malformed>) {
        use Malformed::*;
        let mut lines: Vec<String> = text.split_inclusive("\r\n").map(str::to_owned).collect();
        let fields = lines.len() - 2;
        let why = match self {
            Ambiguity::Break { line, keep } => {
                let line = line.index(lines.len());
                lines[line] = lines[line].replace("\r\n", keep);
                vec![LineBreak, Unfinished]
            }
            Ambiguity::Control { at, byte } => {
                let mut edited = text.as_bytes().to_vec();
                edited.insert(at.index(text.len()), *byte);
                let why =
                    vec![LineBreak, Unfinished, RequestLine, Method, TargetBytes, FieldName, FieldValue];
                return (edited, why);
            }
            Ambiguity::BlankBeforeColon { field, blank } => {
                let line = &mut lines[1 + field.index(fields)];
                *line = line.replacen(':', &format!("{blank}:"), 1);
                vec![SpaceBeforeColon]
            }
            Ambiguity::BlankBeforeName { field, blank } => {
                lines[1 + field.index(fields)].insert(0, *blank);
                vec![ObsFold]
            }
            Ambiguity::Lines(added) => {
                lines.insert(1 + fields, (*added).to_owned());
                vec![
                    BothLengths,
                    ContentLength,
                    SeveralContentLengths,
                    SeveralTransferEncodings,
                    TransferEncoding,
                    FieldName,
                    FieldValue,
                    SeveralHosts,
                ]
            }
        };
        (lines.concat().into_bytes(), why)
    }
}

/// Refused heads skip the checks above, so enough of the generated ones must be accepted.
#[test]
fn enough_of_what_is_generated_is_accepted() {
    let mut runner = TestRunner::deterministic();
    let mut accepted = [0; 4];
    for _ in 0..400 {
        let mut text = |strategy: BoxedStrategy<Vec<u8>>| strategy.new_tree(&mut runner).unwrap().current();
        let request = |text: Vec<u8>| usize::from(RequestHead::parse(&text).is_ok());
        let response = |text: Vec<u8>| usize::from(ResponseHead::parse(&text, &Method::GET).is_ok());
        accepted[0] += request(text(requests().prop_map(String::into_bytes).boxed()));
        accepted[1] += request(text(damaged(requests()).boxed()));
        accepted[2] += response(text(responses().prop_map(String::into_bytes).boxed()));
        accepted[3] += response(text(damaged(responses()).boxed()));
    }
    assert!(accepted.iter().all(|&count| count >= 40), "{accepted:?}");
}

proptest! {
    #[test]
    fn forwarding_keeps_the_meaning(plain in plain()) {
        let head = RequestHead::parse(plain.text().as_bytes()).unwrap();
        let bracketed = plain.bracketed_host();
        let Plain { method, host, port, path, fields, body } = plain;
        let mut out = BytesMut::new();
        head.write_forward("laneway", &mut out);
        let again = RequestHead::parse(&out).unwrap();

        let (path, authority) = (Bytes::from(path), format!("{bracketed}:{port}"));
        let target = RequestTarget::Absolute { host, port, authority: authority.clone(), path_and_query: path.clone() };
        prop_assert_eq!(&head.target, &target);
        prop_assert_eq!(&again.target, &RequestTarget::Origin { path });
        prop_assert_eq!(again.method.as_str(), method);
        prop_assert_eq!((head.body, again.body), (body, body));
        prop_assert_eq!(again.fields.get("host"), Some(authority.as_bytes()));
        let kept: Pairs = pairs(&again.fields).into_iter().filter(|(name, _)| name.starts_with(b"X-")).collect();
        let sent: Pairs = fields.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect();
        prop_assert_eq!(kept, sent);
    }

    #[test]
    fn accepted_requests_mean_what_a_naive_reader_sees(text in requests()) {
        check_request(text.as_bytes());
    }

    #[test]
    fn accepted_damaged_requests_too(text in damaged(requests())) {
        check_request(&text);
    }

    #[test]
    fn accepted_responses_mean_what_a_naive_reader_sees(text in responses(), method in methods()) {
        check_response(text.as_bytes(), &method);
    }

    #[test]
    fn accepted_damaged_responses_too(text in damaged(responses()), method in methods()) {
        check_response(&text, &method);
    }

    #[test]
    fn a_request_that_was_made_ambiguous_is_refused(plain in plain(), edit in ambiguous()) {
        let text = plain.text();
        prop_assert!(RequestHead::parse(text.as_bytes()).is_ok());
        let (edited, why) = edit.apply(&text);
        let refused = RequestHead::parse(&edited).map(|_| ());
        prop_assert!(matches!(refused, Err(error) if why.contains(&error)), "{refused:?}: {}", edited.escape_ascii());
    }

    #[test]
    fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..300)) {
        check_request(&text);
        check_response(&text, &Method::GET);
        let _ = head_end(&text, 0);
    }

    #[test]
    fn cuts_make_no_difference(text in damaged(requests()), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
        cuts.sort_unstable();
        let whole = parse_in_pieces(&text, &[]);
        prop_assert_eq!(&parse_in_pieces(&text, &cuts), &whole);
        prop_assert_eq!(&parse_in_pieces(&text, &(0..text.len()).collect::<Vec<_>>()), &whole);
    }

    #[test]
    fn the_end_is_found_at_the_same_place_in_pieces(
        text in prop::collection::vec(prop::sample::select(&b"\r\nA"[..]), 0..24),
    ) {
        let mut searched = 0;
        let mut found = None;
        for seen in 0..=text.len() {
            found = head_end(&text[..seen], searched);
            if found.is_some() {
                break;
            }
            searched = seen;
        }
        prop_assert_eq!(found, head_end(&text, 0));
    }
}
