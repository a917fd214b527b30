//! A request that the cache may answer: from what is stored, from what another one fetches now, or by fetching for all who ask.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::Method;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::alternative::Alternative;
use super::fetch::{Fetch, Need, Started, ToLeader};
use super::named;
use super::pieces::Source;
use super::stored::{COLLAPSED, HIT, MISS, Mark, VALIDATED, has_all, wanted_of};
use super::{End, Next, Stream};
use crate::cache::answer::Answer;
use crate::cache::control::CacheControl;
use crate::cache::growing::{Broken, Growing, Reader};
use crate::cache::partial::{self, Wanted};
use crate::cache::policy::{self, Use};
use crate::cache::store::Store;
use crate::cache::stored::Stored;
use crate::gateway::cache::{Outcome, Part};
use crate::limits::buffer_pool::memory_of;
use crate::memory::Tally;
use crate::wire::http::{ChunkedEncoder, RequestHead, simple_response};

/// How often one request tries to share before it goes to the server by itself.
const MOST_TURNS: usize = 4;
/// How long a request waits for the head of a response that another one has asked for, before it asks itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much further than what has come a request may begin and still wait for it, in bytes.
const MOST_AHEAD: u64 = 4 * 1024 * 1024;

/// The same for a range that has an end, which could be fetched by itself.
const SOON: u64 = 1024 * 1024;
/// How long what a request wants first may take to come, as far as the fetch's speed tells; and how long it waits for it if that turns
/// out to be wrong. A part is asked for by itself otherwise.
const MOMENT: Duration = Duration::from_secs(1);

/// What is stored for a request.
#[derive(Default)]
struct Found {
    stored: Option<(u64, Stored)>,
    /// How often the store had changed before it was looked up.
    changes: u64,
    /// The request fields that responses of this URI depend on.
    varying: Vec<String>,
}

