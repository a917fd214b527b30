//! Small requests, one after the other on each of several threads of conversation, for a while.

use super::dial::{Dialect, PATIENCE, Way};
use super::{block_on, verb};
use crate::network::Namespace;
use crate::statistics::percentile;
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// What one request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Open a tunnel, send a byte, get it back, close.
    NewTunnel,
    /// A GET on a tunnel that stays open.
    KeptTunnel,
    /// A GET to the proxy itself, on a connection that stays open.
    PlainHttp,
}

/// How the requests went.
pub(crate) struct Went {
    pub(crate) per_second: f64,
    /// Milliseconds.
    pub(crate) p50: f64,
    /// Milliseconds.
    pub(crate) p99: f64,
}

/// Makes requests for so long, so many at a time.
///
/// # Errors
/// When a single one fails.
pub(crate) fn requests(
    client: &Namespace,
    way: Way,
    kind: Request,
    concurrency: usize,
    window: Duration,
) -> Result<Went> {
    client.inside(|| {
        block_on(async {
            let start = Instant::now();
            let end = start + window;
            let mut conversations = JoinSet::new();
            for _ in 0..concurrency {
                conversations.spawn(async move {
                    match kind {
                        Request::NewTunnel => open_and_close(way, end).await,
                        Request::KeptTunnel => {
                            let get = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", way.server);
                            keep(way.open().await?, &get, end).await
                        }
                        Request::PlainHttp => {
                            let server = way.server;
                            let get = format!("GET http://{server}/ HTTP/1.1\r\nHost: {server}\r\n\r\n");
                            keep(Way { dialect: Dialect::Raw, ..way }.open().await?, &get, end).await
                        }
                    }
                });
            }
            let mut times = Vec::new();
            while let Some(conversation) = conversations.join_next().await {
                times.append(&mut conversation??);
            }
            times.sort_by(f64::total_cmp);
            #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
            let per_second = times.len() as f64 / start.elapsed().as_secs_f64();
            let at = |percent| percentile(&times, percent).context("no request was done in time");
            Ok(Went { per_second, p50: at(50)?, p99: at(99)? })
        })
    })
}

async fn open_and_close(way: Way, end: Instant) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    while Instant::now() < end {
        let start = Instant::now();
        let mut stream = way.open_for(&[verb::ECHO, b'x']).await?;
        let mut byte = [0];
        timeout(PATIENCE, stream.read_exact(&mut byte)).await.context("no echo in time")??;
        ensure!(byte == *b"x", "a wrong byte came back");
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(times)
}

async fn keep(mut stream: TcpStream, request: &str, end: Instant) -> Result<Vec<f64>> {
    let mut times = Vec::new();
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
    Ok(times)
}
