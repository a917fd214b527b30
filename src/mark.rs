//! The mark on a node's own connections (SO_MARK, Linux): rules that lead the machine's software to the node leave them
//! alone by it, or they would come back.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::net::{TcpSocket, TcpStream};

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
    if !MARKING.load(Relaxed) {
        return TcpStream::connect(address).await;
    }
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    mark(&socket)?;
    socket.connect(address).await
}

#[cfg(target_os = "linux")]
fn mark(socket: &TcpSocket) -> io::Result<()> {
    socket2::SockRef::from(socket).set_mark(OWN)
}

#[cfg(not(target_os = "linux"))]
fn mark(_: &TcpSocket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
