//! The tables of sockets of this network namespace (Linux, proc(5)), which every process may read.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The state of a listening TCP socket, and of a UDP socket without a peer.
const LISTENING: &str = "0A";
const UNCONNECTED: &str = "07";

/// A socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    /// The address that it is bound to.
    pub(crate) address: SocketAddr,
    /// The user id of the process that opened it.
    pub(crate) user: u32,
    /// Its number in links like `socket:[4711]`.
    pub(crate) inode: u64,
}

/// The sockets to which a connection to `address` can come; those at any address, if `address` is unspecified.
///
/// # Errors
/// When the table cannot be read.
pub(crate) fn listening(address: SocketAddr) -> io::Result<Vec<Socket>> {
    Ok(reached(address, read(["/proc/net/tcp", "/proc/net/tcp6"], Some(LISTENING))?))
}

/// The UDP sockets that datagrams to `address` reach.
///
/// # Errors
/// When the table cannot be read.
pub(crate) fn receiving(address: SocketAddr) -> io::Result<Vec<Socket>> {
    Ok(reached(address, read(["/proc/net/udp", "/proc/net/udp6"], None)?))
}

/// The user id of a process that has this UDP port at any address.
pub(crate) fn user_of_udp_port(port: u16) -> Option<u32> {
    let sockets = read(["/proc/net/udp", "/proc/net/udp6"], Some(UNCONNECTED)).ok()?;
    sockets.into_iter().find(|socket| socket.address.port() == port).map(|socket| socket.user)
}

/// The sockets that the kernel prefers: bound to the address itself, else to all addresses of its IP version, else to
/// all of both.
fn reached(address: SocketAddr, mut sockets: Vec<Socket>) -> Vec<Socket> {
    let ip = address.ip().to_canonical();
    if ip.is_unspecified() {
        sockets.retain(|socket| socket.address.port() == address.port());
        return sockets;
    }
    let preferred =
        [ip, if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }];
    let preferred = preferred.into_iter().chain([IpAddr::from(Ipv6Addr::UNSPECIFIED)]);
    let at = |ip: IpAddr| -> Vec<Socket> {
        let same = |socket: &&Socket| socket.address == SocketAddr::new(ip, address.port());
        sockets.iter().filter(same).copied().collect()
    };
    preferred.map(at).find(|found| !found.is_empty()).unwrap_or_default()
}

/// The sockets in this state, if one is given. A system without IPv6 has no second table.
fn read([v4, v6]: [&str; 2], state: Option<&str>) -> io::Result<Vec<Socket>> {
    let tables = [fs::read_to_string(v4)?, fs::read_to_string(v6).unwrap_or_default()];
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    Ok(lines.filter_map(|line| parse(line, state)).collect())
}

fn parse(line: &str, state: Option<&str>) -> Option<Socket> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let is_in_state = *fields.get(3)? == state.unwrap_or(fields[3]);
    is_in_state.then_some(())?;
    let (ip, port) = fields.get(1)?.split_once(':')?;
    // Each word is a number of this machine's byte order, whose bytes in memory are those of the address.
    let words = (0..ip.len() / 8).map(|at| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok());
    let octets: Vec<u8> = words.collect::<Option<Vec<_>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let ip = match octets.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?).to_canonical(),
    };
    Some(Socket {
        address: SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?),
        user: fields.get(7)?.parse().ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn a_socket_is_found_by_the_address_that_leads_to_it_and_by_no_other() {
        let inside = |bound: &str, port: u16, asked: &str| {
            let sockets = listening(SocketAddr::new(asked.parse().unwrap(), port)).unwrap();
            let bound: IpAddr = bound.parse().unwrap();
            sockets.iter().any(|socket| socket.address.ip() == bound)
        };
        for (bound, reached, unreached) in [
            ("127.0.0.1", &["127.0.0.1", "::ffff:127.0.0.1"][..], &["127.0.0.2", "::1"][..]),
            ("0.0.0.0", &["127.0.0.1", "127.0.0.2"], &["::1"]),
            ("::1", &["::1"], &["127.0.0.1"]),
            ("::", &["::1", "127.0.0.1"], &[]),
        ] {
            let Ok(listener) = TcpListener::bind((bound, 0)) else { continue };
            let port = listener.local_addr().unwrap().port();
            assert!(reached.iter().all(|asked| inside(bound, port, asked)), "{bound}");
            assert!(!unreached.iter().any(|asked| inside(bound, port, asked)), "{bound}");
        }
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(receiving(socket.local_addr().unwrap()).unwrap().len(), 1);
    }

    /// A neighbour of the address does not hide who has the address itself.
    #[test]
    fn the_socket_at_the_address_itself_comes_before_one_at_all_addresses() {
        let socket = |text: &str, user| Socket { address: text.parse().unwrap(), user, inode: 1 };
        let all = [
            socket("127.0.0.2:1080", 1),
            socket("[::]:1080", 2),
            socket("0.0.0.0:1080", 3),
            socket("127.0.0.1:1080", 4),
            socket("127.0.0.1:1081", 5),
        ];
        let users = |address: &str, count: usize| -> Vec<u32> {
            let found = reached(address.parse().unwrap(), all[..count].to_vec());
            found.into_iter().map(|socket| socket.user).collect()
        };
        assert_eq!(users("127.0.0.1:1080", 5), [4]);
        assert_eq!(users("127.0.0.1:1080", 3), [3]);
        assert_eq!(users("127.0.0.1:1080", 2), [2]);
        assert_eq!(users("127.0.0.1:1080", 1), [0; 0]);
        assert_eq!(users("[::1]:1080", 5), [2]);
        assert_eq!(users("0.0.0.0:1080", 5), [1, 2, 3, 4], "whatever is in the way");
    }

    #[test]
    fn lines_that_are_none_are_left_out() {
        let good = "0: 0100007F:0438 00000000:0000 0A 0:0 0:0 0 1000 0 4711 1";
        assert_eq!(
            parse(good, Some(LISTENING)).map(|socket| (socket.user, socket.inode)),
            Some((1000, 4711))
        );
        for bad in ["", "0: 0100007F", "0: 01:0438 0:0 0A 0 0 0 1 0 2", "0: 0100007F:x 0:0 0A 0 0 0 1 0 2"] {
            assert_eq!(parse(bad, Some(LISTENING)), None, "{bad}");
        }
    }
}
