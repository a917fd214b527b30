//! The header before each datagram that a SOCKS5 app sends or receives (RFC 1928 §7).

use std::net::IpAddr;

use super::target::{Host, Target};

const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Why a datagram is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is a fragment; fragments are not reassembled.
    #[error("a fragment")]
    Fragment,
    /// It ends before the end of its header.
    #[error("shorter than its header")]
    Truncated,
    /// The destination is invalid.
    #[error("no destination")]
    Malformed,
}

/// The destination of a datagram and the length of its header in bytes. The payload follows the header.
///
/// # Errors
/// [`Unusable`].
pub fn parse(datagram: &[u8]) -> Result<(Target, usize), Unusable> {
    // The first two bytes are reserved: some apps do not set them to 0.
    let (&[_, _, fragment, kind], rest) = datagram.split_first_chunk().ok_or(Unusable::Truncated)?;
    if fragment != 0 {
        return Err(Unusable::Fragment);
    }
    let (host, rest) = match kind {
        IPV4 => {
            let (ip, rest) = rest.split_first_chunk::<4>().ok_or(Unusable::Truncated)?;
            (Host::from(IpAddr::from(*ip)), rest)
        }
        IPV6 => {
            let (ip, rest) = rest.split_first_chunk::<16>().ok_or(Unusable::Truncated)?;
            (Host::from(IpAddr::from(*ip)), rest)
        }
        NAME => {
            let (&length, rest) = rest.split_first().ok_or(Unusable::Truncated)?;
            let (name, rest) = rest.split_at_checked(length.into()).ok_or(Unusable::Truncated)?;
            let name = str::from_utf8(name).ok().and_then(|name| Host::parse(name).ok());
            (name.ok_or(Unusable::Malformed)?, rest)
        }
        _ => return Err(Unusable::Malformed),
    };
    let (port, payload) = rest.split_first_chunk().ok_or(Unusable::Truncated)?;
    let port = u16::from_be_bytes(*port);
    if port == 0 {
        return Err(Unusable::Malformed);
    }
    Ok((Target { host, port }, datagram.len() - payload.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn the_three_kinds_of_address_are_read() {
        for (header, target) in [
            (&b"\0\0\0\x01\x0a\x00\x00\x01\x00\x35"[..], "10.0.0.1:53"),
            (b"\0\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x01\xbb", "[::1]:443"),
            (b"\0\0\0\x03\x0bExample.org\x00\x35", "example.org:53"),
            (b"\0\0\0\x03\x0810.0.0.1\x00\x35", "10.0.0.1:53"),
            (b"\x01\xff\0\x01\x0a\0\0\x01\0\x35", "10.0.0.1:53"),
            (b"\0\0\0\x03\x0610.0.1\x00\x35", "10.0.0.1:53"),
            (b"\0\0\0\x04\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x01\0\x35", "10.0.0.1:53"),
        ] {
            let datagram = [header, b"payload"].concat();
            assert_eq!(parse(&datagram), Ok((target.parse().unwrap(), header.len())));
            for length in 0..header.len() {
                assert_eq!(parse(&datagram[..length]), Err(Unusable::Truncated), "{target} {length}");
            }
        }
    }

    #[test]
    fn what_is_to_be_dropped_says_why() {
        assert_eq!(parse(b"\0\0\x01\x01\x0a\0\0\x01\0\x35"), Err(Unusable::Fragment));
        assert_eq!(parse(b"\0\0\x81\x01\x0a\0\0\x01\0\x35"), Err(Unusable::Fragment));
        for datagram in [
            &b"\0\0\0\x02\x0a\0\0\x01\0\x35"[..],
            b"\0\0\0\x01\x0a\0\0\x01\0\0",
            b"\0\0\0\x03\x00\0\x35",
            b"\0\0\0\x03\x03a b\0\x35",
            b"\0\0\0\x03\x02\xff\xff\0\x35",
        ] {
            assert_eq!(parse(datagram), Err(Unusable::Malformed), "{}", datagram.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_datagram_is_read_or_refused(tail in vec(prop_oneof![Just(0), Just(1), Just(b'a'), any::<u8>()], 0..40), kind in 0_u8..6) {
            let datagram = [&[0, 0, 0, kind], &tail[..]].concat();
            if let Ok((target, length)) = parse(&datagram) {
                prop_assert!(length <= datagram.len() && target.port != 0);
            }
        }
    }
}
