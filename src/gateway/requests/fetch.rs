//! One fetch for all who ask for the same. It runs on its own, so that it goes on when the one who began it leaves.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};

use super::Stream;
use super::pass::Begun;
use super::server::{Cut, Head, Rest, Server};
use crate::cache::growing::{Broken, Growing, Reader};
use crate::cache::policy;
use crate::cache::store::Draft;
use crate::cache::stored::{Stored, Times};
use crate::failure::Failure;
use crate::gateway::cache::{Lead, Outcome};
use crate::gateway::state::Gateway;
use crate::limited;
use crate::limits::lines::NOBODY;
use crate::wire::http::{BodyLength, RequestHead, ResponseHead};
use crate::wire::resume::Point;
use crate::wire::target::Target;

/// The most that is fetched to its end for nobody, in bytes. It is finished only if at least as much is there already, or
/// hardly anything is missing.
const MOST_UNWANTED: u64 = 64 * 1024 * 1024;
/// What is hardly anything, in bytes.
const HARDLY: u64 = 1024 * 1024;
/// How often a fetch goes on in a row although nothing came.
const MOST_FRUITLESS: u32 = 3;
/// How often a fetch whose leader has left looks whether others wait.
const LOOK: Duration = Duration::from_secs(1);

/// What a fetch tells the stream that began it.
pub(super) enum ToLeader {
    /// There is a connection to the server.
    Connected,
    /// An interim response, for this one alone.
    Interim(Bytes),
    /// The response is shared; the reader keeps the fetch going until the stream has its own.
    Shared(Reader),
    /// The response is for this one alone.
    Begun(Box<Begun>),
}

/// One fetch.
pub(super) struct Fetch {
    gateway: Arc<Gateway>,
    target: Target,
    is_secure: bool,
    credential: Option<Vec<u8>>,
    /// What the app asked for.
    request: RequestHead,
    uri: String,
    /// What is to be validated.
    stored: Option<(u64, Stored)>,
    lead: Lead,
    leader: mpsc::Sender<ToLeader>,
}

impl Fetch {
    pub(super) fn new(
        stream: &Stream<'_>,
        request: &RequestHead,
        uri: &str,
        stored: Option<(u64, Stored)>,
        lead: Lead,
        leader: mpsc::Sender<ToLeader>,
    ) -> Self {
        Self {
            gateway: stream.gateway.clone(),
            target: stream.target.clone(),
            is_secure: stream.is_secure,
            credential: stream.credential.clone(),
            request: request.clone(),
            uri: uri.to_owned(),
            stored,
            lead,
            leader,
        }
    }

    /// Runs it as a task of the node. A connection that can be used again goes `back`.
    pub(super) fn spawn(self, server: Option<Server>, back: oneshot::Sender<Server>) {
        let tasks = self.gateway.tasks.clone();
        tasks.spawn(Box::pin(async move {
            if let Some(server) = self.run(server).await {
                // The stream may have ended.
                let _ = back.send(server);
            }
        }));
    }

    async fn run(mut self, server: Option<Server>) -> Option<Server> {
        let mut idle = server;
        loop {
            let asked = {
                let mut unwanted = std::pin::pin!(unwanted(&self.leader, &self.lead));
                tokio::select! {
                    asked = self.ask(idle.take()) => asked,
                    () = &mut unwanted => return None,
                }
            };
            let (head, server, requested) = match asked {
                Ok(asked) => asked,
                Err(failure) => {
                    self.lead.resolve(Outcome::Failed(failure));
                    return None;
                }
            };
            let times = Times { requested, received: SystemTime::now() };
            if let Some(address) = server.address {
                self.gateway.egress.answered(address);
            }
            let Head::Read(raw, response) = head else { return self.hand_over(head, server).await };
            if response.status == 304
                && let Some((id, stored)) = self.stored.take()
            {
                if let Some(fresh) = policy::freshened(&stored, &response, times) {
                    return self.validated(id, fresh, *response, server).await;
                }
                // It is about another response: ask for this one.
                idle = response.keep_alive.then_some(server).map(Server::used);
                continue;
            }
            let sent = policy::for_server(&self.request);
            let rest = Rest::of(response.body).filter(|_| {
                let fits = response.content_length.is_none_or(|length| self.gateway_store().admits(length));
                fits && self.lead.is_current() && policy::may_store(&sent, &response, times)
            });
            let draft = match rest {
                Some(rest) => {
                    let draft =
                        self.gateway_store().blocking(|store| store.draft()).await.and_then(|draft| draft);
                    draft.ok().map(|draft| (rest, draft))
                }
                None => None,
            };
            return match draft {
                Some((rest, draft)) => self.share(*response, times, rest, draft, server).await,
                None => {
                    self.forget(response.status).await;
                    self.hand_over(Head::Read(raw, response), server).await
                }
            };
        }
    }

