use std::io;
pub use std::os::fd::AsFd as Handle;
use std::os::fd::{AsFd, AsRawFd as _};

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use socket2::{SockRef, Socket};
use tokio::net::TcpSocket;

/// The limit that Linux has for the files of one process (`fs.nr_open`).
const MOST_OPEN_FILES: u64 = 1 << 20;

/// Lets a listener have its port although connections of an earlier process remain. Two listeners cannot share it.
pub(super) fn claim(listener: &Socket) -> io::Result<()> {
    listener.set_reuse_address(true)
}

/// Limits the size of a connection's segments, in bytes, where the system can.
pub(super) fn limit_segments(socket: &TcpSocket, size: u32) {
    let _ = SockRef::from(socket).set_tcp_mss(size);
}

pub(super) fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EMSGSIZE as i32)
}

pub(super) fn is_local_shortage(error: &io::Error) -> bool {
    use Errno::{EADDRNOTAVAIL, EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(EMFILE | ENFILE | ENOBUFS | ENOMEM | EADDRNOTAVAIL | EAGAIN))
}

/// Sets the limit to the hard one, else to the largest power of two that the system accepts: macOS may call the hard limit
/// infinite and then refuse what its own tables cannot hold.
pub(super) fn raise_open_files() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let powers = std::iter::successors(Some(MOST_OPEN_FILES), |limit| Some(limit / 2));
    let wanted = std::iter::once(hard).chain(powers.filter(|limit| *limit < hard));
    for limit in wanted.take_while(|limit| *limit > soft) {
        if setrlimit(Resource::RLIMIT_NOFILE, limit, hard).is_ok() {
            return;
        }
    }
}

pub(super) fn open_files_limit() -> Option<u64> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    (soft != RLIM_INFINITY).then_some(soft)
}

pub(super) fn descriptor(opened: &impl AsFd) -> u64 {
    u64::try_from(opened.as_fd().as_raw_fd()).unwrap_or(0)
}

pub(super) fn too_many_files() -> io::Error {
    Errno::EMFILE.into()
}

pub(super) fn host_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}
