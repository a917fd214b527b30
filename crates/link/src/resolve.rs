//! DNS queries to the gateway's name servers over a link, as in DNS over HTTPS (RFC 8484): one request each.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, StatusCode, header};
use tokio::time::timeout;

use super::client::Link;
use super::incoming::Incoming;
use super::request::{RESOLVE_PATH, uri};
use super::tunnel::{Inbox, Outbox};
use laneway_h2 as http2;
use laneway_limits::memory::Tally;
use laneway_wire::dns::LONGEST;
use laneway_wire::failure::{Failure, Kind, Side};

/// The media type of queries and answers (RFC 8484 §6).
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/dns-message");

/// How long the client may take to send its query once the request has begun.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends a query to the gateway of `link`, and returns the bytes of its answer. The caller sets the deadline.
///
/// # Errors
/// [`Side::Link`] when the link itself failed, so that another gateway may be asked; otherwise what the gateway answers.
pub async fn resolve(link: &Link, query: Bytes) -> Result<Bytes, Failure> {
    let counted = link.state.tunnel();
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri(RESOLVE_PATH);
    request.headers_mut().insert(header::CONTENT_TYPE, MEDIA_TYPE);
    request.headers_mut().insert(header::ACCEPT, MEDIA_TYPE);
    let exchange = async {
        let (response, send) = link.send(request).await?;
        let mut outbox = Outbox::new(send, link.state.clone());
        let sent = async {
            outbox.send(query).await?;
            outbox.finish()
        };
        // An early refusal resets the stream while the query is sent; the response says why.
        let (response, _) = futures_util::future::join(response, sent).await;
        let response = response?;
        if response.status() != StatusCode::OK {
            return Ok(Err(link.refusal(&response)));
        }
        let is_message = response.headers().get(header::CONTENT_TYPE) == Some(&MEDIA_TYPE);
        let mut inbox = Inbox::new(response.into_body(), counted);
        let body = whole(&mut inbox, &mut Tally::default()).await?;
        Ok(body.filter(|_| is_message).ok_or_else(|| {
            let sentence = format!("{} did not answer with a DNS message", link.called());
            Failure::new(Kind::BadResponse, Side::Gateway, sentence)
        }))
    };
    tokio::select! {
        answer = exchange => answer.unwrap_or_else(|error: http2::Error| Err(link.lost(&error))),
        never = link.demand_proof() => match never {},
    }
}

/// The whole body, whose bytes are counted in `held`; `None` when it is longer than a message can be.
async fn whole(inbox: &mut Inbox, held: &mut Tally) -> Result<Option<Bytes>, http2::Error> {
    let mut body = BytesMut::new();
    while let Some(piece) = inbox.next().await? {
        if body.len() + piece.len() > LONGEST {
            return Ok(None);
        }
        body.extend_from_slice(&piece);
        held.set(body.capacity());
    }
    Ok(Some(body.freeze()))
}

impl Incoming {
    /// The bytes of the query; `None` when the client has given up, or sends too much or too slowly.
    pub async fn read_query(&mut self) -> Option<Bytes> {
        let mut held = self.inbox.tally();
        timeout(QUERY_TIMEOUT, whole(&mut self.inbox, &mut held)).await.ok()?.ok()?
    }

    /// Answers the query; the answer may be cached for `seconds` (RFC 8484 §5.1). A client that has given up meanwhile gets
    /// no answer.
    pub async fn answer_query(self, bytes: Vec<u8>, seconds: u32) {
        let mut response = http::Response::new(());
        response.headers_mut().insert(header::CONTENT_TYPE, MEDIA_TYPE);
        if let Ok(value) = HeaderValue::from_str(&format!("max-age={seconds}")) {
            response.headers_mut().insert(header::CACHE_CONTROL, value);
        }
        self.answer(&response, bytes.into()).await;
    }
}
