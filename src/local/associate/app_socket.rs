//! The app's end of an association: a UDP socket of this node that only that app may use.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

use tokio::net::{TcpStream, UdpSocket};

use crate::net;

/// The socket to which an app sends its datagrams.
pub(super) struct AppSocket {
    /// The socket.
    pub(super) socket: UdpSocket,
    /// The other end of the app's TCP connection: datagrams from elsewhere are dropped.
    ip: IpAddr,
    /// The app's UDP port, once it is known: the one that it announced, or else that of its first datagram.
    port: OnceLock<u16>,
}

impl AppSocket {
    /// Binds a socket for the app at the other end of `control`, on the address that the app reaches this node at. `port`
    /// is the app's UDP port, 0 if it does not know it yet.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) async fn bind(control: &TcpStream, port: u16) -> io::Result<Self> {
        let (here, there) = (net::plain(control.local_addr()?), net::plain(control.peer_addr()?));
        let socket = UdpSocket::bind(SocketAddr::new(here.ip(), 0)).await?;
        socket.writable().await?;
        let port = if port == 0 { OnceLock::new() } else { OnceLock::from(port) };
        Ok(Self { socket, ip: there.ip(), port })
    }

    /// Whether a datagram from this address is the app's.
    pub(super) fn is_app(&self, from: SocketAddr) -> bool {
        let from = net::plain(from);
        from.ip() == self.ip && self.port.get().is_none_or(|port| *port == from.port())
    }

    /// From now on this is the app's port, unless it is known already.
    pub(super) fn learn_port(&self, port: u16) {
        self.port.get_or_init(|| port);
    }

    /// Sends a datagram to the app; false if it could not be sent at once.
    pub(super) fn send(&self, header: &[u8], payload: &[u8]) -> bool {
        let Some(port) = self.port.get() else { return false };
        let to = SocketAddr::new(self.ip, *port);
        self.socket.try_send_to(&[header, payload].concat(), to).is_ok()
    }
}
