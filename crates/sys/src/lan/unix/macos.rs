use std::io;

use nix::libc;
use nix::sys::socket::{ControlMessageOwned, setsockopt};
use socket2::Socket;

/// Asks for the TTL, or hop limit, of what the socket receives.
pub(super) fn ask_for_ttl(socket: &Socket, v4: bool) -> io::Result<()> {
    if v4 { Ok(setsockopt(socket, options::ReceiveTtl, &true)?) } else { socket.set_recv_hoplimit_v6(true) }
}

/// The TTL, or hop limit, if the control message has it: one byte for IPv4 (`ip_savecontrol` of the kernel), an `int` for
/// IPv6 (RFC 3542 §6.3).
pub(super) fn ttl_of(control: &ControlMessageOwned) -> Option<i32> {
    let ControlMessageOwned::Unknown(message) = control else { return None };
    let (header, bytes) = (&message.cmsg_header, &*message.data_bytes);
    match (header.cmsg_level, header.cmsg_type) {
        (libc::IPPROTO_IP, libc::IP_RECVTTL) => bytes.first().map(|ttl| i32::from(*ttl)),
        (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
            bytes.first_chunk().map(|limit| i32::from_ne_bytes(*limit))
        }
        _ => None,
    }
}

/// Lets several sockets be bound to the same broadcast or multicast address; each receives every datagram. For a broadcast
/// address this system wants the second option, too.
pub(in crate::lan) fn share(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)
}

/// A socket option that neither nix nor socket2 defines for this system.
mod options {
    use nix::{libc, setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// Have datagrams received with their TTL (ip(4)).
        ReceiveTtl,
        SetOnly,
        libc::IPPROTO_IP,
        libc::IP_RECVTTL,
        bool
    );
}
