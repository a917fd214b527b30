//! The speed of a link, measured with bytes that one end generates and the other discards. A GET is answered with bytes
//! until the client stops reading; the body of a POST is counted, and its end is answered with the count.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::client::Link;
use super::incoming::Incoming;
pub use super::request::Direction;
use super::request::{SPEED_PATH, uri};
use super::tunnel::{Inbox, Outbox, Tunnel};
use laneway_h2 as http2;
use laneway_limits::pace::Pace;
use laneway_wire::failure::{Failure, Kind, Side};

/// How long one direction is measured at most.
pub const MAX_TIME: Duration = Duration::from_secs(60);
/// How long the gateway serves one measurement: what is in flight at its end still has to arrive.
const SERVE_TIMEOUT: Duration = Duration::from_secs(75);
/// How many bytes the gateway generates or discards for one measurement: what the fastest links move in that time.
const MAX_BYTES: u64 = 1 << 38;
/// How long the client waits for the response, for the first bytes, and for the count, each.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The longest count that is read, in digits.
const MAX_DIGITS: usize = 20;

/// The bytes that are sent, a block at a time. TLS makes them incompressible.
static BLOCK: [u8; 128 * 1024] = [0; 128 * 1024];

/// The result of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Bytes that arrived at the other end.
    pub bytes: u64,
    /// How long they took.
    pub took: Duration,
}

impl Measured {
    /// Bytes per second.
    pub fn rate(&self) -> f64 {
        // Exact up to 2^53 bytes.
        self.bytes as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// Moves bytes for `time`, at most [`MAX_TIME`]. Calls `passed` with how many there are so far.
///
/// # Errors
/// [`Side::Link`] when the link failed or no byte moved; [`Kind::Unsupported`] from a gateway that is too old for it;
/// otherwise what the gateway answers.
pub async fn measure(
    link: &Link,
    direction: Direction,
    time: Duration,
    passed: impl FnMut(u64),
) -> Result<Measured, Failure> {
    let time = time.min(MAX_TIME);
    let silent = || {
        let sentence = format!("{} does not answer the measurement", link.called());
        Failure::new(Kind::ConnectTimeout, Side::Link, sentence)
    };
    let begun = async {
        match direction {
            Direction::Down => Ok((link.send_without_body(request(Method::GET)).await?.await?, None)),
            Direction::Up => {
                let (response, send) = link.send(request(Method::POST)).await?;
                Ok((response.await?, Some(Outbox::new(send, link.state.clone()))))
            }
        }
    };
    let begun = timeout(TIMEOUT, begun).await.map_err(|_late| silent())?;
    let (response, outbox) = begun.map_err(|error: http2::Error| link.lost(&error))?;
    if response.status() != StatusCode::OK {
        return Err(link.refusal(&response));
    }
    let mut inbox = Inbox::new(response.into_body(), link.state.tunnel());
    let measured = match outbox {
        None => down(&mut inbox, time, passed).await,
        Some(mut outbox) => up(&mut outbox, &mut inbox, time, passed).await,
    };
    measured.map_err(|error| link.lost(&error))?.filter(|measured| measured.bytes > 0).ok_or_else(silent)
}

fn request(method: Method) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri(SPEED_PATH);
    request
}

/// Measures from the first byte on, so that the round trip of the request does not count.
async fn down(
    inbox: &mut Inbox,
    time: Duration,
    mut passed: impl FnMut(u64),
) -> Result<Option<Measured>, http2::Error> {
    let Ok(first) = timeout(TIMEOUT, inbox.next()).await else { return Ok(None) };
    if first?.is_none() {
        return Ok(None);
    }
    let start = Instant::now();
    let (mut bytes, mut last) = (0, start);
    while let Ok(next) = timeout_at(start + time, inbox.next()).await {
        let Some(piece) = next? else { break };
        bytes += piece.len() as u64;
        last = Instant::now();
        passed(bytes);
    }
    Ok(Some(Measured { bytes, took: last - start }))
}

/// Measures until the gateway has answered how much arrived.
async fn up(
    outbox: &mut Outbox,
    inbox: &mut Inbox,
    time: Duration,
    mut passed: impl FnMut(u64),
) -> Result<Option<Measured>, http2::Error> {
    let start = Instant::now();
    let mut sent = 0;
    while let Ok(done) = timeout_at(start + time, outbox.send(Bytes::from_static(&BLOCK))).await {
        done?;
        sent += BLOCK.len() as u64;
        passed(sent);
    }
    outbox.finish()?;
    let Ok(count) = timeout(TIMEOUT, count(inbox)).await else { return Ok(None) };
    Ok(count?.map(|bytes| Measured { bytes, took: start.elapsed() }))
}

/// Reads the count that the gateway answers with; `None` when it is none.
async fn count(inbox: &mut Inbox) -> Result<Option<u64>, http2::Error> {
    let mut text = BytesMut::new();
    while let Some(piece) = inbox.next().await? {
        if text.len() + piece.len() > MAX_DIGITS {
            return Ok(None);
        }
        text.extend_from_slice(&piece);
    }
    Ok(std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()))
}

/// Serves one measurement at the gateway, within the client's pace. It ends when the client does, or with a reset when it
/// takes too long or moves too much.
pub async fn serve(incoming: Incoming, direction: Direction, pace: &Pace) {
    // The client has given up meanwhile.
    let Ok(tunnel) = incoming.accept() else { return };
    let served = async {
        match direction {
            Direction::Down => generate(tunnel, pace).await,
            Direction::Up => discard(tunnel, pace).await,
        }
    };
    match timeout(SERVE_TIMEOUT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a measurement ended early"),
        Err(_) => tracing::debug!("a measurement took too long"),
    }
}

async fn generate(Tunnel { mut outbox, inbox }: Tunnel, pace: &Pace) -> Result<(), http2::Error> {
    let generating = async {
        let mut generated = 0;
        while generated < MAX_BYTES {
            outbox.send(Bytes::from_static(&BLOCK)).await?;
            generated += BLOCK.len() as u64;
            pace_by(pace, BLOCK.len()).await;
        }
        outbox.finish()
    };
    let evicted = poll_fn(|cx| if inbox.poll_evicted(cx) { Poll::Ready(()) } else { Poll::Pending });
    tokio::select! {
        ended = generating => ended,
        () = evicted => Err(http2::Reason::ENHANCE_YOUR_CALM.into()),
    }
}

async fn discard(Tunnel { mut outbox, mut inbox }: Tunnel, pace: &Pace) -> Result<(), http2::Error> {
    let mut discarded = 0;
    while let Some(piece) = inbox.next().await? {
        discarded += piece.len() as u64;
        if discarded > MAX_BYTES {
            return Ok(());
        }
        pace_by(pace, piece.len()).await;
    }
    outbox.send(Bytes::from(discarded.to_string())).await?;
    outbox.finish()
}

/// Waits until the pace allows more.
async fn pace_by(pace: &Pace, count: usize) {
    if let Some(until) = pace.passed(count) {
        sleep_until(until).await;
    }
}
