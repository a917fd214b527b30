#![allow(unsafe_code, reason = "only WSARecvMsg tells the TTL of a datagram")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::windows::io::AsRawSocket as _;
use std::ptr::null_mut;

use socket2::{SockAddr, SockAddrStorage, SockRef, Socket};
use tokio::net::UdpSocket;
use windows_sys::Win32::Networking::WinSock::{
    IP_PKTINFO, IP_RECVTTL, IPPROTO_IP, IPPROTO_IPV6, IPV6_HOPLIMIT, IPV6_PKTINFO, LPFN_WSARECVMSG,
    SIO_GET_EXTENSION_FUNCTION_POINTER, SOCKET_ERROR, WSABUF, WSAEMSGSIZE, WSAID_WSARECVMSG, WSAIoctl,
    WSAMSG,
};

use super::control;
use super::datagram::Datagram;
use crate::net::windows::{claim, ignore_unreachable_peers, set};

/// Space for the control messages of one datagram, in bytes: TTL and destination need 32 and 40.
const CONTROL: usize = 128;

/// Binds a socket that no other may share. On loopback a second socket, which receives the broadcasts, shares its port.
pub(super) fn bind_unicast(socket: &Socket, own: SocketAddr) -> io::Result<()> {
    if own.ip().is_loopback() {
        socket.set_reuse_address(true)?;
    } else {
        claim(socket)?;
    }
    socket.bind(&own.into())
}

/// Lets several sockets be bound to the same broadcast or multicast address; each receives every datagram.
pub(super) fn share(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)
}

/// A socket that is bound to an address of this machine also receives what is sent to everybody on that network. The
/// loopback interface has no broadcasts of its own.
pub(super) fn hears_broadcasts(socket: &SockRef<'_>, has_port: bool, group: Option<(Ipv6Addr, u32)>) -> bool {
    let is_loopback = || {
        let address = socket.local_addr().ok().and_then(|address| address.as_socket());
        address.is_some_and(|address| address.ip().is_loopback())
    };
    has_port
        && match group {
            Some((group, index)) => socket.join_multicast_v6(&group, index).is_ok(),
            None => !is_loopback(),
        }
}

/// The address to which a socket that receives broadcasts is bound. Windows binds no socket to a broadcast address.
pub(super) fn broadcast_address(everybody: SocketAddr) -> SocketAddr {
    let any: IpAddr = match everybody {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(any, everybody.port())
}

/// Receives datagrams with their TTL and their destination.
#[derive(Debug)]
pub(super) struct Receiver {
    function: LPFN_WSARECVMSG,
    /// The system tells the TTL.
    tells_ttl: bool,
    /// The only destination whose datagrams are taken.
    only_to: Option<IpAddr>,
}

impl Receiver {
    /// Asks for the TTL and the destination of what the socket receives.
    pub(super) fn new(socket: &Socket, v4: bool, only_to: Option<IpAddr>) -> io::Result<Self> {
        let (level, ttl, destination) = match v4 {
            true => (IPPROTO_IP, IP_RECVTTL, IP_PKTINFO),
            false => (IPPROTO_IPV6, IPV6_HOPLIMIT, IPV6_PKTINFO),
        };
        // Windows 10 and later tell the TTL.
        let tells_ttl = set(socket, level, ttl, 1).is_ok();
        if only_to.is_some() {
            set(socket, level, destination, 1)?;
        }
        ignore_unreachable_peers(socket)?;
        Ok(Self { function: receive_function(socket)?, tells_ttl, only_to })
    }

    /// The next datagram, without waiting. `None` for one that is not for this socket.
    pub(super) fn receive(&self, socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
        let Some(function) = self.function else { return Err(io::ErrorKind::Unsupported.into()) };
        let mut sender = SockAddrStorage::zeroed();
        // Of `u64`, so that the headers in it are aligned.
        let mut control = [0_u64; CONTROL / 8];
        let length = |length: usize| u32::try_from(length).map_err(io::Error::other);
        let mut data = WSABUF { len: length(buffer.len())?, buf: buffer.as_mut_ptr() };
        let mut message = WSAMSG {
            name: (&raw mut sender).cast(),
            namelen: sender.size_of(),
            lpBuffers: &raw mut data,
            dwBufferCount: 1,
            Control: WSABUF { len: length(CONTROL)?, buf: control.as_mut_ptr().cast() },
            dwFlags: 0,
        };
        let handle = usize::try_from(socket.as_raw_socket()).map_err(io::Error::other)?;
        let mut size = 0;
        // SAFETY: the message names three writable buffers with their lengths, and all outlive the call, which does not go
        // on when it returns, because there is no OVERLAPPED.
        let result = unsafe { function(handle, &raw mut message, &raw mut size, null_mut(), None) };
        let mut size = usize::try_from(size).map_err(io::Error::other)?;
        if result == SOCKET_ERROR {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(WSAEMSGSIZE) {
                return Err(error);
            }
            // A datagram that is longer than the buffer.
            size = buffer.len();
        }
        // SAFETY: the system has written an address of this length.
        let sender = unsafe { SockAddr::new(sender, message.namelen) };
        let from = sender.as_socket().ok_or_else(|| io::Error::other("a datagram without a sender"))?;
        let control: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let known = usize::try_from(message.Control.len).map_err(io::Error::other)?.min(CONTROL);
        let told = control::read(&control[..known]);
        if self.only_to.is_some_and(|only| told.destination.is_some_and(|to| to != only)) {
            return Ok(None);
        }
        let ttl = told.ttl.or(self.tells_ttl.then_some(0));
        Ok(Some(Datagram { size, from, ttl }))
    }
}

/// `WSARecvMsg`, which every socket names itself.
fn receive_function(socket: &Socket) -> io::Result<LPFN_WSARECVMSG> {
    let mut function: LPFN_WSARECVMSG = None;
    let (id, mut written) = (WSAID_WSARECVMSG, 0);
    let size = |size: usize| u32::try_from(size).map_err(io::Error::other);
    let handle = usize::try_from(socket.as_raw_socket()).map_err(io::Error::other)?;
    // SAFETY: the input is a GUID and the output a function pointer, both with their sizes. For this GUID the system writes
    // a function of this type, or nothing: null is `None`.
    let result = unsafe {
        WSAIoctl(
            handle,
            SIO_GET_EXTENSION_FUNCTION_POINTER,
            (&raw const id).cast(),
            size(size_of_val(&id))?,
            (&raw mut function).cast(),
            size(size_of_val(&function))?,
            &raw mut written,
            null_mut(),
            None,
        )
    };
    if result == SOCKET_ERROR { Err(io::Error::last_os_error()) } else { Ok(function) }
}
