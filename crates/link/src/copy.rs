//! Copies bytes between two sockets, both ways: what a gateway does for its own apps, which need no link.

use std::io;

use bytes::BytesMut;
use tokio::net::TcpStream;

use laneway_sys::net;
use laneway_telemetry::traffic::{Moved, Traffic};

/// How many bytes one read takes at most.
const READ: usize = 64 * 1024;

/// Copies until both directions have ended, and counts the bytes in `moved` and in `traffic`. The end of each direction is
/// passed on (half-close); a failure of either socket resets both.
///
/// # Errors
/// The failure.
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
