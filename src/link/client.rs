//! The client's end of a link: dial, prove, open tunnels.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use rustls::ClientConfig;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::alive::{Pulse, until_dead};
use super::connection::Connection;
use super::handshake;
use super::http2::{self, PingPong, Protocol, RecvStream, Requests, ResponseFuture, SendStream};
use super::secure::Secure;
use super::stream::{Inbox, Outbox, Tunnel};
use super::tls::{self, Peer, TlsError};
use super::{CAPSULE_PROTOCOL, CONNECTION_ID, HANDSHAKE, Transport};
use crate::failure::{Failure, Kind, Side, printable};
use crate::mark;
use crate::net::{self, Segments};
use crate::trust::board::Board;
use crate::wire::id::NodeId;
use crate::wire::masque;
use crate::wire::target::Target;

/// An open unanswered for so long makes the link prove that it lives. The server may be slow, so it proves
/// nothing by itself.
const UNANSWERED: Duration = Duration::from_millis(100);
/// How long the gateway may take to resolve and connect before the answer to a CONNECT.
const OPEN: Duration = Duration::from_secs(25);

/// Why there is no link to a gateway.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// TCP, TLS or HTTP/2 took too long.
    #[error("{0} does not answer")]
    Late(SocketAddr),
    /// No TCP connection.
    #[error("cannot connect to {0}")]
    Connect(SocketAddr, #[source] io::Error),
    /// The connection was cut before the link stood: a gateway that has just died, more likely than a stranger.
    #[error("the connection to {0} was cut in its handshake: {1}")]
    Cut(SocketAddr, String),
    /// The gateway is not of this group, or does not believe that this node is.
    #[error("{0} and this node do not trust each other")]
    Trust(SocketAddr, #[source] io::Error),
    /// The gateway's certificate is not one of a laneway gateway.
    #[error("{0} has no laneway certificate")]
    Certificate(SocketAddr, #[source] TlsError),
    /// The gateway ended the connection when it had seen this node's certificate.
    #[error("{0} does not accept this node: {1}")]
    Refused(SocketAddr, String),
    /// The gateway's group has removed this node.
    #[error("{0} says that this machine was removed from the group")]
    Removed(SocketAddr),
    /// It does not speak HTTP/2.
    #[error("{0} does not speak the link's protocol")]
    Protocol(SocketAddr, #[source] http2::Error),
}

/// A standing link. Clones share it.
#[derive(Clone, Debug)]
pub struct Link {
    requests: Requests,
    /// Where the gateway listens.
    pub address: SocketAddr,
    /// Who the gateway is, by its certificate.
    pub gateway: Peer,
    /// Its open tunnels, and whether it is suspect.
    pub pulse: Arc<Pulse>,
    unusable: CancellationToken,
    retired: CancellationToken,
    ended: Arc<OnceLock<String>>,
}

impl Link {
    /// Dials the gateway at `address` and proves that it is one of the group, and `id` when given. The link
    /// lives as a task of `tasks` until it breaks, the gateway is put out of the group, or it is retired and its
    /// tunnels have ended. Where it accepts the connection and then stays silent, small `segments` may help.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial_with(
        address: SocketAddr,
        id: Option<NodeId>,
        segments: Segments,
        config: Arc<ClientConfig>,
        board: Arc<Board>,
        tasks: &TaskTracker,
    ) -> Result<Self, DialError> {
        let late = |_: tokio::time::error::Elapsed| DialError::Late(address);
        let connected = timeout(HANDSHAKE, mark::connect_with(address, segments));
        let connected = connected.await.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()));
        let tcp = connected.map_err(|error| DialError::Connect(address, error))?;
        net::tune_link(&tcp);
        let proved = timeout(HANDSHAKE, handshake::connect(tcp, config, tls::server_name(id)));
        let proved = proved.await.map_err(late)?.map_err(|error| match error.kind() {
            _ if says_removed(&error) => DialError::Removed(address),
            io::ErrorKind::InvalidData => DialError::Trust(address, error),
            _ => DialError::Cut(address, error.to_string()),
        })?;
        let gateway = tls::peer(&proved.certificates);
        let gateway = gateway.map_err(|error| DialError::Certificate(address, error))?;
        let queue = proved.stream.queue().clone();
        let (requests, mut connection) = Connection::client(proved.stream, super::config());
        // In TLS 1.3 the client is done before the gateway has judged its certificate: only an answer shows that this
        // node is accepted, and that there is somebody behind the socket.
        let mut ping = connection.ping_pong();
        let proof = async {
            tokio::select! {
                ended = poll_fn(|cx| connection.poll_drive(cx)) => Err(ended.err()),
                answer = ping.ping() => answer.map_err(Some),
            }
        };
        if let Err(error) = timeout(HANDSHAKE, proof).await.map_err(late)? {
            return Err(match error {
                Some(error @ http2::Error::GoAway(_)) => DialError::Protocol(address, error),
                Some(error) if error.io().is_some_and(says_removed) => DialError::Removed(address),
                Some(error) if !is_cut(&error) => DialError::Refused(address, printable(&error.to_string())),
                Some(error) => DialError::Cut(address, error.to_string()),
                None => DialError::Cut(address, "closed without an answer".into()),
            });
        }
        let link = Self {
            requests,
            address,
            gateway,
            pulse: Arc::new(Pulse::of(queue)),
            unusable: CancellationToken::new(),
            retired: CancellationToken::new(),
            ended: Arc::default(),
        };
        tasks.spawn(drive(connection, ping, link.clone(), board));
        Ok(link)
    }

    /// The same for who dials only once: with full segments, then with small ones where nothing is said.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial(
        address: SocketAddr,
        id: Option<NodeId>,
        config: Arc<ClientConfig>,
        board: Arc<Board>,
        tasks: &TaskTracker,
    ) -> Result<Self, DialError> {
        match Self::dial_with(address, id, Segments::Full, config.clone(), board.clone(), tasks).await {
            Err(DialError::Late(_)) => {
                Self::dial_with(address, id, Segments::Small, config, board, tasks).await
            }
            outcome => outcome,
        }
    }

    /// Asks the gateway to connect to `target`. `first` travels with the question; the gateway passes it on
    /// once the connection stands, so it is lost only with the tunnel.
    ///
    /// # Errors
    /// [`Side::Link`] when the link itself failed, so that another gateway may be asked; else what the
    /// gateway says.
    pub async fn open(
        &self,
        target: &Target,
        connection_id: u64,
        first: Bytes,
    ) -> Result<LinkTunnel, Failure> {
        self.open_by(Transport::Tcp, target, connection_id, first).await
    }

    /// The same by either transport. `first` is as the stream carries it.
    ///
    /// # Errors
    /// Those of [`Link::open`]; [`Kind::Unsupported`] from a gateway that does not do UDP.
    pub async fn open_by(
        &self,
        transport: Transport,
        target: &Target,
        connection_id: u64,
        first: Bytes,
    ) -> Result<LinkTunnel, Failure> {
        if transport == Transport::Udp && !self.requests.has_extended_connect() {
            let sentence = format!("the gateway {} does not carry UDP: its laneway is too old", self.address);
            return Err(Failure::new(Kind::Unsupported, Side::Gateway, sentence));
        }
        let request = self.request(transport, target, connection_id);
        let counted = self.pulse.tunnel();
        let answer = async {
            tokio::select! {
                answer = timeout(OPEN, self.connect(request, first)) => answer,
                never = self.impatience() => match never { },
            }
        };
        match answer.await {
            Ok(Ok((response, outbox))) if response.status() == StatusCode::OK => {
                let tunnel = Tunnel::new(outbox, Inbox::new(response.into_body(), counted));
                Ok(LinkTunnel { tunnel, gateway: self.address })
            }
            Ok(Ok((response, _))) => Err(refusal(&response, self.address)),
            Ok(Err(error)) => Err(self.lost(&error)),
            Err(_) => {
                // A gateway that answers pings is alive: then it is the destination that takes so long.
                let side = if self.is_suspect() { Side::Link } else { Side::Gateway };
                let sentence = format!("the gateway {} did not answer in time", self.address);
                Err(Failure::new(Kind::ConnectTimeout, side, sentence))
            }
        }
    }

    /// Makes the link prove that it lives when this is still waited for after a moment.
    pub(super) async fn impatience(&self) -> Infallible {
        tokio::time::sleep(UNANSWERED).await;
        self.pulse.want_proof();
        std::future::pending().await
    }

    async fn connect(
        &self,
        request: Request<()>,
        first: Bytes,
    ) -> Result<(Response<RecvStream>, Outbox), http2::Error> {
        let (response, send) = self.ask(request).await?;
        let mut outbox = Outbox::new(send, self.pulse.clone());
        // A refused CONNECT resets the stream under the early bytes; the answer says more than that.
        let (response, _) = futures_util::future::join(response, outbox.send(first)).await;
        Ok((response?, outbox))
    }

    fn request(&self, transport: Transport, target: &Target, connection_id: u64) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        request.headers_mut().insert(CONNECTION_ID, HeaderValue::from(connection_id));
        let uri = match transport {
            Transport::Tcp => Uri::builder().authority(target.to_string()),
            Transport::Udp => {
                request.extensions_mut().insert(Protocol(masque::PROTOCOL.into()));
                request.headers_mut().insert(CAPSULE_PROTOCOL, HeaderValue::from_static("?1"));
                let gateway = self.address.to_string();
                Uri::builder().scheme("https").authority(gateway).path_and_query(masque::path(target))
            }
        };
        *request.uri_mut() =
            uri.build().expect("a target is letters, digits, '.', '-', '_' or an address: valid anywhere");
        request
    }

    /// Sends a request.
    pub(super) async fn ask(
        &self,
        request: Request<()>,
    ) -> Result<(ResponseFuture, SendStream), http2::Error> {
        self.requests.send(request, false).await
    }

    /// Sends a request that has no body.
    pub(super) async fn ask_bare(&self, request: Request<()>) -> Result<ResponseFuture, http2::Error> {
        Ok(self.requests.send(request, true).await?.0)
    }

    pub(super) fn lost(&self, error: &http2::Error) -> Failure {
        let sentence = format!("the link to the gateway {} broke: {error}", self.address);
        Failure::new(Kind::Terminated, Side::Link, sentence)
    }

    /// True until the gateway said GOAWAY, fell silent or the connection broke.
    pub fn is_usable(&self) -> bool {
        !self.unusable.is_cancelled()
    }

    /// Why the link ended, once it has.
    pub fn end(&self) -> Option<&str> {
        self.ended.get().map(String::as_str)
    }

    /// Waits until no new tunnel can be opened.
    pub async fn unusable(&self) {
        self.unusable.cancelled().await;
    }

    /// What is cancelled once no new tunnel can be opened. Keeping it does not keep the link.
    pub fn end_of_use(&self) -> CancellationToken {
        self.unusable.clone()
    }

    /// True while a ping has not been answered in time: new tunnels are better opened elsewhere.
    pub fn is_suspect(&self) -> bool {
        *self.pulse.suspect().borrow()
    }

    /// Waits until the link cannot be used any more, or becomes worn, or suspect, or trusted again.
    pub async fn changed(&self) {
        let (mut suspect, mut worn) = (self.pulse.suspect(), self.pulse.worn());
        tokio::select! {
            () = self.unusable() => {}
            changed = worn.changed() => if changed.is_err() { std::future::pending().await },
            changed = suspect.changed() => if changed.is_err() { std::future::pending().await },
        }
    }

    /// Takes the link out of use: there is a better one, or it did not do what was asked of it. It ends when its
    /// tunnels have.
    pub fn retire(&self) {
        self.unusable.cancel();
        self.retired.cancel();
    }
}

