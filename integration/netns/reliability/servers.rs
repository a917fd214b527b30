//! What the apps talk to on s1: thousands of connections in one thread.

use super::apps::runtime;
use crate::lab::Lab;
use crate::lab::origin::noise;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Sends back what it is sent.
pub(super) const ECHO: u16 = 8101;
/// Sends for as long as somebody takes it.
pub(super) const ENDLESS: u16 = 8102;
/// Sends [`CONTENT_SIZE`] bytes, the same each time, and closes.
pub(super) const CONTENT: u16 = 8103;
/// Sends one byte at a time, 30,000 of them, and waits.
pub(super) const TRICKLE: u16 = 8104;
/// Sends 64 KiB and waits.
pub(super) const PILE: u16 = 8105;

pub(super) const CONTENT_SIZE: usize = 1 << 20;
pub(super) const TRICKLED: usize = 30_000;

/// The servers; dropping them closes everything.
pub(super) struct Servers {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Servers {
    /// Starts them. They accept connections when this returns.
    pub(super) fn start(lab: &Lab) -> Servers {
        let listeners = [ECHO, ENDLESS, CONTENT, TRICKLE, PILE].map(|port| {
            let address = SocketAddr::from((lab.server.address(), port));
            let listener = lab.server.inside(|| TcpListener::bind(address)).unwrap();
            listener.set_nonblocking(true).unwrap();
            (port, listener)
        });
        let (stop, stopped) = oneshot::channel();
        let thread = lab.server.thread(move || {
            runtime().block_on(async {
                let content: Arc<[u8]> = noise(9, CONTENT_SIZE).into();
                for (port, listener) in listeners {
                    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                    let content = content.clone();
                    tokio::spawn(accept(listener, move |stream| serve(port, stream, content.clone())));
                }
                let _ = stopped.await;
            });
        });
        Servers { stop: Some(stop), thread: Some(thread) }
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
        // Out of descriptors: the apps see that there are none.
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream))),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn serve(port: u16, mut stream: TcpStream, content: Arc<[u8]>) -> io::Result<()> {
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
            for byte in &content[..TRICKLED] {
                stream.write_all(&[*byte]).await?;
                tokio::task::yield_now().await;
            }
        }
        _ => stream.write_all(&content[..64 * 1024]).await?,
    }
    // Until the peer is gone.
    let mut rest = [0; 64];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
