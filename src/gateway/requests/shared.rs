//! A request that the cache may answer: from what is stored, from what another one fetches now, or by fetching for all who ask.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::Method;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::fetch::{Fetch, ToLeader};
use super::{End, Next, Stream};
use crate::cache::answer::Answer;
use crate::cache::control::CacheControl;
use crate::cache::growing::{Growing, Reader};
use crate::cache::policy::{self, Use};
use crate::cache::store::Body;
use crate::cache::stored::Stored;
use crate::gateway::cache::{Outcome, Part};
use crate::limited;
use crate::limits::lines::NOBODY;
use crate::wire::http::{ChunkedEncoder, RequestHead, simple_response};

/// How often one request tries to share before it goes to the server by itself.
const MOST_TURNS: usize = 4;
/// How long a request waits for the head of a response that another one has asked for, before it asks itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many blocks of a stored body are read at a time.
const BLOCKS: u64 = 4;
/// Up to this size the first bytes of a body are sent together with its head.
const TOGETHER: usize = 16 * 1024;

/// How a response is marked (RFC 9211), and counted.
#[derive(Clone, Copy)]
struct Mark {
    /// The parameters of Cache-Status after the name.
    status: &'static str,
    counted: &'static str,
}

const HIT: Mark = Mark { status: "hit", counted: "hit" };
const VALIDATED: Mark = Mark { status: "hit; fwd=stale; fwd-status=304", counted: "validated" };
const MISS: Mark = Mark { status: "fwd=uri-miss; stored", counted: "miss" };
const COLLAPSED: Mark = Mark { status: "fwd=uri-miss; stored; collapsed", counted: "collapsed" };

/// A stored response that was opened, and the first bytes of what is sent of it.
struct Opened {
    body: Body,
    first: Bytes,
}

