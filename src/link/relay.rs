//! Bytes between one socket and one tunnel, both ways, until both directions have ended.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
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

/// Relays until both directions have ended. Each end is passed on as such (half-close), and each failure as
/// a failure: a broken tunnel resets the socket, a broken socket resets the tunnel. `first` goes into the
/// tunnel before what the socket sends.
///
/// # Errors
/// [`Broken`], after the other side has been told.
pub async fn relay(socket: TcpStream, tunnel: Tunnel, first: Bytes, moved: &mut Moved) -> Result<(), Broken> {
    relay_counted(socket, tunnel, first, moved, &AtomicU64::new(0)).await
}

/// Does what [`relay`] does, and adds the bytes of both directions to `all` as they pass.
///
/// # Errors
/// Those of [`relay`].
pub async fn relay_counted(
    socket: TcpStream,
    mut tunnel: Tunnel,
    first: Bytes,
    moved: &mut Moved,
    all: &AtomicU64,
) -> Result<(), Broken> {
    let Moved { sent, received } = moved;
    let up = up(&socket, &mut tunnel.outbox, first, sent, all);
    let down = down(&socket, &mut tunnel.inbox, received, all);
    match futures_util::future::try_join(up, down).await {
        Ok(((), ())) => Ok(()),
        Err(broken) => {
            match broken {
                // RFC 9113 §8.5: the TCP connection behind a CONNECT failed.
                Broken::Socket(_) => tunnel.reset(Reason::CONNECT_ERROR),
                Broken::Tunnel(_) => drop(tunnel),
            }
            net::reset(socket);
            Err(broken)
        }
    }
}

async fn up(
    socket: &TcpStream,
    outbox: &mut Outbox,
    first: Bytes,
    sent: &mut u64,
    all: &AtomicU64,
) -> Result<(), Broken> {
    *sent += first.len() as u64;
    all.fetch_add(first.len() as u64, Relaxed);
    outbox.send(first).await.map_err(Broken::Tunnel)?;
    let mut size = SMALLEST_BUFFER;
    // Empty unless there are bytes: an idle tunnel holds no buffer.
    let mut buffer = BytesMut::new();
    loop {
        let room = poll_fn(|cx| outbox.poll_room(size, cx)).await.map_err(Broken::Tunnel)?;
        buffer.reserve(room);
        match socket.try_read_buf(&mut (&mut buffer).limit(room)) {
            Ok(0) => return outbox.finish().map_err(Broken::Tunnel),
            Ok(count) => {
                *sent += count as u64;
                all.fetch_add(count as u64, Relaxed);
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

async fn down(
    socket: &TcpStream,
    inbox: &mut Inbox,
    received: &mut u64,
    all: &AtomicU64,
) -> Result<(), Broken> {
    loop {
        let count = poll_fn(|cx| poll_write(socket, inbox, cx)).await?;
        if count == 0 {
            return net::shutdown_write(socket).map_err(Broken::Socket);
        }
        *received += count as u64;
        all.fetch_add(count as u64, Relaxed);
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
