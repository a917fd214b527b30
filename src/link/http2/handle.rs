//! What the rest of a link holds of a stream. A stream of which nobody holds anything is reset once what was queued on it
//! has gone out, unless both directions have ended.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};

use super::state::State;
use super::{Error, Reason};

/// The state of a connection, shared by its driver and all handles.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a connection")
    }
}

/// One handle of a stream.
#[derive(Debug)]
struct Handle {
    shared: Shared,
    id: u32,
}

impl Handle {
    /// One more.
    fn another(&self) -> Self {
        self.shared.lock().hold(self.id);
        Self { shared: self.shared.clone(), id: self.id }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().let_go(self.id);
    }
}

/// Opens streams.
#[derive(Clone, Debug)]
pub(in crate::link) struct Requests(pub(super) Shared);

impl Requests {
    /// Sends a request as soon as the peer takes one more; `ends` when it has no body.
    ///
    /// # Errors
    /// When the connection takes no more streams.
    pub(in crate::link) async fn send(
        &self,
        request: Request<()>,
        ends: bool,
    ) -> Result<(ResponseFuture, SendStream), Error> {
        let id = poll_fn(|cx| self.0.lock().poll_open(&request, ends, cx)).await?;
        let handle = Handle { shared: self.0.clone(), id };
        Ok((ResponseFuture(handle.another()), SendStream(handle)))
    }

    /// Whether the peer takes extended CONNECTs (RFC 8441). Known once it has said anything.
    pub(in crate::link) fn has_extended_connect(&self) -> bool {
        self.0.lock().has_extended_connect()
    }
}

/// The answer to a request.
#[derive(Debug)]
pub(in crate::link) struct ResponseFuture(Handle);

impl Future for ResponseFuture {
    type Output = Result<Response<RecvStream>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let head = self.0.shared.lock().poll_head(self.0.id, cx);
        head.map_ok(|head| head.map(|()| RecvStream(self.0.another())))
    }
}

/// A request that was received; it is answered once.
#[derive(Debug)]
pub(in crate::link) struct SendResponse(Handle);

impl SendResponse {
    /// Of a stream that was accepted, whose handle it takes over; and the request's body.
    pub(super) fn of(shared: Shared, id: u32) -> (Self, RecvStream) {
        let handle = Handle { shared, id };
        let body = RecvStream(handle.another());
        (Self(handle), body)
    }

    /// Answers; `ends` when no body follows.
    ///
    /// # Errors
    /// When the stream is over.
    pub(in crate::link) fn send(self, response: &Response<()>, ends: bool) -> Result<SendStream, Error> {
        self.0.shared.lock().respond(self.0.id, response, ends)?;
        Ok(SendStream(self.0))
    }

    /// Is ready when the stream is over.
    pub(in crate::link) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.0.shared.lock().poll_over(self.0.id, cx)
    }
}

/// The sending direction of a stream.
#[derive(Debug)]
pub(in crate::link) struct SendStream(Handle);

impl SendStream {
    /// Waits until at least one byte may be sent; gives how many may, at most `wanted`.
    ///
    /// # Errors
    /// When the stream is over.
    pub(in crate::link) fn poll_room(
        &mut self,
        wanted: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Error>> {
        self.0.shared.lock().poll_room(self.0.id, wanted, cx)
    }

    /// Is ready when the stream is over.
    pub(in crate::link) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.0.shared.lock().poll_over(self.0.id, cx)
    }

    /// Sends bytes for which there is room; `ends` when they are the last.
    ///
    /// # Errors
    /// When the stream is over.
    pub(in crate::link) fn send(&mut self, data: Bytes, ends: bool) -> Result<(), Error> {
        self.0.shared.lock().send(self.0.id, data, ends)
    }

    /// Resets the stream; what was queued goes with it.
    pub(in crate::link) fn reset(&mut self, reason: Reason) {
        self.0.shared.lock().reset(self.0.id, reason);
    }
}

/// The receiving direction of a stream.
#[derive(Debug)]
pub(in crate::link) struct RecvStream(Handle);

impl RecvStream {
    /// The next bytes; `None` at the orderly end. What came before an error is given before it.
    pub(in crate::link) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        self.0.shared.lock().poll_data(self.0.id, cx)
    }

    /// Gives window back for so many bytes that were received.
    pub(in crate::link) fn release(&mut self, count: usize) {
        self.0.shared.lock().release(self.0.id, u32::try_from(count).unwrap_or(u32::MAX));
    }
}

/// Asks the peer whether it lives, one question at a time.
#[derive(Debug)]
pub(in crate::link) struct PingPong(pub(super) Shared);

impl PingPong {
    /// Waits for an answer to PING.
    ///
    /// # Errors
    /// When the connection has ended.
    pub(in crate::link) async fn ping(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.0.lock().poll_alive(cx)).await
    }
}
