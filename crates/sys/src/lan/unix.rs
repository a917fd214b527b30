#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_vendor = "apple")]
mod macos;

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{MsgFlags, SockaddrStorage, recvmsg};
use socket2::{SockRef, Socket};
use tokio::net::UdpSocket;

#[cfg(target_os = "linux")]
use self::linux as system;
#[cfg(target_vendor = "apple")]
use self::macos as system;
use super::datagram::Datagram;
use crate::address::socket_address;

pub(super) use self::system::share;

/// Binds a socket that no other may share.
pub(super) fn bind_unicast(socket: &Socket, own: SocketAddr) -> io::Result<()> {
    socket.bind(&own.into())
}

/// A socket that is bound to an address of this machine receives nothing that is sent to a broadcast address.
pub(super) fn hears_broadcasts(_: &SockRef<'_>, _: bool, _: Option<(Ipv6Addr, u32)>) -> bool {
    false
}

/// The address to which a socket that receives broadcasts is bound: then the system passes it nothing else.
pub(super) fn broadcast_address(everybody: SocketAddr) -> SocketAddr {
    everybody
}

/// Receives datagrams with their TTL.
#[derive(Debug)]
pub(super) struct Receiver;

impl Receiver {
    /// Asks for the TTL of what the socket receives.
    pub(super) fn new(socket: &Socket, v4: bool, _: Option<IpAddr>) -> io::Result<Self> {
        system::ask_for_ttl(socket, v4)?;
        Ok(Self)
    }

    /// The next datagram, without waiting. `None` for one that is not for this socket.
    pub(super) fn receive(&self, socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
        let mut space = nix::cmsg_space!(i32);
        let mut slices = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrStorage>(
            socket.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let ttl = message.cmsgs()?.find_map(|control| system::ttl_of(&control));
        let from = message.address.as_ref().and_then(socket_address);
        let from = from.ok_or_else(|| io::Error::other("a datagram without a sender"))?;
        // A datagram whose TTL is missing counts as one from afar.
        Ok(Some(Datagram { size: message.bytes, from, ttl: Some(ttl.unwrap_or_default()) }))
    }
}
