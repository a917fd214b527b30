//! What a fetch asks the server for, and what of a response can be shared and stored.

use std::net::SocketAddr;

use super::{Again, Fetch, Need, Planned};
use crate::cache::control::CacheControl;
use crate::cache::partial::{self, Partial};
use crate::cache::policy;
use crate::cache::stored::{Stored, Times};
use crate::gateway::requests::named::is_plain;
use crate::wire::http::{BodyLength, Fields, RequestHead, ResponseHead};
use crate::wire::resume::Point;

impl Fetch {
    /// The plan for a response to a request for a part; `None` if the response is not one of a part.
    pub(super) fn partial(&self, response: &ResponseHead, times: Times) -> Result<Option<Planned>, Again> {
        let is_partial = matches!(response.status, 206 | 416);
        match &self.need {
            Need::Whole => Ok(None),
            Need::Rest { start, from, end } if is_partial => {
                let (_, stored) = self.stored.as_ref().ok_or(Again::Plainly)?;
                let point = Point::of_fields(&stored.fields, stored.total).ok_or(Again::Plainly)?;
                let until = stored.next_part(*from).min(*end);
                point.check_part(response, *from, until).map_err(|_other| Again::Plainly)?;
                let fresh = policy::freshened(stored, &self.request, response, times)
                    .filter(|fresh| self.is_for_all(&fresh.fields))
                    .ok_or(Again::Plainly)?;
                // Readers may also want the stored bytes before the part.
                let (total, range) = (Some(stored.total), (stored.reach_back(*start), *end));
                let keep_alive = response.keep_alive;
                Ok(Some(Planned { stored: fresh, total, range, from: *from, point: Some(point), keep_alive }))
            }
            Need::Range(_) if is_partial => {
                let sent = policy::for_server(&self.request);
                let part = Partial::of(response)
                    .filter(|_| self.lead.is_current() && policy::may_store_part(&sent, response, times))
                    .filter(|_| self.is_for_all(&response.fields))
                    .filter(|part| self.gateway_store().admits(part.end - part.start));
                let Some(Partial { start, end, total, point }) = part else {
                    // The server was asked for what the app wants, or for a little more.
                    let is_own = partial::range(&self.request).as_deref().map(str::as_bytes)
                        == self.request.fields.get("range");
                    return if is_own { Ok(None) } else { Err(Again::Alone) };
                };
                let mut stored = self.response(response, times, None);
                stored.status = 200;
                stored.reason = b"OK".to_vec();
                // These fields describe this part only.
                partial::OF_A_PART.iter().for_each(|name| stored.fields.remove(name));
                stored.total = total;
                let keep_alive = response.keep_alive;
                Ok(Some(Planned {
                    stored,
                    total: Some(total),
                    range: (start, end),
                    from: start,
                    point,
                    keep_alive,
                }))
            }
            Need::Range(_) | Need::Rest { .. } => Ok(None),
        }
    }

    /// The whole body of `response`, if it can be shared and stored.
    pub(super) fn plan(
        &self,
        response: &ResponseHead,
        times: Times,
        source: Option<SocketAddr>,
    ) -> Option<Planned> {
        let sent = policy::for_server(&self.request);
        let fits = response.content_length.is_none_or(|length| self.gateway_store().admits(length));
        let is_named = self.named.is_some() && is_plain(&response.fields);
        if !fits
            || !self.lead.is_current()
            || !policy::may_store(&sent, response, times, is_named)
            || !(self.is_for_all(&response.fields) || is_named && response.status == 200)
        {
            return None;
        }
        let total = match response.body {
            BodyLength::Exact(length) => Some(length),
            BodyLength::None => Some(0),
            BodyLength::Chunked | BodyLength::UntilClose => None,
        };
        Some(Planned {
            stored: self.response(response, times, source),
            total,
            range: (0, total.unwrap_or(u64::MAX)),
            from: 0,
            point: Point::of(&sent, response),
            keep_alive: response.keep_alive,
        })
    }

    /// Whether a response with these fields is for everybody: without a token it is, unless it says otherwise; with one the
    /// server has to say so, as only the client says that the token is anonymous.
    pub(super) fn is_for_all(&self, fields: &Fields) -> bool {
        self.credential.is_none() || CacheControl::of(fields).has("public")
    }

    /// What is remembered of `response`.
    fn response(&self, response: &ResponseHead, times: Times, source: Option<SocketAddr>) -> Stored {
        let mut fields = response.end_to_end();
        policy::date_from(&mut fields, times.received);
        Stored {
            uri: self.uri.clone(),
            status: response.status,
            reason: response.reason.to_vec(),
            selecting: policy::selecting(&self.request, policy::varying(&fields)),
            fields,
            requested: times.requested,
            received: times.received,
            total: response.content_length.unwrap_or(0),
            parts: Vec::new(),
            pieces: Vec::new(),
            digests: Vec::new(),
            source,
        }
    }

    /// The request as the server gets it.
    pub(super) fn asked(&self) -> RequestHead {
        let plain = policy::for_server(&self.request);
        let stored = self.stored.as_ref().map(|(_, stored)| stored);
        match &self.need {
            Need::Whole => {
                stored.and_then(|stored| policy::validation(&self.request, stored)).unwrap_or(plain)
            }
            Need::Range(range) => {
                let mut request = plain;
                // It was received as a field, or is made of digits.
                let _ = request.fields.push("Range", range.as_bytes());
                if let Some(condition) = self.request.fields.get("if-range") {
                    let _ = request.fields.push("If-Range", condition);
                }
                request
            }
            Need::Rest { from, end, .. } => {
                let point = stored.and_then(|stored| {
                    let until = stored.next_part(*from).min(*end);
                    Some((Point::of_fields(&stored.fields, stored.total)?, until))
                });
                point.map_or(plain.clone(), |(point, until)| point.request_part(&plain, *from, until))
            }
        }
    }
}

impl Need {
    /// Whether the server is asked for something else than the app asks for.
    pub(super) fn is_rewound(&self, request: &RequestHead) -> bool {
        match self {
            Self::Whole => false,
            Self::Range(range) => request.fields.get("range") != Some(range.as_bytes()),
            Self::Rest { .. } => true,
        }
    }
}
