//! The mark on a node's own connections (SO_MARK, Linux): rules that lead the machine's software to the node leave them
//! alone by it, or they would come back.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::net::{TcpSocket, TcpStream};

use crate::net::Segments;

/// The mark: "lane".
pub const OWN: u32 = 0x6c61_6e65;

/// Whether this process may set marks, and does.
static MARKING: AtomicBool = AtomicBool::new(false);

/// From now on [`connect`] marks.
///
/// # Errors
/// When this process may not (it needs CAP_NET_ADMIN), or the system has no marks; nothing is marked then.
pub fn begin() -> io::Result<()> {
    mark(&TcpSocket::new_v4()?)?;
    MARKING.store(true, Relaxed);
    Ok(())
}

/// Connects to `address`, marked as a connection of the node itself.
///
/// # Errors
/// What the system says.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    connect_with(address, Segments::Full).await
}

/// The same with a bound on the segments.
///
/// # Errors
/// What the system says.
pub async fn connect_with(address: SocketAddr, segments: Segments) -> io::Result<TcpStream> {
    let socket = socket(address)?;
    segments.limit(&socket);
    socket.connect(address).await
}

/// A socket for a connection to `address`, marked in the same way.
///
/// # Errors
/// What the system says.
pub fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if MARKING.load(Relaxed) {
        mark(&socket)?;
    }
    Ok(socket)
}

#[cfg(target_os = "linux")]
fn mark(socket: &TcpSocket) -> io::Result<()> {
    socket2::SockRef::from(socket).set_mark(OWN)
}

#[cfg(not(target_os = "linux"))]
fn mark(_: &TcpSocket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
