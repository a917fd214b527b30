//! Which program uses a port of this machine.

mod holder;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(target_os = "macos", test))]
#[cfg_attr(not(target_os = "macos"), allow(dead_code, reason = "on other systems only its tests run"))]
pub(crate) mod lsof;
#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
mod other;
#[cfg(windows)]
mod windows;

use std::net::SocketAddr;

pub use self::holder::{Program, Protocol};
#[cfg(target_os = "linux")]
use self::linux as system;
#[cfg(target_os = "macos")]
use self::lsof as system;
#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
use self::other as system;
#[cfg(windows)]
use self::windows as system;

/// The program that listens on this port. `None` when it cannot be determined: only an administrator sees the sockets of
/// other users' processes.
pub fn find(protocol: Protocol, address: SocketAddr) -> Option<Program> {
    system::find(protocol, address)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn the_program_that_uses_a_port_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let own = std::process::id().to_string();
        let held = find(Protocol::Tcp, listener.local_addr().unwrap());
        assert!(held.as_ref().is_some_and(|held| held.process == own), "{held:?}");
        let held = find(Protocol::Udp, socket.local_addr().unwrap());
        assert!(held.as_ref().is_some_and(|held| held.process == own), "{held:?}");
        let free = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(find(Protocol::Tcp, free), None);
    }
}
