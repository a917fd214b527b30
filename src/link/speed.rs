//! How fast a link is: bytes that one end makes and the other throws away. A GET is answered with bytes until the client
//! has enough of them; what comes with a POST is counted, and its end answered with the count.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::client::{Link, refusal};
use super::http2;
use super::server::Incoming;
use super::stream::{Inbox, Outbox, Tunnel};
use crate::failure::{Failure, Kind, Side};
use crate::pace::Pace;

/// What the request is for; the path is what counts.
const URI: &str = "https://gateway.laneway/laneway/speed";
/// The path of the request.
pub(super) const PATH: &str = "/laneway/speed";

/// The longest measurement of one direction.
pub const LONGEST: Duration = Duration::from_secs(60);
/// How long the gateway takes part in one: what is under way at the end has to arrive.
const TAKES_PART: Duration = Duration::from_secs(75);
/// How many bytes it makes, or takes, for one: what the fastest links move in that time.
const MOST: u64 = 1 << 38;
/// How long the client waits for an answer, for the first bytes, and for the count.
const PATIENCE: Duration = Duration::from_secs(15);
/// The longest count that is read, in digits.
const LONGEST_COUNT: usize = 20;

/// One piece: as much as one frame carries. TLS makes it incompressible.
static PIECE: [u8; 128 * 1024] = [0; 128 * 1024];

/// Which way the bytes go, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the gateway.
    Down,
    /// To the gateway.
    Up,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Bytes that arrived at the other end.
    pub bytes: u64,
    /// In this time.
    pub took: Duration,
}

impl Measured {
    /// Bytes a second.
    pub fn rate(&self) -> f64 {
        // Exact up to 2^53 bytes.
        self.bytes as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// Moves bytes for so long, at most [`LONGEST`]; `passed` is told each time how many there are so far.
///
/// # Errors
/// [`Side::Link`] when the link failed or no byte moved; [`Kind::Unsupported`] from a gateway that is too old to take part;
/// else what the gateway says.
pub async fn measure(
    link: &Link,
    direction: Direction,
    time: Duration,
    passed: impl FnMut(u64),
) -> Result<Measured, Failure> {
    let time = time.min(LONGEST);
    let silent = || {
        let sentence = format!("the gateway {} does not take part in a measurement", link.address);
        Failure::new(Kind::ConnectTimeout, Side::Link, sentence)
    };
    let begun = async {
        match direction {
            Direction::Down => Ok((link.ask_bare(request(Method::GET)).await?.await?, None)),
            Direction::Up => {
                let (response, send) = link.ask(request(Method::POST)).await?;
                Ok((response.await?, Some(Outbox::new(send, link.pulse.clone()))))
            }
        }
    };
    let begun = timeout(PATIENCE, begun).await.map_err(|_late| silent())?;
    let (response, outbox) = begun.map_err(|error: http2::Error| link.lost(&error))?;
    if response.status() != StatusCode::OK {
        return Err(refusal(&response, link.address));
    }
    let mut inbox = Inbox::new(response.into_body(), link.pulse.tunnel());
    let measured = match outbox {
        None => down(&mut inbox, time, passed).await,
        Some(mut outbox) => up(&mut outbox, &mut inbox, time, passed).await,
    };
    measured.map_err(|error| link.lost(&error))?.filter(|measured| measured.bytes > 0).ok_or_else(silent)
}

fn request(method: Method) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = http::Uri::from_static(URI);
    request
}

/// From the first byte on: the way there and back is no part of the rate.
async fn down(
    inbox: &mut Inbox,
    time: Duration,
    mut passed: impl FnMut(u64),
) -> Result<Option<Measured>, http2::Error> {
    let Ok(first) = timeout(PATIENCE, inbox.next()).await else { return Ok(None) };
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

/// Until the gateway has said how much arrived.
async fn up(
    outbox: &mut Outbox,
    inbox: &mut Inbox,
    time: Duration,
    mut passed: impl FnMut(u64),
) -> Result<Option<Measured>, http2::Error> {
    let start = Instant::now();
    let mut sent = 0;
    while let Ok(done) = timeout_at(start + time, outbox.send(Bytes::from_static(&PIECE))).await {
        done?;
        sent += PIECE.len() as u64;
        passed(sent);
    }
    outbox.finish()?;
    let Ok(count) = timeout(PATIENCE, count(inbox)).await else { return Ok(None) };
    Ok(count?.map(|bytes| Measured { bytes, took: start.elapsed() }))
}

/// The count that the gateway answers with.
async fn count(inbox: &mut Inbox) -> Result<Option<u64>, http2::Error> {
    let mut text = BytesMut::new();
    while let Some(piece) = inbox.next().await? {
        if text.len() + piece.len() > LONGEST_COUNT {
            return Ok(None);
        }
        text.extend_from_slice(&piece);
    }
    Ok(std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()))
}

/// The gateway's part in one measurement, at the client's pace. It ends with the client's interest, or when it has
/// taken too long or moved too much: then the stream is reset.
pub async fn take_part(incoming: Incoming, direction: Direction, pace: &Pace) {
    // A client that has gone is nobody to tell.
    let Ok(tunnel) = incoming.accept() else { return };
    let part = async {
        match direction {
            Direction::Down => make(tunnel, pace).await,
            Direction::Up => swallow(tunnel, pace).await,
        }
    };
    match timeout(TAKES_PART, part).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a measurement has ended"),
        Err(_) => tracing::debug!("a measurement took too long"),
    }
}

async fn make(Tunnel { mut outbox, inbox }: Tunnel, pace: &Pace) -> Result<(), http2::Error> {
    let making = async {
        let mut made = 0;
        while made < MOST {
            outbox.send(Bytes::from_static(&PIECE)).await?;
            made += PIECE.len() as u64;
            keep(pace, PIECE.len()).await;
        }
        outbox.finish()
    };
    let condemned = poll_fn(|cx| if inbox.poll_condemned(cx) { Poll::Ready(()) } else { Poll::Pending });
    tokio::select! {
        made = making => made,
        () = condemned => Err(http2::Reason::ENHANCE_YOUR_CALM.into()),
    }
}

async fn swallow(Tunnel { mut outbox, mut inbox }: Tunnel, pace: &Pace) -> Result<(), http2::Error> {
    let mut swallowed = 0;
    while let Some(piece) = inbox.next().await? {
        swallowed += piece.len() as u64;
        if swallowed > MOST {
            return Ok(());
        }
        keep(pace, piece.len()).await;
    }
    outbox.send(Bytes::from(swallowed.to_string())).await?;
    outbox.finish()
}

async fn keep(pace: &Pace, count: usize) {
    if let Some(until) = pace.passed(count) {
        sleep_until(until).await;
    }
}
