//! The client's end of a link: dials it, proves it, opens tunnels.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use rustls::{AlertDescription, ClientConfig};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::alive::{LinkState, until_dead};
use super::connection::Connection;
use super::request::Transport;
use super::secure::Secure;
use super::settings::{
    self, ALPN, CAPSULE_PROTOCOL, CONNECTION_ID, CONTINUE, EXPECT, HANDSHAKE_TIMEOUT, HTTP_1_1, HTTPS, SCHEME,
};
use super::tls::{self, PeerIdentity, TlsError, words};
use super::tunnel::{Inbox, Outbox, Tunnel};
use super::{handshake, removal};
use laneway_h2::{self as http2, PingPong, Protocol, RecvStream, Requests, ResponseFuture, SendStream};
use laneway_limits::limited;
use laneway_sys::mark;
use laneway_sys::neighbour;
use laneway_sys::net::{self, Segments};
use laneway_trust::membership::Membership;
use laneway_wire::failure::{Failure, Kind, Side, printable};
use laneway_wire::id::NodeId;
use laneway_wire::masque;
use laneway_wire::sharing::{self, Offer};
use laneway_wire::target::Target;

/// A request that is not answered within this time makes the link prove that its gateway is alive. The server may just be
/// slow, so the silence alone proves nothing.
const UNANSWERED: Duration = Duration::from_millis(100);
/// How long the gateway may take to resolve, connect and answer a CONNECT.
const OPEN_TIMEOUT: Duration = Duration::from_secs(25);

