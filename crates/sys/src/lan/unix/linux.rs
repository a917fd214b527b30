use std::io;

use nix::sys::socket::{ControlMessageOwned, setsockopt, sockopt};
use socket2::Socket;

/// Asks for the TTL, or hop limit, of what the socket receives.
pub(super) fn ask_for_ttl(socket: &Socket, v4: bool) -> io::Result<()> {
    if v4 {
        setsockopt(socket, sockopt::Ipv4RecvTtl, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvHopLimit, &true)?;
    }
    Ok(())
}

/// The TTL, or hop limit, if the control message has it.
pub(super) fn ttl_of(control: &ControlMessageOwned) -> Option<i32> {
    match control {
        ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => Some(*ttl),
        _ => None,
    }
}

/// Lets several sockets be bound to the same broadcast or multicast address; each receives every datagram.
pub(in crate::lan) fn share(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)
}
