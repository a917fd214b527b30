//! What an app does: a download through the proxy.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use bytes::{Buf, BytesMut};
use fast_socks5::client::{Config, Socks5Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::Error;
use crate::report::{Report, Reporter};

/// How long a download may stand still before it has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The size of one read, in bytes.
const BUFFER: usize = 256 * 1024;
/// More fields than the origin sends.
const MAX_FIELDS: usize = 32;

/// How the app speaks to the proxy.
#[derive(Clone, Copy)]
pub(crate) enum Dialect {
    Http,
    Socks5,
}

/// One download.
pub(crate) struct Download<'a> {
    pub(crate) proxy: SocketAddr,
    pub(crate) server: SocketAddr,
    /// The size of the file, in bytes.
    pub(crate) size: u64,
    /// The SHA-256 of the file, in hexadecimal.
    pub(crate) sha256: &'a str,
    pub(crate) dialect: Dialect,
    pub(crate) report: Reporter<'a>,
}

/// A download that is whole and right.
pub(crate) struct Downloaded {
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
}

impl fmt::Display for Downloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes in {:.2} s", self.bytes, self.took.as_secs_f64())
    }
}

/// Where a download stops reading for something else to happen.
pub(crate) struct Pause {
    /// After how many bytes.
    pub(crate) at: u64,
    /// Is sent when they have arrived.
    pub(crate) reached: oneshot::Sender<()>,
    /// Ends the pause.
    pub(crate) over: oneshot::Receiver<()>,
}

impl Dialect {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP proxy",
            Self::Socks5 => "SOCKS5",
        }
    }
}

impl Download<'_> {
    /// Downloads the file and compares it.
    pub(crate) async fn run(&self, pause: Option<Pause>) -> Result<Downloaded, Error> {
        let start = Instant::now();
        let mut stream = self.request().await?;
        let mut buffer = BytesMut::with_capacity(BUFFER);
        self.read_head(&mut stream, &mut buffer).await?;
        (self.report)(Report::Download { name: self.dialect.name(), size: self.size });
        let received = self.read_body(&mut stream, buffer, pause).await;
        (self.report)(Report::DownloadEnd);
        let (bytes, sha256) = received?;
        if bytes != self.size {
            return Err(Error::new(format!("the download ended after {bytes} of {} bytes", self.size)));
        }
        if sha256 != self.sha256 {
            let what = format!("the download is damaged: its SHA-256 is {sha256}, not {}", self.sha256);
            return Err(Error::new(what));
        }
        Ok(Downloaded { bytes, took: start.elapsed() })
    }

    /// Reads the head of the response, and leaves what follows it in `buffer`.
    async fn read_head(&self, stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<(), Error> {
        loop {
            if read(stream, buffer).await.map_err(|error| self.failed(error))? == 0 {
                return Err(self.failed(io::ErrorKind::UnexpectedEof.into()));
            }
            let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
            let mut response = httparse::Response::new(&mut fields);
            let parsed = response.parse(buffer);
            let parsed = parsed.map_err(|error| Error::new("the response is not HTTP").because(error))?;
            let httparse::Status::Complete(length) = parsed else { continue };
            let size =
                response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
            if response.code != Some(200)
                || size.map(|size| size.value) != Some(self.size.to_string().as_bytes())
            {
                let status = response.code.unwrap_or_default();
                return Err(Error::new(format!("the response has status {status}, or another size")));
            }
            buffer.advance(length);
            return Ok(());
        }
    }

    /// Reads the file; returns how many bytes arrived and their SHA-256.
    async fn read_body(
        &self,
        stream: &mut TcpStream,
        mut buffer: BytesMut,
        mut pause: Option<Pause>,
    ) -> Result<(u64, String), Error> {
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut bytes = 0;
        loop {
            hash.update(&buffer);
            bytes += buffer.len() as u64;
            (self.report)(Report::Downloaded(bytes));
            if let Some(pause) = pause.take_if(|pause| bytes >= pause.at) {
                let _ = pause.reached.send(());
                // The sender is dropped when the work of the pause has failed, which is reported there.
                let _ = pause.over.await;
            }
            buffer.clear();
            if bytes >= self.size || read(stream, &mut buffer).await.map_err(|error| self.failed(error))? == 0
            {
                let sha256 = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                return Ok((bytes, sha256));
            }
        }
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::new(format!("the download by {} failed", self.dialect.name())).because(error)
    }

    /// Requests something small; returns how long the answer took.
    pub(crate) async fn small_request(&self) -> Result<Duration, Error> {
        let failed = |error: io::Error| Error::new("the first request after the kill failed").because(error);
        let start = Instant::now();
        let mut stream = TcpStream::connect(self.proxy).await.map_err(failed)?;
        let server = self.server;
        let request = format!("GET http://{server}/ HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut answer = BytesMut::new();
        while read(&mut stream, &mut answer).await.map_err(failed)? > 0 {}
        if !answer.starts_with(b"HTTP/1.1 200 ") {
            let line = answer[..].split(|byte| *byte == b'\r').next().unwrap_or_default();
            let line = String::from_utf8_lossy(line).into_owned();
            return Err(Error::new(format!("the first request after the kill was answered: {line}")));
        }
        Ok(start.elapsed())
    }

    /// Connects by the dialect, and requests the file.
    async fn request(&self) -> Result<TcpStream, Error> {
        let failed =
            |error: io::Error| Error::new(format!("the proxy {} cannot be used", self.proxy)).because(error);
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
                let stream = stream.await.map_err(|error| failed(io::Error::other(error.to_string())))?;
                (stream.get_socket(), "/file".to_owned())
            }
        };
        let request = format!("GET {target} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: laneway-demo\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        Ok(stream)
    }
}

async fn read(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
    buffer.reserve(BUFFER);
    match timeout(STALL_TIMEOUT, stream.read_buf(buffer)).await {
        Ok(result) => result,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
