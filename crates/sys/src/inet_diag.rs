//! Linux tells any process about any TCP socket of its network namespace (`sock_diag(7)`).

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::sys::socket::SockProtocol;

use crate::net::plain;
use crate::netlink::{self, bytes};

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`: the type of a question, and of its answer.
const BY_FAMILY: u16 = 20;
/// The length of `struct inet_diag_req_v2`.
const QUESTION: usize = 56;
/// The length of `struct inet_diag_msg`, and where its user and its inode are.
const ANSWER: usize = 72;
const USER: usize = 64;
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
pub(crate) struct Found {
    /// A process holds it. The system keeps a closed one until the connection has ended.
    pub(crate) is_held: bool,
    /// Its receiving direction is open.
    pub(crate) reads: bool,
    /// The user id of the process that opened it.
    pub(crate) user: u32,
}

/// The socket at `local` that is connected to `remote`, if this network namespace has one. This takes the same time however many
/// sockets there are.
///
/// # Errors
/// When the system does not answer. A kernel built without `CONFIG_INET_DIAG` may report that the socket does not exist.
pub(crate) fn find(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Found>> {
    let question = question(plain(local), plain(remote));
    read(&netlink::ask(SockProtocol::NetlinkSockDiag, BY_FAMILY, &question)?)
}

fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let mut out = Vec::with_capacity(QUESTION);
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
    let (kind, message) = match netlink::read(answer) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let [_, state] = bytes(message, 0)?;
    if kind != BY_FAMILY || state == LISTEN {
        return Ok(None);
    }
    let user = u32::from_ne_bytes(bytes(message, USER)?);
    let inode = u32::from_ne_bytes(bytes(message, INODE)?);
    let mut attributes = netlink::attributes(message.get(ANSWER..).unwrap_or_default());
    let shut = attributes.find(|(kind, _)| *kind == SHUTDOWN).and_then(|(_, shut)| shut.first().copied());
    Ok(Some(Found { is_held: inode != 0, reads: shut.is_none_or(|shut| shut & RECEIVING == 0), user }))
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
        let held = Found { is_held: true, reads: true, user: nix::unistd::Uid::effective().as_raw() };
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
        let body = [&[0; USER][..], &1000_u32.to_ne_bytes(), &[0; 4], &[5, 0, 8, 0, 3, 0, 0, 0]].concat();
        let whole = netlink::tests::answer(BY_FAMILY, &body);
        assert_eq!(read(&whole).unwrap(), Some(Found { is_held: false, reads: false, user: 1000 }));
        for length in 0..whole.len() - 8 {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
    }
}
