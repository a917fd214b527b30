use std::net::SocketAddr;
use std::path::Path;

use super::names::{judge, owner_of};
use super::whose::Whose;
use crate::inet_diag;
use crate::socket_tables::{self, Socket};

/// The number for users without one, unless the system has another.
const OVERFLOW: u32 = 65_534;

pub(super) fn user_of(app: SocketAddr, port: SocketAddr) -> Option<u32> {
    let found = inet_diag::find(app, port).ok()??;
    // The system says of a closed socket that it is root's.
    found.is_held.then_some(found.user)
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

/// Whether every user has a number with this map: the one of a system that is not a container.
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
