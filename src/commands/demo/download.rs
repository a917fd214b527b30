//! What an app does: a download through the proxy, with a progress bar.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use bytes::BytesMut;
use fast_socks5::client::{Config, Socks5Stream};
use http::Method;
use indicatif::ProgressBar;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::commands::{progress, say};
use crate::problem::Problem;
use crate::wire::http::{ResponseHead, head_end};

/// A download that stands still for so long has failed.
const STALL: Duration = Duration::from_secs(30);
const BUFFER: usize = 256 * 1024;

/// How the app speaks to the proxy.
#[derive(Clone, Copy)]
pub(super) enum Dialect {
    Http,
    Socks5,
}

/// One download.
pub(super) struct Download {
    pub(super) proxy: SocketAddr,
    pub(super) server: SocketAddr,
    pub(super) size: u64,
    pub(super) dialect: Dialect,
}

/// How it went.
pub(super) struct Done {
    pub(super) bytes: u64,
    pub(super) took: Duration,
    pub(super) sha256: String,
}

impl Dialect {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP proxy",
            Self::Socks5 => "SOCKS5",
        }
    }
}

impl Download {
    /// Downloads and hashes; the bar follows. `mark` is told when so many bytes have come.
    pub(super) async fn run(&self, mut mark: Option<(u64, oneshot::Sender<()>)>) -> Result<Done, Problem> {
        let failed = |error: std::io::Error| {
            Problem::new(format!("the download by {} failed", self.dialect.name())).because(error)
        };
        let start = Instant::now();
        let mut stream = self.ask().await?;
        let mut buffer = BytesMut::with_capacity(BUFFER);
        let mut head = loop {
            if read(&mut stream, &mut buffer).await.map_err(failed)? == 0 {
                return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
            }
            if let Some(end) = head_end(&buffer, 0) {
                break buffer.split_to(end);
            }
        };
        let response = ResponseHead::parse(&head.split(), &Method::GET);
        let response = response.map_err(|error| Problem::new("the answer is not HTTP").because(error))?;
        if response.status != 200 || response.content_length != Some(self.size) {
            return Err(Problem::new(format!("the answer has status {}", response.status)));
        }
        let bar = bar(self.size, self.dialect.name());
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut bytes = 0;
        loop {
            hash.update(&buffer);
            bytes += buffer.len() as u64;
            bar.set_position(bytes);
            if let Some((_, tell)) = mark.take_if(|(at, _)| bytes >= *at) {
                let _ = tell.send(());
            }
            buffer.clear();
            if bytes >= self.size || read(&mut stream, &mut buffer).await.map_err(failed)? == 0 {
                break;
            }
        }
        bar.finish_and_clear();
        let took = start.elapsed();
        if bytes != self.size {
            return Err(Problem::new(format!("the download ended after {bytes} of {} bytes", self.size)));
        }
        let sha256 = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Done { bytes, took, sha256 })
    }

    /// Asks for something small; gives how long the answer took.
    pub(super) async fn small_request(&self) -> Result<Duration, Problem> {
        let failed = |error: std::io::Error| Problem::new("the first request after it failed").because(error);
        let start = Instant::now();
        let mut stream = TcpStream::connect(self.proxy).await.map_err(failed)?;
        let server = self.server;
        let request = format!("GET http://{server}/ HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut answer = BytesMut::new();
        while read(&mut stream, &mut answer).await.map_err(failed)? > 0 {}
        if !answer.starts_with(b"HTTP/1.1 200 ") {
            let line =
                String::from_utf8_lossy(answer[..].split(|byte| *byte == b'\r').next().unwrap_or_default())
                    .into_owned();
            return Err(Problem::new(format!("the first request after it was answered: {line}")));
        }
        Ok(start.elapsed())
    }

    async fn ask(&self) -> Result<TcpStream, Problem> {
        let failed = |error: std::io::Error| {
            Problem::new(format!("the proxy {} cannot be used", self.proxy)).because(error)
        };
        let server = self.server;
        let (mut stream, target) = match self.dialect {
            Dialect::Http => {
                let stream = TcpStream::connect(self.proxy).await.map_err(failed)?;
                (stream, format!("http://{server}/file"))
            }
            Dialect::Socks5 => {
                let stream = Socks5Stream::connect(
                    self.proxy,
                    server.ip().to_string(),
                    server.port(),
                    Config::default(),
                );
                let stream =
                    stream.await.map_err(|error| failed(std::io::Error::other(error.to_string())))?;
                (stream.get_socket(), "/file".to_owned())
            }
        };
        let request = format!("GET {target} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: laneway-demo\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        Ok(stream)
    }
}

async fn read(stream: &mut TcpStream, buffer: &mut BytesMut) -> std::io::Result<usize> {
    buffer.reserve(BUFFER);
    match timeout(STALL, stream.read_buf(buffer)).await {
        Ok(result) => result,
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

/// A bar on a terminal; elsewhere one line.
fn bar(size: u64, name: &str) -> ProgressBar {
    if !progress::is_shown() {
        say(format_args!("  {name}: downloading {size} bytes …"));
    }
    progress::bytes(name, size)
}
