//! The sockets that apps connect to: TCP, unix, and those passed by the service manager.

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

/// A listening socket. A unix socket that was created here is removed when this is dropped.
pub struct Port {
    listener: Listener,
    /// The address it is bound to.
    pub endpoint: Endpoint,
    _file: Option<SocketFile>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Identifies a file, as opposed to a later one of the same name: inode and modification time.
#[derive(PartialEq, Eq)]
struct FileIdentity(u64, i64, i64);

/// A socket in the file system that was created here.
struct SocketFile {
    path: PathBuf,
    identity: FileIdentity,
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
                remove_stale(path)?;
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                socket.set_nonblocking(true)?;
                // Where the system supports it: nobody else connects before the permissions are set.
                let _ = fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR);
                socket.bind(&SockAddr::unix(path)?)?;
                let file = SocketFile { path: path.clone(), identity: FileIdentity::of(path)? };
                fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
                socket.listen(net::BACKLOG)?;
                let listener = Listener::Unix(UnixListener::from_std(socket.into())?);
                Ok(Self { listener, endpoint: endpoint.clone(), _file: Some(file) })
            }
        }
    }

    /// Takes the sockets that the service manager passes to this process (`sd_listen_fds(3)`) out of the environment. Must
    /// be called once, before there are threads.
    ///
    /// # Errors
    /// When something other than a listening stream socket is passed.
    pub fn inherited() -> io::Result<Vec<Self>> {
        // Without a process id the sockets may be meant for another process.
        if std::env::var_os("LISTEN_PID").is_none() {
            return Ok(Vec::new());
        }
        let mut offered = ListenFd::from_env();
        let count = offered.len();
        let take = |at| match offered.take_tcp_listener(at) {
            Ok(Some(listener)) => {
                listener.set_nonblocking(true)?;
                SockRef::from(&listener).set_tcp_nodelay(true)?;
                net::keep_alive(&listener);
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
                let (stream, user) = net::accept_unix(listener).await;
                (stream, AppPeer::User(user))
            }
        }
    }
}

/// Removes the socket of a process that has terminated.
fn remove_stale(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists and is not a socket"));
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
}

impl FileIdentity {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self(found.ino(), found.mtime(), found.mtime_nsec()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have replaced it meanwhile.
        if FileIdentity::of(&self.path).is_ok_and(|now| now == self.identity) {
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
