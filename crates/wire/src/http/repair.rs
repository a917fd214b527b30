//! Response heads that break the grammar but have one meaning, rewritten so that they keep it.
//!
//! Requests are never repaired: two recipients must not see two different requests. A response goes to the one app that
//! asked, and is written anew, so all that matters is that its own meaning is certain. Every browser or other proxy
//! accepts what is repaired here.

use super::Malformed;
use super::grammar::{is_blank, is_text_byte, is_token};

/// A head that follows the grammar.
pub(super) struct Repaired {
    pub(super) head: Vec<u8>,
    /// A line was dropped or its bytes were replaced. It might have framed the body, so nothing that follows the
    /// response on its connection can be trusted.
    pub(super) doubtful: bool,
}

/// Repairs a response head that ends with an empty line:
///
/// - each line may end with LF alone (RFC 9112 §2.2) or with CR CR LF, and empty lines may come first;
/// - the status line may have the form of [`status_line`];
/// - a folded value becomes one line (§5.2), and white space before a colon is removed (§5.1);
/// - CR, NUL and other control characters in a value become spaces (RFC 9110 §5.5);
/// - a line that is not a field is dropped, and so is a line before the first field that begins with white space
///   (RFC 9112 §2.2).
///
/// # Errors
/// When the status line has no certain meaning, or a line that is not a field looks like one that frames the body.
pub(super) fn repair(head: &[u8]) -> Result<Repaired, Malformed> {
    let mut lines = Lines(head).skip_while(|line| matches!(line, Ok(line) if line.is_empty()));
    let mut out = Vec::with_capacity(head.len() + 64);
    let mut doubtful = status_line(lines.next().ok_or(Malformed::Unfinished)??, &mut out)?;
    // A program that writes CR LF for each LF does so in the body too, which is then longer than its stated length.
    doubtful |= head.windows(3).any(|bytes| bytes == b"\r\r\n");
    // Whether the last line is part of a field that is kept.
    let mut in_field = false;
    while let Some(line) = lines.next() {
        let line = line?;
        if line.is_empty() {
            if lines.next().is_some() {
                return Err(Malformed::Unfinished);
            }
            out.extend_from_slice(b"\r\n\r\n");
            return Ok(Repaired { head: out, doubtful });
        }
        if line.first().is_some_and(is_blank) {
            if in_field {
                out.push(b' ');
                doubtful |= append_text(trim(line), &mut out);
            } else {
                doubtful = true;
            }
            continue;
        }
        in_field = false;
        match field(line) {
            Some((name, value)) => {
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
                doubtful |= append_text(trim(value), &mut out);
                in_field = true;
            }
            None if looks_like_framing(line) => return Err(Malformed::FieldName),
            None => doubtful = true,
        }
    }
    Err(Malformed::Unfinished)
}

/// Whether a response can begin with these bytes, of which there may be more to come. If not, waiting for the end of its
/// head would be in vain.
#[must_use]
pub fn may_begin_response(bytes: &[u8]) -> bool {
    let text = match bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')) {
        Some(start) => &bytes[start..],
        None => return true,
    };
    [&b"HTTP/"[..], b"ICY "].iter().any(|start| {
        let length = start.len().min(text.len());
        text[..length].eq_ignore_ascii_case(&start[..length])
    })
}

