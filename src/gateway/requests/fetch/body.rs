//! Fetching a body: it is shared while it comes, stored, and continued over another connection when one is lost.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use super::second::{Continuation, Second, has_changed};
use super::{Fetch, Planned, ToLeader, UNWANTED};
use crate::cache::draft::{Draft, WrongFile};
use crate::cache::growing::{Broken, Growing};
use crate::cache::pieces::Listed;
use crate::cache::policy;
use crate::cache::store::Store;
use crate::cache::stored::Stored;
use crate::gateway::cache::Outcome;
use crate::gateway::requests::server::{Cut, Head, Rest, Server};
use crate::limited;
use crate::limits::buffer_pool::memory_of;
use crate::limits::lines::NOBODY;
use crate::memory::Kind;
use crate::wire::resume::Point;

/// The largest rest, in bytes, that is fetched for nobody. It is finished only if at least as much is there already, or hardly
/// anything is missing.
const MOST_UNWANTED: u64 = 64 * 1024 * 1024;
/// What is hardly anything, in bytes.
const HARDLY: u64 = 1024 * 1024;
/// With this many readers, what comes is gathered for this time, unless it is more than this many bytes: each part wakes each
/// reader, which encrypts and sends it. A hundred readers of a 20 Mbit/s line, whose packets come one by one, took most of a
/// processor. The bytes are the receive window of a new connection, so that no line becomes slower.
const MANY: usize = 8;
const GATHER: Duration = Duration::from_millis(15);
const MOST_GATHERED: usize = 64 * 1024;
/// How often in a row a fetch goes on although nothing came.
const MOST_FRUITLESS: u32 = 3;

/// What a fetch has come to while it waits for its server.
#[derive(Default)]
struct Waiting {
    /// Since when nobody has read the body.
    unwanted: Option<Instant>,
    second: Second,
}

/// What comes next of a body.
enum Next {
    Came(Result<Option<Bytes>, Cut>),
    /// Nothing; the fetch goes on.
    Nothing,
    /// The fetch ends: nobody is left to fetch the body for.
    Unwanted,
    /// The body goes on over another connection.
    Elsewhere(Continuation),
}

/// The attempts that failed in a row, with nothing received.
#[derive(Default)]
struct Attempts {
    failed: u32,
    /// How many readers had ever joined at the first of them.
    joined: u64,
}

impl Attempts {
    /// Counts a failed attempt; the last one ends the fetch, but readers that have joined since get as many attempts again.
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

/// Decides after each part whether to gather more before the next one.
struct Pauses {
    since: Instant,
    bytes: usize,
    is_slow: bool,
}

impl Pauses {
    fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0, is_slow: false }
    }

    /// Whether to pause after a part of `count` bytes: the line has brought little lately.
    fn after(&mut self, count: usize, now: Instant) -> bool {
        self.bytes += count;
        let passed = now.duration_since(self.since);
        if passed >= GATHER {
            self.is_slow = self.bytes as u128 * GATHER.as_nanos() < MOST_GATHERED as u128 * passed.as_nanos();
            (self.since, self.bytes) = (now, 0);
        }
        self.is_slow
    }
}

impl Fetch {
    /// Fetches the body for all who ask, and stores it.
    pub(super) async fn share(
        mut self,
        planned: Planned,
        rest: Rest,
        draft: Draft,
        server: Server,
    ) -> Option<Server> {
        self.lead.cache().is_for_all(&self.uri);
        let store = self.gateway_store();
        let what = (planned.stored.clone(), planned.total);
        let body = Growing::new(store, &draft, what, (planned.range, planned.from), &self.account);
        let hold = body.hold(&self.account);
        let identity = self.lead.cache().identity(&self.request);
        self.lead.resolve(Outcome::Growing(body.clone(), identity));
        // The stream may have ended: then it is dropped here.
        let _ = self.leader.send(ToLeader::Shared(hold)).await;
        let mut draft = Some(draft);
        let mut server = Some(server);
        let fetched = self.body(&body, &mut draft, rest, &mut server, &planned).await;
        if fetched.is_err() {
            // Readers that join while it is stored would be cut off.
            let _ = body.end_early(u64::MAX);
        }
        let mut stored = planned.stored;
        if planned.total.is_none() {
            let last = fetched.as_ref().map_or(0, Bytes::len) as u64;
            stored.total = body.end() + last;
        }
        // What came of a response that was cut off is kept only if it can be completed.
        let can_be_completed = planned.point.is_some() && self.is_for_all(&stored.fields);
        let is_kept = fetched.is_ok() || can_be_completed;
        let last = fetched.as_ref().cloned().unwrap_or_default();
        let is_replaced = self.stored.as_ref().is_some_and(|(old, _)| *old != body.id);
        // It is stored before anybody has all of it, so that whoever asks again finds it.
        if let Some(draft) = draft.filter(|draft| is_kept && (fetched.is_ok() || draft.has_grown()))
            && self.lead.is_current()
        {
            let pieces = self.keep(stored, draft, last).await;
            body.list(&pieces);
        } else if is_replaced && fetched.is_ok() {
            // Nobody must get the old response only because the new one is not stored.
            self.discard().await;
        }
        drop(self);
        match fetched {
            Ok(last) => body.finish(last),
            Err(Cut) => body.close(Err(Broken)),
        }
        server.filter(|server| planned.keep_alive && server.buffer.is_empty()).map(Server::used)
    }

