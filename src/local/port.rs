//! The sockets that apps connect to: TCP, unix, and those passed by the service manager.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};

use super::endpoint::{AppPeer, Endpoint};
use crate::net;
use crate::sys::unix_socket::{self, Inherited, UnixSocket};

/// A listening socket.
pub struct Port {
    listener: Listener,
    /// The address it is bound to.
    pub endpoint: Endpoint,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

impl Port {
    /// Listens. A unix socket has the permissions `mode`, and never more than that; one that a terminated process left
    /// behind is replaced.
    ///
    /// # Errors
    /// The error of the system; [`io::ErrorKind::AddrInUse`] also for a unix socket on which another process listens, and
    /// [`io::ErrorKind::AlreadyExists`] for a path that is not a socket.
    pub fn bind(endpoint: &Endpoint, mode: u32) -> io::Result<Self> {
        match endpoint {
            Endpoint::Tcp(address) => Self::tcp(net::listen(*address)?),
            Endpoint::Unix(path) => {
                let listener = Listener::Unix(UnixSocket::bind(path, mode)?);
                Ok(Self { listener, endpoint: endpoint.clone() })
            }
        }
    }

    /// Takes the sockets that the service manager passes to this process (`sd_listen_fds(3)`) out of the environment. Must
    /// be called once, before there are threads.
    ///
    /// # Errors
    /// When something other than a listening stream socket is passed.
    pub fn inherited() -> io::Result<Vec<Self>> {
        let port = |inherited| match inherited {
            Inherited::Tcp(listener) => Self::tcp(listener),
            Inherited::Unix(listener, path) => {
                Ok(Self { listener: Listener::Unix(listener), endpoint: Endpoint::Unix(path) })
            }
        };
        unix_socket::inherited()?.into_iter().map(port).collect()
    }

    fn tcp(listener: TcpListener) -> io::Result<Self> {
        let endpoint = Endpoint::Tcp(listener.local_addr()?);
        Ok(Self { listener: Listener::Tcp(listener), endpoint })
    }

    /// Its TCP address; `None` for a unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.endpoint.address()
    }

    /// Waits for the next connection, as [`net::accept`] does.
    pub async fn accept(&self) -> (TcpStream, AppPeer) {
        match &self.listener {
            Listener::Tcp(listener) => {
                let (stream, address) = net::accept(listener).await;
                (stream, AppPeer::Network(address))
            }
            Listener::Unix(listener) => {
                let (stream, user) = listener.accept().await;
                (stream, AppPeer::User(user))
            }
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixListener as StdUnixListener;
    use std::path::Path;

    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn a_unix_socket_is_private_and_goes_with_its_port() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("proxy.sock");
        let endpoint = Endpoint::Unix(path.clone());
        let port = Port::bind(&endpoint, 0o600).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        let _app = UnixStream::connect(&path).await.unwrap();
        let (stream, peer) = port.accept().await;
        assert_eq!(peer, AppPeer::User(Some(nix::unistd::geteuid().as_raw())));
        net::write_all(&stream, b"x").await.unwrap();
        let refused = Port::bind(&endpoint, 0o600).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        drop(port);
        assert!(!path.exists());

        // Left behind by a killed process: closed, but still in the file system.
        drop(StdUnixListener::bind(&path).unwrap());
        let port = Port::bind(&endpoint, 0o666).unwrap();
        assert_eq!(mode(&path), 0o666);
        // Replaced by another process meanwhile.
        fs::remove_file(&path).unwrap();
        let _other = StdUnixListener::bind(&path).unwrap();
        drop(port);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        fs::write(&path, "data").unwrap();
        let error = Port::bind(&Endpoint::Unix(path.clone()), 0o600).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }
}
