//! A response whose body is still coming, and its way to the client.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::Method;

use super::alternative::Alternative;
use super::named;
use super::pieces::Source;
use super::stored::Mark;
use super::{End, Next, Stream};
use crate::cache::answer::Answer;
use crate::cache::growing::{Broken, Growing, Reader};
use crate::cache::policy;
use crate::cache::stored::Stored;
use crate::limits::buffer_pool::memory_of;
use crate::memory::Tally;
use crate::wire::http::{ChunkedEncoder, RequestHead};

/// How far beyond what has come a request may begin and still wait for it, in bytes.
pub(super) const MOST_AHEAD: u64 = 4 * 1024 * 1024;
/// How long the first bytes that a request wants may take at the fetch's speed, and how long the request waits if that estimate
/// is wrong. Otherwise the part is asked for by itself.
const MOMENT: Duration = Duration::from_secs(1);

impl Stream<'_> {
    /// Answers from a body that is still coming.
    pub(super) async fn serve_growing(
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
        let status = self.cache_status(mark, stored, body.is_kept());
        let head = answer.head(stored, age, &status, in_chunks);
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

    /// Whether the disk takes this many more bytes. What it does not take can only be read once and in order.
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
pub(super) fn is_near(body: &Growing, start: u64, most: u64) -> bool {
    start <= body.end().saturating_add(most) && body.reaches(start, MOMENT)
}
