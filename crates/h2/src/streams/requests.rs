//! What the handles of a connection and of its streams ask for.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use laneway_limits::memory::Account;

use super::{Streams, Unaccepted};
use crate::frame::Kind;
use crate::recv::Content;
use crate::stream::Stream;
use crate::{Error, Reason, Side, fields, hpack, ping};

impl Streams {
    /// Opens a stream as soon as the peer accepts one more. Returns its number, with one handle. A caller that has to wait gets
    /// a `place`, and [leaves](Self::leave) it when it no longer waits.
    pub(crate) fn poll_open(
        &mut self,
        request: &Request<()>,
        ends: bool,
        place: &mut Option<u64>,
        cx: &Context<'_>,
    ) -> Poll<Result<u32, Error>> {
        if let Some(error) = self.shutdown.refusal() {
            return Poll::Ready(Err(error));
        }
        if self.counts.is_exhausted() {
            return Poll::Ready(Err(Error::GoAway(Reason::NO_ERROR)));
        }
        let limit = self.settings.peer.max_concurrent_streams.min(self.config.max_concurrent_streams);
        let Poll::Ready(id) = self.counts.poll_open(limit, place, cx) else { return Poll::Pending };
        let mut stream = Stream::new(self.settings.peer.window, self.settings.window());
        (stream.send.is_ending, stream.send.has_ended) = (ends, ends);
        stream.recv.content = Content::asked_by(request.method());
        self.insert(id, stream);
        self.write_headers(id, fields::request(request), ends);
        Poll::Ready(Ok(id))
    }

    /// Forgets the task that waits at this place to open a stream.
    pub(crate) fn leave(&mut self, place: u64) {
        self.counts.leave(place);
    }

    /// The next stream that the peer has opened, with one handle.
    pub(crate) fn accept(&mut self) -> Option<(u32, Request<()>)> {
        loop {
            let Unaccepted { id, request, is_reset_by_peer } = self.accept.requests.pop_front()?;
            if self.store.get(id).is_some_and(|stream| stream.error().is_none()) {
                return Some((id, request));
            }
            self.accept.resets -= usize::from(is_reset_by_peer);
            self.drop_handle(id);
        }
    }

    /// Answers a request.
    pub(crate) fn respond(&mut self, id: u32, response: &Response<()>, ends: bool) -> Result<(), Error> {
        let stream = self.store.held(id);
        if let Some(error) = stream.error() {
            return Err(error.clone());
        }
        (stream.send.is_ending, stream.send.has_ended) = (ends, ends);
        self.write_headers(id, fields::response(response), ends);
        self.settle(id);
        Ok(())
    }

    fn write_headers(&mut self, id: u32, mut block: Vec<u8>, ends: bool) {
        if self.settings.take_table_update() {
            block.insert(0, hpack::NO_TABLE);
        }
        self.control.headers(id, &block, ends, self.settings.peer.max_frame_size);
        self.wake_driver();
    }

    /// How many bytes of `wanted` a stream may queue for sending now, at least one.
    pub(crate) fn poll_capacity(
        &mut self,
        id: u32,
        wanted: usize,
        cx: &Context<'_>,
    ) -> Poll<Result<usize, Error>> {
        let stream = self.store.held(id);
        if let Some(error) = stream.error() {
            return Poll::Ready(Err(error.clone()));
        }
        if stream.send.is_ending {
            return Poll::Ready(Err(Error::Reset(Reason::STREAM_CLOSED)));
        }
        let capacity = self.send.poll_capacity(id, &mut stream.send, wanted, self.config.send_buffer, cx);
        self.send.forget_starved(|id| self.store.get(id).is_some());
        capacity.map(Ok)
    }

    /// Queues bytes for sending; `ends` when nothing follows.
    pub(crate) fn send_data(&mut self, id: u32, data: Bytes, ends: bool) -> Result<(), Error> {
        let stream = self.store.held(id);
        if let Some(error) = stream.error() {
            return Err(error.clone());
        }
        if stream.send.is_ending {
            return Err(Error::Reset(Reason::STREAM_CLOSED));
        }
        stream.send.is_ending = ends;
        if self.send.push(id, &mut stream.send, data) {
            self.wake_driver();
        }
        Ok(())
    }

