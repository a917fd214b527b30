//! Socket addresses as the system has them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use nix::sys::socket::{AddressFamily, SockaddrLike as _, SockaddrStorage};

/// The IP address, and the scope of a link-local one.
pub(crate) fn ip_of(address: &SockaddrStorage) -> Option<(IpAddr, u32)> {
    match socket_address(address)? {
        SocketAddr::V4(v4) => Some((v4.ip().to_owned().into(), 0)),
        SocketAddr::V6(v6) => Some((v6.ip().to_owned().into(), v6.scope_id())),
    }
}

/// The address and port of an IP socket.
pub(crate) fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    match address.family()? {
        AddressFamily::Inet => {
            let v4 = address.as_sockaddr_in()?;
            Some(SocketAddr::new(v4.ip().into(), v4.port()))
        }
        AddressFamily::Inet6 => {
            let v6 = address.as_sockaddr_in6()?;
            let (ip, embedded) = without_scope(v6.ip());
            let scope = if v6.scope_id() == 0 { embedded } else { v6.scope_id() };
            Some(SocketAddrV6::new(ip, v6.port(), 0, scope).into())
        }
        _ => None,
    }
}

/// A link-local address without its scope, and that scope: the kernels of the BSDs and of macOS keep it in the second 16 bits,
/// which are zero on the network (RFC 4291 §2.5.6).
fn without_scope(ip: Ipv6Addr) -> (Ipv6Addr, u32) {
    let mut segments = ip.segments();
    if !ip.is_unicast_link_local() || segments[1] == 0 {
        return (ip, 0);
    }
    let scope = std::mem::take(&mut segments[1]);
    (segments.into(), scope.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_in_a_link_local_address_is_taken_out_of_it() {
        for (listed, address, scope) in
            [("fe80:4::1", "fe80::1", 4), ("fe80::1", "fe80::1", 0), ("2001:db8:4::1", "2001:db8:4::1", 0)]
        {
            assert_eq!(without_scope(listed.parse().unwrap()), (address.parse().unwrap(), scope));
        }
    }
}
