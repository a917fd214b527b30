//! A small web server: what the demo and the tests download from.
//!
//! `GET /file` gives pseudo-random bytes that depend on the seed alone; with a directory, its files are served
//! instead. One open byte range is honoured.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, ETAG, RANGE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::error::Error;

/// The generated file is made of blocks of this size, each a function of the seed and its number.
const BLOCK: usize = 64 * 1024;

/// Maximum number of connections that wait to be accepted.
const BACKLOG: u32 = 4096;
/// How long the origin waits before it accepts again after it ran out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a client may take to send a request head, idle time included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// The web server.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What `/file` is.
    pub file: Generated,
    /// Its files are served, and no generated one.
    pub directory: Option<PathBuf>,
}

/// A pseudo-random file that is generated while it is read.
#[derive(Clone, Copy, Debug)]
pub struct Generated {
    /// Its size in bytes.
    pub size: u64,
    /// The seed of its pseudo-random bytes.
    pub seed: u64,
}

impl Generated {
    /// Block `number`: SplitMix64 from the seed and the number, so that any range can be made by itself.
    fn block(self, number: u64) -> Bytes {
        let mut state = self.seed ^ number.wrapping_mul(0xD1B5_4A32_D192_ED03);
        let mut bytes = Vec::with_capacity(BLOCK);
        while bytes.len() < BLOCK {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
        }
        bytes.into()
    }

    /// The bytes from `start`, block by block.
    fn from(self, start: u64) -> impl Iterator<Item = Bytes> {
        let size = self.size;
        let mut at = start;
        std::iter::from_fn(move || {
            let left = size.checked_sub(at).filter(|left| *left > 0)?;
            let mut block = self.block(at / BLOCK as u64);
            let skip = usize::try_from(at % BLOCK as u64).ok()?;
            block = block.slice(skip..);
            if let Ok(left) = usize::try_from(left) {
                block.truncate(left);
            }
            at += block.len() as u64;
            Some(block)
        })
    }

    /// The SHA-256 of the whole file, in hexadecimal.
    pub fn sha256(self) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        self.from(0).for_each(|block| context.update(&block));
        context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Origin {
    /// Serves until the future is dropped.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn run(self) -> Result<Infallible, Error> {
        let failed = |error| Error::new(format!("cannot listen on {}", self.listen)).because(error);
        let listener = self.bind().map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        tracing::info!(%address, "listening: origin, HTTP");
        loop {
            match listener.accept().await {
                Ok((socket, _)) => drop(tokio::spawn(self.clone().serve(socket))),
                Err(error) => {
                    tracing::debug!(%error, "accept pauses");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn bind(&self) -> io::Result<TcpListener> {
        let socket = if self.listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.set_nodelay(true)?;
        socket.bind(self.listen)?;
        socket.listen(BACKLOG)
    }

    async fn serve(self, socket: TcpStream) {
        let service = service_fn(|request: Request<Incoming>| {
            std::future::ready(Ok::<_, Infallible>(match self.directory.as_deref() {
                Some(directory) => stored(read(directory, request.uri().path()), &request),
                None => answer(self.file, &request),
            }))
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(socket), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// A file of the directory, whole; never one from elsewhere.
fn read(directory: &Path, path: &str) -> Option<Bytes> {
    let inside = Path::new(path.trim_start_matches('/'));
    let plain = inside.components().all(|part| matches!(part, Component::Normal(_)));
    std::fs::read(directory.join(inside)).ok().filter(|_| plain).map(Bytes::from)
}

fn stored(found: Option<Bytes>, request: &Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(Empty::new().boxed());
    let Some(content) = found else {
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    };
    let size = content.len() as u64;
    let start = part(&mut response, request.headers(), size);
    if request.method() == Method::GET {
        let rest = content.slice(usize::try_from(start).unwrap_or(content.len())..);
        *response.body_mut() = Full::from(rest).boxed();
    }
    response
}

fn answer(file: Generated, request: &Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
    let empty = || Empty::new().boxed();
    let mut response = Response::new(empty());
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/file") => {}
        (&Method::GET, "/") => {
            *response.body_mut() = Full::from("the server of the laneway demo\n").boxed();
            return response;
        }
        _ => {
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        }
    }
    let etag = HeaderValue::from_str(&format!("\"{:x}-{:x}\"", file.seed, file.size));
    response.headers_mut().extend(etag.ok().map(|etag| (ETAG, etag)));
    let start = part(&mut response, request.headers(), file.size);
    if request.method() == Method::GET {
        let blocks = futures_util::stream::iter(file.from(start).map(|block| Ok(Frame::data(block))));
        *response.body_mut() = BodyExt::boxed(StreamBody::new(blocks));
    }
    response
}

/// Says which part of a content of this size follows; gives where it starts.
fn part(response: &mut Response<BoxBody<Bytes, Infallible>>, asked: &HeaderMap, size: u64) -> u64 {
    let start = range_start(asked).filter(|start| *start < size);
    let headers = response.headers_mut();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size - start.unwrap_or(0)));
    if let Some(start) = start {
        let range = HeaderValue::from_str(&format!("bytes {start}-{}/{size}", size - 1));
        headers.extend(range.ok().map(|range| (CONTENT_RANGE, range)));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    start.unwrap_or(0)
}

/// The start of `Range: bytes=START-`; other ranges are ignored, as RFC 9110 §14.2 allows.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    headers.get(RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_part_of_the_whole() {
        let file = Generated { size: 200_001, seed: 7 };
        let whole: Vec<u8> = file.from(0).flatten().collect();
        assert_eq!(whole.len(), 200_001);
        for start in [0, 1, 65_535, 65_536, 65_537, 200_000] {
            let part: Vec<u8> = file.from(start).flatten().collect();
            assert_eq!(part, whole[usize::try_from(start).unwrap()..]);
        }
        assert_ne!(file.sha256(), Generated { seed: 8, ..file }.sha256());
    }
}
