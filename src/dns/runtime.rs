//! How name servers are reached: as hickory does it with tokio, but TCP connections are marked as the node's own.
//! Otherwise the rules that redirect this machine's apps to the node would redirect them, too.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::mark;

/// Connect timeout where hickory sets none.
const CONNECT: Duration = Duration::from_secs(5);

/// Tokio's runtime, with marked TCP connections.
#[derive(Clone, Default)]
pub struct Runtime(TokioRuntimeProvider);

type Opening<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl RuntimeProvider for Runtime {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        from: Option<SocketAddr>,
        wait: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        Box::pin(async move {
            let socket = mark::socket(server)?;
            if let Some(from) = from {
                socket.bind(from)?;
            }
            socket.set_nodelay(true)?;
            match timeout(wait.unwrap_or(CONNECT), socket.connect(server)).await {
                Ok(connected) => connected.map(AsyncIoTokioAsStd),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }

    /// Not marked: UDP is never redirected.
    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Opening<UdpSocket> {
        self.0.bind_udp(local, server)
    }
}
