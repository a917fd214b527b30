//! Classes of IP addresses that the rules treat apart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses of the gateway itself (loopback), of its own network segment (link-local), or of no single host. They are
/// never dialled unless a rule names them.
pub(super) fn is_special(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_special_v4(ip),
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unicast_link_local()
                || is_local_nat64(ip)
                || METADATA_V6.contains(&ip)
                || embedded_v4(ip.into()).is_some_and(is_special_v4)
        }
    }
}

/// 64:ff9b:1::/48, for NAT64 within one network (RFC 8215). Each network chooses where the IPv4 address is in it (RFC 6052
/// §2.2), so nobody else can tell whether it embeds a forbidden one.
pub(super) fn is_local_nat64(ip: Ipv6Addr) -> bool {
    ip.segments()[..3] == [0x64, 0xff9b, 1]
}

/// The IPv4 address embedded in some IPv6 addresses: IPv4-compatible (::/96), IPv4-translated (::ffff:0:0:0/96, RFC 2765
/// §2.1), NAT64 (64:ff9b::/96, RFC 6052, and the usual form of 64:ff9b:1::/48), 6to4 (2002::/16, RFC 3056), ISATAP
/// (RFC 5214 §6.1) and the client's in Teredo (2001::/32, RFC 4380 §4).
pub(super) fn embedded_v4(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match ip.segments() {
        [0, 0, 0, 0, 0 | 0xffff, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x64, 0xff9b, 1, _, _, _, high, low] => v4(high, low),
        [0x2001, 0, _, _, _, _, high, low] => v4(!high, !low),
        [0x2002, high, low, ..] => v4(high, low),
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => v4(high, low),
        _ => None,
    }
}

/// The addresses beyond link-local at which clouds give their machines keys and passwords: Alibaba, Azure and Oracle.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
/// The IPv6 ones: AWS (metadata, and the credentials of pods), Google, Oracle, Scaleway and Linode.
const METADATA_V6: [Ipv6Addr; 6] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1),
];

fn is_special_v4(ip: Ipv4Addr) -> bool {
    let [first, ..] = ip.octets();
    first == 0 || ip.is_loopback() || ip.is_link_local() || first >= 224 || METADATA_V4.contains(&ip)
}

/// IPv4-mapped IPv6 addresses as IPv4; all others unchanged.
pub(super) fn plain(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}
