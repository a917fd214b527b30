//! UDP datagrams as IP packets (RFC 768, RFC 791, RFC 8200).

use std::net::{IpAddr, SocketAddr};

/// The protocol number of UDP.
const UDP: u8 = 17;
/// Length of a UDP header, in bytes.
const HEADER: usize = 8;
const HOP_LIMIT: u8 = 64;

/// The packet with this datagram; `None` if it does not fit into one, or the addresses are of different families.
pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(HEADER + payload.len()).ok()?;
    let mut datagram = Vec::with_capacity(length.into());
    datagram.extend(from.port().to_be_bytes());
    datagram.extend(to.port().to_be_bytes());
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let (mut packet, pseudo) = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = length.checked_add(20)?.to_be_bytes();
            let ends = [from.octets(), to.octets()].concat();
            // Version and length of the header; do not fragment.
            let mut header = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, HOP_LIMIT, UDP, 0, 0];
            header.extend(&ends);
            let sum = checksum(&[&header]).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            (header, ends)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let bytes = length.to_be_bytes();
            let ends = [from.octets(), to.octets()].concat();
            let mut header = vec![0x60, 0, 0, 0, bytes[0], bytes[1], UDP, HOP_LIMIT];
            header.extend(&ends);
            (header, ends)
        }
        _ => return None,
    };
    let [high, low] = length.to_be_bytes();
    // A checksum of 0 would say that the sender computed none (RFC 768).
    let sum = match checksum(&[&pseudo, &[0, UDP, high, low], &datagram]) {
        0 => u16::MAX,
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    packet.extend(datagram);
    Some(packet)
}

/// The Internet checksum (RFC 1071) of parts of which only the last one may have an odd length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
    let mut sum: u64 = parts.iter().flat_map(|part| part.chunks(2)).map(word).sum();
    while sum > u64::from(u16::MAX) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_datagram_gets_the_headers_that_a_kernel_writes() {
        let packet = udp("192.0.2.1:53".parse().unwrap(), "192.0.0.2:4660".parse().unwrap(), b"abc").unwrap();
        let expected = [
            0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0xb8, 0xca, 192, 0, 2, 1, 192, 0, 0, 2, 0, 53, 0x12, 0x34,
            0, 11, 0xa7, 0x08, b'a', b'b', b'c',
        ];
        assert_eq!(packet, expected);
    }

    #[test]
    fn what_does_not_fit_and_mixed_families_are_refused() {
        let (v4, v6) = ("192.0.2.1:1".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap());
        assert_eq!(udp(v4, v6, b""), None);
        assert!(udp(v4, v4, &[0; 65_507]).is_some_and(|packet| packet.len() == 65_535));
        assert_eq!(udp(v4, v4, &[0; 65_508]), None);
        assert!(udp(v6, v6, &[0; 65_527]).is_some());
        assert_eq!(udp(v6, v6, &[0; 65_528]), None);
    }

    proptest! {
        #[test]
        fn the_checksums_are_right(from: [u8; 16], to: [u8; 16], ports: (u16, u16), payload: Vec<u8>, v6: bool) {
            let at = |ip: [u8; 16], port| match v6 {
                true => SocketAddr::from((ip, port)),
                false => SocketAddr::from(([ip[0], ip[1], ip[2], ip[3]], port)),
            };
            let packet = udp(at(from, ports.0), at(to, ports.1), &payload).unwrap();
            let (header, ends) = if v6 { (40, 8..40) } else { (20, 12..20) };
            let [high, low] = u16::try_from(packet.len() - header).unwrap().to_be_bytes();
            let sum = checksum(&[&packet[ends], &[0, UDP, high, low], &packet[header..]]);
            prop_assert_eq!(sum, 0);
            prop_assert!(v6 || checksum(&[&packet[..20]]) == 0);
            prop_assert!(packet.ends_with(&payload));
        }
    }
}
