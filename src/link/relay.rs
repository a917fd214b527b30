//! Bytes between one socket and one tunnel, both ways, until both directions have ended.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use h2::Reason;
use tokio::net::TcpStream;

use super::stream::{Inbox, Outbox, Tunnel};
use crate::copy::Moved;
use crate::failure::printable;
use crate::net;

/// The first read of a burst takes a buffer of this size; each read that fills it takes four times more.
const SMALLEST_BUFFER: usize = 4 * 1024;
/// The largest buffer; more does not help and lets small requests wait.
const LARGEST_BUFFER: usize = 128 * 1024;

/// The most that is kept for a replay, in bytes: a request head or a ClientHello fits, an upload does not.
const MOST_KEPT: usize = 64 * 1024;

/// Why a tunnel did not end orderly.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The socket failed: its peer has reset it, or is gone.
    #[error("the connection broke")]
    Socket(#[source] io::Error),
    /// The stream was reset by the other end of the link, or the link has ended.
    #[error("the tunnel broke")]
    Tunnel(#[source] h2::Error),
}

impl Broken {
    /// True when the link has failed, and not this tunnel alone: another gateway may do better.
    pub fn is_link_lost(&self) -> bool {
        matches!(self, Self::Tunnel(error) if is_link_lost(error))
    }
}

/// True for an error of the link: the connection broke, or its peer has gone away. A stream that was reset is
/// no such error.
pub fn is_link_lost(error: &h2::Error) -> bool {
    error.is_io() || error.is_go_away()
}

/// How a relay ended, for the access line.
pub fn outcome(result: &Result<(), Broken>) -> String {
    match result {
        Ok(()) => "closed".into(),
        Err(Broken::Tunnel(error)) if error.reason() == Some(Reason::CANCEL) => {
            "given up by the client".into()
        }
        Err(Broken::Socket(error)) => format!("the connection broke: {error}"),
        Err(Broken::Tunnel(error)) => printable(&format!("the tunnel broke: {error}")),
    }
}

/// What has passed through one relay so far; read while it runs, and after it was dropped.
#[derive(Debug, Default)]
pub struct Progress {
    sent: AtomicU64,
    received: AtomicU64,
    app_ended: AtomicBool,
}

impl Progress {
    /// The bytes so far.
    pub fn moved(&self) -> Moved {
        Moved { sent: self.sent.load(Relaxed), received: self.received.load(Relaxed) }
    }
}

/// What the socket sent as long as nothing has come back: what a replay needs. Nothing is kept for ever: the
/// first byte that comes back, or too many that went out, end it.
#[derive(Debug, Default)]
pub struct Kept(Mutex<Sent>);

#[derive(Debug, Default)]
struct Sent {
    bytes: BytesMut,
    overflown: bool,
}

impl Kept {
    /// Begins with what has been sent already.
    pub fn new(first: &Bytes) -> Self {
        let kept = Self::default();
        kept.add(first);
        kept
    }

    /// All that was sent, unless it was too much.
    pub fn all(&self) -> Option<Bytes> {
        let sent = self.sent();
        (!sent.overflown).then(|| Bytes::copy_from_slice(&sent.bytes))
    }

    fn add(&self, bytes: &[u8]) {
        let mut sent = self.sent();
        if sent.overflown || sent.bytes.len() + bytes.len() > MOST_KEPT {
            *sent = Sent { bytes: BytesMut::new(), overflown: true };
        } else {
            sent.bytes.extend_from_slice(bytes);
        }
    }

    fn forget(&self) {
        *self.sent() = Sent { bytes: BytesMut::new(), overflown: true };
    }

    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Relays until both directions have ended. Each end is passed on as such (half-close). With `kept`, what the
/// socket sends is kept there until something comes back.
///
/// # Errors
/// [`Broken`]. The tunnel has been reset when the socket broke; what becomes of the socket when the tunnel broke
/// is the caller's to decide: a replay, or [`net::reset`], never an orderly end.
pub async fn relay(
    socket: &TcpStream,
    mut tunnel: Tunnel,
    progress: &Progress,
    kept: Option<&Kept>,
) -> Result<(), Broken> {
    let up = up(socket, &mut tunnel.outbox, progress, kept);
    let down = down(socket, &mut tunnel.inbox, progress);
    match futures_util::future::try_join(up, down).await {
        Ok(((), ())) => Ok(()),
        Err(broken) => {
            match broken {
                // RFC 9113 §8.5: the TCP connection behind a CONNECT failed.
                Broken::Socket(_) => tunnel.reset(Reason::CONNECT_ERROR),
                Broken::Tunnel(_) => drop(tunnel),
            }
            Err(broken)
        }
    }
}

async fn up(
    socket: &TcpStream,
    outbox: &mut Outbox,
    progress: &Progress,
    mut kept: Option<&Kept>,
) -> Result<(), Broken> {
    if progress.app_ended.load(Relaxed) {
        return outbox.finish().map_err(Broken::Tunnel);
    }
    let mut size = SMALLEST_BUFFER;
    // Empty unless there are bytes: an idle tunnel holds no buffer.
    let mut buffer = BytesMut::new();
    loop {
        let room = poll_fn(|cx| outbox.poll_room(size, cx)).await.map_err(Broken::Tunnel)?;
        buffer.reserve(room);
        match socket.try_read_buf(&mut (&mut buffer).limit(room)) {
            Ok(0) => {
                progress.app_ended.store(true, Relaxed);
                return outbox.finish().map_err(Broken::Tunnel);
            }
            Ok(count) => {
                progress.sent.fetch_add(count as u64, Relaxed);
                if let Some(some) = kept {
                    if progress.received.load(Relaxed) == 0 {
                        some.add(&buffer);
                    } else {
                        some.forget();
                        kept = None;
                    }
                }
                outbox.send_reserved(buffer.split().freeze()).map_err(Broken::Tunnel)?;
                size = if count == size { (size * 4).min(LARGEST_BUFFER) } else { size };
                tokio::task::consume_budget().await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                (buffer, size) = (BytesMut::new(), SMALLEST_BUFFER);
                poll_fn(|cx| poll_readable(socket, outbox, cx)).await?;
            }
            Err(error) => return Err(Broken::Socket(error)),
        }
    }
}

/// Waits for bytes of the socket, and notices a reset of the stream meanwhile.
fn poll_readable(socket: &TcpStream, outbox: &mut Outbox, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
    if let Poll::Ready(error) = outbox.poll_reset(cx) {
        return Poll::Ready(Err(Broken::Tunnel(error)));
    }
    socket.poll_read_ready(cx).map_err(Broken::Socket)
}

async fn down(socket: &TcpStream, inbox: &mut Inbox, progress: &Progress) -> Result<(), Broken> {
    loop {
        let count = poll_fn(|cx| poll_write(socket, inbox, cx)).await?;
        if count == 0 {
            return net::shutdown_write(socket).map_err(Broken::Socket);
        }
        progress.received.fetch_add(count as u64, Relaxed);
        tokio::task::consume_budget().await;
    }
}

/// Writes what is queued, after taking over what has arrived, which goes on while the socket is stalled.
/// Gives 0 when everything was written and the other side has ended.
fn poll_write(socket: &TcpStream, inbox: &mut Inbox, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
    loop {
        let filled = inbox.poll_fill(cx).map_err(Broken::Tunnel)?;
        if inbox.is_finished() {
            return Poll::Ready(Ok(0));
        }
        if inbox.is_empty() {
            ready!(filled);
            continue;
        }
        let (slices, count) = inbox.slices();
        match socket.try_write_vectored(&slices[..count]) {
            Ok(written) => {
                inbox.consume(written);
                return Poll::Ready(Ok(written));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready!(socket.poll_write_ready(cx)).map_err(Broken::Socket)?;
            }
            Err(error) => return Poll::Ready(Err(Broken::Socket(error))),
        }
    }
}
