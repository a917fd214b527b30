//! Why httparse refused a head. Its errors name neither the place nor the rule, and a user is told the rule.

use httparse::{Error, Request};

use super::Malformed;
use super::grammar::{is_blank, is_text_byte, is_token};

/// The first fault of a request that httparse refused with `error`.
pub(super) fn of_request(head: &[u8], error: Error) -> Malformed {
    first_fault(head, |number, line| match number {
        // httparse takes an empty line for something to skip.
        0 => (line.text.is_empty() || Request::new(&mut []).parse(line.with_break).is_err())
            .then(|| request_line(line.text)),
        _ => field_line(line.text),
    })
    .unwrap_or_else(|| without_place(error, Malformed::RequestLine))
}

/// The fault of one field line (RFC 9112 §5), without its CRLF, if it has one.
pub(super) fn field_line(line: &[u8]) -> Option<Malformed> {
    match line.iter().position(|&byte| byte == b':') {
        Some(colon) if colon > 0 && is_blank(&line[colon - 1]) && !is_blank(&line[0]) => {
            Some(Malformed::SpaceBeforeColon)
        }
        _ => other_fault(line),
    }
}

fn other_fault(line: &[u8]) -> Option<Malformed> {
    if line.first().is_some_and(is_blank) {
        return Some(Malformed::ObsFold);
    }
    let Some(colon) = line.iter().position(|&byte| byte == b':') else {
        return Some(Malformed::FieldName);
    };
    let name_end = line[..colon].iter().rposition(|byte| !is_blank(byte)).map_or(0, |last| last + 1);
    if !is_token(&line[..name_end]) {
        return Some(Malformed::FieldName);
    }
    (!line[colon + 1..].iter().copied().all(is_text_byte)).then_some(Malformed::FieldValue)
}

/// `method SP request-target SP HTTP-version`, with no other white space (RFC 9112 §3). The version comes first, so
/// that the user of another protocol is told that, rather than what is odd about its method.
fn request_line(line: &[u8]) -> Malformed {
    let spaces = (line.iter().position(|&byte| byte == b' '), line.iter().rposition(|&byte| byte == b' '));
    let (Some(first), Some(last)) = spaces else { return Malformed::RequestLine };
    let version = &line[last + 1..];
    if first == last || !is_version(version) {
        Malformed::RequestLine
    } else if !is_supported(version) {
        Malformed::Version
    } else if !is_token(&line[..first]) {
        Malformed::Method
    } else if first + 1 == last {
        Malformed::RequestLine
    } else {
        Malformed::TargetBytes
    }
}

/// `HTTP-version` (RFC 9112 §2.3).
fn is_version(text: &[u8]) -> bool {
    matches!(text, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

fn is_supported(version: &[u8]) -> bool {
    matches!(version, b"HTTP/1.1" | b"HTTP/1.0")
}

/// One line of a head.
struct Line<'a> {
    /// The line without its CRLF.
    text: &'a [u8],
    with_break: &'a [u8],
}

/// The first fault that a line of `head` has: a wrong line break, or what `fault` finds in the line with this number.
fn first_fault(head: &[u8], fault: impl Fn(usize, Line<'_>) -> Option<Malformed>) -> Option<Malformed> {
    for (number, with_break) in head.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let Some(text) = with_break.strip_suffix(b"\n") else { return Some(Malformed::Unfinished) };
        let Some(text) = text.strip_suffix(b"\r").filter(|text| !text.contains(&b'\r')) else {
            return Some(Malformed::LineBreak);
        };
        if text.is_empty() && number > 0 {
            return None;
        }
        let found = fault(number, Line { text, with_break });
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The fault when no line shows one. It does not happen while httparse and this module agree.
pub(super) fn without_place(error: Error, start_line: Malformed) -> Malformed {
    match error {
        Error::HeaderName => Malformed::FieldName,
        Error::HeaderValue => Malformed::FieldValue,
        Error::NewLine => Malformed::LineBreak,
        Error::TooManyHeaders => Malformed::HeadTooLarge,
        Error::Status | Error::Token => start_line,
        Error::Version => Malformed::Version,
    }
}
