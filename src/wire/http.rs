//! HTTP/1.1 messages as a forwarding proxy sees them (RFC 9110, RFC 9112): bytes to heads and bodies, and
//! back.
//!
//! Nothing passes through unparsed. A head is judged strictly, then written anew from what was understood, so
//! that the next recipient cannot read it differently (request smuggling, RFC 9112 §11.2). Framing in
//! particular is never copied: `Content-Length` and `Transfer-Encoding` are written from [`BodyLength`].
//! This module does no I/O and keeps no clock; the caller reads, waits, and decides what to do with a refusal.

use std::ops::Range;

mod chunked;
mod fields;
mod forward;
mod framing;
mod malformed;
mod request;
mod response;
mod target;
#[cfg(test)]
mod tests;

pub use chunked::{ChunkHeader, ChunkedDecoder, ChunkedEncoder, Step};
pub use fields::Fields;
pub use framing::BodyLength;
pub use malformed::Malformed;
pub use request::{RequestHead, Upgrade};
pub use response::{ResponseHead, own_response, simple_response, trace_response};
pub use target::RequestTarget;

/// The largest head that is read, in bytes, start line and blank line included. Twice what common servers
/// accept, so that it is their limit that users meet.
pub const MAX_HEAD: usize = 64 * 1024;

/// The largest number of fields in one head.
pub const MAX_FIELDS: usize = 128;

/// How many empty lines before a request line are forgiven (RFC 9112 §2.2 asks for at least one).
const MAX_EMPTY_LINES: usize = 4;

/// Where the head in `buf` ends: the index just past its blank line, or `None` while more must be read.
///
/// `searched` is how much of `buf` an earlier call has already seen (0 at first), so that a head arriving in
/// small pieces is not searched again from the start. Up to four empty lines before a request line do not
/// count as the blank line (RFC 9112 §2.2). A blank line made of bare LFs ends the head too, so that the
/// parsers refuse it at once and nobody waits for a CRLF that will not come.
///
/// The caller gives up with [`Malformed::HeadTooLarge`] once `buf` holds [`MAX_HEAD`] bytes without an end.
#[must_use]
pub fn head_end(buf: &[u8], searched: usize) -> Option<usize> {
    // The end is at most three bytes, LF CR LF, so an unfinished one starts two bytes back.
    let mut at = empty_lines(buf).max(searched.saturating_sub(2));
    loop {
        at += buf.get(at..)?.iter().position(|&byte| byte == b'\n')? + 1;
        match buf.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
}

/// The HTTP version of a message. Anything else is [`Malformed::Version`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0 (RFC 1945): no chunked coding, no interim responses, and no persistent connection to a proxy.
    Http10,
    /// HTTP/1.1 (RFC 9112).
    Http11,
}

impl Version {
    /// The number alone, as `Via` wants it: `1.1`.
    #[must_use]
    pub fn number(self) -> &'static str {
        match self {
            Version::Http10 => "1.0",
            Version::Http11 => "1.1",
        }
    }

    /// Parses `HTTP-version` (RFC 9112 §2.3); `garbled` is the error for what is not a version at all.
    fn parse(text: &[u8], garbled: Malformed) -> Result<Version, Malformed> {
        match text {
            b"HTTP/1.1" => Ok(Version::Http11),
            b"HTTP/1.0" => Ok(Version::Http10),
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                Err(Malformed::Version)
            }
            _ => Err(garbled),
        }
    }
}

/// Which of the two kinds of message is parsed: a few rules are looser for responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Request,
    Response,
}

/// The length of the empty lines that `buf` starts with, at most [`MAX_EMPTY_LINES`] of them.
fn empty_lines(buf: &[u8]) -> usize {
    buf.chunks_exact(2).take(MAX_EMPTY_LINES).take_while(|pair| pair == b"\r\n").count() * 2
}

/// The line of `text` that starts at `at`, without its CRLF; the next one starts two bytes after its end.
/// `None` if the line has no end yet. Only CRLF ends a line: a CR or LF of any other kind is refused, although
/// RFC 9112 §2.2 would allow a recipient to take a lone LF for a line end.
fn line(text: &[u8], at: usize) -> Result<Option<Range<usize>>, Malformed> {
    let Some(rest) = text.get(at..) else { return Ok(None) };
    let Some(length) = rest.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
    match rest[..length].split_last() {
        Some((b'\r', line)) if !line.contains(&b'\r') => Ok(Some(at..at + line.len())),
        _ => Err(Malformed::LineBreak),
    }
}

/// Splits a head into its start line and its field section, which includes the blank line.
fn split_start_line(head: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    if head.len() > MAX_HEAD {
        return Err(Malformed::HeadTooLarge);
    }
    let start = line(head, 0)?.ok_or(Malformed::Unfinished)?;
    let fields = &head[start.end + 2..];
    Ok((&head[start], fields))
}
