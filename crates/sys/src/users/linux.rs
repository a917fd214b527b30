use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use nix::libc::{AF_INET, AF_INET6, IPPROTO_TCP};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// The type of the request and of its answer (sock_diag(7)): `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` (netlink(7)).
const REQUEST: u16 = 1;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct inet_diag_req_v2`.
const QUESTION: usize = 56;
/// Where `idiag_uid` is in the answer: after the header, four single bytes, the socket's id and three numbers.
const USER: usize = HEADER + 4 + 48 + 12;

/// Asks the kernel about one socket by its addresses (sock_diag(7)), which costs the same however many there are.
pub(super) fn user_of(app: SocketAddr, port: SocketAddr) -> Option<u32> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let protocol = SockProtocol::NetlinkSockDiag;
    let socket = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol).ok()?;
    send(socket.as_raw_fd(), &question(app, port)?, MsgFlags::empty()).ok()?;
    // The kernel has answered when `send` returns.
    let mut answer = [0; 512];
    let size = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).ok()?;
    let answer = answer.get(..size)?;
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    (kind == BY_FAMILY).then_some(())?;
    Some(u32::from_ne_bytes(*answer.get(USER..)?.first_chunk()?))
}

fn question(app: SocketAddr, port: SocketAddr) -> Option<Vec<u8>> {
    let (app_ip, port_ip) = (app.ip().to_canonical(), port.ip().to_canonical());
    let family = if app_ip.is_ipv4() { AF_INET } else { AF_INET6 };
    let octets = |ip: IpAddr| {
        let mut all = [0_u8; 16];
        match ip {
            IpAddr::V4(v4) => all[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => all = v6.octets(),
        }
        all
    };
    let mut message = Vec::with_capacity(HEADER + QUESTION);
    message.extend(u32::try_from(HEADER + QUESTION).ok()?.to_ne_bytes());
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    // Sequence number and sender: there is one question.
    message.extend([0; 8]);
    message.extend([u8::try_from(family).ok()?, u8::try_from(IPPROTO_TCP).ok()?, 0, 0]);
    // In any state.
    message.extend(u32::MAX.to_ne_bytes());
    message.extend(app.port().to_be_bytes());
    message.extend(port.port().to_be_bytes());
    message.extend(octets(app_ip));
    message.extend(octets(port_ip));
    // On any interface, and whichever socket it is (INET_DIAG_NOCOOKIE).
    message.extend(0_u32.to_ne_bytes());
    message.extend([0xff; 8]);
    Some(message)
}

/// The state of a listening socket in the tables (proc(5)), and of a UDP socket without a peer.
const LISTENING: &str = "0A";
const UNCONNECTED: &str = "07";

pub(super) fn who_listens(port: u16) -> Option<u32> {
    ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().find_map(|table| user_in(table, port, LISTENING))
}

pub(super) fn who_receives(port: u16) -> Option<u32> {
    ["/proc/net/udp", "/proc/net/udp6"].into_iter().find_map(|table| user_in(table, port, UNCONNECTED))
}

/// Any process may read the tables, and each sees those of its network namespace.
fn user_in(table: &str, port: u16, state: &str) -> Option<u32> {
    let table = std::fs::read_to_string(table).ok()?;
    let end = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let is_it = fields.get(1)?.ends_with(&end) && fields.get(3) == Some(&state);
        fields.get(7)?.parse().ok().filter(|_| is_it)
    })
}