    fn gateway_store(&self) -> Arc<crate::cache::store::Store> {
        self.lead.store()
    }

    /// Sends the request and reads the head of the response, over the idle connection if that still works.
    async fn ask(&self, idle: Option<Server>) -> Result<(Head, Server, SystemTime), Failure> {
        let validation =
            self.stored.as_ref().and_then(|(_, stored)| policy::validation(&self.request, stored));
        let sent = validation.unwrap_or_else(|| policy::for_server(&self.request));
        let head = self.head(&sent);
        let mut idle = idle;
        loop {
            let mut server = match idle.take() {
                Some(server) => server,
                None => Server::connect(&self.gateway, &self.target, self.is_secure).await?,
            };
            self.lead.resolve(Outcome::Connected);
            // The stream may have ended.
            let _ = self.leader.send(ToLeader::Connected).await;
            let requested = SystemTime::now();
            // A server that does not take the request may have answered before.
            let _ = server.send(&head).await;
            loop {
                match server.head(&sent.method).await {
                    Head::Read(raw, response) if response.is_interim() => {
                        let _ = self.leader.send(ToLeader::Interim(raw)).await;
                    }
                    Head::Nothing(_) if server.is_used => break,
                    head => return Ok((head, server, requested)),
                }
            }
        }
    }

    /// The request as the server gets it.
    fn head(&self, request: &RequestHead) -> BytesMut {
        let (mut request, mut head) = (request.clone(), BytesMut::new());
        if let Some(credential) = &self.credential {
            // It was received as the value of a field.
            let _ = request.fields.push("Authorization", credential);
        }
        request.write_as_is(&mut head);
        head
    }

    /// What is stored is valid.
    async fn validated(
        self,
        id: u64,
        fresh: Stored,
        response: ResponseHead,
        server: Server,
    ) -> Option<Server> {
        let (store, updated) = (self.gateway_store(), fresh.clone());
        if let Err(error) =
            store.blocking(move |store| store.update(id, &updated)).await.and_then(|done| done)
        {
            limited!(warn, NOBODY, %error, "the validation of a stored response is not stored");
        }
        self.lead.resolve(Outcome::Valid(id, Arc::new(fresh)));
        (response.keep_alive && server.buffer.is_empty()).then(|| server.used())
    }

    /// The response is for the one alone who asked first.
    async fn hand_over(self, head: Head, server: Server) -> Option<Server> {
        let begun = Begun { head, server };
        // The stream may have ended.
        let _ = self.leader.send(ToLeader::Begun(Box::new(begun))).await;
        None
    }

    /// Removes what was stored before a response that is not stored.
    async fn forget(&mut self, status: u16) {
        // What needs a login may be for all who have an anonymous one.
        if status >= 500 || status == 401 {
            return;
        }
        self.lead.cache().is_for_one(&self.uri);
        if let Some((id, _)) = self.stored.take() {
            self.gateway_store().blocking(move |store| store.remove(id)).await.ok();
        }
    }

    /// Fetches the body for all who ask, and stores it.
    async fn share(
        self,
        response: ResponseHead,
        times: Times,
        rest: Rest,
        draft: Draft,
        server: Server,
    ) -> Option<Server> {
        self.lead.cache().is_for_all(&self.uri);
        let mut fields = response.end_to_end();
        if fields.get("date").is_none() {
            // RFC 9110 §6.6.1. A date is a valid value.
            let _ = fields.push("Date", httpdate::fmt_http_date(times.received).as_bytes());
        }
        let total = match response.body {
            BodyLength::Exact(length) => Some(length),
            BodyLength::None => Some(0),
            BodyLength::Chunked | BodyLength::UntilClose => None,
        };
        let stored = Stored {
            uri: self.uri.clone(),
            status: response.status,
            reason: response.reason.to_vec(),
            selecting: policy::selecting(&self.request, policy::varying(&fields)),
            fields,
            requested: times.requested,
            received: times.received,
            total: total.unwrap_or(0),
            length: 0,
            checksums: Vec::new(),
            source: server.address,
        };
        let body = Growing::new(self.gateway_store(), &draft, stored.clone(), total);
        let reader = body.reader(0, u64::MAX);
        self.lead.resolve(Outcome::Growing(body.clone()));
        if let Some(reader) = reader {
            // The stream may have ended: then the reader ends here.
            let _ = self.leader.send(ToLeader::Shared(reader)).await;
        }
        let mut draft = Some(draft);
        let point = Point::of(&policy::for_server(&self.request), &response);
        let mut server = Some(server);
        match self.body(&body, &mut draft, rest, &mut server, point).await {
            Ok(last) => {
                // It is stored before anybody has all of it, so that whoever asks again finds it.
                if let Some(draft) = draft
                    && self.lead.is_current()
                {
                    self.keep(stored, draft, last.clone()).await;
                }
                drop(self);
                body.finish(last);
            }
            Err(Cut) => body.end(Err(Broken)),
        }
        server.filter(|server| response.keep_alive && server.buffer.is_empty()).map(Server::used)
    }