impl Stream<'_> {
    /// Answers a request for `uri`.
    pub(super) async fn share(
        &mut self,
        head: Bytes,
        request: &RequestHead,
        uri: String,
    ) -> Result<Next, End> {
        if self.digest.is_none()
            && let Some(next) = self.serve_copy(request, &uri).await?
        {
            return Ok(next);
        }
        let is_for_cache_alone = policy::is_for_cache_alone(request);
        // The memory of what is stored.
        let mut known = Tally::of(&self.asker.account);
        for _ in 0..MOST_TURNS {
            if let Some(digest) = self.digest.clone()
                && let Some(next) = self.serve_named(request, &uri, &digest).await?
            {
                return Ok(next);
            }
            let mut found = self.stored(request, &uri, self.cache.store.changes()).await;
            known.set(found.stored.as_ref().map_or(0, |(_, stored)| stored.memory()));
            let usable = found.stored.as_ref().filter(|(_, stored)| has_all(request, stored));
            let usage = usable.map(|(_, stored)| policy::usage(request, stored, SystemTime::now()));
            if let (Some((id, stored)), Some(Use::Fresh | Use::WhileValidated)) = (usable, usage) {
                if usage == Some(Use::WhileValidated) {
                    let key = self.key(request, &uri, &found.varying);
                    self.validate_later(request, &uri, (*id, stored.clone()), key);
                }
                match self.serve(request, *id, stored, HIT).await? {
                    Some(next) => return Ok(next),
                    None => continue,
                }
            }
            if is_for_cache_alone {
                self.asker.grant()?;
                let body = "this is not in the cache of the gateway\n";
                self.asker.send(simple_response(504, "Gateway Timeout", &[], body, true)).await?;
                return Ok(Next::Request);
            }
            self.add_running(request, &uri, &mut found.varying);
            if let Some(body) = self.whole_with(request, &uri, &found.varying)
                && let Some(next) = self.serve_growing(request, &body, (COLLAPSED, &uri), None).await?
            {
                return Ok(next);
            }
            let mut key = self.key(request, &uri, &found.varying);
            if self.is_far_ahead(request, &key) {
                // Those who want the same part may share it.
                let range = request.fields.get("range").unwrap_or_default();
                key.push_str(&format!("apart: {}\n", String::from_utf8_lossy(range)));
            }
            match self.take_part(request, &uri, found, key).await? {
                Turn::Answered(next) => return Ok(next),
                Turn::Again => {}
                Turn::Alone => break,
            }
        }
        self.gateway.telemetry.cache.one("passed");
        self.pass(head, request).await
    }

    /// Answers from a fetch for `key`, which this begins unless there is one.
    async fn take_part(
        &mut self,
        request: &RequestHead,
        uri: &str,
        found: Found,
        key: String,
    ) -> Result<Turn, End> {
        let need = need(request, found.stored.as_ref().map(|(_, stored)| stored));
        let (outcome, is_by_other_uri) = match need {
            Some(need) => match self.cache.join(uri, key) {
                Part::Alone => return Ok(Turn::Alone),
                Part::Follow(outcome, is_by_other_uri) => (outcome, is_by_other_uri),
                Part::Lead(lead, _) if self.is_outdated(request, uri, &found).await => {
                    lead.resolve(Outcome::Stored);
                    return Ok(Turn::Again);
                }
                Part::Lead(lead, outcome) => {
                    let (leader, messages) = mpsc::channel(4);
                    let (back, lent) = oneshot::channel();
                    // What is stored for others comes from a connection on which no member has had a say.
                    let server = self.idle().filter(|server| !server.is_private && !server.is_stale());
                    let fetch = Fetch::new(self, request, uri, (found.stored, need), lead, leader);
                    self.lent = Some(lent);
                    return match self.lead(request, fetch.start(server, back), messages, outcome).await? {
                        Led::Answered(next) => Ok(Turn::Answered(next)),
                        Led::Outcome(outcome, hold) => {
                            let next = self.follow(request, outcome, (MISS, uri), hold).await?;
                            Ok(next.map_or(Turn::Again, Turn::Answered))
                        }
                    };
                }
            },
            // Not worth a fetch of the whole, but there may be one.
            None => match self.cache.running(&key) {
                Some(outcome) => (outcome, false),
                None => return Ok(Turn::Alone),
            },
        };
        match self.wait(request, outcome, is_by_other_uri).await? {
            Some(Outcome::Failed(_) | Outcome::Alone) | None if is_by_other_uri => {
                self.cache.keep_apart(uri);
                Ok(Turn::Again)
            }
            Some(Outcome::Alone) | None => Ok(Turn::Alone),
            Some(outcome) => {
                let next = self.follow(request, outcome, (COLLAPSED, uri), None).await?;
                Ok(next.map_or(Turn::Again, Turn::Answered))
            }
        }
    }

    /// Adds the fields on which a response depends that is fetched for others now, if it does not answer `request`: those who get the
    /// same as this one share that.
    fn add_running(&self, request: &RequestHead, uri: &str, varying: &mut Vec<String>) {
        let running = self.cache.running(&self.key(&without_range(request), uri, varying));
        let outcome = running.and_then(|running| running.borrow().clone());
        let Some(Outcome::Growing(body, _)) = outcome else { return };
        if body.stored.uri == uri && !self.is_answered_by(request, &body.stored, uri) {
            varying.extend(body.stored.selecting.iter().map(|(name, _)| name.clone()));
            varying.sort();
            varying.dedup();
        }
    }

    /// What this request has in common with those that can share its response.
    fn key(&self, request: &RequestHead, uri: &str, varying: &[String]) -> String {
        self.common_name(request, uri).unwrap_or_else(|| {
            let mut key = key_of(request, uri, varying);
            if self.cache.is_personal(uri) {
                key.push_str(&format!("asked by: {}\n", self.cache.identity(request)));
            }
            if let Some(credential) = &self.credential {
                // What a token gets is for those alone who have it, until it is known to be for all.
                key.push_str(&format!("{}\n", String::from_utf8_lossy(credential)));
            }
            key
        })
    }

    /// The whole body that is being fetched now and contains the range that `request` asks for, or soon will.
    fn whole_with(&self, request: &RequestHead, uri: &str, varying: &[String]) -> Option<Arc<Growing>> {
        if request.method != Method::GET || partial::wanted(request) != Wanted::Other {
            return None;
        }
        let whole = without_range(request);
        let running = self.cache.running(&self.key(&whole, uri, varying))?;
        let Some(Outcome::Growing(body, identity)) = running.borrow().clone() else { return None };
        let stored = Stored { total: body.total?, ..body.stored.clone() };
        let (start, end) = wanted_of(request, &stored);
        let fits = self.is_answered_by(request, &stored, uri)
            && (self.digest.is_some()
                || self.may_share(request, &stored, identity) && may_share_late(request, &stored));
        let comes = end <= body.end() || !body.is_slow() && is_near(&body, start, SOON);
        (fits && comes).then_some(body)
    }

    /// Whether `request` wants the rest of a body from an offset on to which the fetch for `key` does not come soon.
    fn is_far_ahead(&self, request: &RequestHead, key: &str) -> bool {
        let Wanted::From(start) = partial::wanted(request) else { return false };
        let running = self.cache.running(key);
        let outcome = running.and_then(|running| running.borrow().clone());
        matches!(outcome, Some(Outcome::Growing(body, _)) if !is_near(&body, start, MOST_AHEAD))
    }

    /// Asks the server whether `stored` is still valid, unless it is being asked already. Nobody waits for the answer.
    fn validate_later(&self, request: &RequestHead, uri: &str, stored: (u64, Stored), key: String) {
        if let Part::Lead(lead, _) = self.cache.join(uri, key) {
            let (leader, _) = mpsc::channel(1);
            let fetch = Fetch::new(self, request, uri, (Some(stored), Need::Whole), lead, leader);
            drop(fetch.in_background().start(None, oneshot::channel().0));
        }
    }

    /// The stored response that `request` selects, if the rules allow it, and what responses of this URI depend on. Of several
    /// it is the one that answers the request best.
    async fn stored(&self, request: &RequestHead, uri: &str, changes: u64) -> Found {
        if !self.cache.store.may_have(uri) {
            return Found { changes, ..Found::default() };
        }
        let (uri, request) = (uri.to_owned(), request.clone());
        let (gateway, target, is_named) = (self.gateway.clone(), self.target.clone(), self.digest.is_some());
        let find = move |store: &Arc<Store>| {
            let (mut found, mut best) = (Found { changes, ..Found::default() }, None);
            store.each(&uri, |id, stored| {
                found.varying.extend(stored.selecting.iter().map(|(name, _)| name.clone()));
                let is_allowed = stored
                    .source
                    .is_some_and(|source| gateway.egress.dialer().judge_stored(&target, source).is_ok());
                if !is_allowed || !policy::selects(&request, &stored.selecting, &stored.fields) {
                    return;
                }
                // A whole one would have been proved.
                let is_plain = named::is_plain(&stored.fields);
                if is_named && is_plain && stored.status == 200 && stored.is_complete() {
                    return;
                }
                let has_all = has_all(&request, &stored);
                let is_fresh = policy::usage(&request, &stored, SystemTime::now()) != Use::Validate;
                let rank = (has_all && is_fresh, has_all, stored.length());
                if best.is_none_or(|best| rank > best) {
                    (best, found.stored) = (Some(rank), Some((id, stored)));
                }
            });
            found.varying.sort();
            found.varying.dedup();
            found
        };
        self.cache.store.blocking(find).await.unwrap_or_default()
    }

    /// Whether a fetch that ended after `found` was looked up has stored what this request needs, or a part of it.
    async fn is_outdated(&self, request: &RequestHead, uri: &str, found: &Found) -> bool {
        let changes = self.cache.store.changes();
        if changes == found.changes {
            return false;
        }
        let is_proved = match &self.digest {
            Some(digest) => self.named(uri, digest.clone()).await.is_some(),
            None => false,
        };
        is_proved || self.stored(request, uri, changes).await.stored != found.stored
    }

    /// Waits for what another one fetches; `None` when this request has to go to the server by itself.
    async fn wait(
        &mut self,
        request: &RequestHead,
        outcome: watch::Receiver<Option<Outcome>>,
        is_by_other_uri: bool,
    ) -> Result<Option<Outcome>, End> {
        // What was asked for before the response came is as good as validated by it.
        let is_late = !matches!(*outcome.borrow(), None | Some(Outcome::Connected));
        let outcome = self.outcome(outcome, Some(PATIENCE), is_by_other_uri).await?;
        if self.digest.is_some() {
            return Ok(outcome);
        }
        Ok(outcome.filter(|outcome| match outcome {
            Outcome::Growing(body, identity) => {
                self.may_share(request, &body.stored, *identity)
                    && (!is_late || may_share_late(request, &body.stored))
            }
            Outcome::Valid(_, stored, identity) => self.may_share(request, stored, *identity),
            _ => true,
        }))
    }

    /// Whether the response to a request with this `identity` answers `request`, too. If it does not, those that come after it
    /// do not even wait for what others get.
    fn may_share(&self, request: &RequestHead, stored: &Stored, identity: u64) -> bool {
        let is_same = self.cache.identity(request) == identity;
        let may_share = policy::may_share(request, stored, is_same, SystemTime::now());
        if !may_share && !is_same {
            self.cache.note_personal(&stored.uri);
        }
        may_share
    }

    /// Waits for the outcome of a fetch, with `patience` at most so long for the response once there is a connection: how long
    /// that takes is bounded, and would not be less for this request, unless it is for another server (`from_now`).
    async fn outcome(
        &mut self,
        mut outcome: watch::Receiver<Option<Outcome>>,
        patience: Option<Duration>,
        from_now: bool,
    ) -> Result<Option<Outcome>, End> {
        let mut deadline = patience.filter(|_| from_now).map(|patience| Instant::now() + patience);
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

    /// Drives the fetch that this stream has begun, until it is known whether others share it.
    async fn lead(
        &mut self,
        request: &RequestHead,
        mut fetch: Started,
        mut messages: mpsc::Receiver<ToLeader>,
        outcome: watch::Receiver<Option<Outcome>>,
    ) -> Result<Led, End> {
        loop {
            let message = tokio::select! {
                biased;
                message = messages.recv() => message,
                () = fetch.ended() => continue,
                () = self.asker.gone() => return Err(End::Gone),
            };
            match message {
                Some(ToLeader::Connected) => self.asker.grant()?,
                Some(ToLeader::Interim(head)) => {
                    self.asker.grant()?;
                    self.asker.send(head).await?;
                }
                Some(ToLeader::Begun(begun)) => {
                    drop(fetch);
                    self.gateway.telemetry.cache.one("passed");
                    return Ok(Led::Answered(Box::pin(self.pass_response(request, *begun)).await?));
                }
                Some(ToLeader::Shared(reader)) => {
                    drop(fetch);
                    let outcome = self.outcome(outcome, None, false).await?.unwrap_or(Outcome::Alone);
                    return Ok(Led::Outcome(outcome, Some(reader)));
                }
                None => {
                    let outcome = self.outcome(outcome, None, false).await?.unwrap_or(Outcome::Alone);
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
        (mark, uri): (Mark, &str),
        hold: Option<Reader>,
    ) -> Result<Option<Next>, End> {
        match outcome {
            Outcome::Growing(body, _) if self.is_answered_by(request, &body.stored, uri) => {
                let whole = self.wants_whole(request, &body).then(|| without_range(request));
                self.serve_growing(whole.as_ref().unwrap_or(request), &body, (mark, uri), hold).await
            }
            Outcome::Growing(body, _) if body.stored.uri != uri => {
                self.cache.keep_apart(uri);
                Ok(None)
            }
            // That it is valid at its own URI proves nothing.
            Outcome::Valid(_, stored, _) if stored.uri != uri => {
                self.cache.keep_apart(uri);
                Ok(None)
            }
            Outcome::Valid(id, stored, _)
                if self.is_answered_by(request, &stored, uri) && has_all(request, &stored) =>
            {
                self.serve(request, id, &stored, VALIDATED).await
            }
            Outcome::Failed(failure) => Err(End::Refused(failure)),
            Outcome::Growing(..) | Outcome::Valid(..) | Outcome::Stored => Ok(None),
            Outcome::Alone | Outcome::Connected => Ok(None),
        }
    }

    /// Whether a part that was asked for is not worth the whole, which the server sends in its place: whoever asks on a condition, or
    /// knows the digest, gets the file elsewhere, too.
    fn wants_whole(&self, request: &RequestHead, body: &Growing) -> bool {
        let has_condition = self.digest.is_some() || request.fields.get("if-range").is_some();
        has_condition && partial::wanted(request) == Wanted::Other && body.is_whole()
    }

    /// Whether `request` for `uri` is answered by this response, or by one that has the digest that it must have.
    fn is_answered_by(&self, request: &RequestHead, stored: &Stored, uri: &str) -> bool {
        match stored.uri == uri {
            true => policy::selects(request, &stored.selecting, &stored.fields),
            false => self.digest.is_some() && stored.status == 200 && named::suits(uri, stored),
        }
    }

    /// Answers from a body that is still coming.
    async fn serve_growing(
        &mut self,
        request: &RequestHead,
        body: &Arc<Growing>,
        (mark, uri): (Mark, &str),
        hold: Option<Reader>,
    ) -> Result<Option<Next>, End> {
        if !self.asker.account.may_take().await {
            return Err(End::Gone);
        }
        let stored = Stored { total: body.total.unwrap_or(0), ..body.stored.clone() };
        let mut kept = Tally::of(&self.asker.account);
        kept.set(stored.memory());
        let (request, stored) = named::as_asked(request, &stored, uri);
        let in_chunks = body.total.is_none();
        let answer = if in_chunks { Answer::Whole } else { Answer::to(&request, &stored) };
        let (start, mut end) =
            if request.method == Method::HEAD { (0, 0) } else { answer.body(stored.total) };
        if in_chunks && request.method != Method::HEAD {
            end = u64::MAX;
        }
        // Whoever has begun the fetch gets what it brings.
        let is_follower = mark.is_shared();
        let is_hopeless = body.is_slow() && !body.can_go_on() && end > body.end();
        if is_follower && (is_hopeless || !is_near(body, start, MOST_AHEAD)) {
            return Ok(None);
        }
        let _waiting = (is_follower && body.stored.uri == uri).then(|| body.follow());
        let Some(mut reader) = body.reader(start, end, &self.asker.account) else {
            tokio::select! {
                () = body.ended() => return Ok(None),
                () = self.asker.gone() => return Err(End::Gone),
            }
        };
        drop(hold);
        let own = (body.stored.uri != uri).then(|| Alternative::of(self, &request, uri));
        let first = tokio::select! {
            first = self.read(&mut reader) => first?,
            () = named::is_left(body, own.as_ref()) => Err(Broken),
            () = body.out_of_reach(start, MOMENT), if is_follower && start > 0 => return Ok(None),
        };
        let Ok(first) = first else {
            if own.is_some() {
                self.cache.keep_apart(uri);
                self.cache.keep_apart(&body.stored.uri);
            }
            return Ok(None);
        };
        let cache = self.cache.clone();
        let sending = self.send_growing((&request, &stored, answer), body, (reader, first), mark);
        tokio::select! {
            sent = sending => sent.map(Some),
            () = named::is_left(body, own.as_ref()) => {
                cache.keep_apart(uri);
                cache.keep_apart(&body.stored.uri);
                Err(End::Broken("another server that has the same file sends too little of it"))
            }
        }
    }

    /// Sends the head and what is read of a body that is still coming; `first` was read already.
    async fn send_growing(
        &mut self,
        (request, stored, answer): (&RequestHead, &Stored, Answer),
        body: &Arc<Growing>,
        (mut reader, first): (Reader, Option<Bytes>),
        mark: Mark,
    ) -> Result<Next, End> {
        let in_chunks = body.total.is_none();
        self.asker.grant()?;
        let age = policy::age(stored, SystemTime::now()).unwrap_or(Duration::ZERO);
        let head = answer.head(stored, age, &self.cache_status(mark, stored), in_chunks);
        if !in_chunks
            && let Some(shared) = self.shared(request, answer, stored, head.clone())
            && self.has_room(stored.total.saturating_sub(body.end())).await
        {
            let kept = body.hold(&self.asker.account);
            drop(reader);
            let sent = self
                .send_pieces(shared, Source::Growing { body: body.clone(), _kept: kept }, body.id)
                .await?;
            self.count(mark, body.id, stored, sent);
            return Ok(Next::End);
        }
        let (mut next, mut sent) = (first, 0);
        // The beginning of the body waits while the head is sent.
        self.asker.hold(next.as_ref().map_or(0, |first| memory_of(first.len())));
        match &next {
            Some(bytes) if !in_chunks => {
                sent = bytes.len() as u64;
                self.send_beginning(head, bytes.clone()).await?;
                next = self.read_on(&mut reader).await?;
            }
            _ => self.asker.send(head).await?,
        }
        self.asker.hold(0);
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
            next = self.read_on(&mut reader).await?;
        }
        if in_chunks && request.method != Method::HEAD {
            self.asker.send(Bytes::from_static(ChunkedEncoder::END)).await?;
        }
        self.count(mark, body.id, stored, sent);
        Ok(Next::Request)
    }

    /// Whether the disk takes so many more bytes. What it does not take can be read once and in order only.
    async fn has_room(&self, count: u64) -> bool {
        self.cache.store.blocking(move |store| store.has_room(count)).await.unwrap_or(false)
    }

    /// What follows what was sent already.
    async fn read_on(&mut self, reader: &mut Reader) -> Result<Option<Bytes>, End> {
        self.read(reader).await?.map_err(|_broken| End::Broken("the response was cut off"))
    }

    async fn read(&mut self, reader: &mut Reader) -> Result<Result<Option<Bytes>, Broken>, End> {
        tokio::select! {
            read = reader.next() => Ok(read),
            () = self.asker.gone() => Err(End::Gone),
        }
    }
}

/// Whether what is fetched comes to `start` soon, from at most `most` bytes before it.
fn is_near(body: &Growing, start: u64, most: u64) -> bool {
    start <= body.end().saturating_add(most) && body.reaches(start, MOMENT)
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

/// What became of one attempt to share.
enum Turn {
    Answered(Next),
    /// Something may be stored, or fetched, by now.
    Again,
    /// This request goes to the server by itself.
    Alone,
}

/// What became of the fetch that a stream has begun.
enum Led {
    Answered(Next),
    /// What all others get too; a reader keeps the fetch going until this stream has its own.
    Outcome(Outcome, Option<Reader>),
}

/// What a fetch for `request` asks the server; `None` when it is not worth one that others share.
fn need(request: &RequestHead, stored: Option<&Stored>) -> Option<Need> {
    let has = |name: &str| request.fields.get(name).is_some();
    if request.method != Method::GET {
        return None;
    }
    match stored {
        Some(stored) if has_all(request, stored) => Some(Need::Whole),
        Some(stored) => {
            let (start, end) = wanted_of(request, stored);
            Some(Need::Rest { start, from: stored.reach(start), end })
        }
        None if has("if-none-match") || has("if-modified-since") => None,
        None => Some(partial::range(request).map_or(Need::Whole, Need::Range)),
    }
}

fn without_range(request: &RequestHead) -> RequestHead {
    let mut whole = request.clone();
    whole.fields.remove("range");
    whole
}

/// What requests have in common that can share one response: the URI, the fields that responses of it depend on, and a range
/// that has an end.
fn key_of(request: &RequestHead, uri: &str, varying: &[String]) -> String {
    let mut key = format!("{uri}\n");
    if partial::wanted(request) == Wanted::Other {
        let range = request.fields.get("range").unwrap_or_default();
        key.push_str(&format!("{}\n", String::from_utf8_lossy(range)));
    }
    for (name, value) in policy::selecting(request, varying.iter().cloned()) {
        let value = value.map(|value| String::from_utf8_lossy(&value).into_owned());
        key.push_str(&format!("{name}: {value:?}\n"));
    }
    key
}
