//! Which program uses a port of this machine (Linux, proc(5)).

use std::fs;
use std::net::SocketAddr;

/// The state of a listening TCP socket in /proc/net/tcp.
const LISTENING: &str = "0A";

/// The protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// The program that listens on this port, such as `nginx (process 812)`. `None` when it cannot be determined: only root
/// sees the sockets of other users' processes.
pub(super) fn find(protocol: Protocol, address: SocketAddr) -> Option<String> {
    let tables = match protocol {
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let tables = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
    let inodes: Vec<_> = tables.flat_map(|table| inodes(protocol, &table, address.port())).collect();
    let sockets: Vec<_> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter(|process| process.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()))
        .find(|process| {
            let files = fs::read_dir(process.path().join("fd"));
            files.into_iter().flatten().flatten().any(|file| {
                fs::read_link(file.path())
                    .is_ok_and(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
            })
        })
        .map(|process| {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let name = crate::failure::printable(name.trim());
            format!("{name} (process {})", process.file_name().to_string_lossy())
        })
}

/// The inodes of a table's sockets on this port.
fn inodes(protocol: Protocol, table: &str, port: u16) -> Vec<u64> {
    let port = format!(":{port:04X}");
    let found = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let has_port = fields.get(1)?.ends_with(&port);
        let listens = protocol == Protocol::Udp || *fields.get(3)? == LISTENING;
        fields.get(9)?.parse().ok().filter(|_| has_port && listens)
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_that_uses_a_port_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let own = format!("(process {})", std::process::id());
        let held = find(Protocol::Tcp, listener.local_addr().unwrap());
        assert!(held.as_ref().is_some_and(|held| held.ends_with(&own)), "{held:?}");
        let held = find(Protocol::Udp, socket.local_addr().unwrap());
        assert!(held.as_ref().is_some_and(|held| held.ends_with(&own)), "{held:?}");
        let free = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(find(Protocol::Tcp, free), None);
    }
}
