//! Relays bytes between one socket and one tunnel until both directions have ended.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::queue::{self, Queue};
use super::tunnel::{Inbox, Outbox, Tunnel};
use super::unanswered::{Waiting, Watch, keep_alive_later};
use laneway_h2::{Error, Reason};
use laneway_limits::buffer_pool::PooledBuffer;
use laneway_limits::memory::{Account, Tally};
use laneway_limits::pace::Pace;
use laneway_sys::broken::Break;
use laneway_sys::closed::until_closed;
use laneway_sys::net;
use laneway_telemetry::traffic::Moved;
use laneway_telemetry::traffic::Traffic;
use laneway_wire::failure::printable;

/// The size of the smallest read, in bytes.
const SMALLEST_READ: usize = 4 * 1024;
/// By which factor the next read grows after a full one, and shrinks after one filled to less than this part.
const GROWTH: usize = 4;

/// After one direction has failed: how long the other may deliver nothing of what is in flight.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);
/// The same time if the other end of the link had sent all that it had, and only left early: about as long as a system
/// goes on sending what a process wrote before it ended.
const LAST_DELIVERY_TIMEOUT: Duration = Duration::from_secs(100);
/// The most that is kept for a replay, in bytes: a request head or a ClientHello fits, an upload does not.
const MAX_REPLAY: usize = 64 * 1024;

