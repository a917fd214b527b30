//! Requests for several ranges of a body at once. Only stored responses answer them: no fetch for others begins with them.

use std::sync::Arc;
use std::time::SystemTime;

use super::lookup::without_range;
use super::stored::HIT;
use super::{End, Next, Stream};
use crate::cache::answer;
use crate::cache::partial;
use crate::cache::policy::{self, Origin, Use};
use crate::cache::ranges::Multipart;
use crate::cache::stored::Stored;
use crate::trust::random::random;
use crate::wire::http::RequestHead;

impl Stream<'_> {
    /// Answers a request for several ranges from a fresh and whole response; `None` when there is none, or when this is another
    /// request.
    pub(super) async fn serve_ranges(&mut self, request: &RequestHead) -> Result<Option<Next>, End> {
        if self.is_pinned || !partial::has_several(request) {
            return Ok(None);
        }
        Box::pin(self.serve_several(request)).await
    }

    async fn serve_several(&mut self, request: &RequestHead) -> Result<Option<Next>, End> {
        let whole = without_range(request);
        let is_private = self.is_secure && policy::has_private_fields(&whole);
        if is_private || !policy::concerns_cache(&whole) {
            return Ok(None);
        }
        let origin = Origin { target: &self.target, is_secure: self.is_secure };
        let Some(uri) = self.uris.of(origin, &whole) else { return Ok(None) };
        // These belong to the request before.
        (self.credential, self.digest) = (None, None);
        let found = self.stored(&whole, &uri, self.cache.store.changes()).await.stored;
        let Some((id, stored)) = found.filter(|(_, stored)| {
            stored.is_complete() && policy::usage(&whole, stored, SystemTime::now()) == Use::Fresh
        }) else {
            return Ok(None);
        };
        match answer::several(request, &stored) {
            Some(parts) => {
                let parts = Multipart::new(parts, &stored, random());
                self.send_parts(&parts, id, &stored).await
            }
            // No parts: one range or none is in the body, all of it is wanted, or the app has it.
            None => self.serve(request, id, &stored, HIT).await,
        }
    }

    /// Sends these parts of a stored response; `None` when it cannot be read.
    async fn send_parts(&mut self, parts: &Multipart, id: u64, stored: &Stored) -> Result<Option<Next>, End> {
        let kept = stored.clone();
        let opened = self.cache.store.blocking(move |store| store.body(id, &kept)).await;
        // Whoever asks next for all of it finds out what is wrong with it.
        let Ok(body) = opened.and_then(|opened| opened) else { return Ok(None) };
        let body = Arc::new(body);
        self.asker.grant()?;
        let age = policy::age(stored, SystemTime::now()).unwrap_or_default();
        let head = answer::multipart_head(parts, stored, age, &self.cache_status(HIT, stored, false));
        self.count(HIT, id, stored, parts.length());
        self.asker.hold(stored.memory() + parts.memory());
        self.asker.send(head).await?;
        for (range, before) in parts.parts() {
            self.asker.send(before.clone()).await?;
            self.send_range((id, &body), range, stored).await?;
        }
        self.asker.send(parts.end().clone()).await?;
        self.asker.hold(0);
        Ok(Some(Next::Request))
    }
}
