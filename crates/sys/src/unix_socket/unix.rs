use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use listenfd::ListenFd;
use nix::sys::stat::{Mode, fchmod, mode_t, umask};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::inherited::Inherited;
use crate::net;

/// Whether this system has unix sockets.
pub const IS_SUPPORTED: bool = true;
/// The longest path of a unix socket, in bytes (`sun_path`, unix(7) and unix(4), less the zero at its end).
pub const LONGEST_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// A listening unix socket. One that was created here is removed when this is dropped.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    _file: Option<SocketFile>,
}

/// Identifies a file, as opposed to a later one of the same name: inode and modification time.
#[derive(Debug, PartialEq, Eq)]
struct FileIdentity(u64, i64, i64);

/// A socket in the file system that was created here.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: FileIdentity,
}

impl UnixSocket {
    /// Listens at `path`. The socket has the permissions `mode`, and never more than that. One that a terminated process
    /// left behind is replaced.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] when another process listens there, [`io::ErrorKind::AlreadyExists`] for a path that is
    /// not a socket, otherwise the operating system's error.
    pub fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        remove_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        bind_with(&socket, &SockAddr::unix(path)?, mode)?;
        let file = SocketFile { path: path.to_owned(), identity: FileIdentity::of(path)? };
        socket.listen(net::BACKLOG)?;
        Ok(Self { listener: UnixListener::from_std(socket.into())?, _file: Some(file) })
    }

    /// Accepts the next connection, as [`net::accept`] does; also returns the user ID of the peer where the system provides
    /// it. The stream is wrapped as a TCP stream, because reading, writing, peeking and half-closing work the same. The
    /// exception is a reset: a unix socket can only be closed.
    pub async fn accept(&self) -> (TcpStream, Option<u32>) {
        let as_tcp = |stream: UnixStream| {
            let user = stream.peer_cred().ok().map(|credentials| credentials.uid());
            let stream = std::net::TcpStream::from(OwnedFd::from(stream.into_std()?));
            Ok((TcpStream::from_std(stream)?, user))
        };
        loop {
            match self.listener.accept().await.and_then(|(stream, _)| as_tcp(stream)) {
                Ok(accepted) => return accepted,
                Err(error) => net::wait_out(&error).await,
            }
        }
    }
}

/// Takes the sockets that the service manager passes to this process (`sd_listen_fds(3)`) out of the environment. Must be
/// called once, before there are threads.
///
/// # Errors
/// When something other than a listening stream socket is passed.
pub fn inherited() -> io::Result<Vec<Inherited<UnixSocket>>> {
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
            Ok(Inherited::Tcp(TcpListener::from_std(listener)?))
        }
        _ => {
            let listener = offered.take_unix_listener(at)?.ok_or(io::ErrorKind::NotFound)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            let path = address.as_pathname().unwrap_or(Path::new("/")).to_owned();
            Ok(Inherited::Unix(UnixSocket { listener: UnixListener::from_std(listener)?, _file: None }, path))
        }
    };
    (0..count).map(take).collect()
}

/// The permissions as this system counts them; on some, in 16 bits.
#[cfg_attr(target_os = "linux", allow(clippy::useless_conversion, reason = "32 bits here"))]
fn mode_of(mode: u32) -> mode_t {
    (mode & 0o777).try_into().unwrap_or_default()
}

/// Binds a socket whose file has these permissions from its beginning. If they were set later, anyone who may write to the
/// directory could replace the file first, and so have those of another file changed. Other files that this process makes at
/// the same moment get them too, so this belongs to its start.
fn bind_with(socket: &Socket, address: &SockAddr, mode: u32) -> io::Result<()> {
    let mode = Mode::from_bits_truncate(mode_of(mode));
    // A directory may have permissions for new files that replace the mask (acl(5)); on Linux, never more than these.
    let _ = fchmod(socket, mode);
    // The mask is that of the whole process: no other call may change it meanwhile.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = umask(mode.complement());
    let bound = socket.bind(address);
    umask(before);
    bound
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
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_file_that_takes_the_place_of_the_socket_keeps_its_permissions() {
        let directory = tempfile::tempdir().unwrap();
        let (path, victim) = (directory.path().join("socket"), directory.path().join("victim"));
        fs::write(&victim, "").unwrap();
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
        let over = AtomicBool::new(false);
        thread::scope(|threads| {
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    if fs::remove_file(&path).is_ok() {
                        let _ = symlink(&victim, &path);
                    }
                }
            });
            for _ in 0..500 {
                // Either of the two may be the faster one.
                drop(UnixSocket::bind(&path, 0o666));
                let _ = fs::remove_file(&path);
            }
            over.store(true, Ordering::Relaxed);
        });
        assert_eq!(mode_of(&victim), 0o600);
    }

    #[tokio::test]
    async fn a_socket_has_exactly_the_permissions_that_are_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o660, 0o666, 0o777, 0o200] {
            let path = directory.path().join(format!("{mode:o}"));
            let _socket = UnixSocket::bind(&path, mode).unwrap();
            assert_eq!(mode_of(&path), mode, "{mode:o}");
        }
    }
}
