//! A second connection for a body that has almost stalled while others wait for it, who would have asked the server themselves
//! without the cache. It brings the rest of the same content, or a whole body that begins with what has come.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::Method;
use tokio::time::{Instant, sleep, timeout};

use super::{Fetch, Planned};
use crate::cache::growing::Growing;
use crate::cache::policy;
use crate::cache::stored::Stored;
use crate::gateway::requests::server::{Head, Rest, Server};
use crate::gateway::requests::socket::READ;
use crate::limited;
use crate::limits::buffer_pool::detached;
use crate::limits::lines::NOBODY;
use crate::wire::http::{BodyLength, Fields, ResponseHead};

/// How long one attempt may take: until it brings something that has not come before.
const ATTEMPT: Duration = Duration::from_secs(20);
/// Maximum attempts in a row, unless somebody else begins to wait.
const MOST: u32 = 3;
/// Minimum time between the first attempt and the next one; it doubles.
const PAUSE: Duration = Duration::from_secs(2);

/// A connection that goes on where the body ends.
pub(super) struct Continuation {
    pub(super) server: Server,
    pub(super) rest: Rest,
    /// What follows the end of the body.
    pub(super) bytes: Bytes,
}

/// What an attempt has brought.
enum Came {
    More(Box<Continuation>),
    /// The server's content has changed.
    Other,
}

type Attempt = Pin<Box<dyn Future<Output = Option<Came>> + Send>>;

/// The attempts of one fetch.
#[derive(Default)]
pub(super) struct Second {
    running: Option<Attempt>,
    count: u32,
    /// How many had waited for the body at the first of these attempts.
    followed: u64,
    last: Option<Instant>,
}

impl Second {
    /// Waits until another connection brings what the first one does not. Cancel safe: `self` keeps the attempt.
    pub(super) async fn found(
        &mut self,
        fetch: &Fetch,
        body: &Arc<Growing>,
        planned: &Planned,
    ) -> Continuation {
        if planned.point.is_none() && !body.is_whole() {
            return std::future::pending().await;
        }
        loop {
            if let Some(attempt) = &mut self.running {
                let found = attempt.await;
                self.running = None;
                match found {
                    Some(Came::More(found)) => return *found,
                    Some(Came::Other) => fetch.lead.leave(),
                    None => {}
                }
                continue;
            }
            let followed = body.keeps_followers_waiting().await;
            if self.may_begin(followed) {
                limited!(
                    info,
                    NOBODY,
                    uri = fetch.uri,
                    offset = body.end(),
                    "a fetch hardly goes on, and its server is asked once more"
                );
                self.running = Some(fetch.attempt(body, planned));
            } else {
                sleep(PAUSE / 4).await;
            }
        }
    }

    /// Whether it is time for an attempt.
    fn may_begin(&mut self, followed: u64) -> bool {
        let pause = PAUSE * (1 << self.count.min(MOST));
        let is_new = followed != self.followed;
        let since = self.last.map_or(Duration::MAX, |last| last.elapsed());
        if since < if is_new { PAUSE / 2 } else { pause } || !is_new && self.count >= MOST {
            return false;
        }
        if is_new {
            (self.count, self.followed) = (0, followed);
        }
        self.count += 1;
        self.last = Some(Instant::now());
        true
    }
}

impl Fetch {
    /// Asks for what follows the end of `body`, up to what is stored.
    fn attempt(&self, body: &Arc<Growing>, planned: &Planned) -> Attempt {
        let offset = body.end();
        let end = planned.stored.next_part(offset).min(planned.range.1);
        let (whole, point) = (policy::for_server(&self.request), planned.point.clone());
        let request = point.as_ref().map_or(whole.clone(), |point| point.request_part(&whole, offset, end));
        let head = self.head(&request);
        let (gateway, target, is_secure) = (self.gateway.clone(), self.target.clone(), self.is_secure);
        let by = self.member;
        let (body, account) = (body.clone(), self.account.clone());
        let attempt = async move {
            let mut server = Server::connect(&gateway, (&target, by), is_secure, &account).await.ok()?;
            server.send(&head).await.ok()?;
            let response = loop {
                match server.head(&Method::GET).await {
                    Head::Read(_, response) if response.is_interim() => {}
                    Head::Read(_, response) => break response,
                    Head::Unclear(_) | Head::Nothing(_) => return None,
                }
            };
            if has_changed(&body.stored.fields, &response) {
                return Some(Came::Other);
            }
            let is_rest = point.is_some_and(|point| point.check_part(&response, offset, end).is_ok());
            let (from, mut rest) = match is_rest {
                true => (offset, Rest::Exact(end - offset)),
                false if body.is_whole() && is_alike(&body.stored, body.total, &response) => {
                    (0, Rest::of(response.body)?)
                }
                false => return None,
            };
            let mut reader = body.reader(from, end, &account)?;
            let (mut at, mut known) = (from, Bytes::new());
            loop {
                let mut bytes = server.content(&mut rest).await.ok()??;
                while !bytes.is_empty() && at < body.end() {
                    if known.is_empty() {
                        known = reader.next().await.ok()??;
                    }
                    let count = bytes.len().min(known.len());
                    if bytes.split_to(count) != known.slice(..count) {
                        return None;
                    }
                    known.advance(count);
                    at += count as u64;
                }
                if at == body.end() && (from < at || !bytes.is_empty()) {
                    let bytes = detached(bytes, READ);
                    return Some(Came::More(Box::new(Continuation { server, rest, bytes })));
                }
            }
        };
        Box::pin(async move { timeout(ATTEMPT, attempt).await.ok().flatten() })
    }
}

/// Whether `response` is part or all of other content than came with the fields `before`, as its validator says.
pub(super) fn has_changed(before: &Fields, response: &ResponseHead) -> bool {
    let both = |name| before.get(name).zip(response.fields.get(name));
    // A tag that was strong may be weak for a part that is made at once.
    let tag = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    let is_other = match both("etag") {
        Some((before, now)) => tag(before) != tag(now),
        None => both("last-modified").is_some_and(|(before, now)| before != now),
    };
    is_other && matches!(response.status, 200 | 206)
}

/// Whether `response` may be the content of `stored`, of `total` bytes, once more, as far as its head tells.
fn is_alike(stored: &Stored, total: Option<u64>, response: &ResponseHead) -> bool {
    let is_same = |name| response.fields.all(name).eq(stored.fields.all(name));
    response.status == stored.status
        && total.is_some_and(|total| response.body == BodyLength::Exact(total))
        && ["content-type", "content-encoding", "content-language", "etag", "last-modified"]
            .into_iter()
            .all(is_same)
}
