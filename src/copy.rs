//! Bytes between two sockets of this machine, both ways: what a gateway does for its own software.

use std::io;

use bytes::BytesMut;
use tokio::net::TcpStream;

use crate::net;
use crate::telemetry::traffic::{Moved, Traffic};

/// One read takes at most so many bytes.
const READ: usize = 64 * 1024;

/// Copies until both directions have ended; bytes are counted in `traffic`, too, while they pass. An end is passed on as an end; a failure of either socket resets both.
///
/// # Errors
/// What broke.
pub async fn between(
    app: TcpStream,
    server: TcpStream,
    moved: &mut Moved,
    traffic: &Traffic,
) -> io::Result<()> {
    let Moved { sent, received } = moved;
    net::reset_on_drop(&app);
    net::reset_on_drop(&server);
    let up = one_way(&app, &server, |count| {
        *sent += count;
        traffic.add_sent(count);
    });
    let down = one_way(&server, &app, |count| {
        *received += count;
        traffic.add_received(count);
    });
    let result = futures_util::future::try_join(up, down).await;
    if result.is_ok() {
        net::end_orderly(&app);
        net::end_orderly(&server);
    }
    result.map(|((), ())| ())
}

async fn one_way(from: &TcpStream, to: &TcpStream, mut passed: impl FnMut(u64)) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        if net::read_some(from, &mut buffer, READ).await? == 0 {
            return net::shutdown_write(to);
        }
        passed(buffer.len() as u64);
        net::write_all(to, &buffer).await?;
        buffer.clear();
    }
}