/// Writes the status line without its line break: `HTTP/1.1 200 OK`. The one received may have more white space between its
/// parts or none before the reason, no reason, a later minor version (RFC 9110 §2.5), a subcode as IIS has it (`403.6`), or be
/// `ICY 200 OK`, as music streams have. Scripts send `HTTP/2.0 404 Not Found` whatever is spoken: it is text, and so HTTP/1.1.
/// Returns whether the connection may be of no more use.
fn status_line(line: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
    let end = line.iter().position(is_blank).unwrap_or(line.len());
    let (version, rest) = line.split_at(end);
    let is_second = [&b"HTTP/2"[..], b"HTTP/2.0"].iter().any(|second| version.eq_ignore_ascii_case(second));
    let minor = match version {
        _ if version.eq_ignore_ascii_case(b"ICY") => b'0',
        _ if is_second => b'1',
        [name @ .., b'/', b'1', b'.', minor]
            if name.eq_ignore_ascii_case(b"HTTP") && minor.is_ascii_digit() =>
        {
            if *minor == b'0' {
                b'0'
            } else {
                b'1'
            }
        }
        _ if version.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"HTTP/")) => {
            return Err(Malformed::Version);
        }
        _ => return Err(Malformed::NotHttp),
    };
    let rest = trim(rest);
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (code, reason) = rest.split_at(digits);
    if code.len() != 3 {
        return Err(Malformed::StatusLine);
    }
    out.extend_from_slice(b"HTTP/1.");
    out.push(minor);
    out.push(b' ');
    out.extend_from_slice(code);
    out.push(b' ');
    append_text(trim(reason), out);
    Ok(is_second)
}

/// The lines of a head without their line breaks.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some(end) = self.0.iter().position(|&byte| byte == b'\n') else {
            self.0 = &[];
            return Some(Err(Malformed::Unfinished));
        };
        let line = &self.0[..end];
        self.0 = &self.0[end + 1..];
        let without = |end: &[u8]| line.strip_suffix(end);
        Some(Ok(without(b"\r\r").or_else(|| without(b"\r")).unwrap_or(line)))
    }
}

/// The name and the value of a field line.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let name = trim(&line[..colon]);
    is_token(name).then_some((name, &line[colon + 1..]))
}

/// Whether the letters of a line that is not a field contain the name of a field that frames the body.
fn looks_like_framing(line: &[u8]) -> bool {
    let letters: Vec<u8> =
        line.iter().filter(|byte| byte.is_ascii_alphabetic()).map(u8::to_ascii_lowercase).collect();
    let has = |name: &[u8]| letters.windows(name.len()).any(|part| part == name);
    has(b"contentlength") || has(b"transferencoding")
}

/// Appends `text` with a space for each byte that is not text. Returns whether there was one.
fn append_text(text: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    out.extend(text.iter().map(|&byte| if is_text_byte(byte) { byte } else { b' ' }));
    out[start..] != *text
}

