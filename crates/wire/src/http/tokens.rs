//! Heads taken apart by httparse: with which of its options, and what it accepts that is refused here.
//!
//! httparse is called once for each head, when the head is whole ([`super::head_end`]).

use std::borrow::Cow;
use std::mem::MaybeUninit;

use bytes::Bytes;
use httparse::{Header, ParserConfig, Request, Response, Status};
use memchr::{memchr, memchr_iter, memrchr};

use super::repair::{Repaired, repair};
use super::{Fields, Malformed, Version, diagnosis, empty_lines};

/// Up to this many fields are parsed without an allocation for httparse. Browsers send about 20.
const USUAL_FIELDS: usize = 64;

/// The parts of a request head.
pub(super) struct RequestTokens<'a> {
    pub(super) method: http::Method,
    pub(super) target: &'a [u8],
    pub(super) version: Version,
    pub(super) fields: Fields,
}

/// The parts of a response head.
pub(super) struct ResponseTokens {
    pub(super) version: Version,
    /// Any three digits.
    pub(super) status: u16,
    pub(super) reason: Bytes,
    pub(super) fields: Fields,
    /// The head was repaired in a way that leaves doubt about the framing of the body.
    pub(super) doubtful: bool,
}

/// Takes a request head of at most `most` bytes apart.
pub(super) fn request(head: &[u8], most: usize) -> Result<RequestTokens<'_>, Malformed> {
    check_size(head, most)?;
    // RFC 9112 §2.2: at least one empty line before the request line SHOULD be ignored.
    let head = &head[empty_lines(head)..];
    let target = target(head);
    let text = as_httparse_takes_it(head, target);
    let options = request_options();
    let tokens = with_room(&text, |room| {
        let mut request = Request::new(&mut []);
        let status = options.parse_request_with_uninit_headers(&mut request, &text, room)?;
        let (Status::Complete(length), Some(method), Some(version)) =
            (status, request.method, request.version)
        else {
            return Ok(Status::Partial);
        };
        let fields = Fields::collect(request.headers, head.len());
        let method = http::Method::from_bytes(method.as_bytes()).ok().ok_or(httparse::Error::Token)?;
        let version = Version::from_minor(version);
        Ok(Status::Complete((length, RequestTokens { method, target, version, fields })))
    });
    check_end(&text, tokens, diagnosis::of_request)
}

/// Takes a response head of at most `most` bytes apart, after a repair if it needs one.
pub(super) fn response(head: &[u8], most: usize) -> Result<ResponseTokens, Malformed> {
    check_size(head, most)?;
    response_by_the_grammar(head).or_else(|_| {
        let Repaired { head, doubtful } = repair(head)?;
        Ok(ResponseTokens { doubtful, ..response_by_the_grammar(&head)? })
    })
}

fn response_by_the_grammar(head: &[u8]) -> Result<ResponseTokens, Malformed> {
    let options = response_options();
    let tokens = with_room(head, |room| {
        let mut response = Response::new(&mut []);
        let status = options.parse_response_with_uninit_headers(&mut response, head, room)?;
        let (Status::Complete(length), Some(version), Some(status)) =
            (status, response.version, response.code)
        else {
            return Ok(Status::Partial);
        };
        let fields = Fields::collect(response.headers, head.len());
        let (version, reason) = (Version::from_minor(version), Bytes::copy_from_slice(reason(head)));
        Ok(Status::Complete((length, ResponseTokens { version, status, reason, fields, doubtful: false })))
    });
    check_end(head, tokens, |_, error| diagnosis::without_place(error, Malformed::StatusLine))
}

/// The target of a request line that has one: what is between its first and its last space. httparse accepts no other
/// spaces (RFC 9112 §3).
fn target(head: &[u8]) -> &[u8] {
    let line = &head[..memchr(b'\r', head).unwrap_or(head.len())];
    match (memchr(b' ', line), memrchr(b' ', line)) {
        (Some(first), Some(last)) if first < last => &line[first + 1..last],
        _ => &[],
    }
}

