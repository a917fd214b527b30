//! The servers of the apps on s1: thousands of connections in one thread.

use super::apps::runtime;
use crate::lab::Lab;
use crate::lab::origin::noise;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Sends back what it receives.
pub(super) const ECHO: u16 = 8101;
/// Sends until the peer closes.
pub(super) const ENDLESS: u16 = 8102;
/// Sends the same [`CONTENT_SIZE`] bytes each time, and closes.
pub(super) const CONTENT: u16 = 8103;
/// Reads a big-endian 32-bit number, sends that many bytes at one per millisecond, then waits.
pub(super) const TRICKLE: u16 = 8104;
/// Sends 64 KiB and waits.
pub(super) const PILE: u16 = 8105;

/// Answers each request of the form `POST /NUMBER` with `done NUMBER`, and records it.
pub(super) const LEDGER: u16 = 8106;

pub(super) const CONTENT_SIZE: usize = 1 << 20;

/// The number of times that each numbered request was done.
type Ledger = Arc<Mutex<HashMap<usize, usize>>>;

/// The servers; dropping them closes everything.
pub(super) struct Servers {
    ledger: Ledger,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Servers {
    /// Starts the servers. They accept connections when this returns.
    pub(super) fn start(lab: &Lab) -> Servers {
        let listeners = [ECHO, ENDLESS, CONTENT, TRICKLE, PILE, LEDGER].map(|port| {
            let address = SocketAddr::from((lab.server.address(), port));
            let listener = lab.server.inside(|| TcpListener::bind(address)).unwrap();
            listener.set_nonblocking(true).unwrap();
            (port, listener)
        });
        let (stop, stopped) = oneshot::channel();
        let ledger = Ledger::default();
        let book = ledger.clone();
        let thread = lab.server.thread(move || {
            runtime().block_on(async {
                let content: Arc<[u8]> = noise(9, CONTENT_SIZE).into();
                for (port, listener) in listeners {
                    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                    let (content, book) = (content.clone(), book.clone());
                    let serve = move |stream| serve(port, stream, content.clone(), book.clone());
                    tokio::spawn(accept(listener, serve));
                }
                let _ = stopped.await;
            });
        });
        Servers { ledger, stop: Some(stop), thread: Some(thread) }
    }

    /// The requests that [`LEDGER`] has done so far, each with its count.
    pub(super) fn ledger(&self) -> HashMap<usize, usize> {
        self.ledger.lock().unwrap().clone()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().expect("only taken here").join();
    }
}

async fn accept<F>(listener: tokio::net::TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    loop {
        // Out of descriptors, which the apps notice.
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream))),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn serve(port: u16, mut stream: TcpStream, content: Arc<[u8]>, ledger: Ledger) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match port {
        ECHO => {
            // No buffer while there is nothing to send back.
            loop {
                stream.readable().await?;
                let mut buffer = [0; 2048];
                match stream.try_read(&mut buffer) {
                    Ok(0) => return stream.shutdown().await,
                    Ok(length) => stream.write_all(&buffer[..length]).await?,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
        ENDLESS => loop {
            stream.write_all(&content[..16 * 1024]).await?;
        },
        CONTENT => {
            stream.write_all(&content).await?;
            stream.shutdown().await?;
        }
        TRICKLE => {
            let count = stream.read_u32().await?;
            let mut pace = tokio::time::interval(Duration::from_millis(1));
            for _ in 0..count {
                pace.tick().await;
                stream.write_all(b".").await?;
            }
        }
        LEDGER => {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            let number =
                std::str::from_utf8(&head).ok().and_then(|head| head.split([' ', '/']).nth(2)?.parse().ok());
            let number = number.ok_or(io::ErrorKind::InvalidData)?;
            *ledger.lock().unwrap().entry(number).or_default() += 1;
            let body = format!("done {number}");
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).await?;
            stream.shutdown().await?;
        }
        _ => stream.write_all(&content[..64 * 1024]).await?,
    }
    // Until the peer is gone.
    let mut rest = [0; 64];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
