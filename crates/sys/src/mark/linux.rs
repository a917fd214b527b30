use std::io;

use tokio::net::TcpSocket;

pub(super) fn mark(socket: &TcpSocket, mark: u32) -> io::Result<()> {
    socket2::SockRef::from(socket).set_mark(mark)
}
