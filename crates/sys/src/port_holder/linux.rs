use std::fs;
use std::net::SocketAddr;

use super::holder::{Program, Protocol};

/// The state of a listening TCP socket in /proc/net/tcp.
const LISTENING: &str = "0A";

pub(super) fn find(protocol: Protocol, address: SocketAddr) -> Option<Program> {
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
            Program {
                name: name.trim().to_owned(),
                process: process.file_name().to_string_lossy().into_owned(),
            }
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
