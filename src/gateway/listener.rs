//! The node's port on the LAN: accepts links and enrolments. No handshake waits for another.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::enrolment::{WrongProofs, enrol};
use super::handshake_slots::{HandshakeSlot, HandshakeSlots};
use super::state::Gateway;
use crate::link::handshake::{Hello, Proved};
use crate::link::tls::{Credentials, Service};
use crate::net;
use crate::trust::authority::Authority;

/// The deadline of a whole TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The deadline of the ClientHello, so that silent connections free their slots early.
const CLIENT_HELLO: Duration = Duration::from_secs(3);

/// What this node serves on its LAN port.
pub struct LinkPort {
    /// Serves links; `None` on a node that is only a client.
    pub gateway: Option<(Arc<Gateway>, Arc<Credentials>)>,
    /// Enrols new members; `None` where the authority's key is not.
    pub authority: Option<(Authority, Arc<ServerConfig>)>,
    /// The wrong proofs of invites' secrets, by source.
    pub wrong_proofs: WrongProofs,
    /// The runtimes that serve links, in turn. A link stays on its runtime.
    pub workers: Vec<Handle>,
    /// Tracks the tasks of all connections.
    pub tasks: TaskTracker,
    /// Cancelled when the node drains: no further connection is accepted.
    pub drain: CancellationToken,
}

impl LinkPort {
    /// Accepts connections until the node drains.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let slots = Arc::new(HandshakeSlots::default());
        for worker in self.workers.iter().cycle() {
            let (socket, address) = tokio::select! {
                accepted = net::accept(&listener) => accepted,
                () = self.drain.cancelled() => return,
            };
            let Some(slot) = HandshakeSlots::take(&slots, address.ip()) else {
                tracing::debug!(%address, "connection closed: too many handshakes in progress");
                continue;
            };
            net::tune_link(&socket);
            // A tokio socket is registered with the runtime that made it, so it crosses to the worker as a std socket.
            let Ok(socket) = socket.into_std() else { continue };
            let connection = self.clone().handle(socket, address, slot);
            worker.spawn(self.tasks.track_future(connection));
        }
    }

    /// Handles one connection, as the protocol that its ClientHello names (ALPN) asks.
    async fn handle(self: Arc<Self>, socket: std::net::TcpStream, address: SocketAddr, slot: HandshakeSlot) {
        let Ok(socket) = TcpStream::from_std(socket) else { return };
        let deadline = Instant::now() + HANDSHAKE;
        let Some(hello) = read_hello(socket, address).await else { return };
        match (hello.service, &self.gateway, &self.authority) {
            (Some(Service::Link), Some((gateway, credentials)), _) => {
                let config = match credentials.server() {
                    Ok(config) => config,
                    Err(error) => return tracing::error!(%error, "links cannot be accepted"),
                };
                let Some(proved) = accept_tls(hello, config, address, deadline).await else { return };
                drop(slot);
                gateway.clone().serve(proved, address).await;
            }
            // A joiner is unauthenticated until the end of the exchange, so enrolment keeps its slot.
            (Some(Service::Join), _, Some((authority, config))) => {
                enrol(hello, config.clone(), authority, &self.wrong_proofs, address, deadline).await;
            }
            _ => {
                tracing::debug!(%address, "connection closed: this node does not serve the requested protocol")
            }
        }
    }
}

async fn read_hello(socket: TcpStream, address: SocketAddr) -> Option<Hello> {
    let hello = timeout(CLIENT_HELLO, Hello::read(socket)).await;
    let hello = hello.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()));
    hello.inspect_err(|error| tracing::debug!(%address, %error, "no TLS ClientHello")).ok()
}

async fn accept_tls(
    hello: Hello,
    config: Arc<ServerConfig>,
    address: SocketAddr,
    deadline: Instant,
) -> Option<Proved> {
    let proved = timeout_at(deadline, hello.accept(config)).await;
    let proved = proved.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()));
    proved.inspect_err(|error| tracing::warn!(%address, %error, "TLS handshake failed")).ok()
}
