//! One fetch for all who ask for the same. It runs on its own, so that it goes on when the one who began it leaves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::Stream;
use super::pass::Begun;
use super::server::{Cut, Head, Rest, Server};
use crate::cache::draft::Draft;
use crate::cache::growing::{Broken, Growing, Reader};
use crate::cache::partial::{self, Partial};
use crate::cache::policy;
use crate::cache::stored::{Stored, Times};
use crate::failure::Failure;
use crate::gateway::cache::{Lead, Outcome};
use crate::gateway::state::Gateway;
use crate::limited;
use crate::limits::lines::NOBODY;
use crate::link::http2::buffer_pool::memory_of;
use crate::memory::{Account, Kind, Tally};
use crate::wire::http::{BodyLength, RequestHead, ResponseHead};
use crate::wire::resume::Point;
use crate::wire::target::Target;

/// The most that is fetched to its end for nobody, in bytes. It is finished only if at least as much is there already, or
/// hardly anything is missing.
const MOST_UNWANTED: u64 = 64 * 1024 * 1024;
/// How often the head of the request is in memory: as received, as sent, in the keys of the fetch and in what is stored.
const COPIES: usize = 6;
/// What is hardly anything, in bytes.
const HARDLY: u64 = 1024 * 1024;
/// How long a fetch goes on for nobody.
const UNWANTED: Duration = Duration::from_secs(60);
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

/// The attempts that failed in a row, with nothing received.
#[derive(Default)]
struct Attempts {
    failed: u32,
    /// How many readers there had been at the first of them.
    joined: u64,
}

impl Attempts {
    /// Counts one; the fetch ends with the last one. Readers that have come meanwhile get as many as the first one had.
    fn one_failed(&mut self, body: &Growing) -> Result<(), Cut> {
        if self.failed == MOST_FRUITLESS {
            if body.end_early(self.joined) {
                return Err(Cut);
            }
            self.failed = 0;
        }
        if self.failed == 0 {
            self.joined = body.joined();
        }
        self.failed += 1;
        Ok(())
    }
}

/// One fetch.
// fields: what the stream that began it gives it, and what it is charged to
pub(super) struct Fetch {
    gateway: Arc<Gateway>,
    target: Target,
    is_secure: bool,
    credential: Option<Vec<u8>>,
    /// What the app asked for.
    request: RequestHead,
    uri: String,
    /// What is to be validated or completed.
    stored: Option<(u64, Stored)>,
    need: Need,
    lead: Lead,
    leader: mpsc::Sender<ToLeader>,
    /// Nobody waits for it.
    is_background: bool,
    account: Arc<Account>,
    /// The memory of the request, of its copies and of what is stored.
    _held: Tally,
}

/// What the server is asked for.
#[derive(Clone, Debug)]
pub(super) enum Need {
    /// The response, or whether the stored one is still valid.
    Whole,
    /// This range of it, of which nothing is stored.
    Range(String),
    /// What the stored response lacks between two offsets. From the first one up to `from` everything is stored.
    Rest { start: u64, from: u64, end: u64 },
}

/// A body that is about to be fetched.
struct Planned {
    stored: Stored,
    total: Option<u64>,
    /// The bytes that readers can get.
    range: (u64, u64),
    /// The offset of the first byte that the server sends.
    from: u64,
    point: Option<Point>,
    keep_alive: bool,
}

impl Fetch {
    pub(super) fn new(
        stream: &Stream<'_>,
        request: &RequestHead,
        uri: &str,
        (stored, need): (Option<(u64, Stored)>, Need),
        lead: Lead,
        leader: mpsc::Sender<ToLeader>,
    ) -> Self {
        // Of its own, since the stream may end before it.
        let account = stream.asker.account.holder().account(Kind::Tunnel);
        let mut held = Tally::of(&account);
        let known = stored.as_ref().map_or(0, |(_, stored)| stored.memory());
        held.set(COPIES * (request.fields.memory() + uri.len()) + 2 * known);
        Self {
            gateway: stream.gateway.clone(),
            target: stream.target.clone(),
            is_secure: stream.is_secure,
            credential: stream.credential.clone(),
            request: request.clone(),
            uri: uri.to_owned(),
            stored,
            need,
            lead,
            leader,
            is_background: false,
            account,
            _held: held,
        }
    }