fn trim(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !is_blank(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    &text[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repaired(head: &str) -> Result<(String, bool), Malformed> {
        let Repaired { head, doubtful } = repair(head.as_bytes())?;
        Ok((String::from_utf8(head).unwrap(), doubtful))
    }

    #[test]
    fn a_repaired_head_keeps_its_meaning() {
        for (head, want, doubtful) in [
            ("HTTP/1.1 200 OK\nA: 1\n\n", "HTTP/1.1 200 OK\r\nA: 1\r\n\r\n", false),
            ("\r\n\nHTTP/1.1 200 OK\r\n\n", "HTTP/1.1 200 OK\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\r\nA: 1\r\r\n\r\r\n", "HTTP/1.1 200 OK\r\nA: 1\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nA : 1\r\nB\t:2\r\n\r\n", "HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nA: 1 \r\n\t 2\n 3\r\n\r\n", "HTTP/1.1 200 OK\r\nA: 1 2 3\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nA:\r\n \r\n\r\n", "HTTP/1.1 200 OK\r\nA:  \r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nA: a\0b\rc\x01\r\n\r\n", "HTTP/1.1 200 OK\r\nA: a b c \r\n\r\n", true),
            (
                "HTTP/1.1 200 OK\r\n: 1\r\nno colon\r\nA B: 2\r\nC: 3\r\n\r\n",
                "HTTP/1.1 200 OK\r\nC: 3\r\n\r\n",
                true,
            ),
            ("HTTP/1.1 200 OK\r\nA B: 2\r\n fold\r\nC: 3\r\n\r\n", "HTTP/1.1 200 OK\r\nC: 3\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\n A: 1\r\nB: 2\r\n\r\n", "HTTP/1.1 200 OK\r\nB: 2\r\n\r\n", true),
            ("http/1.9   204\t\tNo\x01 x \r\n\r\n", "HTTP/1.1 204 No  x\r\n\r\n", false),
            ("HTTP/1.0 200\n\n", "HTTP/1.0 200 \r\n\r\n", false),
            ("HTTP/1.1 403.6 Forbidden\r\n\r\n", "HTTP/1.1 403 .6 Forbidden\r\n\r\n", false),
            ("HTTP/1.1 200OK\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", false),
            ("HTTP/1.0 404\t: gone\r\n\r\n", "HTTP/1.0 404 : gone\r\n\r\n", false),
            ("HTTP/2.0 404 Not Found\r\n\r\n", "HTTP/1.1 404 Not Found\r\n\r\n", true),
            ("http/2 200\nA:1\n\n", "HTTP/1.1 200 \r\nA: 1\r\n\r\n", true),
            ("ICY 200 OK\r\nA:1\r\n\r\n", "HTTP/1.0 200 OK\r\nA: 1\r\n\r\n", false),
        ] {
            assert_eq!(repaired(head), Ok((want.to_owned(), doubtful)), "{head:?}");
        }
    }

    #[test]
    fn what_has_no_certain_meaning_is_refused() {
        for (head, want) in [
            ("HTTP/2.1 200\r\n\r\n", Malformed::Version),
            ("HTTP/3 200\r\n\r\n", Malformed::Version),
            ("HTTP/1 200 OK\r\n\r\n", Malformed::Version),
            ("HTTP/11.1 200 OK\r\n\r\n", Malformed::Version),
            ("SSH-2.0-x\r\n\r\n", Malformed::NotHttp),
            ("<html>\r\n\r\n", Malformed::NotHttp),
            ("HTTP/1.1200 OK\r\n\r\n", Malformed::Version),
            ("HTTP/1.1 OK\r\n\r\n", Malformed::StatusLine),
            ("HTTP/1.1 20 OK\r\n\r\n", Malformed::StatusLine),
            ("HTTP/1.1 2000 OK\r\n\r\n", Malformed::StatusLine),
            ("HTTP/1.1 20OK\r\n\r\n", Malformed::StatusLine),
            ("HTTP/1.1 -20 OK\r\n\r\n", Malformed::StatusLine),
            ("HTTP/1.1 200 OK\r\nContent Length: 5\r\n\r\n", Malformed::FieldName),
            ("HTTP/1.1 200 OK\r\nContent-Length\0: 5\r\n\r\n", Malformed::FieldName),
            ("HTTP/1.1 200 OK\r\n\x0bTransfer-Encoding: chunked\r\n\r\n", Malformed::FieldName),
            ("HTTP/1.1 200 OK\r\nContent-Length 5\r\n\r\n", Malformed::FieldName),
            ("HTTP/1.1 200 OK\r\nA: 1\r\n", Malformed::Unfinished),
            ("HTTP/1.1 200 OK", Malformed::Unfinished),
            ("\r\n\r\n", Malformed::Unfinished),
        ] {
            assert_eq!(repaired(head), Err(want), "{head:?}");
        }
    }

    #[test]
    fn another_protocol_is_known_by_its_first_bytes() {
        for start in ["", "\r\n", "H", "http/", "\nHTTP/1.1 200", "IC", "ICY 200", "HTTP/0.9"] {
            assert!(may_begin_response(start.as_bytes()), "{start:?}");
        }
        for start in ["SSH-2.0", "<html>", "\r\n220 ftp", "HTTQ", "\x15\x03\x01", "ICE", " HTTP/1.1"] {
            assert!(!may_begin_response(start.as_bytes()), "{start:?}");
        }
    }
}