/// `head` with an `x` for each byte of its target that is not ASCII: a target consists of bytes in any encoding, and
/// httparse accepts only UTF-8. And with HTTP/1.1 for a later minor version, which is read as that (RFC 9110 §2.5).
fn as_httparse_takes_it<'a>(head: &'a [u8], target: &[u8]) -> Cow<'a, [u8]> {
    let line_end = head.iter().position(|&byte| byte == b'\r').unwrap_or(head.len());
    let is_later = matches!(&head[..line_end], [.., b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9']);
    if target.is_ascii() && !is_later {
        return Cow::Borrowed(head);
    }
    let method_end = head.iter().position(|&byte| byte == b' ').unwrap_or(line_end);
    let mut text = head.to_vec();
    for byte in text[method_end..line_end].iter_mut().filter(|byte| !byte.is_ascii()) {
        *byte = b'x';
    }
    if is_later {
        text[line_end - 1] = b'1';
    }
    Cow::Owned(text)
}

/// Requests are read strictly: two recipients must not see two different requests (RFC 9112 §11.2). White space
/// before a colon (§5.1: MUST be refused) and folded lines (§5.2: MUST be refused or replaced) have no option:
/// httparse always refuses them in a request.
fn request_options() -> ParserConfig {
    let mut options = ParserConfig::default();
    // RFC 9112 §3: single spaces; lenient parsing of a request line can be a vulnerability.
    options.allow_multiple_spaces_in_request_line_delimiters(false);
    // RFC 9112 §2.2: such a message MUST be rejected, or such lines consumed without further processing.
    options.allow_space_before_first_header_name(false);
    // RFC 9112 §5.1: the request MUST be answered with 400; a line that is ignored might have framed the body.
    options.ignore_invalid_headers_in_requests(false);
    options
}

/// Responses are read by the same grammar at first. What breaks it is for [`repair`] to judge, not for httparse,
/// which would silently drop a line.
fn response_options() -> ParserConfig {
    let mut options = ParserConfig::default();
    options.allow_spaces_after_header_name_in_responses(false);
    options.allow_obsolete_multiline_headers_in_responses(false);
    options.allow_multiple_spaces_in_response_status_delimiters(false);
    options.allow_space_before_first_header_name(false);
    options.ignore_invalid_headers_in_responses(false);
    options
}

/// RFC 9112 §2.3 and §3 bound nothing; the limit is ours.
fn check_size(head: &[u8], most: usize) -> Result<(), Malformed> {
    if head.len() > most { Err(Malformed::HeadTooLarge) } else { Ok(()) }
}

/// Calls `parse` with room for the fields of `head`: on the stack for the usual number, else on the heap for as
/// many as there are lines. The size of a head limits its fields, not their number.
fn with_room<'a, T>(
    head: &'a [u8],
    parse: impl Fn(&mut [MaybeUninit<Header<'a>>]) -> httparse::Result<T>,
) -> httparse::Result<T> {
    match parse(&mut [const { MaybeUninit::uninit() }; USUAL_FIELDS]) {
        Err(httparse::Error::TooManyHeaders) => {
            let lines = head.iter().filter(|&&byte| byte == b'\n').count();
            parse(&mut vec![MaybeUninit::uninit(); lines])
        }
        parsed => parsed,
    }
}

/// Checks what httparse leaves open: that a head is one whole head without anything before or after it, and that
/// each of its lines ends with CRLF. RFC 9112 §2.2 says that a recipient MAY take a lone LF for the end of a line,
/// as httparse does; a recipient that does not would see other lines. (httparse itself refuses a lone CR.)
fn check_end<T>(
    head: &[u8],
    parsed: httparse::Result<(usize, T)>,
    diagnose: fn(&[u8], httparse::Error) -> Malformed,
) -> Result<T, Malformed> {
    match parsed {
        Err(error) => Err(diagnose(head, error)),
        // httparse skips any number of empty lines, also before a status line.
        Ok(_) if head.starts_with(b"\r") => Err(diagnose(head, httparse::Error::NewLine)),
        Ok(_) if has_bare_line_feed(head) => Err(Malformed::LineBreak),
        Ok(Status::Complete((length, tokens))) if length == head.len() => Ok(tokens),
        Ok(_) => Err(Malformed::Unfinished),
    }
}

fn has_bare_line_feed(head: &[u8]) -> bool {
    memchr_iter(b'\n', head).any(|at| at == 0 || head[at - 1] != b'\r')
}

/// The reason phrase of a status line that httparse accepted, which has fixed places (RFC 9112 §4). httparse gives
/// an empty one in place of any that has a byte above ASCII.
fn reason(head: &[u8]) -> &[u8] {
    const START: usize = b"HTTP/1.1 200 ".len();
    let end = memchr(b'\r', head).unwrap_or(head.len());
    head.get(START..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{MAX_HEAD, RequestHead};

    /// Whether httparse takes all of `head` for a request.
    fn is_request_to_httparse(head: &[u8]) -> bool {
        let mut fields = [httparse::EMPTY_HEADER; 4];
        Request::new(&mut fields).parse(head) == Ok(Status::Complete(head.len()))
    }

    #[test]
    fn what_httparse_accepts_in_requests_and_the_policy_refuses() {
        for (head, want) in [
            // RFC 9112 §2.2: a lone LF.
            ("GET / HTTP/1.1\nHost: h\r\n\r\n", Malformed::LineBreak),
            ("GET / HTTP/1.1\r\nHost: h\n\r\n", Malformed::LineBreak),
            ("GET / HTTP/1.1\r\nHost:\n\r\n", Malformed::LineBreak),
            ("GET / HTTP/1.1\r\nHost: h\r\n\n", Malformed::LineBreak),
            // RFC 9112 §2.2: "at least one" empty line, not any number.
            ("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", Malformed::LineBreak),
            ("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", Malformed::RequestLine),
            // RFC 9112 §3.2.1, RFC 3986 §4.3: a target has no fragment.
            ("GET /#a HTTP/1.1\r\nHost: h\r\n\r\n", Malformed::TargetBytes),
            // RFC 9112 §3.2, §6: what fields mean is not httparse's concern.
            ("GET / HTTP/1.1\r\n\r\n", Malformed::HostMissing),
            (
                "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                Malformed::BothLengths,
            ),
        ] {
            assert!(is_request_to_httparse(head.as_bytes()), "{head:?}");
            assert_eq!(RequestHead::parse(head.as_bytes()).map(|_| ()), Err(want), "{head:?}");
        }
    }

    #[test]
    fn a_reason_above_ascii_is_kept_although_httparse_drops_it() {
        for reason in ["", "OK", " two  spaces ", "\u{e4}", "In Ordnung \u{fc}"] {
            let head = format!("HTTP/1.1 200 {reason}\r\nA: 1\r\n\r\n");
            assert_eq!(response(head.as_bytes(), MAX_HEAD).unwrap().reason, reason);
        }
        assert_eq!(response(b"HTTP/1.1 200\r\nA: 1\r\n\r\n", MAX_HEAD).unwrap().reason, "");
    }

    #[test]
    fn any_number_of_fields_fits_within_the_size_of_a_head() {
        let start = "HTTP/1.1 200 OK\r\n";
        for count in [0, 1, USUAL_FIELDS, USUAL_FIELDS + 1, 129, (MAX_HEAD - start.len() - 2) / 4] {
            let head = format!("{start}{}\r\n", "A:\r\n".repeat(count));
            let tokens = response(head.as_bytes(), MAX_HEAD).unwrap();
            assert_eq!(tokens.fields.len(), count);
        }
    }
}
