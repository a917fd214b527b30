//! The sockets that apps connect to: TCP, unix, and those that the service manager has opened already.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use super::endpoint::{AppPeer, Endpoint};
use crate::net;

/// One socket that listens. A unix socket that was made here is removed when this is dropped.
pub struct Port {
    listener: Listener,
    /// Where it listens, as bound.
    pub endpoint: Endpoint,
    _file: Option<SocketFile>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Tells a file from another one of the same name: inode, and when it was made.
#[derive(PartialEq, Eq)]
struct Made(u64, i64, i64);

/// A socket in the file system, as it was made.
struct SocketFile {
    path: PathBuf,
    made: Made,
}

impl Port {
    /// Listens. A unix socket has the permissions `mode`, from its first moment no more; one that a process left behind
    /// is replaced.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::AddrInUse`] also for a unix socket that somebody listens at, and
    /// [`io::ErrorKind::AlreadyExists`] for a path that is something else.
    pub fn bind(endpoint: &Endpoint, mode: u32) -> io::Result<Self> {
        match endpoint {
            Endpoint::Tcp(address) => Self::tcp(net::listen(*address)?),
            Endpoint::Unix(path) => {
                make_way(path)?;
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                socket.set_nonblocking(true)?;
                // Where the system knows that: nobody else connects before it has its permissions.
                let _ = fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR);
                socket.bind(&SockAddr::unix(path)?)?;
                let file = SocketFile { path: path.clone(), made: Made::of(path)? };
                fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
                socket.listen(net::BACKLOG)?;
                let listener = Listener::Unix(UnixListener::from_std(socket.into())?);
                Ok(Self { listener, endpoint: endpoint.clone(), _file: Some(file) })
            }
        }
    }

    /// The sockets that the service manager gives to this process (`sd_listen_fds(3)`), and takes the offer out of the
    /// environment. None, when it gives none. To be called once, before there are threads.
    ///
    /// # Errors
    /// When something else than a listening stream socket was given.
    pub fn inherited() -> io::Result<Vec<Self>> {
        // Without a process id they may be meant for another process.
        if std::env::var_os("LISTEN_PID").is_none() {
            return Ok(Vec::new());
        }
        let mut offered = ListenFd::from_env();
        let count = offered.len();
        let take = |at| match offered.take_tcp_listener(at) {
            Ok(Some(listener)) => {
                listener.set_nonblocking(true)?;
                SockRef::from(&listener).set_tcp_nodelay(true)?;
                Self::tcp(TcpListener::from_std(listener)?)
            }
            _ => {
                let listener = offered.take_unix_listener(at)?.ok_or(io::ErrorKind::NotFound)?;
                listener.set_nonblocking(true)?;
                let address = listener.local_addr()?;
                let path = address.as_pathname().unwrap_or(Path::new("/"));
                let endpoint = Endpoint::Unix(path.to_owned());
                let listener = Listener::Unix(UnixListener::from_std(listener)?);
                Ok(Self { listener, endpoint, _file: None })
            }
        };
        (0..count).map(take).collect()
    }

    fn tcp(listener: TcpListener) -> io::Result<Self> {
        let endpoint = Endpoint::Tcp(listener.local_addr()?);
        Ok(Self { listener: Listener::Tcp(listener), endpoint, _file: None })
    }

    /// The TCP address, where it has one.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.endpoint {
            Endpoint::Tcp(address) => Some(address),
            Endpoint::Unix(_) => None,
        }
    }

    /// Waits for the next connection, as [`net::accept`] does.
    pub async fn accept(&self) -> (TcpStream, AppPeer) {
        match &self.listener {
            Listener::Tcp(listener) => {
                let (stream, address) = net::accept(listener).await;
                (stream, AppPeer::Network(address))
            }
            Listener::Unix(listener) => {
                let (stream, user) = net::accept_unix(listener).await;
                (stream, AppPeer::User(user))
            }
        }
    }
}

/// Removes the socket of a process that is gone.
fn make_way(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file is there and is not a socket"));
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
}

impl Made {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self(found.ino(), found.mtime(), found.mtime_nsec()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody else's by now, if another node has taken the path.
        if Made::of(&self.path).is_ok_and(|now| now == self.made) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as StdUnixListener;

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

        // Left behind by a process that was killed: closed, but still there.
        drop(StdUnixListener::bind(&path).unwrap());
        let port = Port::bind(&endpoint, 0o666).unwrap();
        assert_eq!(mode(&path), 0o666);
        // Taken over by somebody else meanwhile.
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
