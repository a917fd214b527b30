//! A response that is stored, and its way to the client.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use http::Method;

use super::pieces::Source;
use super::reading::read_stored;
use super::{End, Next, Stream};
use crate::cache::answer::Answer;
use crate::cache::policy::{self, Use};
use crate::cache::store::{self, Body, Copied};
use crate::cache::stored::{BLOCK, Stored};
use crate::limited;
use crate::limits::buffer_pool::{PooledBuffer, detached, memory_of};
use crate::limits::lines::NOBODY;
use crate::memory::Tally;
use crate::telemetry::journal::Happening;
use crate::telemetry::report;
use crate::wire::http::RequestHead;
use crate::wire::resume::Point;

/// How many blocks of a stored body are read first, while there is room; one otherwise.
const BLOCKS: usize = 2;
/// Up to this size the first bytes of a body are sent together with its head.
const TOGETHER: usize = 16 * 1024;

/// Events tell how many machines got a file of at least this many bytes, at these numbers of machines.
const TOLD_FROM: u64 = 1024 * 1024;
const TOLD_AT: [u32; 10] = [2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000];

/// How a response is marked (RFC 9211), and counted.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    /// The parameters of Cache-Status after the name, but for `stored`.
    status: &'static str,
    counted: &'static str,
}

pub(super) const HIT: Mark = Mark { status: "hit", counted: "hit" };
pub(super) const VALIDATED: Mark = Mark { status: "hit; fwd=stale; fwd-status=304", counted: "validated" };
pub(super) const MISS: Mark = Mark { status: "fwd=uri-miss", counted: "miss" };
pub(super) const COLLAPSED: Mark = Mark { status: "fwd=uri-miss; collapsed", counted: "collapsed" };

impl Mark {
    /// Whether another request has begun the fetch that answers this one.
    pub(super) fn is_shared(self) -> bool {
        self.counted == COLLAPSED.counted
    }
}

/// A stored response that was opened, and the first bytes of what is sent of it.
struct Opened {
    body: Body,
    first: Bytes,
}