/// Why there is no link to a gateway.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// TCP, TLS or HTTP/2 took too long.
    #[error("{0} does not answer")]
    Late(SocketAddr),
    /// The TCP connection failed.
    #[error("cannot connect to {0}")]
    Connect(SocketAddr, #[source] io::Error),
    /// The connection was cut before the link was up, most likely because the gateway has just died.
    #[error("the connection to {0} was cut in its handshake: {1}")]
    Cut(SocketAddr, String),
    /// One end does not accept the other as a member of its group.
    #[error("{0} and this node do not trust each other")]
    Trust(SocketAddr, #[source] io::Error),
    /// The gateway's certificate is not that of a laneway gateway.
    #[error("{0} has no laneway certificate")]
    Certificate(SocketAddr, #[source] TlsError),
    /// The gateway ended the connection after it had seen this node's certificate.
    #[error("{0} does not accept this node: {1}")]
    Refused(SocketAddr, String),
    /// The group has removed this node: the gateway has shown what the authority signed.
    #[error("this machine was removed from the group, as the gateway at {0} proves")]
    Removed(SocketAddr),
    /// The gateway says that this node was removed, but does not prove it.
    #[error("{0} says that this machine was removed from the group, but does not prove it")]
    Unproved(SocketAddr),
    /// The gateway has said that it leaves the group.
    #[error("{0} has left the group")]
    Left(SocketAddr),
    /// The node there says that it accepts no links: a node that is not a gateway, or another program.
    #[error("{0} accepts no links: it is not a gateway")]
    NotAGateway(SocketAddr),
    /// The node there does not speak HTTP/2.
    #[error("{0} does not speak the link's protocol")]
    Protocol(SocketAddr, #[source] http2::Error),
}

/// A link that is up. Clones share it.
#[derive(Clone, Debug)]
pub struct Link {
    requests: Requests,
    /// Where the gateway listens.
    pub address: SocketAddr,
    /// The size of its segments.
    pub segments: Segments,
    /// Who the gateway is, by its certificate.
    pub gateway: PeerIdentity,
    /// Its tunnels and traffic, and whether it is suspect.
    pub state: Arc<LinkState>,
    /// What this node offers with each stream of plain requests: to take bodies in pieces.
    pub offer: Option<Offer>,
    unusable: CancellationToken,
    retired: CancellationToken,
    ended: Arc<OnceLock<String>>,
}

impl Link {
    /// Dials the gateway at `address` and proves that it is a gateway of the group, and is `id`, if given. The link is a task
    /// of `tasks` until it breaks, the gateway is removed from the group, or the link is retired and its tunnels have ended.
    /// Small `segments` may help where the gateway accepts the connection and then stays silent.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial_with(
        address: SocketAddr,
        id: Option<NodeId>,
        segments: Segments,
        config: Arc<ClientConfig>,
        membership: Arc<Membership>,
        tasks: &TaskTracker,
    ) -> Result<Self, DialError> {
        let late = |_: tokio::time::error::Elapsed| DialError::Late(address);
        let connected = timeout(HANDSHAKE_TIMEOUT, mark::connect_with(address, segments));
        let connected = connected.await.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()));
        let tcp =
            connected.map_err(|error| DialError::Connect(address, neighbour::in_words(address, error)))?;
        net::tune_link(&tcp);
        let proved = handshake::connect(tcp, config.clone(), tls::server_name(id));
        let proved = match timeout(HANDSHAKE_TIMEOUT, proved).await.map_err(late)? {
            Err(error) if says_removed(&error) => {
                return Err(Box::pin(removed((address, id, segments), &config, &membership)).await);
            }
            proved => proved,
        };
        let proved = proved.map_err(|error| match error.kind() {
            _ if says(&error, AlertDescription::NoApplicationProtocol) => DialError::NotAGateway(address),
            io::ErrorKind::InvalidData => DialError::Trust(address, words::put_in_words(&error)),
            _ => DialError::Cut(address, words::in_words(&error)),
        })?;
        let gateway = tls::peer(&proved.certificates);
        let gateway = gateway.map_err(|error| DialError::Certificate(address, error))?;
        // Its certificate is on the revocation list only once the authority has heard that it leaves.
        if membership.revokes(gateway.id) {
            return Err(DialError::Left(address));
        }
        let queue = proved.stream.queue().clone();
        let (requests, mut connection) = Connection::client(proved.stream, settings::config());
        // In TLS 1.3 the client's handshake ends before the gateway has verified its certificate. Only an answer proves
        // that this node is accepted, and that a live process is behind the socket.
        let mut ping = connection.ping_pong();
        let proof = async {
            tokio::select! {
                ended = poll_fn(|cx| connection.poll_drive(cx)) => Err(ended.err()),
                answer = ping.ping() => answer.map_err(Some),
            }
        };
        if let Err(error) = timeout(HANDSHAKE_TIMEOUT, proof).await.map_err(late)? {
            return Err(match error {
                Some(error @ http2::Error::GoAway(_)) => DialError::Protocol(address, error),
                Some(error) if error.io().is_some_and(says_removed) => {
                    Box::pin(removed((address, id, segments), &config, &membership)).await
                }
                Some(error) if !is_cut(&error) => {
                    let why = error.io().map_or_else(|| error.to_string(), words::in_words);
                    DialError::Refused(address, printable(&why))
                }
                Some(error) => DialError::Cut(address, error.to_string()),
                None => DialError::Cut(address, "closed without an answer".into()),
            });
        }
        let link = Self {
            requests,
            address,
            segments,
            gateway,
            state: Arc::new(LinkState::of(queue)),
            offer: None,
            unusable: CancellationToken::new(),
            retired: CancellationToken::new(),
            ended: Arc::default(),
        };
        tasks.spawn(drive(connection, ping, link.clone(), membership));
        Ok(link)
    }

    /// Dials once with full segments, and again with small ones if the gateway stays silent.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial(
        address: SocketAddr,
        id: Option<NodeId>,
        config: Arc<ClientConfig>,
        membership: Arc<Membership>,
        tasks: &TaskTracker,
    ) -> Result<Self, DialError> {
        match Self::dial_with(address, id, Segments::Full, config.clone(), membership.clone(), tasks).await {
            Err(DialError::Late(_)) => {
                Self::dial_with(address, id, Segments::Small, config, membership, tasks).await
            }
            outcome => outcome,
        }
    }

    /// Asks the gateway to connect to `target`. `first` is sent with the request; the gateway passes it on once it is
    /// connected, so it is lost only with the tunnel.
    ///
    /// # Errors
    /// [`Side::Link`] when the link itself failed, so that another gateway may be asked; otherwise what the gateway
    /// answers.
    pub async fn open(
        &self,
        target: &Target,
        connection_id: u64,
        first: Bytes,
    ) -> Result<LinkTunnel, Failure> {
        self.open_by(Transport::Tcp, target, connection_id, first).await
    }

    /// As [`Link::open`], for either transport. `first` is encoded as the stream carries it.
    ///
    /// # Errors
    /// Those of [`Link::open`]; [`Kind::Unsupported`] from a gateway that does not carry UDP.
    pub async fn open_by(
        &self,
        transport: Transport,
        target: &Target,
        connection_id: u64,
        first: Bytes,
    ) -> Result<LinkTunnel, Failure> {
        if transport == Transport::Udp && !self.requests.has_extended_connect() {
            let sentence = format!("{} does not carry UDP: its laneway is too old", self.called());
            return Err(Failure::new(Kind::Unsupported, Side::Gateway, sentence));
        }
        let request = self.request(transport, target, connection_id, first.is_empty());
        let counted = self.state.tunnel();
        let answer = async {
            tokio::select! {
                answer = timeout(OPEN_TIMEOUT, self.connect(request, first)) => answer,
                never = self.demand_proof() => match never { },
            }
        };
        match answer.await {
            Ok(Ok((response, outbox))) if response.status() == StatusCode::OK => {
                let stream = Tunnel::new(outbox, Inbox::new(response.into_body(), counted));
                Ok(LinkTunnel { stream, gateway: self.address, id: self.gateway.id })
            }
            Ok(Ok((response, _))) => Err(self.refusal(&response)),
            Ok(Err(error)) => Err(self.lost(&error)),
            Err(_) => {
                // A gateway that answers pings is alive, so it waits for the destination.
                let side = if self.is_suspect() { Side::Link } else { Side::Gateway };
                let sentence = format!("{} did not answer in time", self.called());
                Err(Failure::new(Kind::ConnectTimeout, side, sentence))
            }
        }
    }

    /// Makes the link prove that its gateway is alive, unless this future is dropped within [`UNANSWERED`].
    pub(super) async fn demand_proof(&self) -> Infallible {
        tokio::time::sleep(UNANSWERED).await;
        self.state.want_proof();
        std::future::pending().await
    }

    async fn connect(
        &self,
        request: Request<()>,
        first: Bytes,
    ) -> Result<(Response<RecvStream>, Outbox), http2::Error> {
        let (response, send) = self.send(request).await?;
        let mut outbox = Outbox::new(send, self.state.clone());
        // A refusal resets the stream while the first bytes are sent; the response says why.
        let (response, _) = futures_util::future::join(response, outbox.send(first)).await;
        Ok((response?, outbox))
    }

    fn request(&self, transport: Transport, target: &Target, connection_id: u64, waits: bool) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        request.headers_mut().insert(CONNECTION_ID, HeaderValue::from(connection_id));
        let uri = match transport {
            Transport::Tcp => Uri::builder().authority(target.to_string()),
            Transport::Http | Transport::Https => {
                if transport == Transport::Https {
                    request.headers_mut().insert(SCHEME, HeaderValue::from_static(HTTPS));
                }
                request.headers_mut().insert(ALPN, HeaderValue::from_static(HTTP_1_1));
                let offer = self.offer.and_then(|offer| HeaderValue::from_str(&offer.text()).ok());
                if let Some(offer) = offer {
                    request.headers_mut().insert(sharing::FIELD, offer);
                }
                if waits {
                    request.headers_mut().insert(EXPECT, HeaderValue::from_static(CONTINUE));
                }
                Uri::builder().authority(target.to_string())
            }
            Transport::Udp => {
                request.extensions_mut().insert(Protocol(masque::PROTOCOL.into()));
                request.headers_mut().insert(CAPSULE_PROTOCOL, HeaderValue::from_static("?1"));
                let gateway = self.address.to_string();
                Uri::builder().scheme("https").authority(gateway).path_and_query(masque::path(target))
            }
        };
        *request.uri_mut() = uri.build().expect(
            "a target is an address or of letters, digits, '.', '-' and '_', which a URI may contain",
        );
        request
    }

    /// Sends a request.
    pub(super) async fn send(
        &self,
        request: Request<()>,
    ) -> Result<(ResponseFuture, SendStream), http2::Error> {
        self.requests.send(request, false).await
    }

    /// Sends a request that has no body.
    pub(super) async fn send_without_body(
        &self,
        request: Request<()>,
    ) -> Result<ResponseFuture, http2::Error> {
        Ok(self.requests.send(request, true).await?.0)
    }

    pub(super) fn lost(&self, error: &http2::Error) -> Failure {
        let sentence = format!("the link to {} broke: {error}", self.called());
        Failure::new(Kind::Terminated, Side::Link, sentence)
    }

    /// How failures name the gateway: its name, as in its certificate, and the address of the link.
    pub(super) fn called(&self) -> String {
        format!("gateway {} ({})", self.gateway.name, self.address)
    }

    /// The failure in a response that refuses a request. The gateway's name comes first: members give one another the rules
    /// and limits that concern them, and the reader must know where to change them.
    pub(super) fn refusal(&self, response: &Response<RecvStream>) -> Failure {
        let said = response.headers().get("proxy-status").and_then(|value| value.to_str().ok());
        match said.and_then(Failure::from_proxy_status) {
            Some(failure) => failure.said_by(&format!("gateway {}", self.gateway.name)),
            None => {
                let sentence =
                    format!("{} answered with status {}", self.called(), response.status().as_u16());
                Failure::new(Kind::BadResponse, Side::Gateway, sentence)
            }
        }
    }

    /// Whether new tunnels can be opened: until the gateway sends GOAWAY or is dead, or the connection breaks.
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

    /// A token that is cancelled once no new tunnel can be opened. Holding it does not keep the link up.
    pub fn end_of_use(&self) -> CancellationToken {
        self.unusable.clone()
    }

    /// Whether a ping was not answered in time, so that new tunnels should be opened elsewhere.
    pub fn is_suspect(&self) -> bool {
        *self.state.suspect().borrow()
    }

    /// Waits until the link can no longer be used, has to be replaced, or becomes suspect or trusted again.
    pub async fn changed(&self) {
        let (mut suspect, mut exhausted) = (self.state.suspect(), self.state.exhausted());
        tokio::select! {
            () = self.unusable() => {}
            changed = exhausted.changed() => if changed.is_err() { std::future::pending().await },
            changed = suspect.changed() => if changed.is_err() { std::future::pending().await },
        }
    }

    /// Takes the link out of use: there is a better one, or this one has failed a request. It ends with its last tunnel.
    pub fn retire(&self) {
        self.unusable.cancel();
        self.retired.cancel();
    }
}

