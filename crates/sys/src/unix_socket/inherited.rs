//! A socket that the service manager has passed.

use std::path::PathBuf;

use tokio::net::TcpListener;

/// A listening socket that the service manager has passed.
#[derive(Debug)]
pub enum Inherited<U> {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A unix socket, and its path.
    Unix(U, PathBuf),
}
