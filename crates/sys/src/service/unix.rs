use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// How long sending a notification may block before it is dropped: the node's own work comes first.
const PATIENCE: Duration = Duration::from_secs(1);

/// The socket to which notifications are sent.
pub(super) type Socket = UnixDatagram;

/// Connects to a path, or to an abstract name if `name` starts with `@`.
pub(super) fn connect(name: &OsStr) -> io::Result<Socket> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    match name.as_bytes().split_first() {
        #[cfg(target_os = "linux")]
        Some((b'@', name)) => {
            use std::os::linux::net::SocketAddrExt as _;
            socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?;
        }
        _ => socket.connect_addr(&SocketAddr::from_pathname(name)?)?,
    }
    Ok(socket)
}

/// The time by which the manager orders its own requests.
pub(super) fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}
