//! Whether the other end of a connection has closed it, or only its sending direction.
//!
//! Both send the same FIN, and TCP does not tell them apart before the next data is answered by a reset (RFC 9293 §3.6).
//! For a connection within this machine the system knows: a socket that no process holds any more has been closed.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// The pause after the first look at the other socket. A process that ends closes its sockets one after the other.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause between two looks, which cost some microseconds each.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Pause between keepalive probes to another machine. Its system answers for a closed socket about a minute long
/// (`tcp_fin_timeout`), and with a reset from then on.
const PROBE: Duration = Duration::from_secs(15);

/// What is known of the other socket of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OtherEnd {
    /// A process holds it, and may read from it.
    Open,
    /// It was closed, or does not read any more.
    Closed,
    /// It is not of this machine, or the system cannot tell.
    Unknown,
}

/// Waits until the other end can read nothing more: it has reset the connection or closed its socket. That it has ended
/// its sending direction alone (half-close) is not enough, however long it waits for an answer.
///
/// Unread data does not matter. A close by another machine is noticed a minute later, or when something is sent.
pub async fn until_closed(stream: &TcpStream) {
    // The interest in priority data includes the end of the receiving direction, and not data that can be read.
    match stream.ready(Interest::PRIORITY | Interest::ERROR).await {
        Ok(ready) if !ready.is_error() => {}
        _ => return,
    }
    let mut pause = FIRST_PAUSE;
    loop {
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
        tokio::select! {
            _ = stream.ready(Interest::ERROR) => return,
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn other_end(stream: &TcpStream) -> OtherEnd {
    let Ok(peer) = stream.peer_addr() else { return unix_other_end(stream).await };
    tcp_other_end(stream, crate::net::plain(peer))
}

/// A unix socket hangs up when the other one is closed, and not when it is half-closed.
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

#[cfg(target_os = "linux")]
fn tcp_other_end(stream: &TcpStream, peer: std::net::SocketAddr) -> OtherEnd {
    use crate::inet_diag::find;
    let Ok(own) = stream.local_addr().map(crate::net::plain) else { return OtherEnd::Unknown };
    // A redirected app is connected to another address, as it believes.
    let original = crate::net::original_destination(stream).unwrap_or(own);
    match find(peer, original) {
        Ok(Some(found)) if found.is_held && found.reads => OtherEnd::Open,
        Ok(Some(_)) => OtherEnd::Closed,
        // Loopback addresses are of this network namespace, so the socket would be found, provided that the system finds
        // any.
        Ok(None) if peer.ip().is_loopback() && find(own, peer).is_ok_and(|found| found.is_some()) => {
            OtherEnd::Closed
        }
        Ok(None) | Err(_) => OtherEnd::Unknown,
    }
}

#[cfg(not(target_os = "linux"))]
fn tcp_other_end(_: &TcpStream, _: std::net::SocketAddr) -> OtherEnd {
    OtherEnd::Unknown
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, UnixListener, UnixStream};

    use super::*;

    async fn pair(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).await.unwrap();
        let app = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (app, listener.accept().await.unwrap().0)
    }

    /// Whether the wait is still going on after some looks at the other socket.
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

    #[tokio::test]
    async fn a_closed_unix_socket_is_told_from_a_half_closed_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut app = UnixStream::connect(&path).await.unwrap();
        let (own, _) = crate::net::accept_unix(&listener).await;
        let mut closed = pin!(until_closed(&own));
        app.shutdown().await.unwrap();
        assert!(goes_on(closed.as_mut()).await, "half-closed");
        drop(app);
        closed.await;
    }
}
