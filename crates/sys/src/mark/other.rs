use std::io;

use tokio::net::TcpSocket;

pub(super) fn mark(_: &TcpSocket, _: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn prioritise<T>(_: &T, _: i32) {}
