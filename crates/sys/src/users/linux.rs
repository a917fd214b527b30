use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::libc::{AF_INET, AF_INET6, IPPROTO_TCP};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::names::{judge, owner_of};
use super::whose::Whose;
use crate::socket_tables::{self, Socket};

/// The number for users without one, unless the system has another.
const OVERFLOW: u32 = 65_534;

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

/// Where the system's service has its sockets: systemd makes the directory for the user of the service (`RuntimeDirectory=`).
const RUNTIME: &str = "/run/laneway";

pub(super) fn who_listens(address: SocketAddr) -> Option<u32> {
    known(socket_tables::listening(address).ok()?.first()?.user)
}

pub(super) fn who_receives(port: u16) -> Option<u32> {
    known(socket_tables::user_of_udp_port(port)?)
}

pub(super) fn whose(address: SocketAddr) -> Whose {
    let service = owner_of(Path::new(RUNTIME));
    let Ok(sockets) = socket_tables::listening(address) else { return Whose::Untold };
    let judged = |socket: &Socket| known(socket.user).map_or(Whose::Unmapped, |user| judge(user, service));
    let mut owners: Vec<_> = sockets.iter().map(judged).collect();
    // Those of the machine last, so that nobody hides behind its socket.
    owners.sort_by_key(|whose| matches!(whose, Whose::Own | Whose::Machine));
    owners.into_iter().next().unwrap_or(Whose::Nobody)
}

/// A user's number, unless it is the one that stands for all users without a number in this user namespace
/// (user_namespaces(7)).
fn known(user: u32) -> Option<u32> {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let overflow = read("/proc/sys/kernel/overflowuid").trim().parse().unwrap_or(OVERFLOW);
    Some(user).filter(|user| *user != overflow || has_all(&read("/proc/self/uid_map")))
}

/// Whether every user has a number with this map: the one of a system that is no container.
fn has_all(map: &str) -> bool {
    map.split_whitespace().nth(2).and_then(|count| count.parse().ok()) == Some(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_system_itself_has_all_users() {
        assert!(has_all("         0          0 4294967295\n"));
        for container in ["0 1000 1", "0 100000 65536\n65536 1000 1", ""] {
            assert!(!has_all(container), "{container}");
        }
    }
}
