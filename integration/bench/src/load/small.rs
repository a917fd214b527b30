//! Small requests, one after the other on each of several connections, for a while.

use super::dial::{Dialect, PATIENCE, Route};
use super::{block_on, verb};
use crate::network::Namespace;
use crate::statistics::percentile;
use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::timeout;

const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Open a tunnel, send a byte, get it back, close.
    NewTunnel,
    /// A GET on a tunnel that stays open.
    KeptTunnel,
    /// A GET to the proxy itself, on a connection that stays open.
    PlainHttp,
}

/// The results of the requests.
pub(crate) struct Went {
    /// The number of successful requests.
    pub(crate) per_second: f64,
    /// Of the successful requests, in milliseconds.
    pub(crate) p50: f64,
    /// Of the successful requests, in milliseconds.
    pub(crate) p99: f64,
    succeeded: usize,
    failed: usize,
    why: Option<Error>,
}

impl Went {
    /// Fails if a request has failed, because the figures do not include it.
    pub(crate) fn all_well(self) -> Result<()> {
        let Some(why) = self.why else { return Ok(()) };
        bail!("{} of {} requests failed, the first: {why:#}", self.failed, self.failed + self.succeeded)
    }
}

/// Makes requests for the given time, `concurrency` at a time.
///
/// # Errors
/// When not a single one succeeds.
pub(crate) fn requests(
    client: &Namespace,
    route: Route,
    kind: Request,
    concurrency: usize,
    window: Duration,
) -> Result<Went> {
    client.inside(|| {
        block_on(async {
            let start = Instant::now();
            let mut conversations = JoinSet::new();
            for _ in 0..concurrency {
                conversations.spawn(converse(route, kind, start + window));
            }
            let (mut times, mut failed, mut why) = (Vec::new(), 0, None);
            while let Some(conversation) = conversations.join_next().await {
                let mut conversation = conversation?;
                times.append(&mut conversation.times);
                failed += conversation.failed;
                why = why.or(conversation.why);
            }
            times.sort_by(f64::total_cmp);
            let Some((p50, p99)) = percentile(&times, 50).zip(percentile(&times, 99)) else {
                return Err(why.unwrap_or_else(|| anyhow!("no request was done in time")));
            };
            #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
            let per_second = times.len() as f64 / start.elapsed().as_secs_f64();
            Ok(Went { per_second, p50, p99, succeeded: times.len(), failed, why })
        })
    })
}

/// The results of the requests of one connection.
#[derive(Default)]
struct Conversation {
    /// Milliseconds.
    times: Vec<f64>,
    failed: usize,
    why: Option<Error>,
}

async fn converse(route: Route, kind: Request, end: Instant) -> Conversation {
    let mut conversation = Conversation::default();
    let server = route.server;
    while Instant::now() < end {
        let times = &mut conversation.times;
        let went = match kind {
            Request::NewTunnel => open_and_close(route, times).await,
            Request::KeptTunnel => {
                keep(route, &format!("GET / HTTP/1.1\r\nHost: {server}\r\n\r\n"), end, times).await
            }
            Request::PlainHttp => {
                let get = format!("GET http://{server}/ HTTP/1.1\r\nHost: {server}\r\n\r\n");
                keep(Route { dialect: Dialect::Raw, ..route }, &get, end, times).await
            }
        };
        if let Err(error) = went {
            conversation.failed += 1;
            conversation.why.get_or_insert(error);
            // A peer that refuses at once is not asked at full speed.
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }
    conversation
}

async fn open_and_close(route: Route, times: &mut Vec<f64>) -> Result<()> {
    let start = Instant::now();
    let mut stream = route.open_for(&[verb::ECHO, b'x']).await?;
    let mut byte = [0];
    timeout(PATIENCE, stream.read_exact(&mut byte)).await.context("no echo in time")??;
    ensure!(byte == *b"x", "a wrong byte came back");
    times.push(start.elapsed().as_secs_f64() * 1000.0);
    Ok(())
}

/// Makes one request after another on one connection until the deadline.
async fn keep(route: Route, request: &str, end: Instant, times: &mut Vec<f64>) -> Result<()> {
    let mut stream = route.open().await?;
    let mut response = Vec::with_capacity(1024);
    while Instant::now() < end {
        let start = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        response.clear();
        // Whatever a proxy adds to the head, the body is these two bytes.
        while !response.ends_with(b"\r\n\r\nok") {
            let length =
                timeout(PATIENCE, stream.read_buf(&mut response)).await.context("no response in time")??;
            ensure!(length > 0, "cut off after \"{}\"", response.escape_ascii());
            ensure!(response.len() < 8192, "not the response: \"{}\"", response[..200].escape_ascii());
        }
        ensure!(response.starts_with(b"HTTP/1.1 200 "), "answered \"{}\"", response.escape_ascii());
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(())
}
