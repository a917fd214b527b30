//! What the exchanges with HTTP and SOCKS5 proxies share: why one failed, and exact reads.

use std::io;

use tokio::net::TcpStream;

use crate::failure::Kind;

/// Why an upstream proxy did not connect to the destination.
pub(super) enum UpstreamRefusal {
    /// The proxy requires a login, or did not accept the one it was sent.
    Login,
    /// The proxy broke off or violated its protocol.
    Broken(String),
    /// The proxy reported this failure of the destination.
    Destination(Kind),
}

impl From<io::Error> for UpstreamRefusal {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Fills `buffer` and reads nothing beyond it.
pub(super) async fn read_exact(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        stream.readable().await?;
        match stream.try_read(&mut buffer[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
