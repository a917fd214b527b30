//! A local proxy that the command line names, with a login if the port asks for one.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::str::FromStr;

/// Where it listens, and the login for it: `ADDR:PORT` or `http://NAME:PASSWORD@ADDR:PORT`.
#[derive(Clone)]
pub(super) struct NamedProxy {
    pub(super) address: SocketAddr,
    /// `NAME:PASSWORD@` as URLs have it, empty without one.
    login: String,
}

/// The text is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "not an address and a port, like 127.0.0.1:1080, nor those with a login, like http://NAME:PASSWORD@127.0.0.1:1080"
)]
pub(super) struct NotAProxy;

impl FromStr for NamedProxy {
    type Err = NotAProxy;

    fn from_str(text: &str) -> Result<Self, NotAProxy> {
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let (login, rest) = rest.rsplit_once('@').map_or((None, rest), |(login, rest)| (Some(login), rest));
        let address = rest.strip_suffix('/').unwrap_or(rest).parse().map_err(|_unparsed| NotAProxy)?;
        let login = match login.map(|login| login.split_once(':')) {
            None => String::new(),
            Some(Some((name, password))) if !name.is_empty() && !password.is_empty() => {
                format!("{}:{}@", encoded(name), encoded(password))
            }
            Some(_) => return Err(NotAProxy),
        };
        Ok(Self { address, login })
    }
}

impl NamedProxy {
    /// The part of a URL that leads to `address` with the login, if it has one (RFC 3986 §3.2).
    pub(super) fn authority(&self, address: impl fmt::Display) -> String {
        format!("{}{address}", self.login)
    }

    pub(super) fn has_login(&self) -> bool {
        !self.login.is_empty()
    }
}

/// Shows no password.
impl fmt::Debug for NamedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.address, if self.has_login() { " with a login" } else { "" })
    }
}

/// The text with what means something to URLs and to shells percent-encoded (RFC 3986 §2.1). What is encoded already stays.
fn encoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut encoded = String::with_capacity(text.len());
    for (at, &byte) in bytes.iter().enumerate() {
        let is_triplet =
            || bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(byte.into());
            }
            b'%' if is_triplet() => encoded.push('%'),
            byte => write!(encoded, "%{byte:02X}").expect("a String grows"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_named_with_and_without_a_login() {
        for (text, authority) in [
            ("127.0.0.1:1080", "127.0.0.1:1080"),
            ("http://127.0.0.1:1080/", "127.0.0.1:1080"),
            ("http://[::1]:1080", "[::1]:1080"),
            ("bob:secret@127.0.0.1:1080", "bob:secret@127.0.0.1:1080"),
            ("http://bob:secret@127.0.0.1:1080", "bob:secret@127.0.0.1:1080"),
            ("http://bob:p@ss:w'ord$@[::1]:1080", "bob:p%40ss%3Aw%27ord%24@[::1]:1080"),
            ("http://bob:100%25%@127.0.0.1:1080", "bob:100%25%25@127.0.0.1:1080"),
        ] {
            let proxy: NamedProxy = text.parse().unwrap();
            assert_eq!(proxy.authority(proxy.address), authority, "{text}");
            assert!(!format!("{proxy:?}").contains("secret"), "{text}");
        }
        for text in [
            "1080",
            "localhost:1080",
            "@127.0.0.1:1080",
            "bob@127.0.0.1:1080",
            "http://bob:@127.0.0.1:1080",
            "https://127.0.0.1:1080",
            "http://127.0.0.1:1080/x",
        ] {
            assert_eq!(text.parse::<NamedProxy>().err(), Some(NotAProxy), "{text}");
        }
    }
}
