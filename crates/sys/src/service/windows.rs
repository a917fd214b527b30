use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::time::Duration;

/// This system has no such socket.
#[derive(Debug)]
pub(super) struct Socket(Infallible);

impl Socket {
    pub(super) fn send(&self, _: &[u8]) -> io::Result<usize> {
        match self.0 {}
    }
}

pub(super) fn connect(_: &OsStr) -> io::Result<Socket> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn monotonic() -> Duration {
    Duration::ZERO
}
