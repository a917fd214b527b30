//! The routing mark on a node's own connections (SO_MARK, Linux). The rules of transparent mode exempt marked
//! connections; otherwise the node's own connections would be redirected back to it.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::net::{TcpSocket, TcpStream};

#[cfg(target_os = "linux")]
use self::linux as system;
#[cfg(not(target_os = "linux"))]
use self::other as system;
use crate::net::Segments;

/// The mark: "lane" in ASCII.
pub const OWN: u32 = 0x6c61_6e65;

/// Whether this process marks its connections.
static MARKING: AtomicBool = AtomicBool::new(false);

/// Makes [`connect`], [`connect_with`] and [`socket`] mark connections from now on.
///
/// # Errors
/// When the process lacks CAP_NET_ADMIN or the system has no marks; then nothing is marked.
pub fn begin() -> io::Result<()> {
    system::mark(&TcpSocket::new_v4()?, OWN)?;
    MARKING.store(true, Relaxed);
    Ok(())
}

/// Whether this process marks its connections.
pub fn is_marking() -> bool {
    MARKING.load(Relaxed)
}

/// Connects to `address`, with the mark of the node's own connections.
///
/// # Errors
/// The operating system's error.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    connect_with(address, Segments::Full).await
}

/// Like [`connect`], with a limit on the segment size.
///
/// # Errors
/// The operating system's error.
pub async fn connect_with(address: SocketAddr, segments: Segments) -> io::Result<TcpStream> {
    let socket = socket(address)?;
    segments.limit(&socket);
    socket.connect(address).await
}

/// A socket for a connection to `address`, with the same mark.
///
/// # Errors
/// The operating system's error.
pub fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if MARKING.load(Relaxed) {
        system::mark(&socket, OWN)?;
    }
    Ok(socket)
}
