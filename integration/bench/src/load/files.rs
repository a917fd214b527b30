//! Downloads of whole files, one after the other on one connection.

use super::dial::PATIENCE;
use super::{CHUNK, block_on};
use crate::network::Namespace;
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What was downloaded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Downloaded {
    /// Files a second.
    pub(crate) per_second: f64,
    /// GB (10^9 bytes) a second.
    pub(crate) rate: f64,
}

/// Downloads what `uri` names, which is asked for the number of each file, from `at` for the given time, and at least once.
pub(crate) fn download(
    client: &Namespace,
    at: SocketAddr,
    uri: impl Fn(usize) -> String + Send + Sync,
    window: Duration,
) -> Result<Downloaded> {
    client.inside(|| {
        block_on(async {
            let mut stream = TcpStream::connect(at).await?;
            stream.set_nodelay(true)?;
            let (start, mut files, mut bytes) = (Instant::now(), 0, 0);
            let mut buffer = vec![0; CHUNK];
            while files == 0 || start.elapsed() < window {
                let request =
                    format!("GET {} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\r\n", uri(files), super::FILES);
                stream.write_all(request.as_bytes()).await?;
                bytes += timeout(PATIENCE, body(&mut stream, &mut buffer)).await.context("too slow")??;
                files += 1;
            }
            let took = start.elapsed().as_secs_f64();
            #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
            Ok(Downloaded { per_second: files as f64 / took, rate: bytes as f64 / 1e9 / took })
        })
    })
}

/// Reads a response to its end; gives the length of its body.
async fn body(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<u64> {
    let mut head = Vec::with_capacity(16 * 1024);
    let end = loop {
        ensure!(stream.read_buf(&mut head).await? > 0, "cut off after \"{}\"", head.escape_ascii());
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
    ensure!(text.starts_with("http/1.1 200 "), "answered \"{text}\"");
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: u64 = length.context("no length")?.parse()?;
    let mut left = length.saturating_sub((head.len() - end) as u64);
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let count = stream.read(&mut buffer[..most]).await?;
        ensure!(count > 0, "a file was cut off");
        left -= count as u64;
    }
    Ok(length)
}
