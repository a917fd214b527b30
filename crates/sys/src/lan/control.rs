//! The control messages of a received datagram (Windows, `WSACMSGHDR`): what the system tells of it beside its bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The length of a header: a length of the size of a pointer, the level and the type.
const HEADER: usize = size_of::<usize>() + 8;
/// `IPPROTO_IP` and `IPPROTO_IPV6`.
const IPV4: i32 = 0;
const IPV6: i32 = 41;
/// `IP_TTL`, which older systems use; `IP_HOPLIMIT` and `IPV6_HOPLIMIT`; `IP_PKTINFO` and `IPV6_PKTINFO`.
const OLD_TTL: i32 = 4;
const TTL: i32 = 21;
const DESTINATION: i32 = 19;

/// What is told of a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The TTL or hop limit with which it arrived.
    pub(super) ttl: Option<i32>,
    /// The address to which it was sent.
    pub(super) destination: Option<IpAddr>,
}

/// Reads all messages. What is cut short or unknown is passed over.
pub(super) fn read(mut bytes: &[u8]) -> Told {
    let mut told = Told::default();
    while let Some(length) = bytes.first_chunk().map(|length| usize::from_ne_bytes(*length)) {
        let (Some(message), true) = (bytes.get(..length), length >= HEADER) else { break };
        let number = |at: usize| message.get(at..at + 4)?.try_into().ok().map(i32::from_ne_bytes);
        let data = message.get(HEADER..).unwrap_or_default();
        match (number(HEADER - 8), number(HEADER - 4)) {
            (Some(IPV4), Some(TTL | OLD_TTL)) | (Some(IPV6), Some(TTL)) => {
                told.ttl = number(HEADER).or(told.ttl);
            }
            (Some(IPV4), Some(DESTINATION)) => {
                let ip = data.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).into());
                told.destination = ip.or(told.destination);
            }
            (Some(IPV6), Some(DESTINATION)) => {
                let ip = data.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into());
                told.destination = ip.or(told.destination);
            }
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut message = (HEADER + data.len()).to_ne_bytes().to_vec();
        message.extend(level.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(data);
        message.resize(message.len().next_multiple_of(size_of::<usize>()), 0);
        message
    }

    #[test]
    fn ttl_and_destination_are_read_in_any_order_and_beside_others() {
        let ttl = message(IPV4, TTL, &255_i32.to_ne_bytes());
        let to = message(IPV4, DESTINATION, &[10, 0, 0, 255, 1, 0, 0, 0]);
        let other = message(IPV4, 99, b"abc");
        let expected = Told { ttl: Some(255), destination: Some("10.0.0.255".parse().unwrap()) };
        for all in [[&ttl, &other, &to], [&to, &ttl, &other]] {
            assert_eq!(read(&all.map(Vec::as_slice).concat()), expected);
        }
        let v6 =
            [message(IPV6, TTL, &64_i32.to_ne_bytes()), message(IPV6, DESTINATION, &[0xff; 20])].concat();
        let told = read(&v6);
        assert_eq!(told.ttl, Some(64));
        assert!(told.destination.unwrap().is_ipv6());
    }

    #[test]
    fn messages_that_are_cut_short_end_the_walk_and_never_panic() {
        let whole =
            [message(IPV4, TTL, &255_i32.to_ne_bytes()), message(IPV4, DESTINATION, &[1; 8])].concat();
        for length in 0..whole.len() {
            read(&whole[..length]);
        }
        assert_eq!(read(&[0; 64]), Told::default(), "a length of zero");
        assert_eq!(read(&[0xff; 64]), Told::default(), "a length beyond the end");
    }
}