    /// Stores what was fetched in place of what was stored before. Returns the hashes of its pieces.
    async fn keep(&self, stored: Stored, draft: Draft, last: Bytes) -> Vec<Listed> {
        self.replace(stored, draft, last).await.unwrap_or_else(|error| {
            if let Some((_, member)) = self.named.as_ref().filter(|_| WrongFile::is(&error)) {
                self.gateway.telemetry.cache.one("poisoned");
                self.lead.cache().was_wrong(&self.uri, *member);
            }
            match error.kind() {
                // The beginning that it completes was removed meanwhile, as when the file has changed on the server.
                io::ErrorKind::NotFound => {
                    tracing::debug!(uri = self.uri, "a response is not stored: its beginning was removed")
                }
                _ => limited!(warn, NOBODY, uri = self.uri, %error, "a response is not stored"),
            }
            Vec::new()
        })
    }

    async fn replace(&self, stored: Stored, mut draft: Draft, mut last: Bytes) -> io::Result<Vec<Listed>> {
        let (store, is_named, id) = (self.gateway_store(), self.named.is_some(), draft.id());
        let is_in_memory = draft.has_memory_for(last.len()) && draft.at() + last.len() as u64 == stored.total;
        if is_in_memory && self.stored.is_none() && !(is_named && store.may_have(&self.uri)) {
            // Neither it nor anything that it replaces is on the disk.
            draft.append(&last)?;
            return draft.store(stored).map(|(_, stored)| stored.pieces);
        }
        if draft.is_behind() {
            // What was there before is hashed in steps between which others get the disk.
            let (rest, total) = (std::mem::take(&mut last), stored.total);
            draft = store.blocking(move |_| draft.append(&rest).map(|()| draft)).await??;
            let mut has_more = true;
            while has_more {
                let step = move |_: &Arc<Store>| draft.hash_more(total).map(|has_more| (draft, has_more));
                (draft, has_more) = store.blocking(step).await??;
            }
        }
        let mut old = Vec::from_iter(self.stored.as_ref().map(|(id, _)| *id));
        let kept = store.blocking(move |store| {
            let kept = draft.append(&last).and_then(|()| draft.store(stored));
            match &kept {
                // What the index names is what the URI stands for now.
                Ok((_, stored)) if stored.is_proved() => {
                    store.each(&stored.uri, |other, _| old.push(other));
                }
                Err(error) if is_named && WrongFile::is(error) => old.clear(),
                _ => {}
            }
            old.into_iter().filter(|old| *old != id).for_each(|old| store.release(old));
            kept.map(|(_, stored)| stored.pieces)
        });
        kept.await?
    }

