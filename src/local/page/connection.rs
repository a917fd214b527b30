//! A connection of the local port that hyper serves: what was read to find out the dialect is read again, and a peer that
//! does not read is given up.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

use crate::local::handshakes::HANDSHAKE;
use crate::net;
use crate::telemetry::refusal::RefusalReason;
use crate::wire::http::MAX_HEAD;

/// How long a stalled peer may take to read what has been written, at most one response or event beyond [`QUEUED`].
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of an event stream waits in the system for its reader, in bytes: one that does not read is noticed after a
/// few snapshots.
const QUEUED: usize = 64 * 1024;
/// Maximum number of fields in a request for the page; hyper sets this room aside for each connection.
const MAX_FIELDS: usize = 128;

/// Serves `socket` by `service`, beginning with the bytes in `received`, until it ends or `drain` is cancelled.
///
/// Returns why a request could not be read, if one could not.
pub(super) async fn serve<S, B>(
    socket: TcpStream,
    received: Bytes,
    service: S,
    drain: &CancellationToken,
) -> Option<RefusalReason>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error = Infallible> + 'static,
{
    // Without the option, a peer that does not read is noticed later.
    let _ = SockRef::from(&socket).set_send_buffer_size(QUEUED);
    let stream = ReplayedStream { received, socket: &socket, stalled: None };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Runs while the connection is idle, too: the next request must arrive whole within this time.
        .header_read_timeout(HANDSHAKE)
        .max_headers(MAX_FIELDS)
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_HEAD)
        // A client may end its direction after its last request, and still wants the response.
        .half_close(true)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let served = tokio::select! {
        biased;
        served = connection.as_mut() => served,
        () = drain.cancelled() => {
            // Idle connections end at once, others after the response in progress.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    let refusal = served.err().and_then(|error| {
        tracing::debug!(%error, "the connection to the page ended");
        let reason =
            if error.is_parse_too_large() { RefusalReason::TooLong } else { RefusalReason::Malformed };
        error.is_parse().then_some(reason)
    });
    if !drain.is_cancelled() {
        net::linger(&socket).await;
    }
    refusal
}

/// A socket whose first bytes, `received`, have already been read from it.
struct ReplayedStream<'a> {
    received: Bytes,
    socket: &'a TcpStream,
    /// Runs out when the peer does not read; `None` while nothing waits for it.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for ReplayedStream<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.received.has_remaining() {
            let count = self.received.remaining().min(buf.remaining());
            buf.put_slice(&self.received.split_to(count));
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            match self.socket.try_read(buf.initialize_unfilled()) {
                Ok(count) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for ReplayedStream<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        while self.socket.poll_write_ready(cx)?.is_ready() {
            match self.socket.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// hyper flushes once all that it had to write is written.
    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stalled = None;
        Poll::Ready(Ok(()))
    }

    /// The end is sent by [`net::linger`], or with the socket's drop.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
