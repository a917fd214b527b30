//! How an app opens a tunnel.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The deadline of one exchange.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The protocol of a peer's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// None: it has one fixed server, or is the server.
    Raw,
    /// HTTP CONNECT (RFC 9110 §9.3.6).
    Connect,
    /// SOCKS5 without a login (RFC 1928).
    Socks5,
}

/// How an app reaches the server through a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// Where an app connects to.
    pub(crate) front: SocketAddr,
    pub(crate) dialect: Dialect,
    pub(crate) server: SocketAddr,
}

impl Route {
    /// Opens a tunnel.
    ///
    /// # Errors
    /// A refusal says what the proxy answered.
    pub(crate) async fn open(&self) -> io::Result<TcpStream> {
        let open = async {
            let mut stream = TcpStream::connect(self.front).await?;
            stream.set_nodelay(true)?;
            match self.dialect {
                Dialect::Raw => {}
                Dialect::Connect => connect(&mut stream, self.server).await?,
                Dialect::Socks5 => socks5(&mut stream, self.server).await?,
            }
            Ok(stream)
        };
        timeout(PATIENCE, open).await?
    }

    /// Opens a tunnel and sends a first message on it.
    pub(crate) async fn open_for(&self, message: &[u8]) -> io::Result<TcpStream> {
        let mut stream = self.open().await?;
        stream.write_all(message).await?;
        Ok(stream)
    }
}

async fn connect(stream: &mut TcpStream, server: SocketAddr) -> io::Result<()> {
    let request = format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::with_capacity(512);
    // The server speaks only when it is spoken to, so nothing comes after the head.
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(refused(&head));
        }
    }
    let status = head.get(8..12);
    if status == Some(b" 200") { Ok(()) } else { Err(refused(&head)) }
}

async fn socks5(stream: &mut TcpStream, server: SocketAddr) -> io::Result<()> {
    stream.write_all(&[5, 1, 0]).await?;
    let mut method = [0; 2];
    stream.read_exact(&mut method).await?;
    if method != [5, 0] {
        return Err(refused(&method));
    }
    let IpAddr::V4(address) = server.ip() else { return Err(io::ErrorKind::Unsupported.into()) };
    let mut request = vec![5, 1, 0, 1];
    request.extend(address.octets());
    request.extend(server.port().to_be_bytes());
    stream.write_all(&request).await?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).await?;
    if reply[..2] == [5, 0] && reply[3] == 1 { Ok(()) } else { Err(refused(&reply)) }
}

fn refused(answer: &[u8]) -> io::Error {
    let shown = &answer[..answer.len().min(100)];
    io::Error::other(format!("the proxy answered \"{}\"", shown.escape_ascii()))
}