    /// Fetches the body to its end, and returns its last bytes, which no reader has yet. When the connection is lost, the rest is
    /// asked for on another one, if it is certain to be of the same response. What is stored already is not asked for.
    async fn body(
        &mut self,
        body: &Arc<Growing>,
        draft: &mut Option<Draft>,
        mut rest: Rest,
        server: &mut Option<Server>,
        planned: &Planned,
    ) -> Result<Bytes, Cut> {
        let (mut attempts, mut waiting) = (Attempts::default(), Waiting::default());
        let mut pauses = Pauses::new(Instant::now());
        loop {
            let next = match self.next(body, (&mut *server, &mut rest), planned, &mut waiting).await {
                Next::Came(next) => next,
                Next::Nothing => continue,
                Next::Unwanted => return Err(Cut),
                Next::Elsewhere(Continuation { server: new, rest: left, bytes }) => {
                    (*server, rest) = (Some(new), left);
                    if planned.point.is_none() {
                        // A body that begins the same need not belong to the response whose fields are known.
                        *draft = None;
                    }
                    Ok(Some(bytes))
                }
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
                    // The connection has served its part. It is not reused, to keep this simple.
                    let (new, left) = self.go_on(point, planned, at).await.ok_or(Cut)?;
                    (*server, rest) = (Some(new), Rest::Exact(left));
                }
                Ok(bytes) => {
                    let bytes = bytes.unwrap_or_default();
                    attempts.failed = 0;
                    let (count, memory) = (bytes.len(), memory_of(bytes.len()));
                    body.push(bytes, memory, draft).await;
                    if pauses.after(count, Instant::now()) && body.readers() >= MANY {
                        sleep(GATHER).await;
                    }
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

    /// Waits for the next bytes of the body, or for what keeps them from coming.
    async fn next(
        &mut self,
        body: &Arc<Growing>,
        (server, rest): (&mut Option<Server>, &mut Rest),
        planned: &Planned,
        waiting: &mut Waiting,
    ) -> Next {
        let Some(server) = server else { return Next::Came(Err(Cut)) };
        let left = rest.left();
        tokio::select! {
            next = server.content(rest) => Next::Came(next),
            () = abandoned(body, left, &mut waiting.unwanted) => {
                if !body.end_unread() {
                    return Next::Nothing;
                }
                tracing::debug!(uri = self.uri, "a fetch ends: nobody wants it any more");
                Next::Unwanted
            }
            found = waiting.second.found(self, body, planned) => Next::Elsewhere(found),
            () = self.account.evicted() => match self.change_account(body) {
                Ok(()) => Next::Nothing,
                Err(Cut) => Next::Unwanted,
            },
        }
    }

    /// Charges the fetch to another member who reads, because the one who began it holds too much.
    fn change_account(&mut self, body: &Growing) -> Result<(), Cut> {
        let other = body.other_holder(self.account.holder()).ok_or(Cut)?;
        self.account = other.account(Kind::Tunnel);
        body.charge_to(&self.account);
        self.held.charge_to(&self.account);
        Ok(())
    }

    /// Asks for what follows the first `offset` bytes, up to what is stored. Returns the connection, and the number of bytes
    /// that come.
    async fn go_on(&self, point: &Point, planned: &Planned, offset: u64) -> Option<(Server, u64)> {
        let end = planned.stored.next_part(offset).min(planned.range.1);
        let request = point.request_part(&policy::for_server(&self.request), offset, end);
        let head = self.head(&request);
        let mut server =
            Server::connect(&self.gateway, (&self.target, self.member), self.is_secure, &self.account)
                .await
                .ok()?;
        server.send(&head).await.ok()?;
        loop {
            match server.head(&request.method).await {
                Head::Read(_, response) if response.is_interim() => {}
                Head::Read(_, response) => {
                    if has_changed(&planned.stored.fields, &response) {
                        self.lead.leave();
                    }
                    point.check_part(&response, offset, end).ok()?;
                    return Some((server, end - offset));
                }
                Head::Unclear(_) | Head::Nothing(_) => return None,
            }
        }
    }
}

/// Waits until nobody reads the body and it is not worth finishing; at most [`UNWANTED`] after `first`, since when nobody has
/// read it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_slow_line_is_waited_for() {
        // Bytes in each part, milliseconds between two parts, and whether there are pauses in the end.
        for (count, every, expected) in [
            (1448, 1, true),
            (37_500, 15, true),
            (60_000, 15, true),
            (70_000, 15, false),
            (64 * 1024, 1, false),
            (256 * 1024, 16, false),
            (1448, 0, false),
        ] {
            let mut now = Instant::now();
            let mut pauses = Pauses::new(now);
            let mut pause = false;
            for _ in 0..100 {
                now += Duration::from_millis(every);
                pause = pauses.after(count, now);
            }
            assert_eq!(pause, expected, "{count} bytes each {every} ms");
        }
    }
}