/// Why a tunnel did not end in good order.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The socket failed: its peer has reset it, or is gone.
    #[error("the connection broke")]
    Socket(#[source] io::Error),
    /// The stream was reset by the other end of the link, or the link has ended.
    #[error("the tunnel broke")]
    Tunnel(#[source] Error),
    /// The other end has ended its direction in good order, and reset the stream before everything was sent to it.
    #[error("the other end does not want the rest")]
    Unwanted(#[source] Error),
    /// The server's machine does not get what it is sent, or nothing of what it sends comes back.
    #[error("the way to the server is cut")]
    Cut,
    /// The app has closed its socket after everything that it had to send, so nobody reads the rest.
    #[error("the app has closed the connection")]
    Left,
}

impl Broken {
    /// Whether the link has failed, not just this tunnel, so that another gateway may do better.
    pub fn is_link_lost(&self) -> bool {
        matches!(self, Self::Tunnel(error) if is_link_lost(error))
    }

    /// Whether the gateway says that the way from it to the server is cut.
    pub fn is_cut(&self) -> bool {
        matches!(self, Self::Tunnel(error) if is_cut(error))
    }
}

/// Whether this is the error by which a gateway says that a stream's way to the server is cut.
pub fn is_cut(error: &Error) -> bool {
    error.reason() == Some(Reason::CONNECT_ERROR)
}

/// Whether an error concerns the whole link, because the connection broke or the peer ended it, not just one stream.
pub fn is_link_lost(error: &Error) -> bool {
    error.is_of_connection()
}

/// How a relay ended, for the access log.
pub fn outcome(result: &Result<(), Broken>) -> String {
    match result {
        Ok(()) => "closed".into(),
        Err(Broken::Tunnel(error)) if error.reason() == Some(Reason::CANCEL) => {
            "reset at the other end".into()
        }
        Err(Broken::Tunnel(error)) if is_cut(error) => {
            "given up by the gateway: nothing comes from the server, whose machine may not even get what is sent".into()
        }
        Err(Broken::Cut) => "given up: nothing comes from the server, whose machine may not even get what is sent".into(),
        Err(Broken::Unwanted(_)) => "closed; the other end did not want the rest".into(),
        Err(Broken::Left) => "closed by the app, which did not wait for the rest".into(),
        Err(Broken::Socket(error)) => format!("the connection broke: {error}"),
        Err(Broken::Tunnel(error)) if is_link_lost(error) => printable(&format!("the link broke: {error}")),
        Err(Broken::Tunnel(error)) => printable(&format!("the tunnel broke: {error}")),
    }
}

/// The bytes that one relay has moved so far. It is read while the relay runs, and after it was dropped.
#[derive(Default)]
pub struct Progress<'a> {
    sent: AtomicU64,
    received: AtomicU64,
    app_ended: AtomicBool,
    /// The error that a write to the socket has met.
    broken: Break,
    /// The other end of the link has ended its direction in good order.
    peer_ended: AtomicBool,
    counted: Option<(&'a Traffic, End)>,
    pace: Option<&'a Pace>,
    watch: Option<&'a Watch<'a>>,
    /// The socket keeps urgent data among the other data.
    keeps_urgent: bool,
}

/// What the socket leads to.
#[derive(Clone, Copy, Debug)]
enum End {
    App,
    Server,
}

impl<'a> Progress<'a> {
    /// The progress of an app's socket, whose bytes are also counted in `traffic`.
    pub fn of_app(traffic: &'a Traffic) -> Self {
        Self { counted: Some((traffic, End::App)), ..Self::default() }
    }

    /// The progress of a server's socket: what it sends is what the app receives.
    pub fn of_server(traffic: &'a Traffic) -> Self {
        Self { counted: Some((traffic, End::Server)), ..Self::default() }
    }

    /// Says whether the socket keeps urgent data ([`net::keep_urgent`]).
    pub fn with_urgent(mut self, keeps_urgent: bool) -> Self {
        self.keeps_urgent = keeps_urgent;
        self
    }

    /// Limits both directions to a pace that other relays may share.
    pub fn paced_by(mut self, pace: &'a Pace) -> Self {
        self.pace = Some(pace);
        self
    }

    /// Tells `watch` when a server answers, and when it does not.
    pub fn watched_by(mut self, watch: &'a Watch<'a>) -> Self {
        self.watch = Some(watch);
        self
    }

    /// Counts bytes that the socket sent. Returns until when the next ones have to wait, if they have to.
    pub fn add_sent(&self, count: usize) -> Option<Instant> {
        self.sent.fetch_add(count as u64, Relaxed);
        match self.counted {
            Some((traffic, End::App)) => traffic.add_sent(count as u64),
            Some((traffic, End::Server)) => traffic.add_received(count as u64),
            None => {}
        }
        self.pace?.passed(count)
    }

    /// Counts bytes that the socket received. Returns until when the next ones have to wait, if they have to.
    pub fn add_received(&self, count: usize) -> Option<Instant> {
        self.received.fetch_add(count as u64, Relaxed);
        match self.counted {
            Some((traffic, End::App)) => traffic.add_received(count as u64),
            Some((traffic, End::Server)) => traffic.add_sent(count as u64),
            None => {}
        }
        self.pace?.passed(count)
    }

    fn is_of_app(&self) -> bool {
        matches!(self.counted, Some((_, End::App)))
    }

    /// How long nothing may be delivered after one direction has failed.
    fn delivery_timeout(&self) -> Duration {
        if self.peer_ended.load(Relaxed) { LAST_DELIVERY_TIMEOUT } else { DELIVERY_TIMEOUT }
    }

    /// The bytes so far.
    pub fn moved(&self) -> Moved {
        Moved { sent: self.sent.load(Relaxed), received: self.received.load(Relaxed) }
    }
}

/// What the socket sent while nothing was received for it, for a replay on another gateway. It is dropped with the first byte
/// that is received, or when it becomes too long.
#[derive(Debug, Default)]
pub struct ReplayBuffer(Mutex<Sent>);

#[derive(Debug, Default)]
struct Sent {
    bytes: BytesMut,
    /// The memory of `bytes`.
    held: Tally,
    overflown: bool,
}

impl ReplayBuffer {
    /// Begins with the bytes that were sent already. What it holds is charged to `account`.
    pub fn new(first: &Bytes, account: &Arc<Account>) -> Self {
        let buffer = Self(Mutex::new(Sent { held: Tally::of(account), ..Sent::default() }));
        buffer.add(first);
        buffer
    }

    /// All bytes that were sent, unless they were dropped.
    pub fn all(&self) -> Option<Bytes> {
        let sent = self.sent();
        (!sent.overflown).then(|| Bytes::copy_from_slice(&sent.bytes))
    }

    fn add(&self, bytes: &[u8]) {
        let mut sent = self.sent();
        if sent.overflown || sent.bytes.len() + bytes.len() > MAX_REPLAY {
            *sent = Sent { overflown: true, ..Sent::default() };
        } else {
            sent.bytes.extend_from_slice(bytes);
            let capacity = sent.bytes.capacity();
            sent.held.set(capacity);
        }
    }

    fn forget(&self) {
        *self.sent() = Sent { overflown: true, ..Sent::default() };
    }

    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Relays until both directions have ended. The end of each direction is passed on (half-close). What the socket sends is kept
/// in `replay`, if there is one, until something is received for it. An app that has closed its socket, not only its sending
/// direction, ends the relay once everything it sent is on its way. The tunnel is to be dropped afterwards: what was queued on
/// it is still sent before the stream is reset.
///
/// # Errors
/// [`Broken`]. When the tunnel broke, the caller decides about the socket: a replay, an end in good order ([`net::linger`])
/// or [`net::reset`]. A socket that is dropped is reset, too.
pub async fn relay(
    socket: &TcpStream,
    tunnel: &mut Tunnel,
    progress: &Progress<'_>,
    replay: Option<&ReplayBuffer>,
) -> Result<(), Broken> {
    net::reset_on_drop(socket);
    let result = both_ways(socket, tunnel, progress, replay).await;
    match &result {
        Ok(()) => net::end_orderly(socket),
        Err(Broken::Cut) => tunnel.reset(Reason::CONNECT_ERROR),
        Err(_) => {}
    }
    result
}

async fn both_ways(
    socket: &TcpStream,
    tunnel: &mut Tunnel,
    progress: &Progress<'_>,
    replay: Option<&ReplayBuffer>,
) -> Result<(), Broken> {
    let link_state = tunnel.link_state().clone();
    let mut up = std::pin::pin!(up(socket, &mut tunnel.outbox, link_state.queue(), progress, replay));
    let mut down = std::pin::pin!(down(socket, &mut tunnel.inbox, progress));
    let mut failed = std::pin::pin!(socket.ready(Interest::ERROR));
    // Boxed when they are needed, so that an idle tunnel does not keep their room.
    let mut left: Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = None;
    let mut half_closed: Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = None;
    let (mut up_ended, mut down_ended) = (None, None);
    // Set when one direction has failed, and the other one may still have something to deliver; with the number of bytes
    // delivered by then.
    let mut rest: Option<(Pin<Box<Sleep>>, u64)> = None;
    let rest_begins = || (Box::pin(sleep(progress.delivery_timeout())), progress.received.load(Relaxed));
    loop {
        if up_ended.is_some() && down_ended.is_some() {
            break;
        }
        tokio::select! {
            biased;
            ended = &mut down, if down_ended.is_none() => {
                match &ended {
                    Ok(()) if progress.watch.is_some() => half_closed = Some(Box::pin(keep_alive_later(socket))),
                    Ok(()) => {}
                    Err(Broken::Socket(error)) => {
                        progress.broken.note(error);
                        rest.get_or_insert_with(rest_begins);
                    }
                    Err(_) => return ended,
                }
                down_ended = Some(ended);
            }
            ended = &mut up, if up_ended.is_none() => {
                match &ended {
                    Err(Broken::Tunnel(error)) if !is_link_lost(error) => {
                        rest.get_or_insert_with(rest_begins);
                    }
                    Err(_) => return ended,
                    Ok(()) if progress.is_of_app() => left = Some(Box::pin(until_closed(socket))),
                    Ok(()) => {}
                }
                up_ended = Some(ended);
            }
            () = until(&mut left), if left.is_some() && down_ended.is_none() => return Err(Broken::Left),
            () = until(&mut half_closed), if half_closed.is_some() => half_closed = None,
            _ = &mut failed, if rest.is_none() => rest = Some(rest_begins()),
            delivered = until_over(&mut rest), if rest.is_some() => {
                if progress.received.load(Relaxed) == delivered {
                    break;
                }
                rest = Some(rest_begins());
            }
        }
    }
    match (up_ended, down_ended) {
        (Some(Ok(())), Some(Ok(()))) => Ok(()),
        (Some(Err(Broken::Tunnel(error))), Some(Ok(()))) => Err(Broken::Unwanted(error)),
        (up, down) => {
            let broken = [up, down].into_iter().flatten().find_map(Result::err);
            Err(broken.unwrap_or_else(|| Broken::Socket(io::ErrorKind::ConnectionReset.into())))
        }
    }
}

/// Waits for the deadline of the rest, and returns the number of bytes delivered when it began.
async fn until_over(rest: &mut Option<(Pin<Box<Sleep>>, u64)>) -> u64 {
    match rest {
        Some((timer, delivered)) => {
            timer.await;
            *delivered
        }
        None => std::future::pending().await,
    }
}

async fn until(future: &mut Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>>) {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn up(
    socket: &TcpStream,
    outbox: &mut Outbox,
    queue: &Queue,
    progress: &Progress<'_>,
    mut replay: Option<&ReplayBuffer>,
) -> Result<(), Broken> {
    if progress.app_ended.load(Relaxed) {
        return outbox.finish().map_err(Broken::Tunnel);
    }
    let mut size = SMALLEST_READ;
    // A turn is a number of bytes, so a socket that has fewer ready at a time gets more reads for it.
    let mut left_of_turn = 0;
    loop {
        size = size.min(queue.steps().one() as usize);
        let mut room = poll_fn(|cx| outbox.poll_capacity(size, cx)).await.map_err(Broken::Tunnel)?;
        // After the capacity, because a tunnel whose reader stalls must not hold a turn.
        let mut turn = None;
        if room > queue::SMALL && left_of_turn > queue::SMALL {
            room = room.min(left_of_turn);
        } else if room > queue::SMALL {
            turn = queue.turn(size).await;
            left_of_turn = size;
            // The capacity may have grown meanwhile.
            if let Some(now) = poll_fn(|cx| outbox.poll_capacity(size, cx)).now_or_never() {
                room = now.map_err(Broken::Tunnel)?;
            }
        }
        let mut buffer = PooledBuffer::take(room);
        match net::try_read_with(socket, &mut buffer.room(), room, progress.keeps_urgent) {
            Ok(0) => {
                progress.broken.checked(0).map_err(Broken::Socket)?;
                progress.app_ended.store(true, Relaxed);
                return outbox.finish().map_err(Broken::Tunnel);
            }
            Ok(count) => {
                let due = progress.add_sent(count);
                left_of_turn = left_of_turn.saturating_sub(count);
                let bytes = buffer.fill(count);
                if let Some(buffer) = replay {
                    if progress.received.load(Relaxed) == 0 {
                        buffer.add(&bytes);
                    } else {
                        buffer.forget();
                        replay = None;
                    }
                }
                if let Some(turn) = turn {
                    turn.use_for(count);
                }
                outbox.send_reserved(bytes).map_err(Broken::Tunnel)?;
                if count < SMALLEST_READ && size == SMALLEST_READ {
                    queue.steps().expect_small();
                }
                size = match count {
                    _ if count == size => size * GROWTH,
                    // Less than there was capacity for, so the socket has no more.
                    _ if count < room && count < size / GROWTH => (size / GROWTH).max(SMALLEST_READ),
                    _ => size,
                };
                match due {
                    Some(due) => sleep_until(due).await,
                    None => tokio::task::consume_budget().await,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // A socket that has nothing to send holds neither a buffer nor a turn.
                drop((buffer, turn));
                poll_fn(|cx| poll_readable(socket, outbox, cx)).await?;
            }
            Err(error) => return Err(Broken::Socket(error)),
        }
    }
}

/// Waits for bytes of the socket, or for a reset of the stream.
fn poll_readable(socket: &TcpStream, outbox: &mut Outbox, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
    if let Poll::Ready(error) = outbox.poll_reset(cx) {
        return Poll::Ready(Err(Broken::Tunnel(error)));
    }
    socket.poll_read_ready(cx).map_err(Broken::Socket)
}

async fn down(socket: &TcpStream, inbox: &mut Inbox, progress: &Progress<'_>) -> Result<(), Broken> {
    let mut waiting = Waiting::new(progress.watch);
    let answered = || progress.sent.load(Relaxed);
    loop {
        let count = poll_fn(|cx| {
            let written = poll_write(socket, inbox, |bytes| waiting.sent(bytes, answered()), cx);
            if inbox.is_complete() && written.is_pending() {
                progress.peer_ended.store(true, Relaxed);
            }
            if written.is_pending() && waiting.poll(socket, answered(), cx).is_ready() {
                return Poll::Ready(Err(Broken::Cut));
            }
            written
        })
        .await?;
        if count == 0 {
            return net::shutdown_write(socket).map_err(Broken::Socket);
        }
        match progress.add_received(count) {
            Some(due) => wait_for_pace(inbox, due).await?,
            None => tokio::task::consume_budget().await,
        }
    }
}

/// Waits for the pace. What arrives meanwhile is queued as usual.
async fn wait_for_pace(inbox: &mut Inbox, due: Instant) -> Result<(), Broken> {
    let mut waited = std::pin::pin!(sleep_until(due));
    poll_fn(|cx| {
        if inbox.has_ended() {
            return waited.as_mut().poll(cx).map(Ok);
        }
        match inbox.poll_fill(cx) {
            Poll::Ready(Err(error)) if is_link_lost(&error) => {
                return Poll::Ready(Err(Broken::Tunnel(error)));
            }
            Poll::Ready(Err(error)) => inbox.fail_later(error),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        waited.as_mut().poll(cx).map(Ok)
    })
    .await
}

/// Queues what has arrived, also while the socket is stalled, and writes what is queued. Returns 0 when everything was written
/// and the other end has ended its direction.
/// `sent` gets the first of the pieces that were written.
fn poll_write(
    socket: &TcpStream,
    inbox: &mut Inbox,
    mut sent: impl FnMut(&[u8]),
    cx: &mut Context<'_>,
) -> Poll<Result<usize, Broken>> {
    loop {
        let pending = match inbox.poll_fill(cx) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            // What arrived before a reset is delivered first. After the loss of the link the tunnel is replayed or resumed,
            // so nothing more is delivered.
            Poll::Ready(Err(error)) if is_link_lost(&error) => {
                return Poll::Ready(Err(Broken::Tunnel(error)));
            }
            Poll::Ready(Err(error)) => {
                inbox.fail_later(error);
                false
            }
        };
        if inbox.is_empty() {
            if let Some(error) = inbox.take_failure() {
                return Poll::Ready(Err(Broken::Tunnel(error)));
            }
            if inbox.is_finished() {
                return Poll::Ready(Ok(0));
            }
            if pending {
                return Poll::Pending;
            }
            continue;
        }
        let (slices, count) = inbox.slices();
        match socket.try_write_vectored(&slices[..count]) {
            Ok(written) => {
                sent(&slices[0]);
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

#[cfg(test)]
mod tests {
    use laneway_limits::memory::Budget;

    use super::*;

    #[test]
    fn the_log_tells_the_loss_of_the_link_from_the_end_of_one_tunnel() {
        let said = |error: Error| outcome(&Err(Broken::Tunnel(error)));
        assert_eq!(said(Reason::CANCEL.into()), "reset at the other end");
        assert!(said(Error::GoAway(Reason::NO_ERROR)).starts_with("the link broke: "));
        assert!(said(Reason::ENHANCE_YOUR_CALM.into()).starts_with("the tunnel broke: "));
    }

    #[test]
    fn what_is_kept_for_a_replay_is_counted_as_long_as_it_is_there() {
        let budget = Budget::new(1 << 20);
        let account = budget.account();
        let idle = budget.used();
        let replay = ReplayBuffer::new(&Bytes::from_static(b"GET "), &account);
        replay.add(&[b'a'; 60_000]);
        assert!(budget.used() >= idle + 60_004);
        replay.add(&[b'a'; 10_000]);
        assert_eq!((replay.all(), budget.used()), (None, idle), "too long to be sent again");
        let replay = ReplayBuffer::new(&Bytes::from_static(b"GET "), &account);
        assert!(budget.used() > idle);
        replay.forget();
        assert_eq!(budget.used(), idle);
    }
}
