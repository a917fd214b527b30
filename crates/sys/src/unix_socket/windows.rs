use std::convert::Infallible;
use std::io;
use std::path::Path;

use tokio::net::TcpStream;

use super::inherited::Inherited;

/// Whether this system has unix sockets.
pub const IS_SUPPORTED: bool = false;
/// The longest path of a unix socket, in bytes.
pub const LONGEST_PATH: usize = 0;

/// This system has none that tokio can use.
#[derive(Debug)]
pub struct UnixSocket(Infallible);

impl UnixSocket {
    /// Fails.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`].
    pub fn bind(_: &Path, _: u32) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "there are no unix sockets on Windows"))
    }

    /// Never called.
    #[expect(clippy::unused_async, reason = "as on the other systems")]
    pub async fn accept(&self) -> (TcpStream, Option<u32>) {
        match self.0 {}
    }
}

/// This system passes no sockets.
///
/// # Errors
/// Never.
pub fn inherited() -> io::Result<Vec<Inherited<UnixSocket>>> {
    Ok(Vec::new())
}
