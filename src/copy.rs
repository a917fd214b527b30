//! Bytes between two sockets of this machine, both ways: what a gateway does for its own software.

use std::io;

use bytes::BytesMut;
use tokio::net::TcpStream;

use crate::net;

/// One read takes at most so many bytes.
const READ: usize = 64 * 1024;

/// How many bytes passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// From the socket into the tunnel.
    pub sent: u64,
    /// From the tunnel into the socket.
    pub received: u64,
}

/// Copies until both directions have ended. An end is passed on as an end; a failure of either socket resets both.
///
/// # Errors
/// What broke.
pub async fn between(app: TcpStream, server: TcpStream, moved: &mut Moved) -> io::Result<()> {
    let Moved { sent, received } = moved;
    net::reset_on_drop(&app);
    net::reset_on_drop(&server);
    let result =
        futures_util::future::try_join(one_way(&app, &server, sent), one_way(&server, &app, received)).await;
    if result.is_ok() {
        net::end_orderly(&app);
        net::end_orderly(&server);
    }
    result.map(|((), ())| ())
}

async fn one_way(from: &TcpStream, to: &TcpStream, count: &mut u64) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        if net::read_some(from, &mut buffer, READ).await? == 0 {
            return net::shutdown_write(to);
        }
        *count += buffer.len() as u64;
        net::write_all(to, &buffer).await?;
        buffer.clear();
    }
}
