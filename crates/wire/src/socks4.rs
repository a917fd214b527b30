//! SOCKS4 and 4a requests (Ying-Da Lee, "SOCKS: A protocol for TCP proxy across firewalls", and its 4a extension).
//! There is no RFC. A request consists of version, command, port and address, then the user id with a zero byte at its
//! end. An address 0.0.0.x with x > 0 means that the host name follows, with another zero byte at its end.

use std::net::{Ipv4Addr, SocketAddr};

use super::target::Target;

/// The first byte of a request.
pub const VERSION: u8 = 4;
/// Maximum length of the user id, which is ignored, in bytes: the same as in RFC 1929.
pub const MAX_USER: usize = 255;
/// Maximum length of a host name, in bytes. DNS names are shorter.
pub const MAX_NAME: usize = 255;

const CONNECT: u8 = 1;
/// Length in bytes of the fields before the user id.
const FIXED: usize = 8;

/// The reply to an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The connection is up.
    Granted = 0x5a,
    /// Rejected or failed; the protocol does not distinguish reasons.
    Rejected = 0x5b,
}

/// A complete request.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The destination that the app requests.
    pub target: Target,
    /// Length of the request in bytes; the bytes after it are for the server.
    pub length: usize,
}

/// Why a request is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The version is not 4.
    #[error("not a SOCKS4 request")]
    Version,
    /// BIND, or an unknown command.
    #[error("command not supported")]
    Command,
    /// The user id has more than [`MAX_USER`] bytes.
    #[error("the user id does not end")]
    User,
    /// The host name has more than [`MAX_NAME`] bytes.
    #[error("the name does not end")]
    Name,
    /// The port is 0, or the host name is invalid.
    #[error("not a destination")]
    Target,
}

impl Reply {
    /// The eight bytes of the reply. The bound address is zero: it is the gateway's and of no use to the app.
    #[must_use]
    pub fn bytes(self) -> [u8; 8] {
        [0, self as u8, 0, 0, 0, 0, 0, 0]
    }
}

impl Request {
    /// Parses the request at the start of `bytes`; `None` if more bytes must arrive.
    ///
    /// # Errors
    /// [`Refusal`], as soon as it is certain: the end of a field that is too long is not awaited.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, Refusal> {
        match bytes {
            [version, ..] if *version != VERSION => return Err(Refusal::Version),
            [_, command, ..] if *command != CONNECT => return Err(Refusal::Command),
            _ => {}
        }
        let Some(([_, _, high, low, ip @ ..], rest)) = bytes.split_first_chunk::<FIXED>() else {
            return Ok(None);
        };
        let (port, ip) = (u16::from_be_bytes([*high, *low]), Ipv4Addr::from(*ip));
        let Some(user) = field(rest, MAX_USER).map_err(|TooLong| Refusal::User)? else { return Ok(None) };
        let length = FIXED + user.len() + 1;
        if !matches!(ip.octets(), [0, 0, 0, last] if last > 0) {
            let target = (port != 0).then(|| Target::from(SocketAddr::from((ip, port))));
            return target.map(|target| Some(Self { target, length })).ok_or(Refusal::Target);
        }
        let name = field(&bytes[length..], MAX_NAME).map_err(|TooLong| Refusal::Name)?;
        let Some(name) = name else { return Ok(None) };
        let target = str::from_utf8(name).ok().and_then(|name| Target::new(name, port).ok());
        let target = target.ok_or(Refusal::Target)?;
        Ok(Some(Self { target, length: length + name.len() + 1 }))
    }
}

struct TooLong;

/// The bytes before the first zero byte; `None` if there is none yet. `most` is their maximum number.
fn field(bytes: &[u8], most: usize) -> Result<Option<&[u8]>, TooLong> {
    match bytes.iter().take(most + 1).position(|byte| *byte == 0) {
        Some(end) => Ok(Some(&bytes[..end])),
        None if bytes.len() > most => Err(TooLong),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> Result<Option<(String, usize)>, Refusal> {
        Ok(Request::parse(bytes)?.map(|request| (request.target.to_string(), request.length)))
    }

    #[test]
    fn reads_an_address_and_a_name_and_leaves_what_follows() {
        let address = b"\x04\x01\x00\x50\x0a\x00\x00\x05someone\0GET /";
        assert_eq!(parse(address), Ok(Some(("10.0.0.5:80".into(), 16))));
        let name = b"\x04\x01\x01\xbb\x00\x00\x00\x01\0Files.Lab\0hello";
        assert_eq!(parse(name), Ok(Some(("files.lab:443".into(), 19))));
        let whole = b"\x04\x01\x01\xbb\x00\x00\x00\x01me\0files.lab\0";
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), Ok(None), "{length}");
        }
        // 0.0.0.0 is an address; it does not mean that a name follows.
        assert_eq!(parse(b"\x04\x01\x00\x50\0\0\0\0\0"), Ok(Some(("0.0.0.0:80".into(), 9))));
    }

    #[test]
    fn refuses_what_cannot_be_served_as_soon_as_it_is_certain() {
        let long = |start: &[u8], most: usize| [start, &vec![b'a'; most]].concat();
        let (user, name) = (b"\x04\x01\x00\x50\x0a\0\0\x05", b"\x04\x01\x00\x50\0\0\0\x01\0");
        for (bytes, refusal) in [
            (b"\x05".to_vec(), Refusal::Version),
            (b"\x04\x02".to_vec(), Refusal::Command),
            (b"\x04\x00".to_vec(), Refusal::Command),
            (long(user, MAX_USER + 1), Refusal::User),
            (long(name, MAX_NAME + 1), Refusal::Name),
            (b"\x04\x01\0\0\x0a\0\0\x05\0".to_vec(), Refusal::Target),
            (b"\x04\x01\0\x50\0\0\0\x01\0\0".to_vec(), Refusal::Target),
            (b"\x04\x01\0\x50\0\0\0\x01\0\xff\0".to_vec(), Refusal::Target),
        ] {
            assert_eq!(parse(&bytes), Err(refusal), "{}", bytes.escape_ascii());
        }
        assert_eq!(parse(&long(user, MAX_USER)), Ok(None));
        assert!(matches!(parse(&[&long(user, MAX_USER)[..], b"\0"].concat()), Ok(Some(_))));
    }

    proptest! {
        #[test]
        fn a_request_reads_back(user in "[^\0]{0,63}", name in "[a-z]{1,20}\\.[a-z]{1,9}", port in 1_u16.., rest: Vec<u8>) {
            let mut bytes = vec![4, 1];
            bytes.extend(port.to_be_bytes());
            bytes.extend([0, 0, 0, 9]);
            bytes.extend([user.as_bytes(), b"\0", name.as_bytes(), b"\0"].concat());
            let length = bytes.len();
            bytes.extend(rest);
            prop_assert_eq!(parse(&bytes), Ok(Some((format!("{name}:{port}"), length))));
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_more_of_them_change_no_judgement(
            start in prop::sample::select(vec![&b"\x04\x01"[..], b"\x04\x01\0\x50\0\0\0\x01", b"\x04"]),
            bytes in vec(prop_oneof![1 => Just(0), 500 => any::<u8>()], 0..800), more: Vec<u8>,
        ) {
            let bytes = [start, &bytes].concat();
            match parse(&bytes) {
                Ok(None) => prop_assert!(bytes.len() <= FIXED + MAX_USER + MAX_NAME + 1),
                judged => prop_assert_eq!(parse(&[bytes, more].concat()), judged),
            }
        }
    }
}
