//! One request on a link, at the gateway.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response, StatusCode};
use tokio::time::timeout;

use super::alive::LinkState;
use super::request::RequestKind;
use super::settings::{
    ALPN, CAPSULE_PROTOCOL, CONNECTION_ID, CONTINUE, EXPECT, HTTP_1_1, HTTPS, PERMIT, PRODUCT, SCHEME, shown,
};
use super::tunnel::{Inbox, Outbox, Tunnel};
use laneway_h2::{self as http2, Protocol, RecvStream, SendResponse};
use laneway_limits::memory::{Account, Tally};
use laneway_trust::permit::Permit;
use laneway_wire::failure::Failure;
use laneway_wire::sharing::{self, Offer};

/// How long a client may take to accept a whole answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A request that waits for its answer.
pub struct Incoming {
    /// What it requests, or why it is to be refused.
    pub kind: Result<RequestKind, Failure>,
    /// The client's id of the connection, for the logs.
    pub connection_id: u64,
    /// The version of the client's program, which it says with a request for group updates.
    pub version: Option<Box<str>>,
    /// The authority's permission, where the request needs one.
    pub permit: Option<Box<Permit>>,
    /// What the client offers: to take a body in pieces.
    pub offer: Option<Offer>,
    /// Where its link comes from, once the gateway has noted it.
    pub from: Option<SocketAddr>,
    pub(super) respond: SendResponse,
    pub(super) inbox: Inbox,
    account: Option<Arc<Account>>,
}

impl Incoming {
    /// A request that was received on the link with this state.
    pub(super) fn new(
        request: Request<RecvStream>,
        respond: SendResponse,
        link_state: &Arc<LinkState>,
    ) -> Self {
        let (head, receive) = request.into_parts();
        let connection_id = head.headers.get(CONNECTION_ID).and_then(|id| id.to_str().ok()?.parse().ok());
        let field = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let version = field(USER_AGENT.as_str()).and_then(|agent| agent.strip_prefix(PRODUCT)).map(shown);
        let permit = field(PERMIT).and_then(Permit::parse).map(Box::new);
        let offer = field(sharing::FIELD).and_then(Offer::parse);
        let protocol = head.extensions.get::<Protocol>().map(|Protocol(protocol)| protocol.as_str());
        let is = |name: &str, value: &str| head.headers.get(name).is_some_and(|found| found == value);
        let kind = match RequestKind::of(&head.method, &head.uri, protocol) {
            Ok(RequestKind::Tunnel(target)) if is(ALPN, HTTP_1_1) => {
                let (waits, is_secure) = (is(EXPECT, CONTINUE), is(SCHEME, HTTPS));
                Ok(RequestKind::Http { target, waits, is_secure })
            }
            kind => kind,
        };
        let counted = if kind == Ok(RequestKind::Updates) { link_state.aside() } else { link_state.tunnel() };
        let (connection_id, inbox) = (connection_id.unwrap_or(0), Inbox::new(receive, counted));
        let version = version.map(String::into_boxed_str);
        Self { kind, connection_id, version, permit, offer, from: None, respond, inbox, account: None }
    }

    /// Counts the bytes that the tunnel holds in `account` from now on.
    pub fn charge_to(&mut self, account: Arc<Account>) {
        self.respond.charge_to(&account);
        self.inbox.charge_to(&account);
        self.account = Some(account);
    }

    /// The account that it is charged to.
    pub fn account(&self) -> Option<&Arc<Account>> {
        self.account.as_ref()
    }

    /// Whether the request has to end for want of memory.
    pub fn is_evicted(&self) -> bool {
        self.account.as_ref().is_some_and(|account| account.is_evicted())
    }

    /// Answers that the request is granted.
    ///
    /// # Errors
    /// When the client has given up meanwhile.
    pub fn accept(self) -> Result<Tunnel, http2::Error> {
        let mut response = Response::new(());
        if matches!(self.kind, Ok(RequestKind::Udp(_))) {
            response.headers_mut().insert(CAPSULE_PROTOCOL, HeaderValue::from_static("?1"));
        }
        let send = self.respond.send(&response, false)?;
        let outbox = Outbox::new(send, self.inbox.link_state().clone());
        let mut tunnel = Tunnel::new(outbox, self.inbox);
        if let Some(account) = &self.account {
            tunnel.outbox.charge_to(account);
        }
        Ok(tunnel)
    }

    /// Answers with a whole body, which waits until the client takes it. A client that does not take it in time, or has given
    /// up meanwhile, gets none, or not all of it.
    pub(super) async fn answer(self, response: &Response<()>, body: Bytes) {
        let Ok(send) = self.respond.send(response, false) else { return };
        let mut outbox = Outbox::new(send, self.inbox.link_state().clone());
        let mut waiting = Tally::default();
        if let Some(account) = &self.account {
            outbox.charge_to(account);
            waiting.charge_to(account);
        }
        waiting.set(body.len());
        let evicted = poll_fn(|cx| if self.inbox.poll_evicted(cx) { Poll::Ready(()) } else { Poll::Pending });
        let sent = tokio::select! {
            sent = timeout(ANSWER_TIMEOUT, outbox.send(body)) => sent.is_ok_and(|sent| sent.is_ok()),
            () = evicted => false,
        };
        if sent {
            let _ = outbox.finish();
        }
    }

    /// Answers with the reason why the request is refused. A client that has given up meanwhile gets no answer.
    pub fn refuse(self, failure: &Failure, proxy: &str) {
        let mut response = Response::new(());
        *response.status_mut() =
            StatusCode::from_u16(failure.http_status()).unwrap_or(StatusCode::BAD_GATEWAY);
        if let Ok(value) = HeaderValue::from_str(&failure.proxy_status(proxy)) {
            response.headers_mut().insert("proxy-status", value);
        }
        let _ = self.respond.send(&response, true);
    }

    /// The next bytes that the client sends before its answer; `None` when it ends its direction.
    ///
    /// # Errors
    /// When the client has given up, or the request has to end for want of memory.
    pub async fn next(&mut self) -> Result<Option<Bytes>, http2::Error> {
        self.inbox.next().await
    }

    /// Is ready when the client has given up, or the tunnel is to be reset for want of memory. What the client sends
    /// meanwhile is queued as in an open tunnel.
    pub async fn abandoned(&mut self) {
        poll_fn(|cx| {
            if self.inbox.poll_evicted(cx) {
                return Poll::Ready(());
            }
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
