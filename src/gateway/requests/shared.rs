//! A request that the cache may answer: from what is stored, from what another one fetches now, or by fetching for all who ask.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Method;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::fetch::{Fetch, Need, Started, ToLeader};
use super::lookup::{Lookup, may_share_late, without_range};
use super::stored::{COLLAPSED, HIT, MISS, Mark, VALIDATED, has_all, wanted_of};
use super::{End, Next, Stream};
use crate::cache::growing::{Growing, Reader};
use crate::cache::partial::{self, Wanted};
use crate::cache::policy::{self, Use};
use crate::cache::stored::Stored;
use crate::gateway::cache::{Outcome, Part};
use crate::memory::Tally;
use crate::wire::http::{PART, RequestHead, simple_response};

/// How often one request tries to share before it goes to the server by itself.
const MOST_TURNS: usize = 4;
/// How long a request waits for the head of a response that another one has asked for, before it asks itself.
const PATIENCE: Duration = Duration::from_secs(5);

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
            if self.is_part {
                self.cache.note_spread(&uri);
                if self.is_fetched_for_others(request, &uri, &found.varying) {
                    return self.answer_later().await;
                }
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

    /// Answers that this part of a file is not fetched by itself, because all of it comes for others.
    async fn answer_later(&mut self) -> Result<Next, End> {
        self.asker.grant()?;
        let body = "others get the file over this gateway now\n";
        let answer = simple_response(503, "Service Unavailable", &[(PART, "later")], body, true);
        self.asker.send(answer).await?;
        Ok(Next::Request)
    }

    /// Answers from a fetch for `key`, which this begins unless there is one.
    async fn take_part(
        &mut self,
        request: &RequestHead,
        uri: &str,
        found: Lookup,
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
                    // What is stored for others comes from a connection that no member has influenced.
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
            // Not worth a fetch that others share, but one may be running.
            None => match self.cache.running(&key) {
                Some(outcome) => (outcome, false),
                None => return Ok(Turn::Alone),
            },
        };
        match self.wait((request, uri), outcome, is_by_other_uri).await? {
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

    /// Asks the server whether `stored` is still valid, unless it is being asked already. Nobody waits for the answer.
    fn validate_later(&self, request: &RequestHead, uri: &str, stored: (u64, Stored), key: String) {
        if let Part::Lead(lead, _) = self.cache.join(uri, key) {
            let (leader, _) = mpsc::channel(1);
            let fetch = Fetch::new(self, request, uri, (Some(stored), Need::Whole), lead, leader);
            drop(fetch.in_background().start(None, oneshot::channel().0));
        }
    }

    /// Waits for what another one fetches; `None` when this request has to go to the server by itself.
    async fn wait(
        &mut self,
        (request, uri): (&RequestHead, &str),
        outcome: watch::Receiver<Option<Outcome>>,
        is_by_other_uri: bool,
    ) -> Result<Option<Outcome>, End> {
        // If so, all who share the fetch have named the same digest.
        let is_named = self.common_name(request, uri).is_some();
        // A request made before the response came is as good as validated by it.
        let is_late = !matches!(*outcome.borrow(), None | Some(Outcome::Connected));
        let outcome = self.outcome(outcome, Some(PATIENCE), is_by_other_uri).await?;
        if is_named {
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

    /// Waits for the outcome of a fetch. The response may take `patience` from the moment when there is a connection: making one
    /// has a deadline of its own, and would take this request as long. If the fetch is from another server, the time counts
    /// `from_now`.
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
            // Its validity at its own URI proves nothing here.
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

    /// Whether the server sends the whole file in place of this part, to a client that also gets parts over other gateways. The
    /// answer is the whole then, so that the client asks for no more parts here.
    fn wants_whole(&self, request: &RequestHead, body: &Growing) -> bool {
        self.is_part && partial::wanted(request) == Wanted::Other && body.is_whole()
    }
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
