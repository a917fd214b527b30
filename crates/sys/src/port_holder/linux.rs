use std::fs;
use std::net::SocketAddr;

use super::holder::{Program, Protocol};
use crate::socket_tables::{listening, receiving};

pub(super) fn find(protocol: Protocol, address: SocketAddr) -> Option<Program> {
    let sockets = match protocol {
        Protocol::Tcp => listening(address),
        Protocol::Udp => receiving(address),
    };
    let links: Vec<_> = sockets.ok()?.iter().map(|socket| format!("socket:[{}]", socket.inode)).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter(|process| process.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()))
        .find(|process| {
            let files = fs::read_dir(process.path().join("fd"));
            files.into_iter().flatten().flatten().any(|file| {
                fs::read_link(file.path())
                    .is_ok_and(|link| links.iter().any(|socket| link.as_os_str() == socket.as_str()))
            })
        })
        .map(|process| {
            let read = |file| fs::read_to_string(process.path().join(file)).unwrap_or_default();
            Program {
                name: read("comm").trim().to_owned(),
                process: process.file_name().to_string_lossy().into_owned(),
                is_stopped: is_stopped(&read("stat")),
            }
        })
}

/// Whether this line of a process (proc(5)) says that it is stopped, by a signal or by a tracer. The name in parentheses may
/// contain anything.
fn is_stopped(stat: &str) -> bool {
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next());
    matches!(state, Some("T" | "t"))
}

#[cfg(test)]
mod tests {
    use super::is_stopped;

    #[test]
    fn a_stopped_process_is_told_from_one_whose_name_looks_like_it() {
        assert!(is_stopped("4711 (laneway) T 1 2 3") && is_stopped("4711 (a) b) t 1"));
        for runs in ["4711 (laneway) S 1 2 3", "4711 (x) T) R 1", ""] {
            assert!(!is_stopped(runs), "{runs}");
        }
    }
}