impl Stream<'_> {
    /// Answers a request for `uri`.
    pub(super) async fn share(
        &mut self,
        head: Bytes,
        request: &RequestHead,
        uri: String,
    ) -> Result<Next, End> {
        let control = CacheControl::of(&request.fields);
        let has = |name: &str| request.fields.get(name).is_some();
        let is_plain = request.method == Method::GET
            && !["range", "if-none-match", "if-modified-since"].into_iter().any(has);
        for _ in 0..MOST_TURNS {
            let (found, varying) = self.stored(request, &uri).await;
            if let Some((id, stored)) = &found
                && policy::usage(request, stored, SystemTime::now()) == Use::Fresh
            {
                match self.serve(request, *id, stored, HIT).await? {
                    Some(next) => return Ok(next),
                    None => continue,
                }
            }
            if control.has("only-if-cached") {
                self.asker.grant()?;
                let body = "this is not in the cache of the gateway\n";
                self.asker.send(simple_response(504, "Gateway Timeout", &[], body, true)).await?;
                return Ok(Next::Request);
            }
            let key = key(request, &uri, varying);
            let (outcome, mark) = if is_plain || found.is_some() && request.method == Method::GET {
                match self.cache.join(&uri, key) {
                    Part::Alone => break,
                    Part::Follow(outcome) => match self.wait(request, outcome).await? {
                        Some(outcome) => (outcome, COLLAPSED),
                        None => break,
                    },
                    Part::Lead(lead, outcome) => {
                        let (leader, messages) = mpsc::channel(4);
                        let (back, lent) = oneshot::channel();
                        let server = self.idle().filter(|server| !server.is_stale());
                        Fetch::new(self, request, &uri, found, lead, leader).spawn(server, back);
                        self.lent = Some(lent);
                        match self.lead(request, messages, outcome).await? {
                            Led::Answered(next) => return Ok(next),
                            Led::Outcome(outcome, hold) => {
                                let next = self.follow(request, outcome, MISS).await;
                                drop(hold);
                                match next? {
                                    Some(next) => return Ok(next),
                                    None => continue,
                                }
                            }
                        }
                    }
                }
            } else {
                // Not worth a fetch of the whole, but there may be one.
                match self.cache.running(&key) {
                    Some(outcome) => match self.wait(request, outcome).await? {
                        Some(outcome) => (outcome, COLLAPSED),
                        None => break,
                    },
                    None => break,
                }
            };
            if matches!(outcome, Outcome::Alone) {
                break;
            }
            if let Some(next) = self.follow(request, outcome, mark).await? {
                return Ok(next);
            }
        }
        self.gateway.telemetry.cache.one("passed");
        self.pass(head, request).await
    }

    /// The stored response that `request` selects, if the rules allow it, and what responses of this URI depend on.
    async fn stored(&self, request: &RequestHead, uri: &str) -> (Option<(u64, Stored)>, Vec<String>) {
        if !self.cache.store.may_have(uri) {
            return (None, Vec::new());
        }
        let asked = uri.to_owned();
        let found = self.cache.store.blocking(move |store| store.find(&asked)).await.unwrap_or_default();
        let mut varying: Vec<String> = found
            .iter()
            .flat_map(|(_, stored)| stored.selecting.iter().map(|(name, _)| name.clone()))
            .collect();
        varying.sort();
        varying.dedup();
        let allowed = |stored: &Stored| {
            stored.source.is_some_and(|source| self.gateway.egress.judge_stored(&self.target, source).is_ok())
        };
        let selected = found.into_iter().find(|(_, stored)| {
            stored.is_complete() && policy::selects(request, &stored.selecting) && allowed(stored)
        });
        (selected, varying)
    }

    /// Waits for what another one fetches; `None` when this request has to go to the server by itself.
    async fn wait(
        &mut self,
        request: &RequestHead,
        outcome: watch::Receiver<Option<Outcome>>,
    ) -> Result<Option<Outcome>, End> {
        // What was asked for before the response came is as good as validated by it.
        let is_late = !matches!(*outcome.borrow(), None | Some(Outcome::Connected));
        let outcome = self.outcome(outcome, Some(PATIENCE)).await?;
        Ok(outcome.filter(|outcome| match outcome {
            Outcome::Growing(body) => !is_late || may_share_late(request, &body.stored),
            _ => true,
        }))
    }

    /// Waits for the outcome of a fetch, with `patience` at most so long for the response once there is a connection: how long
    /// that takes is bounded, and would not be less for this request.
    async fn outcome(
        &mut self,
        mut outcome: watch::Receiver<Option<Outcome>>,
        patience: Option<Duration>,
    ) -> Result<Option<Outcome>, End> {
        let mut deadline = None;
        loop {
            match outcome.borrow_and_update().clone() {
                None => {}
                // The client hears that there is a connection, and from then on whether its app leaves.
                Some(Outcome::Connected) => {
                    self.asker.grant()?;
                    deadline = deadline.or(patience.map(|patience| Instant::now() + patience));
                }
                Some(outcome) => return Ok(Some(outcome)),
            }
            let late = deadline.unwrap_or_else(Instant::now);
            tokio::select! {
                changed = outcome.changed() => if changed.is_err() { return Ok(Some(Outcome::Alone)) },
                () = sleep_until(late), if deadline.is_some() => return Ok(None),
                () = self.asker.gone() => return Err(End::Gone),
            }
        }
    }

    /// Waits for the fetch that this stream has begun.
    async fn lead(
        &mut self,
        request: &RequestHead,
        mut messages: mpsc::Receiver<ToLeader>,
        outcome: watch::Receiver<Option<Outcome>>,
    ) -> Result<Led, End> {
        loop {
            let message = tokio::select! {
                message = messages.recv() => message,
                () = self.asker.gone() => return Err(End::Gone),
            };
            match message {
                Some(ToLeader::Connected) => self.asker.grant()?,
                Some(ToLeader::Interim(head)) => {
                    self.asker.grant()?;
                    self.asker.send(head).await?;
                }
                Some(ToLeader::Begun(begun)) => {
                    self.gateway.telemetry.cache.one("passed");
                    return Ok(Led::Answered(Box::pin(self.pass_response(request, *begun)).await?));
                }
                Some(ToLeader::Shared(reader)) => {
                    let outcome = self.outcome(outcome, None).await?.unwrap_or(Outcome::Alone);
                    return Ok(Led::Outcome(outcome, Some(reader)));
                }
                None => {
                    let outcome = self.outcome(outcome, None).await?.unwrap_or(Outcome::Alone);
                    return Ok(Led::Outcome(outcome, None));
                }
            }
        }
    }

    /// Answers from what a fetch has led to; `None` when that does not answer this request.
    async fn follow(
        &mut self,
        request: &RequestHead,
        outcome: Outcome,
        mark: Mark,
    ) -> Result<Option<Next>, End> {
        match outcome {
            Outcome::Growing(body) if policy::selects(request, &body.stored.selecting) => {
                self.serve_growing(request, &body, mark).await
            }
            Outcome::Valid(id, stored) if policy::selects(request, &stored.selecting) => {
                self.serve(request, id, &stored, VALIDATED).await
            }
            Outcome::Failed(failure) => Err(End::Refused(failure)),
            Outcome::Growing(_) | Outcome::Valid(..) | Outcome::Alone | Outcome::Connected => Ok(None),
        }
    }

    fn cache_status(&self, mark: Mark, stored: &Stored) -> String {
        let ttl = policy::remaining(stored, SystemTime::now()).as_secs();
        format!("{}; {}; ttl={ttl}", self.gateway.name, mark.status)
    }

    /// Answers with what is stored; `None` when it turns out to be damaged before anything was sent.
    async fn serve(
        &mut self,
        request: &RequestHead,
        id: u64,
        stored: &Stored,
        mark: Mark,
    ) -> Result<Option<Next>, End> {
        let answer = Answer::to(request, stored);
        let (start, end) = if request.method == Method::HEAD { (0, 0) } else { answer.body(stored.total) };
        let (store, kept) = (self.cache.store.clone(), stored.clone());
        let opened = store.blocking(move |store| {
            let body = store.body(id, &kept)?;
            let first = body.read(start, end, BLOCKS)?;
            Ok::<_, std::io::Error>(Opened { body, first })
        });
        let opened = match opened.await.and_then(|opened| opened) {
            Ok(opened) => opened,
            Err(error) => {
                limited!(warn, NOBODY, %error, uri = stored.uri, "a stored response is damaged, and was removed");
                store.blocking(move |store| store.remove(id)).await.ok();
                return Ok(None);
            }
        };
        self.asker.grant()?;
        let age = policy::age(stored, SystemTime::now()).unwrap_or_default();
        let head = answer.head(stored, age, &self.cache_status(mark, stored), false);
        self.count(mark, end - start);
        self.send_stored(head, opened, (start, end)).await.map(Some)
    }

    async fn send_stored(
        &mut self,
        head: Bytes,
        opened: Opened,
        (start, end): (u64, u64),
    ) -> Result<Next, End> {
        let Opened { body, first } = opened;
        let mut at = start + first.len() as u64;
        if first.len() <= TOGETHER {
            let mut together = BytesMut::from(head);
            together.extend_from_slice(&first);
            self.asker.send(together.freeze()).await?;
        } else {
            self.asker.send(head).await?;
            self.asker.send(first).await?;
        }
        let body = std::sync::Arc::new(body);
        while at < end {
            let reading = body.clone();
            let read = self.cache.store.blocking(move |_| reading.read(at, end, BLOCKS)).await;
            let Ok(bytes) = read.and_then(|read| read) else {
                return Err(End::Broken("a stored response is damaged"));
            };
            at += bytes.len() as u64;
            self.asker.send(bytes).await?;
        }
        Ok(Next::Request)
    }

    /// Answers from a body that is still coming.
    async fn serve_growing(
        &mut self,
        request: &RequestHead,
        body: &std::sync::Arc<Growing>,
        mark: Mark,
    ) -> Result<Option<Next>, End> {
        let stored = Stored { total: body.total.unwrap_or(0), ..body.stored.clone() };
        let in_chunks = body.total.is_none();
        let answer = if in_chunks { Answer::Whole } else { Answer::to(request, &stored) };
        let (start, mut end) =
            if request.method == Method::HEAD { (0, 0) } else { answer.body(stored.total) };
        if in_chunks && request.method != Method::HEAD {
            end = u64::MAX;
        }
        let Some(mut reader) = body.reader(start, end) else { return Ok(None) };
        let Ok(mut next) = self.read(&mut reader).await? else { return Ok(None) };
        self.asker.grant()?;
        let age = policy::age(&stored, SystemTime::now()).unwrap_or(Duration::ZERO);
        self.asker.send(answer.head(&stored, age, &self.cache_status(mark, &stored), in_chunks)).await?;
        let mut sent = 0;
        while let Some(bytes) = next {
            sent += bytes.len() as u64;
            let bytes = if in_chunks {
                let mut chunk = BytesMut::with_capacity(bytes.len() + 24);
                ChunkedEncoder::encode(&bytes, &mut chunk);
                chunk.freeze()
            } else {
                bytes
            };
            self.asker.send(bytes).await?;
            next =
                self.read(&mut reader).await?.map_err(|_broken| End::Broken("the response was cut off"))?;
        }
        if in_chunks && request.method != Method::HEAD {
            self.asker.send(Bytes::from_static(ChunkedEncoder::END)).await?;
        }
        self.count(mark, sent);
        Ok(Some(Next::Request))
    }

    async fn read(
        &mut self,
        reader: &mut Reader,
    ) -> Result<Result<Option<Bytes>, crate::cache::growing::Broken>, End> {
        tokio::select! {
            read = reader.next() => Ok(read),
            () = self.asker.gone() => Err(End::Gone),
        }
    }

    fn count(&self, mark: Mark, sent: u64) {
        let telemetry = &self.gateway.telemetry;
        telemetry.cache.one(mark.counted);
        if mark.counted != MISS.counted {
            telemetry.cache_saved.many(sent);
        }
    }
}

/// Whether a response whose head has come already answers `request`, too: it is fresh, or the server has not said how long it
/// is. While its body comes, that counts as fresh (RFC 9111 §4.2.2).
fn may_share_late(request: &RequestHead, stored: &Stored) -> bool {
    let says_nothing = policy::lifetime(&stored.fields, stored.times()).is_none();
    let asked = CacheControl::of(&request.fields);
    let control = CacheControl::of(&stored.fields);
    policy::usage(request, stored, SystemTime::now()) == Use::Fresh
        || says_nothing && !control.has("no-cache") && !asked.has("no-cache") && !asked.has("max-age")
}

/// What became of the fetch that a stream has begun.
enum Led {
    Answered(Next),
    /// What all others get too; a reader keeps the fetch going until this stream has its own.
    Outcome(Outcome, Option<Reader>),
}

/// What requests have in common that can share one response: the URI, and the fields that responses of it depend on.
fn key(request: &RequestHead, uri: &str, varying: Vec<String>) -> String {
    let mut key = format!("{uri}\n");
    for (name, value) in policy::selecting(request, varying.into_iter()) {
        let value = value.map(|value| String::from_utf8_lossy(&value).into_owned());
        key.push_str(&format!("{name}: {value:?}\n"));
    }
    key
}
