//! The response of a registry: it leads back to the local port, and its body goes through a filter.

use std::sync::PoisonError;

use bytes::Bytes;
use http::Method;

use super::exchange::{Exchange, Trouble};
use super::filter::{self, Filter, Wrong};
use super::fronted::Fronted;
use crate::fronts::token::Challenge;
use crate::fronts::url::Url;
use crate::limited;
use crate::limits::lines::NOBODY;
use crate::memory::Tally;
use crate::wire::http::{BodyLength, Malformed, ResponseHead};

impl Exchange<'_> {
    /// Prepares a response of a registry for the app.
    ///
    /// # Errors
    /// [`Trouble::Challenged`] if a token is to be asked for first; [`Trouble::Bad`] if it is a part of a file, which cannot be
    /// checked; [`Trouble::Astray`] if it redirects where no app may follow.
    pub(super) fn receive(&self, front: &Fronted, response: &mut ResponseHead) -> Result<(), Trouble> {
        if response.status == 401 && front.may_challenge {
            let challenge = response.fields.all("www-authenticate").find_map(Challenge::parse);
            if let Some(challenge) = challenge {
                *front.challenge.lock().unwrap_or_else(PoisonError::into_inner) = Some(challenge);
                return Err(Trouble::Challenged);
            }
        }
        // Tools take any of these for the file, and only the whole of it can be checked.
        if front.expected.is_some() && (201..300).contains(&response.status) {
            return Err(self.bad(Malformed::StatusLine));
        }
        let (place, known) = (&front.place, &front.known);
        let filter = match self.request.method {
            Method::GET => {
                Filter::of(place, known, front.expected.clone(), response, &front.local, self.account)
            }
            _ => None,
        };
        let rewrites = filter.as_ref().is_some_and(Filter::rewrites);
        lead_back(front, response)?;
        filter::clean(&mut response.fields, rewrites);
        if rewrites {
            response.body = BodyLength::Chunked;
            response.content_length = None;
        } else if self.request.method == Method::HEAD && filter::is_index(place) {
            response.content_length = None;
            response.fields.remove("content-length");
        }
        *self.filter() = filter.map(Box::new);
        Ok(())
    }

    /// What is wrong with the body, for the app and for the gateway that it came over.
    pub(super) fn wrong(&self, wrong: Wrong) -> Trouble {
        match wrong {
            Wrong::Digest(sentence) => {
                self.count("poisoned");
                limited!(
                    warn,
                    NOBODY,
                    reason = sentence,
                    "a file was cut off: it is not the one that its index names"
                );
                Trouble::Poisoned(sentence)
            }
            Wrong::Malformed(why) => Trouble::Truncated(why.to_owned()),
        }
    }

    /// Counts what became of a file.
    pub(super) fn count(&self, what: &'static str) {
        if let Some(front) = self.front {
            self.local.telemetry.fronts.one((front.place.kind.word(), what));
        }
    }
}

/// Has what a response names lead back to the local port, with the digest of the file.
///
/// # Errors
/// [`Trouble::Astray`] for a redirect that the app would follow past this node, or to plain HTTP. Over plain HTTP anybody on the
/// way can change what comes, so only a file with a known digest, against which it is checked, may come so. Of all indexes only
/// those lists of apt have one that another index names.
fn lead_back(front: &Fronted, response: &mut ResponseHead) -> Result<(), Trouble> {
    let (place, is_redirect) = (&front.place, (300..400).contains(&response.status));
    let here = |url: &Url| format!("{}{}", front.local, place.path_of(url));
    if let Some(location) = response.fields.get("location") {
        match str::from_utf8(location).ok().and_then(|location| place.url.join(location)) {
            Some(url) if is_redirect && place.url.is_secure && !url.is_secure && !front.is_named => {
                let sentence = format!(
                    "{} is redirected to {url}: over plain HTTP anybody on the way could change it, and its digest is not known",
                    place.url
                );
                return Err(Trouble::Astray(sentence));
            }
            Some(url) => {
                if let Some(digest) = front.expected.clone().filter(|_| is_redirect) {
                    front.known.learn(&place.front, &place.url, vec![(url.clone(), digest)]);
                }
                response.fields.remove("location");
                let _ = response.fields.push("Location", here(&url).as_bytes());
            }
            None if is_redirect => {
                let sentence = format!("{} is redirected to what is no URL of a registry's file", place.url);
                return Err(Trouble::Astray(sentence));
            }
            None => {}
        }
    }
    let links: Vec<_> =
        response.fields.all("link").map(|link| String::from_utf8_lossy(link).into_owned()).collect();
    response.fields.remove("link");
    for link in links {
        // It was received as a field.
        let _ = response
            .fields
            .push("Link", linked(&link, |target| Some(here(&place.url.join(target)?))).as_bytes());
    }
    Ok(())
}

/// A Link field (RFC 8288) with other targets: the next page of a list is one.
fn linked(field: &str, other: impl Fn(&str) -> Option<String>) -> String {
    let (mut out, mut rest) = (String::with_capacity(field.len()), field);
    while let Some((before, target, after)) = rest
        .split_once('<')
        .and_then(|(before, rest)| rest.split_once('>').map(|(target, after)| (before, target, after)))
    {
        let target = other(target).unwrap_or_else(|| target.to_owned());
        out.extend([before, "<", &target, ">"]);
        rest = after;
    }
    out + rest
}

impl Exchange<'_> {
    /// Passes bytes of the body to the filter.
    pub(super) fn filter_takes(&self, bytes: Bytes) {
        if let Some(filter) = self.filter().as_mut() {
            filter.take(bytes);
        }
    }

    /// The next bytes that may be passed on of those that the filter has taken; `None` when there are no more.
    pub(super) async fn filtered(&self) -> Result<Option<Bytes>, Trouble> {
        let taken = self.filter().take();
        let Some(mut filter) = taken else { return Ok(None) };
        let out = filter.next().await;
        *self.filter() = Some(filter);
        out.map_err(|wrong| self.wrong(wrong))
    }

    /// What may be passed on of a body that stays as it is, once these bytes of it have come.
    pub(super) async fn checked(&self, bytes: Bytes) -> Result<Bytes, Trouble> {
        let has_filter = self.filter().is_some();
        if !has_filter {
            return Ok(bytes);
        }
        self.filter_takes(bytes);
        Ok(self.filtered().await?.unwrap_or_default())
    }

    /// Tells the filter that it was given all bytes of the body.
    pub(super) fn filter_has_all(&self) -> Result<(), Trouble> {
        let has_all = self.filter().as_mut().map_or(Ok(()), |filter| filter.has_taken_all());
        has_all.map_err(|wrong| self.wrong(wrong))
    }

    /// What is left to be passed on at the end of the body. It is counted as long as the tally is kept.
    pub(super) async fn filter_ends(&self) -> Result<(Bytes, Tally), Trouble> {
        let taken = self.filter().take();
        let Some(filter) = taken else { return Ok((Bytes::new(), Tally::default())) };
        let checks = filter.checks();
        let last = filter.end().await.map_err(|wrong| self.wrong(wrong))?;
        if checks {
            self.count("verified");
        }
        Ok(last)
    }
}
