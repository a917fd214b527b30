//! Copies bytes between two sockets, both ways: what a gateway does for its own apps, which need no link.

use std::io;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use laneway_sys::closed::until_closed;
use laneway_sys::net;
use laneway_telemetry::traffic::{Moved, Traffic};

/// How many bytes one read takes at most.
const READ: usize = 64 * 1024;

/// Copies until both directions have ended, and counts the bytes in `moved` and in `traffic`. The end of each direction is
/// passed on (half-close); a failure of either socket resets both. An app that has closed its socket, and not only its
/// sending direction, ends the copy: the server gets all that it sent, and can send nothing more.
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
    let app_ended = Notify::new();
    let up = async {
        let passed = |count| {
            *sent += count;
            traffic.add_sent(count);
        };
        one_way(&app, &server, passed).await?;
        app_ended.notify_one();
        Ok(())
    };
    let down = one_way(&server, &app, |count| {
        *received += count;
        traffic.add_received(count);
    });
    let left = async {
        app_ended.notified().await;
        until_closed(&app).await;
    };
    let result = tokio::select! {
        biased;
        result = futures_util::future::try_join(up, down) => result,
        () = left => {
            net::close_unread(server);
            return Ok(());
        }
    };
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