    /// Stores what was fetched in place of what was stored before.
    async fn keep(&self, mut stored: Stored, mut draft: Draft, last: Bytes) {
        stored.total = draft.length() + last.len() as u64;
        let old = self.stored.as_ref().map(|(id, _)| *id);
        let store = self.gateway_store();
        let kept = store.blocking(move |store| {
            let kept = draft.append(&last).and_then(|()| draft.store(stored));
            old.into_iter().for_each(|id| store.remove(id));
            kept.map(drop)
        });
        if let Err(error) = kept.await.and_then(|kept| kept) {
            limited!(warn, NOBODY, %error, "a response is not stored");
        }
    }

    /// Fetches the body to its end; gives its last bytes, which nobody has yet. When the connection is lost, the rest is asked for on another one, if it is certain to be
    /// of the same response.
    async fn body(
        &self,
        body: &Growing,
        draft: &mut Option<Draft>,
        mut rest: Rest,
        server: &mut Option<Server>,
        point: Option<Point>,
    ) -> Result<Bytes, Cut> {
        let mut fruitless = 0;
        loop {
            let next = match server {
                Some(server) => {
                    let left = rest.left();
                    tokio::select! {
                        next = server.content(&mut rest) => next,
                        () = abandoned(body, left) => {
                            tracing::debug!(uri = self.uri, "a fetch ends: nobody wants it any more");
                            return Err(Cut);
                        }
                    }
                }
                None => Err(Cut),
            };
            match next {
                Ok(Some(last)) if rest.left() == Some(0) => return Ok(last),
                Ok(Some(bytes)) => {
                    fruitless = 0;
                    body.push(bytes, draft).await;
                }
                Ok(None) => return Ok(Bytes::new()),
                Err(Cut) => {
                    *server = None;
                    let point = point.as_ref().ok_or(Cut)?;
                    fruitless += 1;
                    if fruitless > MOST_FRUITLESS {
                        return Err(Cut);
                    }
                    limited!(
                        info,
                        NOBODY,
                        uri = self.uri,
                        offset = body.length(),
                        "a fetch goes on over another connection"
                    );
                    if let Some((new, left)) = self.go_on(point, body.length()).await {
                        (*server, rest) = (Some(new), Rest::Exact(left));
                    }
                }
            }
        }
    }

    /// Asks for what follows the first `offset` bytes. Gives the connection, and the number of bytes that come.
    async fn go_on(&self, point: &Point, offset: u64) -> Option<(Server, u64)> {
        let request = point.request(&policy::for_server(&self.request), offset);
        let head = self.head(&request);
        let mut server = Server::connect(&self.gateway, &self.target, self.is_secure).await.ok()?;
        server.send(&head).await.ok()?;
        loop {
            match server.head(&request.method).await {
                Head::Read(_, response) if response.is_interim() => {}
                Head::Read(_, response) => {
                    point.check(&response, offset).ok()?;
                    return Some((server, point.total() - offset));
                }
                Head::Unclear(_) | Head::Nothing(_) => return None,
            }
        }
    }
}

/// Waits until nobody reads the body, and it is not worth finishing it.
async fn abandoned(body: &Growing, left: Option<u64>) {
    body.abandoned().await;
    let worth = left.is_some_and(|left| left <= MOST_UNWANTED && left <= body.length().max(HARDLY));
    if worth {
        std::future::pending().await
    }
}

/// Waits until the one who began the fetch has left, and nobody else waits for it.
async fn unwanted(leader: &mpsc::Sender<ToLeader>, lead: &Lead) {
    leader.closed().await;
    while lead.is_awaited() {
        tokio::time::sleep(LOOK).await;
    }
}