    /// Is ready when the stream is over before its end.
    pub(crate) fn poll_reset(&mut self, id: u32, cx: &Context<'_>) -> Poll<Error> {
        self.store.held(id).poll_error(cx)
    }

    /// The next bytes that were received; `None` at the end.
    pub(crate) fn poll_data(&mut self, id: u32, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        let stream = self.store.held(id);
        match (stream.recv.pop(), stream.error()) {
            (Some(data), _) => Poll::Ready(Some(Ok(data))),
            _ if stream.recv.has_ended => Poll::Ready(None),
            (None, Some(error)) => Poll::Ready(Some(Err(error.clone()))),
            (None, None) => {
                stream.recv.want_data(cx);
                Poll::Pending
            }
        }
    }

    /// The response to a request.
    pub(crate) fn poll_response(&mut self, id: u32, cx: &Context<'_>) -> Poll<Result<Response<()>, Error>> {
        let stream = self.store.held(id);
        match (stream.recv.poll_response(cx), stream.error()) {
            (Poll::Ready(response), _) => Poll::Ready(Ok(response)),
            (Poll::Pending, Some(error)) => Poll::Ready(Err(error.clone())),
            (Poll::Pending, None) => Poll::Pending,
        }
    }

    /// Counts received bytes as read, so that the peer may send as many more.
    pub(crate) fn release(&mut self, id: u32, count: u32) {
        let Some(stream) = self.store.get_mut(id) else { return };
        let count = stream.recv.release(count);
        if count == 0 {
            return;
        }
        if let Some(increment) = stream.take_update() {
            self.control.window_update(id, increment);
            self.wake_driver();
        }
        self.release_connection(count);
    }

    /// Counts one more handle of a stream.
    pub(crate) fn add_handle(&mut self, id: u32) {
        self.store.held(id).handles += 1;
    }

    /// Counts one handle less. After the last one, what is queued is still sent, and then the stream is reset.
    pub(crate) fn drop_handle(&mut self, id: u32) {
        let Some(stream) = self.store.get_mut(id) else { return };
        stream.handles -= 1;
        if stream.handles > 0 {
            return;
        }
        stream.recv.discard();
        if stream.is_closed() {
            return self.settle(id);
        }
        // A server that has answered and does not need the rest of the request ends it without an error
        // (RFC 9113 §8.1).
        let has_answered = stream.send.is_ending && self.counts.side() == Side::Server;
        let reason = if has_answered { Reason::NO_ERROR } else { Reason::CANCEL };
        if stream.send.has_ended || (stream.send.is_empty() && !stream.send.is_ending) {
            self.reset(id, reason);
        } else {
            stream.send.reset_after = Some(reason);
            let held = stream.recv.forget_held();
            self.release_connection(held);
            self.schedule(id);
            self.loses_owner(id);
        }
    }

    /// Charges what is queued on a stream to `account` from now on.
    pub(crate) fn charge_stream_to(&mut self, id: u32, account: &Arc<Account>) {
        self.store.held(id).charge_to(account);
    }

    /// Waits until the peer has answered a PING.
    pub(crate) fn poll_ping(&mut self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(error) = self.shutdown.error() {
            return Poll::Ready(Err(error.clone()));
        }
        let mut is_sent = false;
        let answered = self.ping.poll(cx, || {
            self.control.push(Kind::Ping, 0, 0, &ping::ALIVE);
            is_sent = true;
        });
        if is_sent {
            self.closed.asked();
            self.wake_driver();
        }
        answered.map(Ok)
    }

    /// Whether the peer accepts extended CONNECT.
    pub(crate) fn has_extended_connect(&self) -> bool {
        self.settings.peer.extended_connect
    }
}
