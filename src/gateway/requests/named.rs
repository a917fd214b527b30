//! Requests for a file whose digest the client's node knows from an index. Content proved to have that digest answers them,
//! whatever its URI and age; what is fetched for them is stored only if it has the digest. A digest does not vouch for the fields
//! that came with the content: those of another URI are left out.

use std::borrow::Cow;
use std::sync::Arc;

use super::alternative::Alternative;
use super::stored::HIT;
use super::{End, Next, Stream};
use crate::cache::digest::Digest;
use crate::cache::growing::Growing;
use crate::cache::partial::{self, Wanted};
use crate::cache::store::{Copied, Store};
use crate::cache::stored::Stored;
use crate::wire::http::{Fields, RequestHead};

/// Conditions on validators, which identify content of one server only.
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
            && suits(uri, &stored)
        {
            let (request, stored) = as_asked(request, &stored, uri);
            return self.send_copy(&request, (id, &stored, body)).await.map(Some);
        }
        let Some((id, stored)) = self.named(uri, digest.clone()).await else { return Ok(None) };
        let (request, stored) = as_asked(request, &stored, uri);
        self.serve(&request, id, &stored, HIT).await
    }

    /// The stored response that is proved to have this digest. What is stored for `uri` and not yet proved is proved now.
    pub(super) async fn named(&self, uri: &str, digest: Digest) -> Option<(u64, Stored)> {
        let (gateway, target, uri) = (self.gateway.clone(), self.target.clone(), uri.to_owned());
        let wanted = digest.clone();
        let find = move |store: &Arc<Store>| {
            let is_allowed = |stored: &Stored| {
                stored
                    .source
                    .is_some_and(|source| gateway.egress.dialer().judge_stored(&target, source).is_ok())
            };
            let may_be_used = |stored: &Stored| is_allowed(stored) && suits(&uri, stored);
            if let Some((id, stored)) = store.proved(&digest).filter(|(_, stored)| may_be_used(stored)) {
                return Ok((id, stored));
            }
            let (mut own, mut candidates) = (None, Vec::new());
            store.each(&uri, |id, stored| {
                if stored.status != 200 || !stored.is_complete() || !may_be_used(&stored) {
                    return;
                }
                match stored.digest(digest.algorithm) {
                    Some(known) if *known == digest => own = Some((id, stored)),
                    Some(_) => {}
                    None => candidates.push(id),
                }
            });
            own.ok_or(candidates)
        };
        // Fails when the disk hangs.
        let candidates = match self.cache.store.blocking(find).await.ok()? {
            Ok(found) => return Some(found),
            Err(candidates) => candidates,
        };
        for id in candidates {
            if let Some(stored) = self.cache.prove(id, &wanted).await {
                return Some((id, stored));
            }
        }
        None
    }

    fn is_allowed(&self, stored: &Stored) -> bool {
        stored
            .source
            .is_some_and(|source| self.gateway.egress.dialer().judge_stored(&self.target, source).is_ok())
    }

    /// What requests for the same content have in common, by whatever URI: the digest, unless this one has to be fetched apart.
    pub(super) fn common_name(&self, request: &RequestHead, uri: &str) -> Option<String> {
        let digest = self.digest.as_ref()?;
        let is_common = partial::wanted(request) == Wanted::Whole
            && is_type_implied(uri)
            && self.cache.may_cross(uri, self.asker.member);
        is_common.then(|| format!("{}\n", digest.shown()))
    }
}

/// Whether `stored` may answer a request for `uri` by its digest.
pub(super) fn suits(uri: &str, stored: &Stored) -> bool {
    is_plain(&stored.fields) && (stored.uri == uri || is_type_implied(uri))
}

/// Whether the body is the content itself: a digest proves nothing about what a coding makes of it.
pub(super) fn is_plain(fields: &Fields) -> bool {
    fields.all("content-encoding").all(|coding| coding.eq_ignore_ascii_case(b"identity"))
}

/// Whether `uri` implies the type of the file. An image manifest is read as its Content-Type says, for which a digest does not
/// vouch, so it comes from its own URI only.
fn is_type_implied(uri: &str) -> bool {
    !uri.contains("/manifests/")
}

/// The request and the response as they are for `uri`. What was stored for another one comes with none of its fields: whoever
/// chose that URI chose them.
pub(super) fn as_asked<'a>(
    request: &'a RequestHead,
    stored: &'a Stored,
    uri: &str,
) -> (Cow<'a, RequestHead>, Cow<'a, Stored>) {
    if stored.uri == uri {
        return (Cow::Borrowed(request), Cow::Borrowed(stored));
    }
    let mut request = request.clone();
    CONDITIONS.into_iter().for_each(|name| request.fields.remove(name));
    let date = httpdate::fmt_http_date(stored.received);
    let fields = [
        (&b"Date"[..], date.as_bytes()),
        (b"Content-Type", b"application/octet-stream"),
        (b"Accept-Ranges", b"bytes"),
    ];
    let fields = Fields::from_iter(fields);
    let stored = Stored { reason: b"OK".to_vec(), fields, selecting: Vec::new(), ..stored.clone() };
    (Cow::Owned(request), Cow::Owned(stored))
}

/// Waits until fetching a body from the request's own server is better than waiting for the fetch by another URI; forever if the
/// fetch is by the request's own URI.
pub(super) async fn is_left(body: &Growing, own: Option<&Alternative>) {
    match own {
        Some(own) => own.is_better_than(body).await,
        None => std::future::pending().await,
    }
}