    /// The same, for nobody.
    pub(super) fn in_background(mut self) -> Self {
        self.is_background = true;
        self
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
                let mut unwanted = std::pin::pin!(unwanted(&self.leader, &self.lead, self.is_background));
                tokio::select! {
                    asked = self.ask(idle.take()) => asked,
                    () = &mut unwanted => return None,
                    () = self.account.evicted() => return None,
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
            match self.partial(&response, times) {
                Ok(None) => {}
                Ok(Some(planned)) => return self.begin(raw, response, planned, server).await,
                Err(Again::Plainly) => {
                    self.discard().await;
                    self.need = Need::Whole;
                    idle = None;
                    continue;
                }
                Err(Again::Alone) => {
                    self.lead.cache().is_for_one(&self.uri);
                    return None;
                }
            }
            return match self.plan(&response, times, server.address) {
                Some(planned) => self.begin(raw, response, planned, server).await,
                None => {
                    self.forget(response.status).await;
                    self.hand_over(Head::Read(raw, response), server).await
                }
            };
        }
    }

    /// How a response to a request for a part goes on; `None` for one that is none of a part.
    fn partial(&self, response: &ResponseHead, times: Times) -> Result<Option<Planned>, Again> {
        let is_partial = matches!(response.status, 206 | 416);
        match &self.need {
            Need::Whole => Ok(None),
            Need::Rest { start, from, end } if is_partial => {
                let (_, stored) = self.stored.as_ref().ok_or(Again::Plainly)?;
                let point = Point::of_fields(&stored.fields, stored.total).ok_or(Again::Plainly)?;
                let until = stored.next_part(*from).min(*end);
                point.check_part(response, *from, until).map_err(|_other| Again::Plainly)?;
                let fresh = policy::freshened(stored, response, times).ok_or(Again::Plainly)?;
                let (total, range) = (Some(stored.total), (*start, *end));
                let keep_alive = response.keep_alive;
                Ok(Some(Planned { stored: fresh, total, range, from: *from, point: Some(point), keep_alive }))
            }
            Need::Range(_) if is_partial => {
                let sent = policy::for_server(&self.request);
                let part = Partial::of(response)
                    .filter(|_| self.lead.is_current() && policy::may_store_part(&sent, response, times))
                    .filter(|part| self.gateway_store().admits(part.end - part.start));
                let Some(Partial { start, end, total, point }) = part else {
                    // What was asked for is what the app wants, or a little more.
                    let is_own = partial::range(&self.request).as_deref().map(str::as_bytes)
                        == self.request.fields.get("range");
                    return if is_own { Ok(None) } else { Err(Again::Alone) };
                };
                let mut stored = self.response(response, times, None);
                stored.status = 200;
                stored.reason = b"OK".to_vec();
                stored.fields.remove("content-range");
                stored.total = total;
                let keep_alive = response.keep_alive;
                Ok(Some(Planned {
                    stored,
                    total: Some(total),
                    range: (start, end),
                    from: start,
                    point,
                    keep_alive,
                }))
            }
            Need::Range(_) | Need::Rest { .. } => Ok(None),
        }
    }

    /// The whole body of `response`, if it can be shared and stored.
    fn plan(&self, response: &ResponseHead, times: Times, source: Option<SocketAddr>) -> Option<Planned> {
        let sent = policy::for_server(&self.request);
        let fits = response.content_length.is_none_or(|length| self.gateway_store().admits(length));
        if !fits || !self.lead.is_current() || !policy::may_store(&sent, response, times) {
            return None;
        }
        let total = match response.body {
            BodyLength::Exact(length) => Some(length),
            BodyLength::None => Some(0),
            BodyLength::Chunked | BodyLength::UntilClose => None,
        };
        Some(Planned {
            stored: self.response(response, times, source),
            total,
            range: (0, total.unwrap_or(u64::MAX)),
            from: 0,
            point: Point::of(&sent, response),
            keep_alive: response.keep_alive,
        })
    }

    /// What is remembered of `response`.
    fn response(&self, response: &ResponseHead, times: Times, source: Option<SocketAddr>) -> Stored {
        let mut fields = response.end_to_end();
        if fields.get("date").is_none() {
            // RFC 9110 §6.6.1. A date is a valid value.
            let _ = fields.push("Date", httpdate::fmt_http_date(times.received).as_bytes());
        }
        Stored {
            uri: self.uri.clone(),
            status: response.status,
            reason: response.reason.to_vec(),
            selecting: policy::selecting(&self.request, policy::varying(&fields)),
            fields,
            requested: times.requested,
            received: times.received,
            total: response.content_length.unwrap_or(0),
            parts: Vec::new(),
            source,
        }
    }

