//! The server: one thread, one port; the first byte of a connection says what to do.

use super::{CHUNK, block_on, pattern, verb};
use crate::network::Namespace;
use crate::relay::listen_on;
use anyhow::{Context, Result};
use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest request head.
const HEAD: usize = 4096;
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

thread_local! {
    /// The buffer of all bulk reads of a thread, which stays in the processor's cache.
    static DISCARD: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

/// A running server, until the bench ends.
pub(crate) struct Server(Arc<Counters>);

/// What it has done so far.
#[derive(Default)]
struct Counters {
    /// Bytes of uploads.
    received: AtomicU64,
    /// Bytes of downloads.
    sent: AtomicU64,
    /// Connections that are open now.
    open: AtomicU64,
}

impl Server {
    /// Starts the server.
    pub(crate) fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let counters = Arc::new(Counters::default());
        let (ready, is_ready) = mpsc::channel();
        let served = counters.clone();
        namespace.spawn(move || {
            block_on(async {
                let listener = listen_on(address);
                let failed = listener.as_ref().err().map(ToString::to_string);
                let _ = ready.send(failed);
                let listener = listener?;
                loop {
                    let Ok((stream, _)) = listener.accept().await else {
                        // Out of descriptors: the next connection that closes frees one.
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    };
                    let counters = served.clone();
                    tokio::spawn(async move {
                        counters.open.fetch_add(1, Ordering::Relaxed);
                        // At the end of a window the client aborts.
                        let _ = serve(stream, &counters).await;
                        counters.open.fetch_sub(1, Ordering::Relaxed);
                    });
                }
                #[allow(unreachable_code, reason = "it says which Result the block is")]
                Ok(())
            })
        });
        match is_ready.recv().context("the server's thread ended")? {
            None => Ok(Self(counters)),
            Some(why) => anyhow::bail!("the server cannot listen on {address}: {why}"),
        }
    }

    /// Bytes of uploads so far.
    pub(crate) fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    /// Bytes of downloads that have been sent so far, which is more than has arrived.
    pub(crate) fn sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// A number that changes whenever bytes move or connections open or close.
    pub(crate) fn activity(&self) -> [u64; 3] {
        [&self.0.received, &self.0.sent, &self.0.open].map(|counter| counter.load(Ordering::Relaxed))
    }
}

async fn serve(mut stream: TcpStream, counters: &Counters) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0; 256];
    loop {
        let length = stream.read(&mut first).await?;
        let (&kind, rest) = first[..length].split_first().ok_or(ErrorKind::UnexpectedEof)?;
        match kind {
            verb::ECHO => return echo(stream, rest).await,
            verb::DOWNLOAD => return send(&stream, &counters.sent).await,
            verb::UPLOAD => return discard(&stream, &counters.received).await,
            verb::GET => return answer_requests(stream, rest).await,
            verb::CHECKED_DOWNLOAD => return send_checked(stream, rest).await,
            verb::CHECKED_UPLOAD => return receive_checked(stream, rest).await,
            verb::CONNECT => {
                let mut head = rest.to_vec();
                while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD {
                    if stream.read_buf(&mut head).await? == 0 {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            }
            _ => return Err(ErrorKind::InvalidData.into()),
        }
    }
}

async fn echo(mut stream: TcpStream, rest: &[u8]) -> io::Result<()> {
    stream.write_all(rest).await?;
    let mut bytes = [0; 256];
    loop {
        match stream.read(&mut bytes).await? {
            0 => return Ok(()),
            length => stream.write_all(&bytes[..length]).await?,
        }
    }
}

/// Sends until it fails, and counts.
pub(super) async fn send(stream: &TcpStream, sent: &AtomicU64) -> io::Result<()> {
    loop {
        stream.writable().await?;
        match stream.try_write(pattern::from(0)) {
            Ok(length) => sent.fetch_add(length as u64, Ordering::Relaxed),
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
    }
}

/// Reads until the end, and counts.
pub(super) async fn discard(stream: &TcpStream, received: &AtomicU64) -> io::Result<()> {
    loop {
        stream.readable().await?;
        match DISCARD.with_borrow_mut(|buffer| stream.try_read(buffer)) {
            Ok(0) => return Ok(()),
            Ok(length) => received.fetch_add(length as u64, Ordering::Relaxed),
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
    }
}

/// Answers each request with two bytes, until there are no more (one at a time, no pipelining).
async fn answer_requests(mut stream: TcpStream, rest: &[u8]) -> io::Result<()> {
    let mut head = rest.to_vec();
    loop {
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > HEAD {
                return Err(ErrorKind::InvalidData.into());
            }
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        head.clear();
        stream.write_all(OK).await?;
    }
}

async fn send_checked(mut stream: TcpStream, rest: &[u8]) -> io::Result<()> {
    let mut start = rest.to_vec();
    let (length, _) = length_of(&mut stream, &mut start).await?;
    let mut sent = 0;
    while sent < length {
        let left = usize::try_from(length - sent).unwrap_or(CHUNK).min(CHUNK);
        sent += stream.write(&pattern::from(sent)[..left]).await? as u64;
    }
    stream.shutdown().await
}

async fn receive_checked(mut stream: TcpStream, rest: &[u8]) -> io::Result<()> {
    let mut start = rest.to_vec();
    let (length, already) = length_of(&mut stream, &mut start).await?;
    let (mut right, mut received) = (pattern::is(0, already), already.len() as u64);
    let mut buffer = vec![0; CHUNK];
    while received < length {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        right &= pattern::is(received, &buffer[..read]);
        received += read as u64;
    }
    stream.write_all(if right && received == length { b"+" } else { b"-" }).await?;
    stream.shutdown().await
}

/// The length at the start, and the bytes already read after it.
async fn length_of<'a>(stream: &mut TcpStream, start: &'a mut Vec<u8>) -> io::Result<(u64, &'a [u8])> {
    while start.len() < 8 {
        if stream.read_buf(start).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    let (length, already) = start.split_first_chunk().expect("at least eight");
    Ok((u64::from_le_bytes(*length), already))
}