impl Stream<'_> {
    /// Answers from the most recent copy in memory; `None` when there is none that may be used without asking the server.
    pub(super) async fn serve_copy(&mut self, request: &RequestHead, uri: &str) -> Result<Option<Next>, End> {
        let copies = self.cache.store.copies(uri).unwrap_or_default();
        let may_be_used = |stored: &Stored| {
            let is_allowed = |source| self.gateway.egress.dialer().judge_stored(&self.target, source).is_ok();
            stored.source.is_some_and(is_allowed)
                && policy::selects(request, &stored.selecting, &stored.fields)
                && policy::usage(request, stored, SystemTime::now()) == Use::Fresh
        };
        let usable = copies.into_iter().rev().filter(|copied| may_be_used(&copied.stored));
        // RFC 9111 §4.
        let Some(Copied { id, stored, body }) = usable.max_by_key(|copied| copied.stored.received) else {
            return Ok(None);
        };
        self.send_copy(request, (id, &stored, body)).await.map(Some)
    }

    /// Answers from this copy.
    pub(super) async fn send_copy(
        &mut self,
        request: &RequestHead,
        (id, stored, body): (u64, &Stored, Bytes),
    ) -> Result<Next, End> {
        self.asker.grant()?;
        let (start, end) = wanted_of(request, stored);
        let as_index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(body.len());
        let whole = body.len();
        let body = body.slice(as_index(start)..as_index(end));
        let age = policy::age(stored, SystemTime::now()).unwrap_or_default();
        let head =
            Answer::to(request, stored).head(stored, age, &self.cache_status(HIT, stored, false), false);
        self.count(HIT, id, stored, end - start);
        // So it stays counted after the store has dropped it.
        let body = detached(body, whole);
        self.asker.hold(stored.memory() + head.len() + memory_of(body.len()));
        let sent = self.send_beginning(head, body).await;
        self.asker.hold(0);
        sent.map(|()| Next::Request)
    }

    /// The value of Cache-Status. `is_kept` says that the response is being stored because of this request (RFC 9211 §2.5).
    pub(super) fn cache_status(&self, mark: Mark, stored: &Stored, is_kept: bool) -> String {
        let ttl = policy::remaining(stored, SystemTime::now()).as_secs();
        let kept = if is_kept { "; stored" } else { "" };
        format!("{}; {}{kept}; ttl={ttl}", self.gateway.name, mark.status)
    }

    /// Answers with what is stored; `None` when it turns out to be damaged, or cannot be read for now, before anything was sent.
    pub(super) async fn serve(
        &mut self,
        request: &RequestHead,
        id: u64,
        stored: &Stored,
        mark: Mark,
    ) -> Result<Option<Next>, End> {
        let answer = Answer::to(request, stored);
        let (start, end) = if request.method == Method::HEAD { (0, 0) } else { answer.body(stored.total) };
        let (store, kept) = (self.cache.store.clone(), stored.clone());
        self.asker.hold(stored.memory());
        let account = self.asker.account.clone();
        let is_long = end - start > BLOCK as u64;
        let most = if is_long && account.is_roomy() { BLOCKS * BLOCK } else { BLOCK };
        let prepare = move || {
            let mut held = Tally::of(&account);
            held.set(memory_of(most));
            (PooledBuffer::take(most), held)
        };
        let opened = store.prepared(prepare, move |store, (mut buffer, held)| {
            let body = store.body(id, &kept)?;
            let range = match start < end {
                true => body.read_into((start, end), &mut buffer.room()[..most])?,
                false => 0..0,
            };
            store.copy(id, &kept);
            Ok::<_, std::io::Error>((body, buffer, range, held))
        });
        let (opened, counted) = match opened.await.and_then(|opened| opened) {
            Ok((body, buffer, range, held)) => (Opened { body, first: buffer.part(range) }, held),
            Err(error) if store::calls::says_nothing(&error) => {
                self.asker.hold(0);
                return Ok(None);
            }
            Err(error) => {
                limited!(warn, NOBODY, %error, uri = stored.uri, "a stored response is damaged, and was removed");
                let sentence = format!("what was stored of {} is damaged, and was removed", stored.uri);
                self.gateway.telemetry.note_about(NOBODY, Happening::Damaged, "", sentence);
                store.blocking(move |store| store.remove(id)).await.ok();
                self.asker.hold(0);
                return Ok(None);
            }
        };
        self.asker.grant()?;
        let age = policy::age(stored, SystemTime::now()).unwrap_or_default();
        let head = answer.head(stored, age, &self.cache_status(mark, stored, false), false);
        if let Some(shared) = self.shared(request, answer, stored, head.clone())
            && !stored.pieces.is_empty()
        {
            // What was read has shown that the file is there; the pieces are read again, each when it is due.
            let Opened { body, first } = opened;
            drop((first, counted));
            let source = Source::Stored(Arc::new(body), stored.pieces.clone());
            let sent = self.send_pieces(shared, source, id).await;
            self.asker.hold(0);
            self.count(mark, id, stored, sent?);
            return Ok(Some(Next::End));
        }
        self.count(mark, id, stored, end - start);
        self.asker.hold(stored.memory() + memory_of(opened.first.len()));
        drop(counted);
        let sent = self.send_stored(head, (id, opened), (start, end), stored).await;
        self.asker.hold(0);
        sent.map(Some)
    }

    async fn send_stored(
        &mut self,
        head: Bytes,
        (id, opened): (u64, Opened),
        (start, end): (u64, u64),
        stored: &Stored,
    ) -> Result<Next, End> {
        let Opened { body, first } = opened;
        let at = start + first.len() as u64;
        self.send_beginning(head, first).await?;
        self.asker.hold(stored.memory());
        self.send_range((id, &Arc::new(body)), (at, end), stored).await?;
        Ok(Next::Request)
    }

    /// Sends bytes of a stored body: those from `at` up to `end`.
    pub(super) async fn send_range(
        &mut self,
        (id, body): (u64, &Arc<Body>),
        (mut at, end): (u64, u64),
        stored: &Stored,
    ) -> Result<(), End> {
        let (store, account) = (self.cache.store.clone(), self.asker.account.clone());
        let patience = store::calls::patience(Point::of_fields(&stored.fields, stored.total).is_some());
        let mut next = read_stored((&store, &account), body, (at, end), patience).await;
        while at < end {
            if next.as_ref().is_err_and(store::calls::is_hung) {
                return Err(End::Broken("the disk of the cache does not answer"));
            }
            let Ok((bytes, counted)) = next else {
                // The app asks again for what it lacks, and must not find the damaged copy.
                store.blocking(move |store| store.remove(id)).await.ok();
                let sentence = "a stored response is damaged, and was removed";
                self.gateway.telemetry.note_about(NOBODY, Happening::Damaged, "", sentence);
                return Err(End::Broken("a stored response is damaged"));
            };
            at += bytes.len() as u64;
            // The sender counts what is being sent.
            drop(counted);
            if account.is_tight() {
                self.asker.send(bytes).await?;
                next = read_stored((&store, &account), body, (at, end), patience).await;
                continue;
            }
            // The disk and the link work at the same time.
            let reading = read_stored((&store, &account), body, (at, end), patience);
            let (sent, read) = futures_util::future::join(self.asker.send(bytes), reading).await;
            sent?;
            next = read;
        }
        Ok(())
    }

    /// Sends a head and the first bytes of its body.
    pub(super) async fn send_beginning(&mut self, head: Bytes, first: Bytes) -> Result<(), End> {
        if first.len() <= TOGETHER {
            let mut together = BytesMut::with_capacity(head.len() + first.len());
            together.extend_from_slice(&head);
            together.extend_from_slice(&first);
            // It may keep a much larger buffer, and the client may take nothing for a while.
            drop(first);
            return Ok(self.asker.send(together.freeze()).await?);
        }
        self.asker.send(head).await?;
        Ok(self.asker.send(first).await?)
    }

    pub(super) fn count(&self, mark: Mark, id: u64, stored: &Stored, sent: u64) {
        let telemetry = &self.gateway.telemetry;
        telemetry.cache.one(mark.counted);
        let saved = (mark.counted != MISS.counted).then_some(sent);
        telemetry.cache_saved.many(saved.unwrap_or(0));
        let members = self.cache.store.served(id, &stored.uri, self.asker.member, saved);
        if let Some(count) = members.filter(|count| stored.total >= TOLD_FROM && TOLD_AT.contains(count)) {
            let size = report::bytes(stored.total);
            let sentence = format!("{} ({size}) was downloaded once for {count} machines", stored.uri);
            telemetry.note_about(NOBODY, Happening::Shared, "", sentence);
        }
    }
}

/// Whether what `request` needs of the body is stored.
pub(super) fn has_all(request: &RequestHead, stored: &Stored) -> bool {
    let (start, end) = wanted_of(request, stored);
    stored.has(start, end)
}

/// The bytes of the body that `request` needs.
pub(super) fn wanted_of(request: &RequestHead, stored: &Stored) -> (u64, u64) {
    if request.method == Method::HEAD { (0, 0) } else { Answer::to(request, stored).body(stored.total) }
}
