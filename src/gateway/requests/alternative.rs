//! Whether a request that shares the fetch of the same content by another URL would get it much faster from its own server.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use tokio::time::{Instant, sleep, timeout};

use super::server::{Head, Server};
use super::{Stream, as_sent};
use crate::cache::growing::Growing;
use crate::cache::policy;
use crate::gateway::cache::Cache;
use crate::gateway::state::Gateway;
use crate::memory::Account;
use crate::wire::http::RequestHead;
use crate::wire::id::NodeId;
use crate::wire::target::Target;

/// In this time a fetch by another URL must bring this many bytes, or the own URL is fetched: 64 KiB/s.
const WINDOW: Duration = Duration::from_secs(3);
const LEAST: u64 = 192 * 1024;
/// The client stays with a fetch whose rest comes within this time.
const SOON: u64 = 10;
/// How many bytes of the file the own server is asked for as a trial, and how long that may take.
const TRIED: u64 = 1024 * 1024;
const TRIAL: Duration = Duration::from_secs(3);
/// A fetch is left when the own server is this many times as fast. Where both share a line, it is at most as fast.
const FASTER: f64 = 2.0;
/// Fields that the trial leaves out: it asks for one part of the content.
const CONDITIONS: [&str; 5] = ["range", "if-range", "if-match", "if-none-match", "if-modified-since"];

/// The own server of a request.
pub(super) struct Alternative {
    gateway: Arc<Gateway>,
    cache: Arc<Cache>,
    target: Target,
    by: NodeId,
    is_secure: bool,
    credential: Option<Vec<u8>>,
    request: RequestHead,
    uri: String,
    account: Arc<Account>,
}

impl Alternative {
    /// The own server of a `request` for `uri`.
    pub(super) fn of(stream: &Stream<'_>, request: &RequestHead, uri: &str) -> Self {
        Self {
            gateway: stream.gateway.clone(),
            cache: stream.cache.clone(),
            target: stream.target.clone(),
            by: stream.asker.member,
            is_secure: stream.is_secure,
            credential: stream.credential.clone(),
            request: request.clone(),
            uri: uri.to_owned(),
            account: stream.asker.account.clone(),
        }
    }

    /// Waits until `body` is too slow to wait for, or this server has proved to be much faster.
    pub(super) async fn is_better_than(&self, body: &Growing) {
        tokio::select! {
            () = body.too_slow(WINDOW, LEAST) => {}
            () = self.is_faster_than(body) => {}
        }
    }

    async fn is_faster_than(&self, body: &Growing) {
        loop {
            let (before, since) = (body.end(), Instant::now());
            sleep(WINDOW).await;
            let count = body.end().saturating_sub(before);
            let rate = rate(count, since);
            // Another request for the same URL has found this server better.
            if self.cache.is_apart(&self.uri) {
                return;
            }
            let left = body.total.map_or(u64::MAX, |total| total.saturating_sub(body.end()));
            // A fetch that brings too little is left without a trial.
            let is_long = count >= LEAST && as_float(left) > rate * as_float(SOON);
            if is_long && self.cache.tries(&self.uri) && self.is_faster(body, rate).await {
                return;
            }
        }
    }

    /// Whether the server sends a part of the file much faster than the fetch, during the trial and before.
    async fn is_faster(&self, body: &Growing, before: f64) -> bool {
        let (start, since, mut count) = (body.end(), Instant::now(), 0);
        // What it has sent by then counts.
        let _ = timeout(TRIAL, self.sends(start, &mut count)).await;
        let (own, shared) = (rate(count, since), rate(body.end().saturating_sub(start), since));
        let is_faster = own > FASTER * shared.max(before);
        tracing::debug!(
            uri = self.uri,
            own,
            shared,
            before,
            is_faster,
            "the server of a shared fetch was compared"
        );
        is_faster
    }

    /// Has the server send a part of the file, and counts the bytes as they come.
    async fn sends(&self, start: u64, count: &mut u64) -> Option<()> {
        let mut request = policy::for_server(&self.request);
        CONDITIONS.into_iter().for_each(|name| request.fields.remove(name));
        let range = format!("bytes={start}-{}", start + TRIED - 1);
        // Digits always fit.
        let _ = request.fields.push("Range", range.as_bytes());
        let mut server =
            Server::connect(&self.gateway, (&self.target, self.by), self.is_secure, &self.account)
                .await
                .ok()?;
        server.send(&as_sent(&request, self.credential.as_deref())).await.ok()?;
        loop {
            match server.head(&Method::GET).await {
                Head::Read(_, response) if response.is_interim() => {}
                Head::Read(_, response) if matches!(response.status, 200 | 206) => break,
                _ => return None,
            }
        }
        while *count < TRIED {
            let bytes = server.next().await.ok().filter(|bytes| !bytes.is_empty())?;
            *count += bytes.len() as u64;
        }
        Some(())
    }
}

/// Bytes a second.
fn rate(count: u64, since: Instant) -> f64 {
    as_float(count) / since.elapsed().as_secs_f64().max(0.001)
}

#[expect(clippy::cast_precision_loss, reason = "rates are compared roughly")]
fn as_float(count: u64) -> f64 {
    count as f64
}
