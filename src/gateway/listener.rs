//! Accepts links, and machines that want to join. One handshake never waits for another.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
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
/// The deadline of the first message of it: who says nothing is not waited for.
const HELLO: Duration = Duration::from_secs(3);
/// How many handshakes may be in progress; who comes then is turned away.
const MOST_HANDSHAKES: usize = 2048;
/// How many of them from one address: one machine alone cannot keep the others out.
const MOST_PER_SOURCE: usize = 64;

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
        let places = Arc::new(Places::default());
        for worker in self.workers.iter().cycle() {
            let (socket, address) = tokio::select! {
                accepted = net::accept(&listener) => accepted,
                () = self.drain.cancelled() => return,
            };
            let Some(place) = Places::take(&places, address.ip()) else {
                tracing::debug!(%address, "turned away: too many handshakes");
                continue;
            };
            net::tune_link(&socket);
            // A socket belongs to the runtime that it was made on: it moves as a plain one.
            let Ok(socket) = socket.into_std() else { continue };
            let port = self.clone();
            let task = async move {
                let Ok(socket) = TcpStream::from_std(socket) else { return };
                match timeout(HANDSHAKE, port.handshake(socket, address)).await {
                    Ok(Some((Service::Link, tls))) => {
                        drop(place);
                        port.link(tls, address).await;
                    }
                    // Nobody has proved anything yet: enrolment keeps the place.
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
        let hello = timeout(HELLO, LazyConfigAcceptor::new(Acceptor::default(), socket)).await.ok()?;
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

/// The handshakes in progress, by source.
#[derive(Default)]
struct Places(Mutex<HashMap<IpAddr, usize>>);

/// One of them, until it is dropped.
struct Place(Arc<Places>, IpAddr);

impl Places {
    fn take(places: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let mut taken = places.lock();
        if taken.values().sum::<usize>() >= MOST_HANDSHAKES {
            return None;
        }
        let mine = taken.entry(source).or_default();
        if *mine >= MOST_PER_SOURCE {
            return None;
        }
        *mine += 1;
        Some(Place(places.clone(), source))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.0.lock();
        if let Some(mine) = taken.get_mut(&self.1) {
            *mine -= 1;
            if *mine == 0 {
                taken.remove(&self.1);
            }
        }
    }
}
