//! UDP on a stream of a link (RFC 9298): what both ends have in common.
//!
//! Delivery is best effort: a queue that is full drops datagrams, as a router's does. The queues are the app's at the client
//! and the socket's at the gateway.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

use super::tunnel::Inbox;
use laneway_h2 as http2;
use laneway_limits::memory::Tally;
use laneway_telemetry::traffic::Moved;
use laneway_telemetry::traffic::Traffic;
use laneway_wire::capsule::{self, CapsuleError, Decoder, HEAD, LONGEST_PAYLOAD};
use laneway_wire::target::Target;

/// A destination is forgotten after this long without traffic in either direction (RFC 4787 §4.3, REQ-5).
const IDLE: Duration = Duration::from_secs(120);
/// The same time for name servers, which answer at once or never, and are asked from another port each time (REQ-5 a).
const IDLE_DNS: Duration = Duration::from_secs(20);
const DNS: u16 = 53;
/// How many bytes of datagrams are sent together.
pub const BATCH: usize = 64 * 1024;

/// Why a stream of datagrams has ended early.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The stream was reset, or the link has ended.
    #[error("the tunnel broke")]
    Tunnel(#[from] http2::Error),
    /// The other end sent something that is not a capsule.
    #[error("not a stream of datagrams")]
    Capsule(#[from] CapsuleError),
}

/// How long a destination may be idle.
pub fn idle_limit(target: &Target) -> Duration {
    if target.port == DNS { IDLE_DNS } else { IDLE }
}

/// The datagrams that a tunnel receives.
#[derive(Debug)]
pub struct Datagrams {
    inbox: Inbox,
    decoder: Decoder,
    /// The memory of what the decoder keeps.
    memory: Tally,
}

impl Datagrams {
    /// The datagrams of a tunnel's inbox.
    pub fn new(inbox: Inbox) -> Self {
        Self { memory: inbox.tally(), inbox, decoder: Decoder::default() }
    }

    /// The next datagram; `None` when the other end has ended its direction.
    ///
    /// # Errors
    /// [`Broken`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            if let Some(payload) = self.decoder.datagram()? {
                return Ok(Some(payload));
            }
            self.memory.set(self.decoder.memory());
            match self.inbox.next().await? {
                Some(bytes) => self.decoder.push(bytes),
                None => return Ok(self.decoder.finish().map(|()| None)?),
            }
        }
    }
}

/// Datagrams that are sent together.
#[derive(Debug, Default)]
pub struct Batch {
    /// The datagrams as capsules.
    pub capsules: Bytes,
    /// The bytes of their payloads.
    pub payload: usize,
    /// How many datagrams there are.
    pub count: u64,
}

/// Reads what a connected socket has received, about [`BATCH`] bytes at most. Also returns the error, if the socket has one.
pub fn receive(socket: &UdpSocket) -> (Batch, Option<io::Error>) {
    let mut capsules = BytesMut::with_capacity(BATCH + HEAD + LONGEST_PAYLOAD);
    let (mut payload, mut count, mut end) = (0, 0, None);
    while capsules.len() < BATCH {
        let start = capsules.len();
        capsules.put_bytes(0, HEAD);
        match socket.try_recv_buf(&mut (&mut capsules).limit(LONGEST_PAYLOAD)) {
            Ok(length) => {
                capsules[start..start + HEAD].copy_from_slice(&capsule::head(length));
                payload += length;
                count += 1;
            }
            Err(error) => {
                capsules.truncate(start);
                end = (error.kind() != io::ErrorKind::WouldBlock).then_some(error);
                break;
            }
        }
    }
    // A copy, because most of the buffer would be held for nothing until the batch was sent.
    (Batch { capsules: Bytes::copy_from_slice(&capsules), payload, count }, end)
}

/// Waits until a connected socket has received something.
///
/// # Errors
/// An error that ICMP reported, once. [`is_unreachable`] says whether it ends the flow.
pub async fn readable(socket: &UdpSocket) -> io::Result<()> {
    let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
    if ready.is_error() {
        // This clears tokio's readiness; otherwise the socket would be ready forever.
        let _ = socket.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        return socket.take_error()?.map_or(Ok(()), Err);
    }
    Ok(())
}

/// The traffic between an app and one destination so far.
#[derive(Debug)]
pub struct Usage {
    since: Instant,
    /// When a datagram last passed, in microseconds since `since`.
    last: AtomicU64,
    traffic: Traffic,
}

impl Usage {
    /// Usage without traffic, which is also counted in `whole`.
    pub fn of(whole: &Arc<Traffic>) -> Self {
        Self { since: Instant::now(), last: AtomicU64::default(), traffic: Traffic::of(whole) }
    }

    /// Counts bytes that were sent to the destination.
    pub fn sent(&self, count: usize) {
        self.traffic.add_sent(count as u64);
        self.touch();
    }

    /// Counts bytes that were received from the destination.
    pub fn received(&self, count: usize) {
        self.traffic.add_received(count as u64);
        self.touch();
    }

    /// Notes that the destination is in use.
    pub fn touch(&self) {
        let now = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last.store(now, Relaxed);
    }

    /// When the destination was last in use.
    pub fn last(&self) -> Instant {
        self.since + Duration::from_micros(self.last.load(Relaxed))
    }

    /// The bytes so far.
    pub fn moved(&self) -> Moved {
        Moved { sent: self.traffic.sent(), received: self.traffic.received() }
    }

    /// Waits until the destination was not used for `limit`.
    pub async fn idle(&self, limit: Duration) {
        loop {
            let due = self.last() + limit;
            if Instant::now() >= due {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// Whether a socket's error means that its peer cannot be reached, not just that one datagram was lost.
pub fn is_unreachable(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_destination_is_idle_after_the_limit_of_its_port() {
        let limit = |target: &str| idle_limit(&target.parse().unwrap());
        assert_eq!((limit("h:53"), limit("h:54")), (IDLE_DNS, IDLE));
        let usage = Usage::of(&Arc::default());
        let begun = Instant::now();
        let used = async {
            tokio::time::sleep(IDLE_DNS / 2).await;
            usage.touch();
        };
        tokio::join!(usage.idle(IDLE_DNS), used);
        assert_eq!(begun.elapsed(), IDLE_DNS * 3 / 2);
    }
}
