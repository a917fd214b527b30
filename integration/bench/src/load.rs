//! The load generator: one thread that is the server, one or two that are the apps.
//!
//! It is cheap, so that the peers are what is measured: large reads and writes on one shared buffer per thread, and no check
//! of the data while the clock runs. A separate pass ([`check`]) proves that data arrives complete and in order.

pub(crate) mod bulk;
pub(crate) mod check;
pub(crate) mod dial;
pub(crate) mod files;
pub(crate) mod held;
pub(crate) mod pattern;
pub(crate) mod server;
pub(crate) mod small;

use crate::network::Namespace;
use anyhow::Result;
use dial::Route;
use std::future::Future;
use tokio::io::AsyncReadExt;

/// The port of the server that has files.
pub(crate) const FILES: u16 = 1998;
/// The maximum of one read or write, in bytes.
pub(crate) const CHUNK: usize = 256 * 1024;

/// The first byte of a connection tells the server what it is for.
pub(crate) mod verb {
    /// Everything that follows comes back.
    pub(crate) const ECHO: u8 = b'E';
    /// The server sends without end.
    pub(crate) const DOWNLOAD: u8 = b'D';
    /// The server counts what comes, and sends nothing.
    pub(crate) const UPLOAD: u8 = b'U';
    /// A length (8 bytes, little-endian) follows; the server sends that much of the pattern.
    pub(crate) const CHECKED_DOWNLOAD: u8 = b'V';
    /// A length and that much of the pattern follow; the server answers `+` or `-`.
    pub(crate) const CHECKED_UPLOAD: u8 = b'W';
    /// An HTTP request: CONNECT, after which all this begins again, and GET.
    pub(crate) const CONNECT: u8 = b'C';
    pub(crate) const GET: u8 = b'G';
}

/// Runs a future to its end on a runtime of the calling thread.
fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// Whether one byte comes back through a new tunnel.
pub(crate) fn carries_a_byte(client: &Namespace, route: Route) -> bool {
    client.inside(|| {
        let echoed = block_on(async {
            let mut stream = route.open_for(&[verb::ECHO, b'x']).await?;
            Ok(tokio::time::timeout(dial::PATIENCE, stream.read_u8()).await??)
        });
        matches!(echoed, Ok(b'x'))
    })
}
