//! What tells this program's own connections from those of other software (Linux). The rules of transparent mode leave
//! such connections alone; otherwise they would be redirected back to the node.
//!
//! Every connection has a socket priority of its own while it is being set up, which any process may set. A node in
//! transparent mode also sets a routing mark, if it has the permission: rules that classify traffic may change a priority.

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
use crate::net::{self, Segments, lookup};

/// The routing mark (SO_MARK): "lane" in ASCII.
pub const OWN: u32 = 0x6c61_6e65;
/// The priority (SO_PRIORITY, socket(7)) of a connection that is being set up. No type of service has it
/// (`rt_tos2priority` of the kernel), so the connections of other software do not have it by accident, and 6 is the highest
/// one that needs no permission. It is not sent.
pub const CONNECTING: i32 = 5;

/// Whether this process sets the routing mark.
static MARKING: AtomicBool = AtomicBool::new(false);

/// Makes [`connect`] and [`connect_with`] set the routing mark from now on.
///
/// # Errors
/// When the process lacks CAP_NET_ADMIN or the system has no marks; then nothing is marked.
pub fn begin() -> io::Result<()> {
    system::mark(&TcpSocket::new_v4()?, OWN)?;
    MARKING.store(true, Relaxed);
    Ok(())
}

/// Whether this process sets the routing mark.
pub fn is_marking() -> bool {
    MARKING.load(Relaxed)
}

/// Connects to `address`, unless only descriptors are left that are [reserved](net::reserve_files). The rules of transparent mode
/// do not redirect the connection.
///
/// # Errors
/// The operating system's error.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    connect_from(net::unless_reserved(socket_for(address)?)?, address, Segments::Full).await
}

/// Like [`connect`], with a limit on the segment size, and also with a descriptor that is [reserved](net::reserve_files).
///
/// # Errors
/// The operating system's error.
pub async fn connect_with(address: SocketAddr, segments: Segments) -> io::Result<TcpStream> {
    connect_from(socket_for(address)?, address, segments).await
}

fn socket_for(address: SocketAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

async fn connect_from(socket: TcpSocket, address: SocketAddr, segments: Segments) -> io::Result<TcpStream> {
    if is_marking() {
        system::mark(&socket, OWN)?;
    }
    segments.limit(&socket);
    system::prioritise(&socket, CONNECTING);
    let stream = socket.connect(address).await?;
    // The rules see the first segment only, and a queue of the interface would treat the others as bulk traffic.
    system::prioritise(&stream, 0);
    Ok(stream)
}

/// Connects to the first address of `target`, `HOST:PORT`, that accepts.
///
/// # Errors
/// The operating system's error for the last address, or that of the name lookup.
pub async fn connect_to(target: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in lookup(target).await? {
        match connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use nix::sys::socket::{getsockopt, sockopt};

    #[tokio::test]
    async fn an_established_connection_has_the_usual_priority() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = connect(listener.local_addr().unwrap()).await.unwrap();
        assert_eq!(getsockopt(&stream, sockopt::Priority), Ok(0));
    }
}
