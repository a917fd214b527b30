//! Linux tells any process about any TCP socket of its network namespace (`sock_diag(7)`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` and `NLMSG_ERROR` of `linux/netlink.h`.
const REQUEST: u16 = 1;
const ERROR: u16 = 2;
/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The length of a `struct nlmsghdr` and a `struct inet_diag_req_v2` together.
const LENGTH: u32 = 72;
/// The length of `struct inet_diag_msg`, and where its inode is.
const ANSWER: usize = 72;
const INODE: usize = 68;
/// `INET_DIAG_SHUTDOWN` of `linux/inet_diag.h`: which directions are shut down; and the bit of the receiving one.
const SHUTDOWN: u16 = 8;
const RECEIVING: u8 = 1;
/// `AF_INET`, `AF_INET6` and `IPPROTO_TCP`, which have one byte here.
const IPV4: u8 = 2;
const IPV6: u8 = 10;
const TCP: u8 = 6;
/// `TCP_LISTEN` of `net/tcp_states.h`.
const LISTEN: u8 = 10;

/// One TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// A process holds it. The system keeps a closed one until the connection has ended.
    pub(super) is_held: bool,
    /// Its receiving direction is open.
    pub(super) reads: bool,
}

/// The socket at `local` that is connected to `remote`, if this network namespace has one.
///
/// # Errors
/// When the system does not answer. A kernel built without `CONFIG_INET_DIAG` may report that the socket does not exist.
pub(super) fn find(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Found>> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkSockDiag,
    )?;
    let (fd, kernel) = (netlink.as_raw_fd(), NetlinkAddr::new(0, 0));
    sendto(fd, &question(local, remote), &kernel, MsgFlags::empty())?;
    // The kernel has answered before `sendto` returns.
    let mut answer = [0; 1024];
    let length = recv(fd, &mut answer, MsgFlags::empty())?;
    read(&answer[..length])
}

fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let mut out = Vec::with_capacity(LENGTH as usize);
    out.extend(LENGTH.to_ne_bytes());
    out.extend(BY_FAMILY.to_ne_bytes());
    out.extend(REQUEST.to_ne_bytes());
    // Sequence number and sender, which are not needed for one question.
    out.extend([0; 8]);
    out.extend([if local.is_ipv4() { IPV4 } else { IPV6 }, TCP, 0, 0]);
    // In any state.
    out.extend(u32::MAX.to_ne_bytes());
    out.extend(local.port().to_be_bytes());
    out.extend(remote.port().to_be_bytes());
    for ip in [local.ip(), remote.ip()] {
        match ip {
            IpAddr::V4(ip) => out.extend([&ip.octets()[..], &[0; 12]].concat()),
            IpAddr::V6(ip) => out.extend(ip.octets()),
        }
    }
    // On any interface, with any cookie.
    out.extend(0_u32.to_ne_bytes());
    out.extend([0xff; 8]);
    out
}

fn read(answer: &[u8]) -> io::Result<Option<Found>> {
    let short = || io::Error::from(io::ErrorKind::InvalidData);
    let kind = u16::from_ne_bytes(bytes(answer, 4).ok_or_else(short)?);
    if kind == ERROR {
        let code = i32::from_ne_bytes(bytes(answer, HEADER).ok_or_else(short)?);
        let error = io::Error::from_raw_os_error(code.wrapping_neg());
        return if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) };
    }
    let message = answer.get(HEADER..).ok_or_else(short)?;
    let [_, state] = bytes(message, 0).ok_or_else(short)?;
    if kind != BY_FAMILY || state == LISTEN {
        return Ok(None);
    }
    let inode = u32::from_ne_bytes(bytes(message, INODE).ok_or_else(short)?);
    let mut found = Found { is_held: inode != 0, reads: true };
    let mut attributes = message.get(ANSWER..).unwrap_or_default();
    while let (Some(length), Some(kind)) = (bytes(attributes, 0), bytes(attributes, 2)) {
        let length = usize::from(u16::from_ne_bytes(length));
        if u16::from_ne_bytes(kind) == SHUTDOWN && length > 4 {
            found.reads = attributes.get(4).is_none_or(|shut| shut & RECEIVING == 0);
        }
        // Each attribute begins at a multiple of four; a length below its own header would never advance.
        attributes = attributes.get(length.max(4).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Some(found))
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_its_two_addresses_and_nothing_else_is() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let app = std::net::TcpStream::connect(address).unwrap();
        let _accepted = listener.accept().unwrap();
        let held = Found { is_held: true, reads: true };
        assert_eq!(find(app.local_addr().unwrap(), address).unwrap(), Some(held));
        assert_eq!(find(address, app.local_addr().unwrap()).unwrap(), Some(held));
        assert_eq!(
            find(address, "127.0.0.1:1".parse().unwrap()).unwrap(),
            None,
            "the listener is another socket"
        );
    }

    #[test]
    fn answers_that_are_cut_short_are_errors_and_never_a_panic() {
        let whole = [&[88, 0, 0, 0, 20, 0][..], &[0; 82], &[5, 0, 8, 0, 3, 0, 0, 0]].concat();
        assert_eq!(read(&whole).unwrap(), Some(Found { is_held: false, reads: false }));
        for length in 0..HEADER + ANSWER {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
    }
}
