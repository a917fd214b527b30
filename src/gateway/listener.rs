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

use super::enrolment::enrol;
use super::handshake_slots::{HandshakeSlot, HandshakeSlots};
use super::sharer::Sharer;
use super::state::Gateway;
use super::strangers::Strangers;
use crate::failure::with_causes;
use crate::link::handshake::{Hello, Proved};
use crate::link::removal;
use crate::link::tls::{Credentials, Service};
use crate::memory::Budget;
use crate::net;
use crate::trust::authority::Held;

/// The deadline of a whole TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The deadline of the ClientHello, so that silent connections free their slots early.
const CLIENT_HELLO: Duration = Duration::from_secs(3);

/// What this node serves on its LAN port.
pub struct LinkPort {
    /// Serves links; `None` on a node that is only a client.
    pub gateway: Option<Arc<Gateway>>,
    /// Serves pieces of bodies to other members, if this node does.
    pub sharer: Option<Arc<Sharer>>,
    /// What authenticates this node and its peers.
    pub credentials: Arc<Credentials>,
    /// Enrols new members, while this machine holds the authority's key.
    pub authority: (Held, Arc<ServerConfig>),
    /// Counts what connections hold that have not proved to be a member's.
    pub memory: Arc<Budget>,
    /// Maximum number of connections that have not proved to be a member's.
    pub most_handshakes: usize,
    /// The runtimes that serve links, in turn. A link stays on its runtime.
    pub workers: Vec<Handle>,
    /// Tracks the tasks of all connections.
    pub tasks: TaskTracker,
    /// Cancelled when the node drains: no further connection is accepted.
    pub drain: CancellationToken,
}

/// What a connection is for.
enum Peer {
    /// A client of this gateway.
    Client(Arc<Gateway>),
    /// Another member that wants pieces.
    Member(Arc<Sharer>),
}

impl LinkPort {
    /// Accepts connections until the node drains.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let strangers = Arc::new(Strangers::new(self.most_handshakes, &self.memory));
        for worker in self.workers.iter().cycle() {
            let (socket, address) = tokio::select! {
                accepted = net::accept(&listener) => accepted,
                () = self.drain.cancelled() => return,
            };
            let slot = HandshakeSlots::take(&strangers.slots, address.ip());
            net::tune_link(&socket);
            // A tokio socket is registered with the runtime that made it, so it crosses to the worker as a std socket.
            let Ok(socket) = socket.into_std() else { continue };
            let connection = self.clone().handle(socket, address, slot, strangers.clone());
            worker.spawn(self.tasks.track_future(connection));
        }
    }

    /// Handles one connection until its end. A handshake that takes too long loses its slot to others.
    async fn handle(
        self: Arc<Self>,
        socket: std::net::TcpStream,
        address: SocketAddr,
        slot: HandshakeSlot,
        strangers: Arc<Strangers>,
    ) {
        let Ok(socket) = TcpStream::from_std(socket) else { return };
        let link = tokio::select! {
            link = self.shake_hands(socket, address, &strangers) => link,
            () = slot.ended() => {
                return tracing::debug!(%address, "connection closed: others need its place and it had proved nothing");
            }
        };
        let Some((peer, proved)) = link else { return };
        strangers.slots.remember_member(address.ip());
        drop(slot);
        match peer {
            Peer::Client(gateway) => gateway.serve(proved, address).await,
            Peer::Member(sharer) => sharer.serve(proved, address).await,
        }
    }

    /// The handshake that the ClientHello asks for by its protocol (ALPN). Enrols a joiner. Returns the link of a member.
    async fn shake_hands(
        &self,
        socket: TcpStream,
        address: SocketAddr,
        strangers: &Strangers,
    ) -> Option<(Peer, Proved)> {
        let deadline = Instant::now() + HANDSHAKE;
        let hello = read_hello(socket, address).await?;
        let (held, joins) = &self.authority;
        let authority = held.borrow().clone();
        let peer = match hello.service {
            Some(Service::Link) => self.gateway.clone().map(Peer::Client),
            Some(Service::Pieces) => self.sharer.clone().map(Peer::Member),
            Some(Service::Join | Service::Removal) | None => None,
        };
        match (hello.service, peer, authority) {
            (_, Some(peer), _) => {
                let config = self
                    .credentials
                    .server()
                    .inspect_err(|error| {
                        tracing::error!(error = with_causes(error), "links cannot be accepted")
                    })
                    .ok()?;
                let proved = timeout_at(deadline, hello.accept(config)).await;
                let proved = proved.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()));
                let proved = proved.inspect_err(|error| strangers.log.handshake_failed(address, error));
                Some((peer, proved.ok()?))
            }
            // A joiner is unauthenticated until the end of the exchange, so enrolment keeps its slot.
            (Some(Service::Join), None, Some(authority)) => {
                if enrol(hello, joins.clone(), &authority, strangers, address, deadline).await {
                    strangers.slots.remember_member(address.ip());
                }
                None
            }
            (Some(Service::Removal), None, _) => {
                let proved = removal::prove(hello, &self.credentials).await;
                if let Err(error) = proved {
                    strangers.log.handshake_failed(address, &error);
                }
                None
            }
            _ => {
                tracing::debug!(%address, "connection closed: this node does not serve the requested protocol");
                hello.refuse().await;
                None
            }
        }
    }
}

async fn read_hello(socket: TcpStream, address: SocketAddr) -> Option<Hello> {
    let hello = timeout(CLIENT_HELLO, Hello::read(socket)).await;
    let hello = hello.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()));
    hello.inspect_err(|error| tracing::debug!(%address, %error, "no TLS ClientHello")).ok()
}
