//! Accepts links, and machines that want to join. One handshake never waits for another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::serve::Gateway;
use crate::link::tls::Service;
use crate::net;
use crate::trust::authority::Authority;
use crate::trust::join::{self, EXPORTER_LABEL};

/// The deadline of a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many handshakes may be in progress; more wait in the listen queue.
const MOST_HANDSHAKES: usize = 256;

/// What the LAN port of this node serves.
pub struct LinkPort {
    /// Links, unless this node is a client only.
    pub gateway: Option<(Arc<Gateway>, Arc<ServerConfig>)>,
    /// Enrolment, where the group's authority is.
    pub authority: Option<(Authority, Arc<ServerConfig>)>,
    /// The runtimes that serve links: each link stays on one.
    pub workers: Vec<Handle>,
    /// The tasks of the links.
    pub tasks: TaskTracker,
    /// When it is cancelled, nothing more is accepted.
    pub drain: CancellationToken,
}

impl LinkPort {
    /// Accepts until the node drains.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let handshakes = Arc::new(Semaphore::new(MOST_HANDSHAKES));
        for worker in self.workers.iter().cycle() {
            let accepted = async {
                let place = handshakes.clone().acquire_owned().await.expect("the semaphore is never closed");
                (place, net::accept(&listener).await)
            };
            let (place, (socket, address)) = tokio::select! {
                accepted = accepted => accepted,
                () = self.drain.cancelled() => return,
            };
            net::tune_link(&socket);
            // A socket belongs to the runtime that it was made on: it moves as a plain one.
            let Ok(socket) = socket.into_std() else { continue };
            let port = self.clone();
            let task = async move {
                let Ok(socket) = TcpStream::from_std(socket) else { return };
                let accepted = timeout(HANDSHAKE, port.handshake(socket, address)).await;
                drop(place);
                match accepted {
                    Ok(Some((Service::Link, tls))) => port.link(tls, address).await,
                    Ok(Some((Service::Join, tls))) => port.join(tls, address).await,
                    Ok(None) => {}
                    Err(_) => tracing::debug!(%address, "the handshake took too long"),
                }
            };
            worker.spawn(self.tasks.track_future(task));
        }
    }

    async fn handshake(
        &self,
        socket: TcpStream,
        address: SocketAddr,
    ) -> Option<(Service, TlsStream<TcpStream>)> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), socket).await;
        let hello = hello.inspect_err(|error| tracing::debug!(%address, %error, "no TLS")).ok()?;
        let service = Service::asked_for(&hello.client_hello());
        let (service, config) = match (service, &self.gateway, &self.authority) {
            (Some(Service::Link), Some((_, config)), _) => (Service::Link, config),
            (Some(Service::Join), _, Some((_, config))) => (Service::Join, config),
            _ => {
                tracing::debug!(%address, "asked for what this node does not serve");
                return None;
            }
        };
        match hello.into_stream(config.clone()).await {
            Ok(tls) => Some((service, tls)),
            Err(error) => {
                tracing::warn!(%address, %error, "handshake refused");
                None
            }
        }
    }

    async fn link(&self, tls: TlsStream<TcpStream>, address: SocketAddr) {
        if let Some((gateway, _)) = &self.gateway {
            gateway.clone().serve(tls, address).await;
        }
    }

    async fn join(&self, mut tls: TlsStream<TcpStream>, address: SocketAddr) {
        let Some((authority, _)) = &self.authority else { return };
        let Ok(exporter) = tls.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None) else {
            return;
        };
        match join::serve(&mut tls, &exporter, authority).await {
            Ok(member) => {
                let (name, id, role) = (member.name, member.id.short(), member.role);
                tracing::info!(%address, name, id, %role, "member admitted");
            }
            Err(error) => {
                let reason = format!("{:#}", anyhow::Error::new(error));
                tracing::warn!(%address, reason, "member not admitted");
            }
        }
        let _ = timeout(HANDSHAKE, tls.shutdown()).await;
    }
}
