//! Copies bytes between two sockets, both ways: what a gateway does for its own apps, which need no link.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use laneway_limits::buffer_pool::{PooledBuffer, memory_of};
use laneway_limits::memory::{Account, Tally};
use laneway_sys::broken::Break;
use laneway_sys::closed::until_closed;
use laneway_sys::net;
use laneway_telemetry::traffic::{Moved, Traffic};

/// How many bytes one read takes at most.
const READ: usize = 64 * 1024;

/// Why one direction has failed.
enum Failed {
    /// The source cannot be read from.
    From(io::Error),
    /// The sink cannot be written to.
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
/// passed on (half-close); a failure of either socket resets both. What a server sent before it stopped reading reaches the
/// app. An app that has closed its socket, not only its sending direction, ends the copy: the server gets all that it sent, and
/// can send nothing more. Bytes that one has sent and the other does not take are charged to `account`. `port` is the server's,
/// where urgent data may have a meaning ([`net::keep_urgent`]).
///
/// # Errors
/// The failure.
pub async fn between(
    (app, server): (TcpStream, TcpStream),
    port: u16,
    moved: &mut Moved,
    traffic: &Traffic,
    account: &Arc<Account>,
) -> io::Result<()> {
    let Moved { sent, received } = moved;
    net::reset_on_drop(&app);
    net::reset_on_drop(&server);
    let keeps_urgent = net::keep_urgent(&app, port) && net::keep_urgent(&server, port);
    let (app_ended, broken) = (Notify::new(), Break::default());
    // Whether the server has taken everything.
    let up = async {
        let passed = |count| {
            *sent += count;
            traffic.add_sent(count);
        };
        let ended = one_way((&app, &server, keeps_urgent), &Break::default(), account, passed).await;
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
        one_way((&server, &app, keeps_urgent), &broken, account, passed).await.map_err(io::Error::from)
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

/// `broken` is the error that a write to `from` has met. While nothing waits to be written, there is no buffer.
async fn one_way(
    (from, to, keeps_urgent): (&TcpStream, &TcpStream, bool),
    broken: &Break,
    account: &Arc<Account>,
    mut passed: impl FnMut(u64),
) -> Result<(), Failed> {
    loop {
        tokio::task::consume_budget().await;
        from.readable().await.map_err(Failed::From)?;
        // Many may have something to read at the same time.
        account.may_take().await;
        let mut buffer = PooledBuffer::take(READ);
        let count = match net::try_read_with(from, &mut buffer.room(), READ, keeps_urgent) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            read => read.and_then(|count| broken.checked(count)).map_err(Failed::From)?,
        };
        if count == 0 {
            return net::shutdown_write(to).map_err(Failed::To);
        }
        passed(count as u64);
        let written = match to.try_write(&buffer.room()[..count]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            written => written.map_err(Failed::To)?,
        };
        if written < count {
            // The rest may be all of the buffer or a few bytes, and wait for a long time.
            write_rest(to, buffer.part(written..count), account).await.map_err(Failed::To)?;
        }
    }
}

/// Writes what a socket does not take at once.
async fn write_rest(to: &TcpStream, rest: Bytes, account: &Arc<Account>) -> io::Result<()> {
    let mut held = Tally::of(account);
    held.set(memory_of(rest.len()));
    net::write_all(to, &rest).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use laneway_limits::memory::Budget;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (near, accepted) = tokio::join!(connecting, listener.accept());
        (near.unwrap(), accepted.unwrap().0)
    }

    /// Nothing was counted, and each direction kept a buffer of 64 KiB for good.
    #[tokio::test]
    async fn what_one_end_does_not_take_is_counted_until_it_does() {
        let account = Budget::new(1 << 30).account();
        let ((app, far_app), (server, mut far_server)) = (pair().await, pair().await);
        let mut moved = Moved::default();
        let traffic = Traffic::default();
        let block = [0; READ];
        let mut sent = 0;
        let talk = async {
            while account.held() == 0 {
                sent += far_app.try_write(&block).unwrap_or(0);
                tokio::task::yield_now().await;
            }
            assert!(account.held() <= memory_of(READ), "{}", account.held());
            let mut rest = vec![0; sent];
            far_server.read_exact(&mut rest).await.unwrap();
            while account.held() > 0 {
                tokio::task::yield_now().await;
            }
            drop(far_app);
        };
        let copied = between((app, server), 80, &mut moved, &traffic, &account);
        let (copied, ()) = tokio::join!(copied, talk);
        copied.unwrap();
        assert_eq!(moved.sent, sent as u64);
    }

    #[tokio::test]
    async fn what_surrounds_an_urgent_byte_arrives_with_it_in_its_place() {
        let account = Budget::new(1 << 30).account();
        let ((app, mut from), (server, mut to)) = (pair().await, pair().await);
        let (mut moved, traffic) = (Moved::default(), Traffic::default());
        let talk = async {
            for _ in 0..2 {
                // All at once, so that one event tells of it.
                from.try_write(b"before ").unwrap();
                socket2::SockRef::from(&from).send_out_of_band(b"U").unwrap();
                from.try_write(b" after").unwrap();
                let mut heard = [0; 14];
                to.read_exact(&mut heard).await.unwrap();
                assert_eq!(heard.escape_ascii().to_string(), "before U after");
                std::mem::swap(&mut from, &mut to);
            }
        };
        tokio::select! {
            _ = between((app, server), 23, &mut moved, &traffic, &account) => panic!("it ended"),
            talked = tokio::time::timeout(Duration::from_secs(60), talk) => talked.unwrap(),
        }
    }
}
