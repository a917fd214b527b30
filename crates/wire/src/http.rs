//! HTTP/1.1 messages as a forwarding proxy reads and writes them (RFC 9110, RFC 9112).
//!
//! httparse splits heads into tokens; the code here is policy: what is refused, what is repaired, what is written.
//! Nothing passes through unparsed. A head is checked, then written anew from what was understood, so that the next
//! recipient cannot read it differently (request smuggling, RFC 9112 §11.2). Framing in particular is never copied:
//! `Content-Length` and `Transfer-Encoding` are written from [`BodyLength`].
//!
//! Requests are read strictly, because they are sent on connections to servers. Responses are read leniently where their
//! meaning is certain, as browsers do: a server is rarely repaired for the sake of a proxy. When a response leaves doubt
//! about where it ends, its connection is not used again.
//! There is no I/O and no clock here; the caller reads, waits, and decides what to do with a refusal.
//!
//! "Client" and "server" are the RFC's words here: the app and the server it wants to reach.

mod chunked;
mod diagnosis;
mod fields;
mod forward;
mod framing;
mod grammar;
mod login;
mod malformed;
mod repair;
mod request;
mod response;
mod target;
#[cfg(test)]
mod tests;
mod tokens;

pub use chunked::{ChunkHeader, ChunkedDecoder, ChunkedEncoder, Step};
pub use fields::Fields;
pub use framing::BodyLength;
pub use malformed::Malformed;
pub use repair::may_begin_response;
pub use request::{RequestHead, Upgrade};
pub use response::{Recipient, ResponseHead, simple_response, trace_response};
pub use target::RequestTarget;

use memchr::memchr;

/// The largest head that is read, in bytes, including the start line and the blank line. Twice what common servers
/// accept, so that users meet the server's limit first. The number of fields has no limit of its own. A line of a chunk
/// size and a trailer section have the same limit.
pub const MAX_HEAD: usize = 64 * 1024;
/// The largest head between a node and a gateway, in bytes. A head that one of them has written anew may be longer: by a blank
/// for each field, and by what it adds.
pub const MAX_LINK_HEAD: usize = MAX_HEAD + MAX_HEAD / 2;

/// How the names of all fields begin that are between a client's node and the gateway. A node takes them out of what apps send.
pub const OWN_FIELDS: &str = "laneway-";
/// The field in which a client's node gives the gateway the anonymous token for a request, as the value of an Authorization
/// field. The server gets it as that field, which does not keep the response from being stored: anybody gets such a token.
pub const ANONYMOUS: &str = "laneway-anonymous";
/// The field with which a client's node says that what the gateway has stored of this URI was not the file that it should be.
pub const DISCARD: &str = "laneway-discard";
/// The field with which a client's node says which digest the file must have, as an index names it: `ALGORITHM:HEX`. Content that
/// was proved to have it answers the request, whatever its URI and age.
pub const DIGEST: &str = "laneway-digest";
/// The field with which a client's node says that it fetches parts of a file over several gateways; with it a gateway answers
/// that it fetches the file for others now, and gives this part later.
pub const PART: &str = "laneway-part";

/// The number of empty lines that are ignored before a request line (RFC 9112 §2.2: at least one SHOULD be).
const MAX_EMPTY_LINES: usize = 4;

/// Finds the end of the head in `buf`: the index just past its blank line, or `None` while more must be read.
///
/// `searched` is the number of bytes of `buf` that an earlier call has seen (0 at first). Every byte is examined
/// once, and a head is parsed only when it is whole, so the cost of a head that arrives byte by byte is linear in its
/// size. Up to four empty lines before a request line do not count as the blank line (RFC 9112 §2.2). A blank line
/// made of bare LFs ends the head too, and so does one of CR CR LF, which programs write that take LF for CR LF: the parsers
/// judge it at once, instead of waiting for a CRLF that will not come.
///
/// The caller gives up with [`Malformed::HeadTooLarge`] once `buf` holds [`MAX_HEAD`] bytes without an end.
#[must_use]
pub fn head_end(buf: &[u8], searched: usize) -> Option<usize> {
    // The end is at most four bytes, LF CR CR LF, so an unfinished one starts three bytes back.
    let mut at = empty_lines(buf).max(searched.saturating_sub(3));
    loop {
        at += memchr(b'\n', buf.get(at..)?)? + 1;
        match buf.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            [b'\r', b'\r', b'\n', ..] => return Some(at + 3),
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
    /// The number alone, as `Via` has it: `1.1`.
    #[must_use]
    pub fn number(self) -> &'static str {
        match self {
            Version::Http10 => "1.0",
            Version::Http11 => "1.1",
        }
    }

    /// The version with this minor number; httparse reads only 1.0 and 1.1.
    fn from_minor(minor: u8) -> Version {
        if minor == 0 { Version::Http10 } else { Version::Http11 }
    }
}

/// The length in bytes of the empty lines that `buf` starts with, at most [`MAX_EMPTY_LINES`] of them.
fn empty_lines(buf: &[u8]) -> usize {
    buf.chunks_exact(2).take(MAX_EMPTY_LINES).take_while(|pair| pair == b"\r\n").count() * 2
}
