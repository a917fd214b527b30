//! Many apps on a client host at once: tunnels through the local port.

use crate::lab::Host;
use crate::lab::dialect::PROXY;
use nix::sys::resource::{Resource, setrlimit};
use socket2::SockRef;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;

/// A runtime of one thread.
pub(super) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs `apps` on this host's network, to their end.
pub(super) fn run<T: Send>(host: &Host, apps: impl AsyncFnOnce() -> T + Send) -> T {
    host.inside(|| runtime().block_on(apps()))
}

/// Raises the limit of open files of this process and of the programs that it starts later.
pub(super) fn many_sockets() {
    // Only root may; otherwise the limit stays, and the line reports what it lacks.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, 65_536, 65_536);
}

/// A connection to the local port. Each has another loopback address as its source, because a recently closed connection
/// may still occupy its port.
pub(super) async fn proxy() -> io::Result<TcpStream> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [_, _, high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 9, high, low), 0)))?;
    socket.connect(PROXY).await
}

/// A tunnel to this port of s1, by SOCKS5 (RFC 1928).
pub(super) async fn tunnel(port: u16) -> io::Result<TcpStream> {
    let mut stream = proxy().await?;
    let [high, low] = port.to_be_bytes();
    stream.write_all(&[5, 1, 0, 5, 1, 0, 1, 10, 88, 0, 100, high, low]).await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    match answer {
        [5, 0, 5, 0, ..] => Ok(stream),
        [5, 0, 5, code, ..] => Err(io::Error::other(format!("SOCKS5 reply {code}"))),
        _ => Err(io::Error::other(format!("not a SOCKS5 answer: {answer:?}"))),
    }
}

/// Sends these bytes to an echo, and checks that they come back.
pub(super) async fn echo(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).await?;
    if back == bytes { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
}

/// Closes so that the peer sees a reset.
pub(super) fn abort(stream: TcpStream) {
    // Fails only on a socket that is reset already.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}
