//! Questions to the gateway's name servers over a link: one request each, as DNS over HTTPS has it (RFC 8484).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, StatusCode, header};
use tokio::time::timeout;

use super::client::{Link, refusal};
use super::http2;
use super::server::Incoming;
use super::stream::{Inbox, Outbox};
use crate::failure::{Failure, Kind, Side};
use crate::wire::dns::LONGEST;

/// What the request is for; the path is what counts.
const URI: &str = "https://gateway.laneway/dns-query";
/// The path of the request.
pub(super) const PATH: &str = "/dns-query";
/// What both sides send (RFC 8484 §6).
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/dns-message");

/// How long the client may take for its question once the request has begun.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the gateway of `link`; gives the bytes of its answer. Who asks sets the deadline.
///
/// # Errors
/// [`Side::Link`] when the link itself failed, so that another gateway may be asked; else what the gateway says.
pub async fn ask(link: &Link, question: Bytes) -> Result<Bytes, Failure> {
    let counted = link.pulse.tunnel();
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(URI);
    request.headers_mut().insert(header::CONTENT_TYPE, MEDIA_TYPE);
    request.headers_mut().insert(header::ACCEPT, MEDIA_TYPE);
    let exchange = async {
        let (response, send) = link.ask(request).await?;
        let mut outbox = Outbox::new(send, link.pulse.clone());
        let sent = async {
            outbox.send(question).await?;
            outbox.finish()
        };
        // An early refusal resets the stream under the question; the answer says more than that.
        let (response, _) = futures_util::future::join(response, sent).await;
        let response = response?;
        if response.status() != StatusCode::OK {
            return Ok(Err(refusal(&response, link.address)));
        }
        let is_message = response.headers().get(header::CONTENT_TYPE) == Some(&MEDIA_TYPE);
        let body = whole(&mut Inbox::new(response.into_body(), counted)).await?;
        Ok(body.filter(|_| is_message).ok_or_else(|| {
            let sentence = format!("the gateway {} did not answer with a DNS message", link.address);
            Failure::new(Kind::BadResponse, Side::Gateway, sentence)
        }))
    };
    tokio::select! {
        answer = exchange => answer.unwrap_or_else(|error: http2::Error| Err(link.lost(&error))),
        never = link.impatience() => match never {},
    }
}

/// All that comes; `None` when it is more than a message can be.
async fn whole(inbox: &mut Inbox) -> Result<Option<Bytes>, http2::Error> {
    let mut body = BytesMut::new();
    while let Some(piece) = inbox.next().await? {
        if body.len() + piece.len() > LONGEST {
            return Ok(None);
        }
        body.extend_from_slice(&piece);
    }
    Ok(Some(body.freeze()))
}

impl Incoming {
    /// The bytes of the question; `None` when the client has given up, or says too much or too slowly.
    pub async fn question(&mut self) -> Option<Bytes> {
        timeout(PATIENCE, whole(&mut self.inbox)).await.ok()?.ok()?
    }

    /// Answers the question, with bytes that are good for so many seconds (RFC 8484 §5.1). Fails only when nobody
    /// listens any more.
    pub fn answer(self, bytes: Vec<u8>, seconds: u32) {
        let mut response = http::Response::new(());
        response.headers_mut().insert(header::CONTENT_TYPE, MEDIA_TYPE);
        if let Ok(value) = HeaderValue::from_str(&format!("max-age={seconds}")) {
            response.headers_mut().insert(header::CACHE_CONTROL, value);
        }
        let sent = self.respond.send(&response, false);
        // At most 64 KiB, which wait until they are sent.
        let _ = sent.and_then(|mut send| send.send_data(bytes.into(), true));
    }
}
