//! Whether the other end of a connection has closed it, or only its sending direction.
//!
//! Both send the same FIN, and TCP does not tell them apart before the next data is answered by a reset (RFC 9293 §3.6).
//! For a connection within this machine the system knows: a socket that no process holds is closed.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;
mod other_end;

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

#[cfg(target_os = "linux")]
use self::linux as system;
#[cfg(not(target_os = "linux"))]
use self::other as system;
use self::other_end::OtherEnd;

/// The pause before and after the first check of the other socket. Most servers answer the end of one direction with the end
/// of the other, so no check is needed, even where many connections end at once; and a process that ends closes its sockets
/// one after the other.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// The longest pause between two checks, which cost some microseconds each.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Pause between keepalive probes to another machine. Its system answers for a closed socket about a minute long
/// (`tcp_fin_timeout`), and with a reset from then on.
const PROBE: Duration = Duration::from_secs(15);

/// Waits until the other end can read nothing more: it has reset the connection or closed its socket. That it has ended
/// its sending direction alone (half-close) is not enough, however long it waits for an answer.
///
/// Unread data does not matter. A close by another machine is noticed a minute later, or when something is sent.
pub async fn until_closed(stream: &TcpStream) {
    if !system::until_it_ends(stream).await {
        return;
    }
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::select! {
            _ = stream.ready(Interest::ERROR) => return,
            () = sleep(pause) => {}
        }
        match other_end(stream).await {
            OtherEnd::Closed => return,
            OtherEnd::Open => {}
            OtherEnd::Unknown => {
                let probes = TcpKeepalive::new().with_time(PROBE).with_interval(PROBE);
                // If this fails, the close is noticed when something is sent.
                let _ = SockRef::from(stream).set_tcp_keepalive(&probes);
                let _ = stream.ready(Interest::ERROR).await;
                return;
            }
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn other_end(stream: &TcpStream) -> OtherEnd {
    let Ok(peer) = stream.peer_addr() else { return unix_other_end(stream).await };
    system::tcp_other_end(stream, crate::net::plain(peer))
}

/// A unix socket hangs up when the other one is closed, not when it is half-closed.
async fn unix_other_end(stream: &TcpStream) -> OtherEnd {
    tokio::select! {
        biased;
        ready = stream.ready(Interest::WRITABLE) => match ready {
            Ok(ready) if !ready.is_write_closed() => OtherEnd::Open,
            _ => OtherEnd::Closed,
        },
        () = std::future::ready(()) => OtherEnd::Open,
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).await.unwrap();
        let app = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (app, listener.accept().await.unwrap().0)
    }

    /// Whether the wait is still going on after some checks of the other socket.
    async fn goes_on(closed: impl Future<Output = ()>) -> bool {
        tokio::time::timeout(FIRST_PAUSE * 20, closed).await.is_err()
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_closed_socket_of_this_machine_is_told_from_a_half_closed_one() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (mut app, own) = pair(address).await;
            let mut closed = pin!(until_closed(&own));
            assert!(goes_on(closed.as_mut()).await, "{address}: open");
            app.write_all(b"unread").await.unwrap();
            app.shutdown().await.unwrap();
            assert!(goes_on(closed.as_mut()).await, "{address}: half-closed");
            drop(app);
            closed.await;
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_socket_that_was_shut_down_both_ways_counts_as_closed() {
        let (app, own) = pair("127.0.0.1:0").await;
        SockRef::from(&app).shutdown(std::net::Shutdown::Both).unwrap();
        until_closed(&own).await;
    }

    #[tokio::test]
    async fn a_reset_ends_the_wait() {
        let (app, own) = pair("127.0.0.1:0").await;
        crate::net::reset(app);
        until_closed(&own).await;
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_closed_unix_socket_is_told_from_a_half_closed_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = crate::unix_socket::UnixSocket::bind(&path, 0o600).unwrap();
        let mut app = tokio::net::UnixStream::connect(&path).await.unwrap();
        let (own, _) = listener.accept().await;
        let mut closed = pin!(until_closed(&own));
        app.shutdown().await.unwrap();
        assert!(goes_on(closed.as_mut()).await, "half-closed");
        drop(app);
        closed.await;
    }
}
