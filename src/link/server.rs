//! The gateway's end of a link: accept, prove, take tunnels.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use tokio::time::timeout;

use super::alive::{Pulse, until_dead};
use super::connection::Connection;
use super::handshake::Proved;
use super::http2::{self, Protocol, RecvStream, SendResponse};
use super::secure::Secure;
use super::speed::{self, Direction};
use super::stream::{Inbox, Outbox, Tunnel};
use super::tls::{self, Peer, TlsError};
use super::{CAPSULE_PROTOCOL, CONNECTION_ID, HANDSHAKE};
use super::{about, names, news};
use crate::failure::{Failure, Kind, Side};
use crate::memory::Account;
use crate::wire::masque;
use crate::wire::target::Target;

/// Why a connection did not become a link.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The HTTP/2 preface did not come in time.
    #[error("the client does not speak")]
    Late,
    /// The client's certificate is not one of a laneway node.
    #[error("the client has no laneway certificate")]
    Certificate(#[source] TlsError),
    /// It does not speak HTTP/2.
    #[error("the client does not speak the link's protocol")]
    Protocol(#[source] http2::Error),
}

/// A standing link, seen from the gateway.
pub struct ServerLink {
    connection: Connection<Secure>,
    pulse: Arc<Pulse>,
    dead: futures_util::future::BoxFuture<'static, ()>,
    /// Who the client is, by its certificate.
    pub client: Peer,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A tunnel to this destination: CONNECT (RFC 9113 §8.5).
    Tunnel(Target),
    /// The same for datagrams: CONNECT-UDP (RFC 9298 §3.4).
    Udp(Target),
    /// To exchange the news of the group: POST `news::PATH`.
    News,
    /// To ask the gateway's name servers: POST `names::PATH` (RFC 8484).
    Name,
    /// What the gateway is: GET `about::PATH`.
    About,
    /// How fast the link is: GET or POST `speed::PATH`.
    Speed(Direction),
}

/// One request that waits for its answer.
pub struct Incoming {
    /// What it asks for, or why that cannot be.
    pub asked: Result<Asked, Failure>,
    /// The client's id of the connection, for the logs.
    pub connection_id: u64,
    pub(super) respond: SendResponse,
    pub(super) inbox: Inbox,
    account: Option<Arc<Account>>,
}

impl ServerLink {
    /// Makes a link of a connection whose TLS handshake is done.
    ///
    /// # Errors
    /// [`AcceptError`].
    pub async fn accept(proved: Proved) -> Result<Self, AcceptError> {
        let client = tls::peer(&proved.certificates).map_err(AcceptError::Certificate)?;
        let queue = proved.stream.queue().clone();
        let mut connection = Connection::server(proved.stream, super::config());
        let greeted = timeout(HANDSHAKE, poll_fn(|cx| connection.poll_greeted(cx)));
        let greeted = greeted.await.map_err(|_gone: tokio::time::error::Elapsed| AcceptError::Late)?;
        greeted.map_err(AcceptError::Protocol)?;
        let ping = connection.ping_pong();
        // The client pings as often as its tunnels need it; here it only matters that a dead one is noticed.
        let pulse = Arc::new(Pulse::patient(queue));
        let dead = Box::pin(until_dead(ping, pulse.clone()));
        Ok(Self { connection, pulse, dead, client })
    }

    /// Its tunnels, and what passes on it.
    pub fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// Drives the link until the next CONNECT comes. `None` when the link has ended; the error says why
    /// when that was not orderly.
    pub async fn next(&mut self) -> Option<Result<Incoming, String>> {
        let Self { connection, pulse, dead, .. } = self;
        let accepted = poll_fn(|cx| {
            if let Some(size) = pulse.flow().to_announce(pulse.tunnels())
                // Refused while the last one is not acknowledged: the next round will do.
                && connection.announce_window(size)
            {
                pulse.flow().announce(size);
            }
            let accepted = connection.poll_accept(cx);
            if accepted.is_pending() {
                pulse.queue().rests();
            }
            accepted
        });
        tokio::select! {
            accepted = accepted => match accepted? {
                Ok((request, respond)) => Some(Ok(Incoming::new(request, respond, pulse))),
                Err(error) => Some(Err(error.to_string())),
            },
            () = dead => Some(Err("no answer to a ping".into())),
        }
    }

    /// Takes no more tunnels (GOAWAY, RFC 9113 §6.8); [`ServerLink::next`] gives `None` once the open ones
    /// have ended.
    pub fn drain(&mut self) {
        self.connection.drain();
    }
}

impl Incoming {
    fn new(request: Request<RecvStream>, respond: SendResponse, pulse: &Arc<Pulse>) -> Self {
        let (head, receive) = request.into_parts();
        let connection_id = head.headers.get(CONNECTION_ID).and_then(|id| id.to_str().ok()?.parse().ok());
        let protocol = head.extensions.get::<Protocol>().map(|Protocol(protocol)| protocol.as_str());
        let asked = Asked::of(&head.method, &head.uri, protocol);
        let counted = if asked == Ok(Asked::News) { pulse.aside() } else { pulse.tunnel() };
        let (connection_id, inbox) = (connection_id.unwrap_or(0), Inbox::new(receive, counted));
        Self { asked, connection_id, respond, inbox, account: None }
    }

    /// Counts what the tunnel holds from now on.
    pub fn charge_to(&mut self, account: Arc<Account>) {
        self.inbox.charge_to(&account);
        self.account = Some(account);
    }

    /// Says that the connection to the server stands.
    ///
    /// # Errors
    /// When the client has given up meanwhile.
    pub fn accept(self) -> Result<Tunnel, http2::Error> {
        let mut response = Response::new(());
        if matches!(self.asked, Ok(Asked::Udp(_))) {
            response.headers_mut().insert(CAPSULE_PROTOCOL, HeaderValue::from_static("?1"));
        }
        let send = self.respond.send(&response, false)?;
        let outbox = Outbox::new(send, self.inbox.pulse().clone());
        let mut tunnel = Tunnel::new(outbox, self.inbox);
        if let Some(account) = &self.account {
            tunnel.outbox.charge_to(account);
        }
        Ok(tunnel)
    }

    /// Says why there is no connection. Fails only when nobody listens any more.
    pub fn refuse(self, failure: &Failure, proxy: &str) {
        let mut response = Response::new(());
        *response.status_mut() =
            StatusCode::from_u16(failure.http_status()).unwrap_or(StatusCode::BAD_GATEWAY);
        if let Ok(value) = HeaderValue::from_str(&failure.proxy_status(proxy)) {
            response.headers_mut().insert("proxy-status", value);
        }
        let _ = self.respond.send(&response, true);
    }

    /// Is ready when the client has given up, or has to. What it sends meanwhile is taken over as in an open tunnel.
    pub async fn abandoned(&mut self) {
        poll_fn(|cx| {
            while !self.inbox.has_ended() {
                match self.inbox.poll_fill(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            self.respond.poll_reset(cx).map(drop)
        })
        .await;
    }
}

impl Asked {
    /// What a request with this method and address asks for; `protocol` is that of an extended CONNECT (RFC 8441 §4).
    ///
    /// # Errors
    /// What to answer instead.
    pub fn of(method: &Method, uri: &Uri, protocol: Option<&str>) -> Result<Self, Failure> {
        let not_one =
            |why: &str| Failure::new(Kind::BadResponse, Side::Gateway, format!("not a destination: {why}"));
        match (method, protocol, uri.authority()) {
            (&Method::CONNECT, None, Some(authority)) => {
                let target = authority.as_str().parse::<Target>();
                target.map(Self::Tunnel).map_err(|error| not_one(&error.to_string()))
            }
            (&Method::CONNECT, Some(masque::PROTOCOL), _) => {
                let target = uri.path_and_query().and_then(|path| masque::target(path.as_str()));
                target.map(Self::Udp).ok_or_else(|| not_one("the path names none"))
            }
            (&Method::POST, None, _) if uri.path() == news::PATH => Ok(Self::News),
            (&Method::POST, None, _) if uri.path() == names::PATH => Ok(Self::Name),
            (&Method::GET, None, _) if uri.path() == about::PATH => Ok(Self::About),
            (&Method::GET, None, _) if uri.path() == speed::PATH => Ok(Self::Speed(Direction::Down)),
            (&Method::POST, None, _) if uri.path() == speed::PATH => Ok(Self::Speed(Direction::Up)),
            _ => Err(Failure::new(Kind::Unsupported, Side::Gateway, "a link does not take such requests")),
        }
    }
}
