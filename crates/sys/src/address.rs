//! Socket addresses as the system has them.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

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
            Some(SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id()).into())
        }
        _ => None,
    }
}
