//! What may answer a request: stored responses, and fetches that run for others.

use std::sync::Arc;
use std::time::SystemTime;

use http::Method;

use super::growing::{MOST_AHEAD, is_near};
use super::stored::{has_all, wanted_of};
use super::{Stream, named};
use crate::cache::control::CacheControl;
use crate::cache::growing::Growing;
use crate::cache::partial::{self, Wanted};
use crate::cache::policy::{self, Use};
use crate::cache::store::Store;
use crate::cache::stored::Stored;
use crate::gateway::cache::Outcome;
use crate::wire::http::RequestHead;

/// How far beyond what has come a range with an end may begin and still wait for it, in bytes: it could be fetched by itself.
const SOON: u64 = 1024 * 1024;

/// What is stored for a request.
#[derive(Default)]
pub(super) struct Lookup {
    pub(super) stored: Option<(u64, Stored)>,
    /// How often the store had changed before it was looked up.
    changes: u64,
    /// The request fields that responses of this URI depend on.
    pub(super) varying: Vec<String>,
}

impl Stream<'_> {
    /// The stored response that `request` selects, if the rules allow it, and what responses of this URI depend on. Of several,
    /// the one that answers the request best.
    pub(super) async fn stored(&self, request: &RequestHead, uri: &str, changes: u64) -> Lookup {
        if !self.cache.store.may_have(uri) {
            return Lookup { changes, ..Lookup::default() };
        }
        let (uri, request) = (uri.to_owned(), request.clone());
        let (gateway, target, is_named) = (self.gateway.clone(), self.target.clone(), self.digest.is_some());
        let find = move |store: &Arc<Store>| {
            let (mut found, mut best) = (Lookup { changes, ..Lookup::default() }, None);
            store.each(&uri, |id, stored| {
                found.varying.extend(stored.selecting.iter().map(|(name, _)| name.clone()));
                let is_allowed = stored
                    .source
                    .is_some_and(|source| gateway.egress.dialer().judge_stored(&target, source).is_ok());
                if !is_allowed || !policy::selects(&request, &stored.selecting, &stored.fields) {
                    return;
                }
                // A whole response would have been proved.
                let is_plain = named::is_plain(&stored.fields);
                if is_named && is_plain && stored.status == 200 && stored.is_complete() {
                    return;
                }
                let has_all = has_all(&request, &stored);
                let is_fresh = policy::usage(&request, &stored, SystemTime::now()) != Use::Validate;
                // Of whole responses the most recent (RFC 9111 §4), of parts the longest.
                let since = if has_all { stored.received } else { SystemTime::UNIX_EPOCH };
                let rank = (has_all && is_fresh, has_all, since, stored.length());
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
    pub(super) async fn is_outdated(&self, request: &RequestHead, uri: &str, found: &Lookup) -> bool {
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

    /// What this request has in common with those that can share its response.
    pub(super) fn key(&self, request: &RequestHead, uri: &str, varying: &[String]) -> String {
        self.common_name(request, uri).unwrap_or_else(|| {
            let mut key = key_of(request, uri, varying);
            if self.cache.is_personal(uri) {
                key.push_str(&format!("asked by: {}\n", self.cache.identity(request)));
            }
            if let Some(credential) = &self.credential {
                // A response to a token is only for those who have the token, until it is known to be for all.
                key.push_str(&format!("{}\n", String::from_utf8_lossy(credential)));
            }
            key
        })
    }

    /// Adds the fields on which a response depends that others are fetching now, if it does not answer `request`: only requests
    /// that get the same share a fetch.
    pub(super) fn add_running(&self, request: &RequestHead, uri: &str, varying: &mut Vec<String>) {
        let running = self.cache.running(&self.key(&without_range(request), uri, varying));
        let outcome = running.and_then(|running| running.borrow().clone());
        let Some(Outcome::Growing(body, _)) = outcome else { return };
        if body.stored.uri == uri && !self.is_answered_by(request, &body.stored, uri) {
            varying.extend(body.stored.selecting.iter().map(|(name, _)| name.clone()));
            varying.sort();
            varying.dedup();
        }
    }

    /// The whole body that is being fetched now and contains the range that `request` asks for, or soon will.
    pub(super) fn whole_with(
        &self,
        request: &RequestHead,
        uri: &str,
        varying: &[String],
    ) -> Option<Arc<Growing>> {
        if request.method != Method::GET || partial::wanted(request) != Wanted::Other {
            return None;
        }
        let whole = without_range(request);
        let running = self.cache.running(&self.key(&whole, uri, varying))?;
        let Some(Outcome::Growing(body, identity)) = running.borrow().clone() else { return None };
        let stored = Stored { total: body.total?, ..body.stored.clone() };
        let (start, end) = wanted_of(request, &stored);
        let fits = self.is_answered_by(request, &stored, uri)
            && (self.common_name(&whole, uri).is_some()
                || self.may_share(request, &stored, identity) && may_share_late(request, &stored));
        let comes = end <= body.end() || !body.is_slow() && is_near(&body, start, SOON);
        (fits && comes).then_some(body)
    }

    /// Whether all that is missing of the body that `request` wants a part of is being fetched for other clients.
    pub(super) fn is_fetched_for_others(&self, request: &RequestHead, uri: &str, varying: &[String]) -> bool {
        let running = self.cache.running(&self.key(&without_range(request), uri, varying));
        let outcome = running.and_then(|running| running.borrow().clone());
        let own = self.asker.account.holder();
        matches!(outcome, Some(Outcome::Growing(body, _)) if body.is_to_the_end() && body.other_holder(own).is_some())
    }

    /// Whether `request` wants the rest of a body from an offset that the fetch for `key` does not reach soon.
    pub(super) fn is_far_ahead(&self, request: &RequestHead, key: &str) -> bool {
        let Wanted::From(start) = partial::wanted(request) else { return false };
        let running = self.cache.running(key);
        let outcome = running.and_then(|running| running.borrow().clone());
        matches!(outcome, Some(Outcome::Growing(body, _)) if !is_near(&body, start, MOST_AHEAD))
    }

    /// Whether the response to a request with this `identity` answers `request`, too. If the identity prevents it, later requests
    /// do not even wait.
    pub(super) fn may_share(&self, request: &RequestHead, stored: &Stored, identity: u64) -> bool {
        let is_same = self.cache.identity(request) == identity;
        let may_share = policy::may_share(request, stored, is_same, SystemTime::now());
        if !may_share && !is_same {
            self.cache.note_personal(&stored.uri);
        }
        may_share
    }

    /// Whether this response answers `request` for `uri`, by its own URI or by the digest that it must have.
    pub(super) fn is_answered_by(&self, request: &RequestHead, stored: &Stored, uri: &str) -> bool {
        match stored.uri == uri {
            true => policy::selects(request, &stored.selecting, &stored.fields),
            false => self.digest.is_some() && stored.status == 200 && named::suits(uri, stored),
        }
    }
}

/// Whether a response whose head has come already answers `request`, too: it is fresh, or the server has not said how long it
/// is. While its body comes, that counts as fresh (RFC 9111 §4.2.2).
pub(super) fn may_share_late(request: &RequestHead, stored: &Stored) -> bool {
    let says_nothing = policy::lifetime(&stored.fields, stored.times()).is_none();
    let asked = CacheControl::of(&request.fields);
    let control = CacheControl::of(&stored.fields);
    policy::usage(request, stored, SystemTime::now()) == Use::Fresh
        || says_nothing && !control.has("no-cache") && !asked.has("no-cache") && !asked.has("max-age")
}

pub(super) fn without_range(request: &RequestHead) -> RequestHead {
    let mut whole = request.clone();
    whole.fields.remove("range");
    whole
}

/// What requests that can share one response have in common: the URI, the fields that its responses depend on, and a range with
/// an end.
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
