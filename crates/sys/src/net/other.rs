use std::io;
use std::time::Duration;

use socket2::{SockAddr, SockRef};
use tokio::net::{TcpStream, UdpSocket};

pub(super) fn tune_link(_: &TcpStream) {}

pub(super) fn limit_unacknowledged(_: &TcpStream, _: Option<Duration>) {}

pub(super) fn unacknowledged(_: &TcpStream) -> Option<Duration> {
    None
}

pub(super) fn is_acknowledged(_: &TcpStream) -> Option<bool> {
    None
}

pub(super) fn acknowledged(_: &TcpStream) -> u64 {
    0
}

pub(super) fn unheard(_: &TcpStream) -> Option<Duration> {
    None
}

pub(super) fn quiet(_: &TcpStream) -> Option<Duration> {
    None
}

pub(super) fn keep_options_settable(_: &TcpStream) {}

/// Sets "don't fragment" on all datagrams.
#[cfg(windows)]
pub(super) fn never_fragment(socket: &UdpSocket, v4: bool) -> io::Result<()> {
    super::windows::never_fragment(socket, v4)
}

#[cfg(not(windows))]
pub(super) fn never_fragment(_: &UdpSocket, _: bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn original(_: &SockRef<'_>, _: bool) -> io::Result<SockAddr> {
    Err(io::ErrorKind::Unsupported.into())
}
