//! The users of this machine, which of them is at the other end of a TCP connection, and whose program listens at an address.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod other;
#[cfg(unix)]
mod unix;
mod whose;
#[cfg(windows)]
mod windows;

use std::net::SocketAddr;
use std::path::Path;

use crate::net;

pub use self::whose::Whose;

#[cfg(target_os = "linux")]
use self::linux as system;
#[cfg(target_os = "macos")]
use self::macos as system;
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
use self::other as system;
#[cfg(unix)]
use self::unix as names;
#[cfg(windows)]
use self::windows as names;

/// The user id of the process that holds the other end of a connection within this machine: `app` is that end, `port` this
/// one. `None` where the system does not tell.
pub fn user_of(app: SocketAddr, port: SocketAddr) -> Option<u32> {
    system::user_of(app, port)
}

/// The user id of the process that listens at this TCP address of this machine. `None` where nobody does, or where the system
/// does not tell.
pub fn who_listens(address: SocketAddr) -> Option<u32> {
    system::who_listens(address)
}

/// Whose program listens at this TCP address. Linux tells everybody; macOS tells root of all programs, and other users of their
/// own; other systems tell nothing.
pub fn whose(address: SocketAddr) -> Whose {
    let ip = address.ip().to_canonical();
    // If the addresses cannot be listed, look for the program anyway.
    match ip.is_loopback() || net::own_addresses().is_ok_and(|own| own.contains(&ip)) {
        true => system::whose(address),
        false => Whose::Elsewhere,
    }
}

/// The user id of a process that has this UDP port of this machine. `None` as for [`who_listens`].
pub fn who_receives(port: u16) -> Option<u32> {
    system::who_receives(port)
}

/// The user id of this process. `None` where users have no numbers.
pub fn own() -> Option<u32> {
    names::own()
}

/// The user id of the owner of a file or directory, like [`own`].
pub fn owner_of(path: &Path) -> Option<u32> {
    names::owner_of(path)
}

/// The name of a user, else the number.
pub fn name_of(user: u32) -> String {
    names::name_of(user).unwrap_or_else(|| user.to_string())
}

/// The user id of the user with this name. `None` if there is none, or where users have no numbers.
pub fn id_of(name: &str) -> Option<u32> {
    names::id_of(name)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_user_at_the_other_end_of_a_connection_is_the_one_who_made_it() {
        let own = nix::unistd::Uid::effective().as_raw();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let app = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (port, peer) = listener.accept().unwrap();
            assert_eq!(user_of(peer, port.local_addr().unwrap()), Some(own), "{address}");
            let nobody = SocketAddr::new(peer.ip(), 1);
            assert_eq!(user_of(nobody, port.local_addr().unwrap()), None, "{address}");
            // The system keeps the socket for a while.
            drop(app);
            assert_eq!(user_of(peer, port.local_addr().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn the_user_of_a_port_is_the_one_who_opened_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!((who_listens(address), whose(address)), (own(), Whose::Own));
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(who_receives(socket.local_addr().unwrap().port()), own());
        drop(listener);
        assert_eq!((who_listens(address), whose(address)), (None, Whose::Nobody));
        // TEST-NET-1 (RFC 5737).
        assert_eq!(whose("192.0.2.1:1080".parse().unwrap()), Whose::Elsewhere);
    }
}
