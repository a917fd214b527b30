//! Requests for a file whose digest the client's node knows from an index. Content that was proved to have it answers them,
//! whatever its URI and its age; what is fetched for them is stored only if it has it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::stored::HIT;
use super::{End, Next, Stream};
use crate::cache::digest::Digest;
use crate::cache::growing::Growing;
use crate::cache::partial::{self, Wanted};
use crate::cache::store::{Copied, Store};
use crate::cache::stored::Stored;
use crate::wire::http::RequestHead;

/// How long a fetch by another URI may bring nothing before this one is fetched.
const PATIENCE: Duration = Duration::from_secs(3);
/// What identifies content of one server alone, and the conditions that compare it.
const VALIDATORS: [&str; 2] = ["etag", "last-modified"];
const CONDITIONS: [&str; 3] = ["if-none-match", "if-modified-since", "if-range"];

impl Stream<'_> {
    /// Answers from a copy in memory that was proved to be the file, or from the store; `None` when neither has it.
    pub(super) async fn serve_named(
        &mut self,
        request: &RequestHead,
        uri: &str,
        digest: &Digest,
    ) -> Result<Option<Next>, End> {
        if let Some(Copied { id, stored, body }) = self.cache.store.proved_copy(digest)
            && self.is_allowed(&stored)
        {
            let (request, stored) = as_asked(request, &stored, uri);
            return self.send_copy(&request, (id, &stored, body)).await.map(Some);
        }
        let Some((id, stored)) = self.named(uri, digest.clone()).await else { return Ok(None) };
        let (request, stored) = as_asked(request, &stored, uri);
        self.serve(&request, id, &stored, HIT).await
    }

    /// What is stored and proved to have this digest. What is stored for `uri` and was not proved yet is, now.
    async fn named(&self, uri: &str, digest: Digest) -> Option<(u64, Stored)> {
        let (gateway, target, uri) = (self.gateway.clone(), self.target.clone(), uri.to_owned());
        let find = move |store: &Arc<Store>| {
            let is_allowed = |stored: &Stored| {
                stored.source.is_some_and(|source| gateway.egress.judge_stored(&target, source).is_ok())
            };
            if let Some((id, stored)) = store.proved(&digest).filter(|(_, stored)| is_allowed(stored)) {
                return Some((id, stored));
            }
            let mut candidates = Vec::new();
            store.each(&uri, |id, stored| {
                let is_known =
                    stored.digest.as_ref().is_some_and(|other| other.algorithm == digest.algorithm);
                if stored.status == 200 && stored.is_complete() && !is_known && is_allowed(&stored) {
                    candidates.push((id, stored));
                }
            });
            candidates.into_iter().find_map(|(id, stored)| match store.prove(id, &stored, &digest) {
                Ok(proved) => (proved.digest.as_ref() == Some(&digest)).then_some((id, proved)),
                Err(error) => {
                    tracing::debug!(%error, "a stored response cannot be proved, and is removed");
                    store.remove(id);
                    None
                }
            })
        };
        self.cache.store.blocking(find).await.ok().flatten()
    }

    fn is_allowed(&self, stored: &Stored) -> bool {
        stored.source.is_some_and(|source| self.gateway.egress.judge_stored(&self.target, source).is_ok())
    }

    /// What requests for the same content have in common, by whatever URI: the digest, unless this one has to be fetched apart.
    pub(super) fn common_name(&self, request: &RequestHead, uri: &str) -> Option<String> {
        let digest = self.digest.as_ref()?;
        let is_common =
            partial::wanted(request) == Wanted::Whole && self.cache.may_cross(uri, self.asker.member);
        is_common.then(|| format!("{}\n", digest.shown()))
    }
}

/// The request and the response as they are for `uri`: what was stored for another one has no validators.
pub(super) fn as_asked<'a>(
    request: &'a RequestHead,
    stored: &'a Stored,
    uri: &str,
) -> (Cow<'a, RequestHead>, Cow<'a, Stored>) {
    if stored.uri == uri {
        return (Cow::Borrowed(request), Cow::Borrowed(stored));
    }
    let (mut request, mut stored) = (request.clone(), stored.clone());
    CONDITIONS.into_iter().for_each(|name| request.fields.remove(name));
    VALIDATORS.into_iter().for_each(|name| stored.fields.remove(name));
    (Cow::Owned(request), Cow::Owned(stored))
}

/// Waits until a body that is fetched by another URI stands still; for ever if it `is_own`.
pub(super) async fn stands_still(body: &Growing, is_own: bool) {
    if is_own {
        return std::future::pending().await;
    }
    body.stalled(PATIENCE).await;
}
