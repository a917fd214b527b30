//! Handles of a connection and of its streams. A stream without handles is reset once what was queued on it is sent, unless
//! both directions have ended.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use laneway_limits::memory::Account;

use super::streams::Streams;
use super::{Error, Reason};

/// The state of a connection, shared by its driver and all handles.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Streams>>);

impl Shared {
    pub(super) fn new(streams: Streams) -> Self {
        Self(Arc::new(Mutex::new(streams)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Streams> {
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
    /// One more handle of the same stream.
    fn another(&self) -> Self {
        self.shared.lock().add_handle(self.id);
        Self { shared: self.shared.clone(), id: self.id }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().drop_handle(self.id);
    }
}

/// Opens streams.
#[derive(Clone, Debug)]
pub struct Requests(pub(super) Shared);

impl Requests {
    /// Sends a request as soon as the peer accepts one more stream; `ends` when it has no body.
    ///
    /// # Errors
    /// When the connection accepts no more streams.
    pub async fn send(
        &self,
        request: Request<()>,
        ends: bool,
    ) -> Result<(ResponseFuture, SendStream), Error> {
        let mut place = Place { shared: &self.0, number: None };
        let id = poll_fn(|cx| self.0.lock().poll_open(&request, ends, &mut place.number, cx)).await?;
        let handle = Handle { shared: self.0.clone(), id };
        Ok((ResponseFuture(handle.another()), SendStream(handle)))
    }

    /// Whether the peer accepts extended CONNECT (RFC 8441); known once its SETTINGS have arrived.
    pub fn has_extended_connect(&self) -> bool {
        self.0.lock().has_extended_connect()
    }
}

/// The place of a caller that may have to wait until the peer accepts one more stream.
struct Place<'a> {
    shared: &'a Shared,
    number: Option<u64>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.shared.lock().leave(number);
        }
    }
}

/// The response to a request.
#[derive(Debug)]
pub struct ResponseFuture(Handle);

impl Future for ResponseFuture {
    type Output = Result<Response<RecvStream>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = self.0.shared.lock().poll_response(self.0.id, cx);
        response.map_ok(|response| response.map(|()| RecvStream(self.0.another())))
    }
}

/// Answers a request that was received.
#[derive(Debug)]
pub struct SendResponse(Handle);

impl SendResponse {
    /// The answer to an accepted stream with one handle, and the body of its request.
    pub(super) fn of(shared: Shared, id: u32) -> (Self, RecvStream) {
        let handle = Handle { shared, id };
        let body = RecvStream(handle.another());
        (Self(handle), body)
    }

    /// The stream's number.
    #[cfg(test)]
    pub(super) fn stream(&self) -> u32 {
        self.0.id
    }

    /// Sends the response; `ends` when it has no body.
    ///
    /// # Errors
    /// When the stream has ended.
    pub fn send(self, response: &Response<()>, ends: bool) -> Result<SendStream, Error> {
        self.0.shared.lock().respond(self.0.id, response, ends)?;
        Ok(SendStream(self.0))
    }

    /// Charges what is queued on the stream, in both directions, to `account` from now on.
    pub fn charge_to(&mut self, account: &Arc<Account>) {
        self.0.shared.lock().charge_stream_to(self.0.id, account);
    }

    /// Is ready when the stream is reset by either end, or the connection has ended.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.0.shared.lock().poll_reset(self.0.id, cx)
    }
}

/// The sending direction of a stream.
#[derive(Debug)]
pub struct SendStream(Handle);

impl SendStream {
    /// Waits until at least one byte may be queued for sending; returns how many may, at most `wanted`.
    ///
    /// # Errors
    /// When the stream has ended.
    pub fn poll_capacity(&mut self, wanted: usize, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        self.0.shared.lock().poll_capacity(self.0.id, wanted, cx)
    }

    /// Is ready when the stream is reset by either end, or the connection has ended.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.0.shared.lock().poll_reset(self.0.id, cx)
    }

    /// Queues bytes for which there is capacity; `ends` when they are the last.
    ///
    /// # Errors
    /// When the stream has ended.
    pub fn send_data(&mut self, data: Bytes, ends: bool) -> Result<(), Error> {
        self.0.shared.lock().send_data(self.0.id, data, ends)
    }

    /// Charges what is queued on the stream, in both directions, to `account` from now on.
    pub fn charge_to(&mut self, account: &Arc<Account>) {
        self.0.shared.lock().charge_stream_to(self.0.id, account);
    }

    /// Resets the stream, and drops what is queued on it.
    pub fn reset(&mut self, reason: Reason) {
        self.0.shared.lock().reset(self.0.id, reason);
    }
}

/// The receiving direction of a stream.
#[derive(Debug)]
pub struct RecvStream(Handle);

impl RecvStream {
    /// The next bytes; `None` at the end. What was received before an error is given first.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        self.0.shared.lock().poll_data(self.0.id, cx)
    }

    /// Resets the stream, because nothing more of it is wanted.
    pub fn reset(&mut self, reason: Reason) {
        self.0.shared.lock().reset(self.0.id, reason);
    }

    /// Counts received bytes as read, so that the peer may send as many more.
    pub fn release_capacity(&mut self, count: usize) {
        self.0.shared.lock().release(self.0.id, u32::try_from(count).unwrap_or(u32::MAX));
    }
}

/// Asks the peer whether it is alive, one question at a time.
#[derive(Debug)]
pub struct PingPong(pub(super) Shared);

impl PingPong {
    /// Sends a PING and waits for the answer.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn ping(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.0.lock().poll_ping(cx)).await
    }
}
