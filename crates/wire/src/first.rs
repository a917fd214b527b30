//! The server's name in the first bytes of an app: the server name of TLS (RFC 6066 §3), or the Host field of HTTP
//! (RFC 9110 §7.2).

use super::hello::{ClientHello, HANDSHAKE_RECORD};
use super::http::{RequestHead, head_end};
use super::target::Host;

/// Maximum number of bytes that are searched for a name.
pub const MAX_FIRST: usize = 32 * 1024;

/// Maximum length in bytes of a method of HTTP; the registered ones have at most 17.
const MAX_METHOD: usize = 20;

/// What the bytes seen so far say about the server's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// The name, in lower case; never an address.
    Found(String),
    /// There is no name, and more bytes do not change that.
    Absent,
    /// More bytes may contain it.
    Incomplete,
}

/// Searches the first bytes of an app for the server's name while they arrive. Lines of HTTP are not searched again for
/// each new byte.
#[derive(Clone, Debug, Default)]
pub struct NameSearch {
    /// The number of bytes that contain no end of a request head.
    searched: usize,
    /// The request line is known to end with an HTTP version.
    is_http: bool,
}

impl NameSearch {
    /// Searches `first`: all bytes received so far, each time with more at the end than the last time.
    #[must_use]
    pub fn search(&mut self, first: &[u8]) -> ServerName {
        let name = match first.first() {
            None => return ServerName::Incomplete,
            Some(&HANDSHAKE_RECORD) => match ClientHello::parse(first) {
                Ok(Some(hello)) => hello.server_name,
                Ok(None) => return incomplete(first),
                Err(_) => None,
            },
            Some(_) if !self.may_be_http(first) => None,
            Some(_) => match head_end(first, self.searched) {
                Some(end) => RequestHead::parse(&first[..end])
                    .ok()
                    .and_then(|request| request.host_name().map(str::to_owned)),
                None => {
                    self.searched = first.len();
                    return incomplete(first);
                }
            },
        };
        match name.map(|name| Host::parse(&name)) {
            Some(Ok(Host::Name(name))) => ServerName::Found(name),
            _ => ServerName::Absent,
        }
    }

    /// Whether `first`, as far as it has arrived, begins with a method in capitals and a space, and its first line
    /// ends with an HTTP version.
    fn may_be_http(&mut self, first: &[u8]) -> bool {
        let method = first.iter().take(MAX_METHOD).take_while(|byte| byte.is_ascii_uppercase()).count();
        if method == 0 || first.get(method).is_some_and(|byte| *byte != b' ') {
            return false;
        }
        if self.is_http {
            return true;
        }
        let Some(end) = first.iter().skip(self.searched).position(|byte| *byte == b'\n') else { return true };
        let line = first[..self.searched + end].trim_ascii_end();
        self.is_http = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
        self.is_http
    }
}

/// Whether a connection that begins with `first` may speak HTTP/1: it begins with a method in capitals and a space, and its first
/// line ends with an HTTP version, as far as they have arrived.
pub fn may_be_http(first: &[u8]) -> bool {
    NameSearch::default().may_be_http(first)
}

fn incomplete(first: &[u8]) -> ServerName {
    if first.len() < MAX_FIRST { ServerName::Incomplete } else { ServerName::Absent }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The outcome for bytes that arrive at once.
    fn search(first: &[u8]) -> ServerName {
        NameSearch::default().search(first)
    }

    #[test]
    fn names_are_found_and_their_absence_is_known_as_soon_as_it_is_certain() {
        let name = |name: &str| ServerName::Found(name.into());
        for (first, expected) in [
            (&b""[..], ServerName::Incomplete),
            (b"GE", ServerName::Incomplete),
            (b"GET / HTTP/1.1\r\nHo", ServerName::Incomplete),
            (b"GET / HTTP/1.1\r\nHost: Files.Lab:8080\r\n\r\nmore", name("files.lab")),
            (b"GET / HTTP/1.1\r\nHost: 10.0.0.5\r\n\r\n", ServerName::Absent),
            (b"GET / HTTP/1.0\r\n\r\n", ServerName::Absent),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", ServerName::Absent),
            (b"SSH-2.0-OpenSSH_9.2\r\n", ServerName::Absent),
            (b"USER someone\r\n", ServerName::Absent),
            (b"\x00\x00", ServerName::Absent),
            (b"\x16\x03\x01", ServerName::Incomplete),
            (b"\x16\x03\x01\0\x05\x02", ServerName::Absent),
        ] {
            assert_eq!(search(first), expected, "{}", first.escape_ascii());
        }
        let endless = [b"GET / HTTP/1.1\r\nA: ".to_vec(), vec![b'a'; MAX_FIRST]].concat();
        assert_eq!(search(&endless), ServerName::Absent);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_cuts_make_no_difference(
            start in prop::sample::select(vec!["", "GET / HTTP/1.1\r\nHost: h\r\n", "\u{16}\u{3}\u{1}"]),
            bytes: Vec<u8>, more: Vec<u8>,
        ) {
            let bytes = [start.as_bytes(), &bytes, &more].concat();
            let mut arriving = NameSearch::default();
            let mut outcomes = (0..=bytes.len()).map(|seen| arriving.search(&bytes[..seen]));
            let first = outcomes.find(|outcome| *outcome != ServerName::Incomplete);
            prop_assert_eq!(first.unwrap_or(ServerName::Incomplete), search(&bytes));
        }
    }
}
