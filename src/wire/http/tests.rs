//! Whole heads: where they end, that nothing panics, that forwarding keeps the meaning, and that an independent
//! parser (httparse) reads what was accepted and what was written the same way.

use bytes::BytesMut;
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
    assert_eq!(Malformed::TooManyFields.to_string(), "a message with more than 128 header fields is refused");
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn pairs(fields: &Fields) -> Pairs {
    fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

/// The fields as httparse sees them, which must take the whole head.
fn httparse_request(head: &[u8]) -> (String, String, u8, Pairs) {
    let mut headers = [httparse::EMPTY_HEADER; MAX_FIELDS + 8];
    let mut request = httparse::Request::new(&mut headers);
    assert_eq!(request.parse(head), Ok(httparse::Status::Complete(head.len())), "{}", head.escape_ascii());
    let fields = request.headers.iter().map(|field| (field.name.into(), field.value.into())).collect();
    let (method, path) = (request.method.unwrap().to_owned(), request.path.unwrap().to_owned());
    (method, path, request.version.unwrap(), fields)
}

fn httparse_response(head: &[u8]) -> (u16, u8, Pairs) {
    let mut headers = [httparse::EMPTY_HEADER; MAX_FIELDS + 8];
    let mut response = httparse::Response::new(&mut headers);
    assert_eq!(response.parse(head), Ok(httparse::Status::Complete(head.len())), "{}", head.escape_ascii());
    let fields = response.headers.iter().map(|field| (field.name.into(), field.value.into())).collect();
    (response.code.unwrap(), response.version.unwrap(), fields)
}

/// What must hold for every request that is accepted.
fn check_request(text: &[u8]) {
    let Ok(head) = RequestHead::parse(text) else { return };
    let (method, _, version, fields) = httparse_request(text);
    assert_eq!(method, head.method.as_str());
    assert_eq!(version == 1, head.version == Version::Http11);
    assert_eq!(fields, pairs(&head.fields));

    let mut out = BytesMut::new();
    head.write_forward("laneway", &mut out);
    let (method, path, version, fields) = httparse_request(&out);
    assert_eq!((method.as_str(), version), (head.method.as_str(), 1));
    if let RequestTarget::Absolute { path_and_query, .. } = &head.target {
        assert_eq!(&path, path_and_query);
    }
    if out.len() > MAX_HEAD || fields.len() > MAX_FIELDS {
        return;
    }
    // Without `Host`, which HTTP/1.0 allows, the written HTTP/1.1 request lacks one too.
    if head.fields.get("host").is_none()
        && matches!(head.target, RequestTarget::Origin { .. } | RequestTarget::Asterisk)
    {
        return;
    }
    let again = RequestHead::parse(&out).unwrap_or_else(|error| panic!("{error}: {}", out.escape_ascii()));
    assert_eq!(fields, pairs(&again.fields));
    assert_eq!((again.body, &again.method, again.upgrade), (head.body, &head.method, head.upgrade));
    assert!(again.keep_alive && again.via_names("laneway"));
    assert_eq!(head_end(&out, 0), Some(out.len()));
}

/// What must hold for every response that is accepted.
fn check_response(text: &[u8], method: &Method) {
    let Ok(head) = ResponseHead::parse(text, method) else { return };
    let folded = text.windows(3).any(|bytes| bytes == b"\r\n " || bytes == b"\r\n\t");
    if !folded {
        let (status, version, fields) = httparse_response(text);
        assert_eq!((status, version == 1), (head.status, head.version == Version::Http11));
        assert_eq!(fields, pairs(&head.fields));
    }
    for client in [Version::Http10, Version::Http11] {
        let mut out = BytesMut::new();
        let body = head.client_body(client);
        head.write_forward("laneway", client, true, body, &mut out);
        let (status, version, fields) = httparse_response(&out);
        assert_eq!((status, version), (head.status, 1));
        if out.len() > MAX_HEAD || fields.len() > MAX_FIELDS {
            continue;
        }
        let again = ResponseHead::parse(&out, method).unwrap();
        assert_eq!(fields, pairs(&again.fields));
        assert_eq!(again.body, body, "{}", out.escape_ascii());
        assert_eq!((again.status, &again.reason), (head.status, &head.reason));
    }
}

/// Field lines, most of them good; the odd ones are what smuggling is made of.
fn field_lines() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        20 => "[A-Za-z][A-Za-z0-9_-]{0,12}:[ \t]{0,2}[!-~\u{80}-\u{ff}]([ -~]{0,20}[!-~])?[ \t]{0,2}\r\n",
        1 => (0..100_u64).prop_map(|length| format!("Content-Length: {length}\r\n")),
        1 => Just("Transfer-Encoding: chunked\r\n".to_owned()),
        1 => "Connection: (close|keep-alive|upgrade|host|via|[a-z-]{1,8})(, [a-z]{1,4})?\r\n",
        1 => "Upgrade: (websocket|h2c)\r\n",
        1 => "(TE|Trailer|Keep-Alive|Proxy-Authorization|Via|Expect|Max-Forwards): [a-z0-9 ,()-]{0,16}\r\n",
        1 => "X-Folded: a\r\n[ \t]b\r\n",
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

/// `text` after a few bytes were overwritten, inserted or removed, mostly by the bytes that matter.
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

/// What a good request means must survive: field by field, not only by our own parser's word.
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

/// The checks above say nothing about what is refused, so enough must be accepted.
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
        let Plain { method, host, port, path, fields, body } = plain;
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let framing = match body {
            BodyLength::Exact(length) => format!("Content-Length: {length}\r\n"),
            BodyLength::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            _ => String::new(),
        };
        let text = format!("{method} http://{bracketed}:{port}{path} HTTP/1.1\r\nHost: x\r\n{lines}{framing}\r\n");
        let head = RequestHead::parse(text.as_bytes()).unwrap();
        let mut out = BytesMut::new();
        head.write_forward("laneway", &mut out);
        let again = RequestHead::parse(&out).unwrap();

        let target = RequestTarget::Absolute { host, port, path_and_query: path.clone() };
        prop_assert_eq!(&head.target, &target);
        prop_assert_eq!(&again.target, &RequestTarget::Origin { path });
        prop_assert_eq!(again.method.as_str(), method);
        prop_assert_eq!((head.body, again.body), (body, body));
        let authority = if port == 80 { bracketed } else { format!("{bracketed}:{port}") };
        prop_assert_eq!(again.fields.get("host"), Some(authority.as_bytes()));
        let kept: Pairs = pairs(&again.fields).into_iter().filter(|(name, _)| name.starts_with(b"X-")).collect();
        let sent: Pairs = fields.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect();
        prop_assert_eq!(kept, sent);
    }

    #[test]
    fn accepted_requests_are_read_and_written_as_httparse_reads_them(text in requests()) {
        check_request(text.as_bytes());
    }

    #[test]
    fn damaged_requests_too(text in damaged(requests())) {
        check_request(&text);
    }

    #[test]
    fn accepted_responses_are_read_and_written_as_httparse_reads_them(text in responses(), method in methods()) {
        check_response(text.as_bytes(), &method);
    }

    #[test]
    fn damaged_responses_too(text in damaged(responses()), method in methods()) {
        check_response(&text, &method);
    }

    #[test]
    fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..300)) {
        check_request(&text);
        check_response(&text, &Method::GET);
        let _ = head_end(&text, 0);
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