/// A tunnel of a [`Link`].
#[derive(Debug)]
pub struct LinkTunnel {
    /// The stream.
    pub tunnel: Tunnel,
    /// Where the gateway listens.
    pub gateway: SocketAddr,
}

/// Drives the connection until it ends, and tells when it takes no more tunnels.
async fn drive(mut connection: Connection<Secure>, ping: PingPong, link: Link, board: Arc<Board>) {
    let Link { requests: _, address, gateway, pulse, unusable, retired, ended } = link;
    let dead = until_dead(ping, pulse.clone());
    let mut retirement = std::pin::pin!(retired.cancelled());
    let mut is_retired = false;
    let driven = poll_fn(|cx| {
        if let Some(size) = pulse.flow().to_announce(pulse.tunnels())
            // Refused while the last one is not acknowledged: the next round will do.
            && connection.announce_window(size)
        {
            pulse.flow().announce(size);
        }
        if !is_retired && retirement.as_mut().poll(cx).is_ready() {
            is_retired = true;
            connection.retire();
        }
        let driven = connection.poll_drive(cx);
        if driven.is_pending() {
            pulse.queue().rests();
        }
        if connection.is_closing() {
            unusable.cancel();
        }
        driven
    });
    let id = gateway.id;
    let gateway = id.short();
    let reason = tokio::select! {
        result = driven => {
            let reason = match result {
                Ok(()) => "closed".into(),
                Err(error) if error.io().is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof) => {
                    "the gateway vanished".into()
                }
                Err(error) => error.to_string(),
            };
            let reason = printable(&reason);
            tracing::info!(gateway, %address, reason, "link down");
            reason
        }
        () = dead => {
            tracing::warn!(gateway, %address, reason = "no answer to a ping", "link down");
            "no answer to a ping".into()
        }
        () = board.until_revoked(id) => {
            tracing::warn!(gateway, %address, reason = "the gateway was removed from the group", "link down");
            "the gateway was removed from the group".into()
        }
    };
    // Set here alone, and once.
    let _ = ended.set(reason);
    unusable.cancel();
}

/// Whether the connection just ended: what TLS has to say against the peer is invalid data.
fn is_cut(error: &http2::Error) -> bool {
    error.io().is_some_and(|io| io.kind() != io::ErrorKind::InvalidData)
}

/// Whether the peer rejected this node's certificate as revoked: the alert `certificate_revoked` (RFC 8446 §6.2).
fn says_removed(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    tls == Some(&rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRevoked))
}

pub(super) fn refusal(response: &Response<RecvStream>, gateway: SocketAddr) -> Failure {
    let said = response.headers().get("proxy-status").and_then(|value| value.to_str().ok());
    said.and_then(Failure::from_proxy_status).unwrap_or_else(|| {
        let sentence = format!("the gateway {gateway} answered with status {}", response.status().as_u16());
        Failure::new(Kind::BadResponse, Side::Gateway, sentence)
    })
}
