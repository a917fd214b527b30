use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpSocket;

pub(super) fn mark(socket: &TcpSocket, mark: u32) -> io::Result<()> {
    socket2::SockRef::from(socket).set_mark(mark)
}

pub(super) fn prioritise(socket: &impl AsFd, priority: i32) {
    // It fails in no known case; then the mark stays.
    let _ = setsockopt(socket, sockopt::Priority, &priority);
}
