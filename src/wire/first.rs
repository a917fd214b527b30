//! What the first bytes of an app say about the name of its server: the server name of TLS (RFC 6066 §3), or the Host
//! field of HTTP (RFC 9110 §7.2).

use super::hello::{ClientHello, HANDSHAKE_RECORD};
use super::http::{RequestHead, head_end};
use super::target::Host;

/// The largest beginning that is looked at, in bytes.
pub const MAX_FIRST: usize = 32 * 1024;

/// The longest method of HTTP there is, and the space after it.
const METHOD: usize = 20;

/// What is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// The name: in lower case, and no address.
    Name(String),
    /// There is none to come.
    Nameless,
    /// More bytes may tell.
    Unfinished,
}

/// Looks for a name in what an app has sent so far.
#[must_use]
pub fn named(first: &[u8]) -> Named {
    let found = match first.first() {
        None => return Named::Unfinished,
        Some(&HANDSHAKE_RECORD) => match ClientHello::parse(first) {
            Ok(Some(hello)) => hello.server_name,
            Ok(None) => return unfinished(first),
            Err(_) => None,
        },
        Some(_) if !may_be_http(first) => None,
        Some(_) => match head_end(first, 0) {
            Some(end) => RequestHead::parse(&first[..end])
                .ok()
                .and_then(|request| request.host_name().map(str::to_owned)),
            None => return unfinished(first),
        },
    };
    match found.map(|name| Host::parse(&name)) {
        Some(Ok(Host::Name(name))) => Named::Name(name),
        _ => Named::Nameless,
    }
}

fn unfinished(first: &[u8]) -> Named {
    if first.len() < MAX_FIRST { Named::Unfinished } else { Named::Nameless }
}

/// A method in capitals and a space, as far as they are there, and a version at the end of the first line.
fn may_be_http(first: &[u8]) -> bool {
    let method = first.iter().take(METHOD).take_while(|byte| byte.is_ascii_uppercase()).count();
    let follows = first.get(method).is_none_or(|byte| *byte == b' ');
    let line = first.iter().position(|byte| *byte == b'\n').map(|end| first[..end].trim_ascii_end());
    method > 0
        && follows
        && line.is_none_or(|line| line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_found_and_their_absence_is_known_as_soon_as_it_is_certain() {
        let name = |name: &str| Named::Name(name.into());
        for (first, expected) in [
            (&b""[..], Named::Unfinished),
            (b"GE", Named::Unfinished),
            (b"GET / HTTP/1.1\r\nHo", Named::Unfinished),
            (b"GET / HTTP/1.1\r\nHost: Files.Lab:8080\r\n\r\nmore", name("files.lab")),
            (b"GET / HTTP/1.1\r\nHost: 10.0.0.5\r\n\r\n", Named::Nameless),
            (b"GET / HTTP/1.0\r\n\r\n", Named::Nameless),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Named::Nameless),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Named::Nameless),
            (b"USER someone\r\n", Named::Nameless),
            (b"\x00\x00", Named::Nameless),
            (b"\x16\x03\x01", Named::Unfinished),
            (b"\x16\x03\x01\0\x05\x02", Named::Nameless),
        ] {
            assert_eq!(named(first), expected, "{}", first.escape_ascii());
        }
        let endless = [b"GET / HTTP/1.1\r\nA: ".to_vec(), vec![b'a'; MAX_FIRST]].concat();
        assert_eq!(named(&endless), Named::Nameless);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_what_is_certain_stays_so(
            start in prop::sample::select(vec!["", "GET / HTTP/1.1\r\nHost: h\r\n", "\u{16}\u{3}\u{1}"]),
            bytes: Vec<u8>, more: Vec<u8>,
        ) {
            let bytes = [start.as_bytes(), &bytes].concat();
            let known = named(&bytes);
            if known != Named::Unfinished {
                prop_assert_eq!(named(&[bytes, more].concat()), known);
            }
        }
    }
}
