use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::notice::Notice;

/// How long sending a notification may block before it is dropped: the node's own work comes first.
const PATIENCE: Duration = Duration::from_secs(1);

/// The socket to which notifications are sent.
#[derive(Debug)]
pub(super) struct Socket(UnixDatagram);

/// The socket that `NOTIFY_SOCKET` names; `None` without a service manager.
pub(super) fn connect() -> io::Result<Option<Socket>> {
    std::env::var_os("NOTIFY_SOCKET").map(|name| Socket::named(&name)).transpose()
}

impl Socket {
    /// Connects to a path, or to an abstract name if `name` starts with `@`.
    pub(super) fn named(name: &OsStr) -> io::Result<Self> {
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
        Ok(Self(socket))
    }

    /// Sends a notice in the words of `sd_notify(3)`.
    pub(super) fn tell(&self, notice: Notice<'_>) -> io::Result<()> {
        let message = match notice {
            Notice::Ready(status) => format!("READY=1\nSTATUS={status}"),
            Notice::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic().as_micros()),
            Notice::Stopping(most) => {
                format!("STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC={}", most.as_micros())
            }
            Notice::Alive => "WATCHDOG=1".into(),
        };
        self.0.send(message.as_bytes()).map(drop)
    }
}

/// The time by which the manager orders its own requests.
fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}
