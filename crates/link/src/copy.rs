//! Copies bytes between two sockets, both ways: what a gateway does for its own apps, which need no link.

use std::io;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use laneway_sys::broken::Break;
use laneway_sys::closed::until_closed;
use laneway_sys::net;
use laneway_telemetry::traffic::{Moved, Traffic};

/// How many bytes one read takes at most.
const READ: usize = 64 * 1024;

/// Why one direction has failed.
enum Failed {
    /// It cannot be read from.
    From(io::Error),
    /// It cannot be written to.
    To(io::Error),
}

impl From<Failed> for io::Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::From(error) | Failed::To(error) => error,
        }
    }
}

/// Copies until both directions have ended, and counts the bytes in `moved` and in `traffic`. The end of each direction is
/// passed on (half-close); a failure of either socket resets both. What a server has said before it stopped reading reaches the
/// app. An app that has closed its socket, and not only its sending direction, ends the copy: the server gets all that it sent,
/// and can send nothing more.
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
    let (app_ended, broken) = (Notify::new(), Break::default());
    // Whether the server has taken everything.
    let up = async {
        let passed = |count| {
            *sent += count;
            traffic.add_sent(count);
        };
        let ended = one_way(&app, &server, &Break::default(), passed).await;
        app_ended.notify_one();
        match ended {
            Ok(()) => Ok(true),
            Err(Failed::To(error)) => {
                broken.note(&error);
                Ok(false)
            }
            Err(Failed::From(error)) => Err(error),
        }
    };
    let down = async {
        let passed = |count| {
            *received += count;
            traffic.add_received(count);
        };
        one_way(&server, &app, &broken, passed).await.map_err(io::Error::from)
    };
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
    match result? {
        (true, ()) => net::end_orderly(&server),
        // The answer must not be lost with the rest.
        (false, ()) => net::linger(&app).await,
    }
    net::end_orderly(&app);
    Ok(())
}

/// `broken` is what a write to `from` was told.
async fn one_way(
    from: &TcpStream,
    to: &TcpStream,
    broken: &Break,
    mut passed: impl FnMut(u64),
) -> Result<(), Failed> {
    let mut buffer = BytesMut::new();
    loop {
        let read = net::read_some(from, &mut buffer, READ).await;
        if read.and_then(|count| broken.checked(count)).map_err(Failed::From)? == 0 {
            return net::shutdown_write(to).map_err(Failed::To);
        }
        passed(buffer.len() as u64);
        net::write_all(to, &buffer).await.map_err(Failed::To)?;
        buffer.clear();
    }
}