    /// Begins to store the body, and shares it; a response whose body cannot be stored is for the one who asked first.
    async fn begin(
        mut self,
        raw: Bytes,
        response: Box<ResponseHead>,
        mut planned: Planned,
        server: Server,
    ) -> Option<Server> {
        planned.stored.source = server.address;
        let (from, is_rest) = (planned.from, matches!(self.need, Need::Rest { .. }));
        let old = self.stored.clone().filter(|_| is_rest && response.status == 206);
        let store = self.gateway_store();
        let drafted = store.blocking(move |store| {
            let mut draft = match old {
                Some((id, stored)) => Draft::of(store, id, &stored)?,
                None => Draft::new(store)?,
            };
            draft.seek(from);
            Ok::<_, std::io::Error>(draft)
        });
        let rest = Rest::of(response.body);
        match (rest, drafted.await.and_then(|draft| draft)) {
            (Some(rest), Ok(draft)) => self.share(planned, rest, draft, server).await,
            _ if response.status == 206 && self.need.is_rewound(&self.request) => {
                self.lead.cache().is_for_one(&self.uri);
                None
            }
            _ => {
                self.forget(response.status).await;
                self.hand_over(Head::Read(raw, response), server).await
            }
        }
    }

    fn gateway_store(&self) -> Arc<crate::cache::store::Store> {
        self.lead.store()
    }

    /// The request as the server gets it.
    fn asked(&self) -> RequestHead {
        let plain = policy::for_server(&self.request);
        let stored = self.stored.as_ref().map(|(_, stored)| stored);
        match &self.need {
            Need::Whole => {
                stored.and_then(|stored| policy::validation(&self.request, stored)).unwrap_or(plain)
            }
            Need::Range(range) => {
                let mut request = plain;
                // It was received as a field, or is made of digits.
                let _ = request.fields.push("Range", range.as_bytes());
                if let Some(condition) = self.request.fields.get("if-range") {
                    let _ = request.fields.push("If-Range", condition);
                }
                request
            }
            Need::Rest { from, end, .. } => {
                let point = stored.and_then(|stored| {
                    let until = stored.next_part(*from).min(*end);
                    Some((Point::of_fields(&stored.fields, stored.total)?, until))
                });
                point.map_or(plain.clone(), |(point, until)| point.request_part(&plain, *from, until))
            }
        }
    }

    /// Removes what was stored before: it is of no use any more.
    async fn discard(&mut self) {
        if let Some((id, _)) = self.stored.take() {
            self.gateway_store().blocking(move |store| store.remove(id)).await.ok();
        }
    }

    /// Sends the request and reads the head of the response, over the idle connection if that still works.
    async fn ask(&self, idle: Option<Server>) -> Result<(Head, Server, SystemTime), Failure> {
        let sent = self.asked();
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
        self.discard().await;
    }

    /// Fetches the body for all who ask, and stores it.
    async fn share(mut self, planned: Planned, rest: Rest, draft: Draft, server: Server) -> Option<Server> {
        self.lead.cache().is_for_all(&self.uri);
        let store = self.gateway_store();
        let what = (planned.stored.clone(), planned.total);
        let body = Growing::new(store, &draft, what, (planned.range, planned.from), &self.account);
        let hold = body.hold(self.account.holder());
        self.lead.resolve(Outcome::Growing(body.clone()));
        // The stream may have ended: then it is dropped here.
        let _ = self.leader.send(ToLeader::Shared(hold)).await;
        let mut draft = Some(draft);
        let mut server = Some(server);
        let fetched = self.body(&body, &mut draft, rest, &mut server, &planned).await;
        let mut stored = planned.stored;
        if planned.total.is_none() {
            let last = fetched.as_ref().map_or(0, Bytes::len) as u64;
            stored.total = body.end() + last;
        }
        // What came of a response that was cut off is kept only if it can be completed.
        let is_kept = fetched.is_ok() || planned.point.is_some();
        let last = fetched.as_ref().cloned().unwrap_or_default();
        // It is stored before anybody has all of it, so that whoever asks again finds it.
        if let Some(draft) = draft.filter(|draft| is_kept && (fetched.is_ok() || draft.has_grown()))
            && self.lead.is_current()
        {
            self.keep(stored, draft, last).await;
        }
        drop(self);
        match fetched {
            Ok(last) => body.finish(last),
            Err(Cut) => body.close(Err(Broken)),
        }
        server.filter(|server| planned.keep_alive && server.buffer.is_empty()).map(Server::used)
    }