/// A tunnel of a [`Link`].
#[derive(Debug)]
pub struct LinkTunnel {
    /// Its stream on the link.
    pub stream: Tunnel,
    /// Where the gateway listens.
    pub gateway: SocketAddr,
    /// The gateway's id.
    pub id: NodeId,
}

/// Drives the connection until it ends, and notes when no more tunnels can be opened on it.
async fn drive(mut connection: Connection<Secure>, ping: PingPong, link: Link, membership: Arc<Membership>) {
    let Link {
        requests: _,
        address,
        segments: _,
        gateway,
        state: link_state,
        offer: _,
        unusable,
        retired,
        ended,
    } = link;
    let dead = until_dead(ping, link_state.clone());
    let mut retirement = std::pin::pin!(retired.cancelled());
    let mut is_retired = false;
    let driven = poll_fn(|cx| {
        if let Some(size) = link_state.flow().to_announce(link_state.tunnels())
            // Refused while the last one is not acknowledged; tried again with the next poll.
            && connection.announce_window(size)
        {
            link_state.flow().announce(size);
        }
        if !is_retired && retirement.as_mut().poll(cx).is_ready() {
            is_retired = true;
            connection.retire();
        }
        let driven = connection.poll_drive(cx);
        if driven.is_pending() {
            link_state.queue().idle();
        }
        if connection.is_closing() {
            unusable.cancel();
        }
        driven
    });
    let (id, gateway) = (gateway.id, &*gateway.name);
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
            match retired.is_cancelled() {
                true => tracing::debug!(gateway, %address, reason, "retired link ended"),
                false => limited!(info, id, gateway, %address, reason, "link down"),
            }
            reason
        }
        () = dead => {
            limited!(warn, id, gateway, %address, reason = "no answer to a ping", "link down");
            "no answer to a ping".into()
        }
        () = membership.until_revoked(id) => {
            limited!(warn, id, gateway, %address, reason = "the gateway was removed from the group", "link down");
            "the gateway was removed from the group".into()
        }
    };
    // `ended` is set only here.
    let _ = ended.set(reason);
    unusable.cancel();
}

/// Whether the connection was just cut: errors of TLS are invalid data.
fn is_cut(error: &http2::Error) -> bool {
    error.io().is_some_and(|io| io.kind() != io::ErrorKind::InvalidData)
}

/// Why a gateway does not accept this node, which it says was removed from the group: it has to prove that.
async fn removed(
    (address, id, segments): (SocketAddr, Option<NodeId>, Segments),
    config: &ClientConfig,
    membership: &Membership,
) -> DialError {
    let list = removal::ask(address, id, segments, config).await;
    let list = list.inspect_err(|error| tracing::debug!(%address, %error, "no proof of a removal"));
    match list.is_ok_and(|list| membership.note_removal(&list)) {
        true => DialError::Removed(address),
        false => DialError::Unproved(address),
    }
}

/// Whether the peer rejected this node's certificate as revoked: the alert `certificate_revoked` (RFC 8446 §6.2).
fn says_removed(error: &io::Error) -> bool {
    says(error, AlertDescription::CertificateRevoked)
}

/// Whether the peer ended the handshake with this alert.
fn says(error: &io::Error, alert: AlertDescription) -> bool {
    let tls = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    tls == Some(&rustls::Error::AlertReceived(alert))
}
