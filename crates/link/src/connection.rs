//! The I/O of one HTTP/2 connection: moves bytes between a byte stream and the [`Engine`].

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::{Interval, MissedTickBehavior, interval};

use laneway_h2::{Accepted, Config, Engine, Error, Finish, MAX_PIECES, PingPong, Reason, Requests};
use laneway_limits::memory::Account;

/// The byte stream of a connection.
pub(super) trait Wire: AsyncWrite + Unpin {
    /// Receives at most `most` bytes into the front of `out`, which may be longer so that records can be opened in it. 0 is
    /// the end in good order.
    fn poll_receive_into(
        &mut self,
        out: &mut [u8],
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>>;

    /// The memory of its buffers, in bytes.
    fn memory(&self) -> usize;
}

/// A connection. It does nothing unless it is polled; dropping it ends all streams.
pub(super) struct Connection<W> {
    engine: Engine,
    wire: W,
    ticks: Interval,
}

/// A stream without an owner is reset when the peer has taken nothing of it for six of these intervals.
const TICK: Duration = Duration::from_secs(5);

impl<W: Wire> Connection<W> {
    /// The client's end.
    pub(super) fn client(wire: W, config: Config) -> (Requests, Self) {
        let (requests, engine) = Engine::client(config);
        (requests, Self::new(engine, wire))
    }

    /// The server's end.
    pub(super) fn server(wire: W, config: Config) -> Self {
        Self::new(Engine::server(config), wire)
    }

    fn new(engine: Engine, wire: W) -> Self {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { engine, wire, ticks }
    }

    /// Charges the memory of the connection to `account`, and what is queued on streams until they have an account of their
    /// own.
    pub(super) fn charge_to(&mut self, account: &Arc<Account>) {
        self.engine.charge_to(account);
    }

    /// What asks the peer whether it is alive.
    pub(super) fn ping_pong(&self) -> PingPong {
        self.engine.ping_pong()
    }

    /// Announces another receive window for every stream. False when that is not possible now, because the last one is not
    /// acknowledged.
    pub(super) fn announce_window(&mut self, window: u32) -> bool {
        self.engine.announce_window(window)
    }

    /// Accepts no more streams of the peer (RFC 9113 §6.8). The connection ends with the last one that is open.
    pub(super) fn drain(&mut self) {
        self.engine.drain();
    }

    /// Ends the connection with the last stream that is open.
    pub(super) fn retire(&mut self) {
        self.engine.retire();
    }

    /// No more streams can be opened.
    pub(super) fn is_closing(&self) -> bool {
        self.engine.is_closing()
    }

    /// Waits until the peer has begun to speak HTTP/2.
    ///
    /// # Errors
    /// When it does not.
    pub(super) fn poll_greeted(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self.poll_drive(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())),
            Poll::Pending if self.engine.is_greeted() => Poll::Ready(Ok(())),
            other => other,
        }
    }

    /// Drives the connection until the peer opens a stream. `None` when the connection has ended in good order.
    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Accepted, Error>>> {
        if let Some(accepted) = self.engine.accept() {
            return Poll::Ready(Some(Ok(accepted)));
        }
        match (self.poll_drive(cx), self.engine.accept()) {
            (_, Some(accepted)) => Poll::Ready(Some(Ok(accepted))),
            (Poll::Ready(Ok(())), None) => Poll::Ready(None),
            (Poll::Ready(Err(error)), None) => Poll::Ready(Some(Err(error))),
            (Poll::Pending, None) => Poll::Pending,
        }
    }

    /// Drives the connection. Is ready when it has ended.
    ///
    /// # Errors
    /// When it did not end in good order.
    pub(super) fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.engine.register(cx);
        let result = self.poll_both(cx);
        while self.engine.has_ownerless() && self.ticks.poll_tick(cx).is_ready() {
            self.engine.tick();
        }
        self.engine.count_memory(self.wire.memory());
        let result = ready!(result);
        let error = match &result {
            Err(error) => error.clone(),
            Ok(()) => Error::GoAway(Reason::NO_ERROR),
        };
        self.engine.end(&error);
        Poll::Ready(result)
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            match self.poll_read(cx) {
                Poll::Ready(Ok(())) => {
                    // The farewell is answered (RFC 8446 §6.1) if the socket takes that at once.
                    let _ = Pin::new(&mut self.wire).poll_shutdown(cx);
                    return Poll::Ready(self.engine.peer_closed());
                }
                Poll::Ready(Err(Broken::Wire(error))) => return Poll::Ready(Err(error.into())),
                Poll::Ready(Err(Broken::Peer(reason))) => {
                    // The reason is sent if the socket takes it at once, and so is the farewell.
                    if self.poll_write(cx).is_ready() {
                        let _ = Pin::new(&mut self.wire).poll_shutdown(cx);
                    }
                    return Poll::Ready(Err(Error::GoAway(reason)));
                }
                Poll::Pending => {}
            }
            let is_backlogged = self.engine.is_backlogged();
            ready!(self.poll_write(cx))?;
            match self.engine.try_finish() {
                Finish::Open if !is_backlogged => return Poll::Pending,
                Finish::Open | Finish::Farewell => {}
                Finish::Finished(outcome) => {
                    ready!(Pin::new(&mut self.wire).poll_shutdown(cx))?;
                    return Poll::Ready(outcome);
                }
            }
        }
    }

    /// Reads until nothing has arrived, or nothing more may be read. Is ready when the peer has ended the byte stream.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            let Some((room, most)) = self.engine.room() else { return Poll::Pending };
            match ready!(self.wire.poll_receive_into(room, most, cx)).map_err(Broken::Wire)? {
                0 => return Poll::Ready(Ok(())),
                count => self.engine.received(count).map_err(Broken::Peer)?,
            }
        }
    }

    /// Writes and flushes all output.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.engine.has_output() {
            let mut slices = [IoSlice::new(&[]); MAX_PIECES];
            let count = self.engine.output(&mut slices);
            let written = ready!(Pin::new(&mut self.wire).poll_write_vectored(cx, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.engine.written(written);
        }
        Pin::new(&mut self.wire).poll_flush(cx)
    }
}

/// Why nothing more is read.
enum Broken {
    /// The byte stream failed.
    Wire(io::Error),
    /// The peer broke the protocol.
    Peer(Reason),
}

#[cfg(test)]
mod tests;