    /// Stores what was fetched in place of what was stored before.
    async fn keep(&self, stored: Stored, mut draft: Draft, last: Bytes) {
        let old = self.stored.as_ref().map(|(id, _)| *id).filter(|id| *id != draft.id());
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

    /// Fetches the body to its end; gives its last bytes, which nobody has yet. When the connection is lost, the rest is asked
    /// for on another one, if it is certain to be of the same response. What is stored already is not asked for.
    async fn body(
        &mut self,
        body: &Growing,
        draft: &mut Option<Draft>,
        mut rest: Rest,
        server: &mut Option<Server>,
        planned: &Planned,
    ) -> Result<Bytes, Cut> {
        let (mut attempts, mut unwanted) = (Attempts::default(), None);
        loop {
            let next = match server {
                Some(server) => {
                    let left = rest.left();
                    tokio::select! {
                        next = server.content(&mut rest) => next,
                        () = abandoned(body, left, &mut unwanted) => {
                            tracing::debug!(uri = self.uri, "a fetch ends: nobody wants it any more");
                            return Err(Cut);
                        }
                        () = self.account.evicted() => {
                            self.change_account(body)?;
                            continue;
                        }
                    }
                }
                None => Err(Cut),
            };
            match next {
                Ok(bytes) if bytes.is_none() || rest.left() == Some(0) => {
                    let last = bytes.unwrap_or_default();
                    let at = body.end() + last.len() as u64;
                    if planned.total.is_none() || at >= planned.range.1 {
                        return Ok(last);
                    }
                    let memory = memory_of(last.len());
                    body.push(last, memory, draft).await;
                    let at = planned.stored.reach(at);
                    if !body.skip(at, draft) {
                        return Err(Cut);
                    }
                    if at >= planned.range.1 {
                        return Ok(Bytes::new());
                    }
                    let point = planned.point.as_ref().ok_or(Cut)?;
                    // The connection has ended its part; it is not used twice, to keep this simple.
                    let (new, left) = self.go_on(point, planned, at).await.ok_or(Cut)?;
                    (*server, rest) = (Some(new), Rest::Exact(left));
                }
                Ok(bytes) => {
                    let bytes = bytes.unwrap_or_default();
                    attempts.failed = 0;
                    let memory = memory_of(bytes.len());
                    body.push(bytes, memory, draft).await;
                }
                Err(Cut) => {
                    *server = None;
                    let point = planned.point.as_ref().ok_or(Cut)?;
                    attempts.one_failed(body)?;
                    limited!(
                        info,
                        NOBODY,
                        uri = self.uri,
                        offset = body.end(),
                        "a fetch goes on over another connection"
                    );
                    if let Some((new, left)) = self.go_on(point, planned, body.end()).await {
                        (*server, rest) = (Some(new), Rest::Exact(left));
                    }
                }
            }
        }
    }

    /// Charges the fetch to another member who reads, because the one who began it holds too much.
    fn change_account(&mut self, body: &Growing) -> Result<(), Cut> {
        let other = body.other_holder(self.account.holder()).ok_or(Cut)?;
        self.account = other.account(Kind::Tunnel);
        body.charge_to(&self.account);
        self._held.charge_to(&self.account);
        Ok(())
    }

    /// Asks for what follows the first `offset` bytes, up to what is stored. Gives the connection, and the number of bytes
    /// that come.
    async fn go_on(&self, point: &Point, planned: &Planned, offset: u64) -> Option<(Server, u64)> {
        let end = planned.stored.next_part(offset).min(planned.range.1);
        let request = point.request_part(&policy::for_server(&self.request), offset, end);
        let head = self.head(&request);
        let mut server = Server::connect(&self.gateway, &self.target, self.is_secure).await.ok()?;
        server.send(&head).await.ok()?;
        loop {
            match server.head(&request.method).await {
                Head::Read(_, response) if response.is_interim() => {}
                Head::Read(_, response) => {
                    point.check_part(&response, offset, end).ok()?;
                    return Some((server, end - offset));
                }
                Head::Unclear(_) | Head::Nothing(_) => return None,
            }
        }
    }
}

/// What follows a response that does not contain what was asked for.
enum Again {
    /// The whole is asked for.
    Plainly,
    /// Everybody asks for themselves.
    Alone,
}

impl Need {
    /// Whether the server is asked for something else than the app asks for.
    fn is_rewound(&self, request: &RequestHead) -> bool {
        match self {
            Self::Whole => false,
            Self::Range(range) => request.fields.get("range") != Some(range.as_bytes()),
            Self::Rest { .. } => true,
        }
    }
}

/// Waits until nobody reads the body, and it is not worth finishing it; at most [`UNWANTED`] since `first`, when nobody
/// read it for the first time.
async fn abandoned(body: &Growing, left: Option<u64>, first: &mut Option<Instant>) {
    loop {
        if body.readers() > 0 {
            *first = None;
        }
        body.abandoned().await;
        let worth = left.is_some_and(|left| left <= MOST_UNWANTED && left <= body.end().max(HARDLY));
        let until = *first.get_or_insert_with(Instant::now) + UNWANTED;
        if !worth || Instant::now() >= until {
            return;
        }
        sleep_until(until).await;
    }
}

/// Waits until the one who began the fetch has left, and nobody else waits for it.
async fn unwanted(leader: &mpsc::Sender<ToLeader>, lead: &Lead, is_background: bool) {
    leader.closed().await;
    if is_background {
        tokio::time::sleep(UNWANTED).await;
    }
    while lead.is_awaited() {
        tokio::time::sleep(LOOK).await;
    }
}
