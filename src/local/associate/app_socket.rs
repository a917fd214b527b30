//! The app's end of an association: a UDP socket of this node that only that app may use.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use tokio::net::{TcpStream, UdpSocket};

use crate::net;

/// The socket to which an app sends its datagrams.
pub(super) struct AppSocket {
    /// The socket.
    pub(super) socket: UdpSocket,
    /// The other end of the app's TCP connection: datagrams from other addresses are dropped.
    peer: SocketAddr,
    /// The port in the app's request. RFC 1928 §7 means the app's own UDP port, but many apps write 0 or the port of
    /// their destination.
    announced: u16,
    /// The app's UDP port: that of its first datagram, until one comes from the announced port. 0 before the first one.
    port: AtomicU16,
}

impl AppSocket {
    /// Binds a socket for the app at the other end of `control`, on the address that the app reaches this node at.
    /// `announced` is the port in the app's request.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) async fn bind(control: &TcpStream, announced: u16) -> io::Result<Self> {
        let (mut here, peer) = (net::plain(control.local_addr()?), net::plain(control.peer_addr()?));
        // Changes nothing else: a link-local address keeps its interface.
        here.set_port(0);
        let socket = UdpSocket::bind(here).await?;
        socket.writable().await?;
        Ok(Self { socket, peer, announced, port: AtomicU16::new(0) })
    }

    /// Whether a datagram from this address is the app's.
    pub(super) fn is_app(&self, from: SocketAddr) -> bool {
        let (from, known) = (net::plain(from), self.port.load(Relaxed));
        from.ip() == self.peer.ip() && (known == 0 || [known, self.announced].contains(&from.port()))
    }

    /// Notes the port of a datagram of the app.
    pub(super) fn learn_port(&self, port: u16) {
        if self.port.load(Relaxed) == 0 || port == self.announced {
            self.port.store(port, Relaxed);
        }
    }

    /// Sends a datagram to the app; false if it could not be sent at once.
    pub(super) fn send(&self, header: &[u8], payload: &[u8]) -> bool {
        let (mut to, port) = (self.peer, self.port.load(Relaxed));
        to.set_port(port);
        port != 0 && self.socket.try_send_to(&[header, payload].concat(), to).is_ok()
    }
}
