//! Which members a gateway has seen, and with which version: one request, one JSON answer, for the authority only.

use http::{HeaderValue, Method, Request};
use serde::{Deserialize, Serialize};

use super::client::Link;
use super::gateway_info::get;
use super::incoming::Incoming;
use super::request::{MEMBERS_PATH, uri};
use super::settings::{PERMIT, shown};
use laneway_trust::name::is_valid;
use laneway_trust::permit::Permit;
use laneway_wire::failure::{Failure, Kind, Side};

/// The longest answer that is read, in bytes: all members of the largest group.
const MAX_ANSWER: usize = 4 << 20;

/// A member, as a gateway has seen it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// Its id, in hexadecimal.
    pub id: String,
    /// Its name, if the gateway knows it: one that a member may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The version of its program, if it was said.
    pub version: Option<String>,
    /// How long ago the gateway saw it last, in seconds; 0 while it is linked.
    pub ago: u64,
}

/// Asks the gateway at the other end of `link` which members it has seen.
///
/// # Errors
/// As [`super::gateway_info::fetch`].
pub async fn fetch(link: &Link, permit: &Permit) -> Result<Vec<Sighting>, Failure> {
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri(MEMBERS_PATH);
    if let Ok(value) = HeaderValue::from_str(&permit.text()) {
        request.headers_mut().insert(PERMIT, value);
    }
    let body = get(link, request, MAX_ANSWER).await?;
    let mut seen: Vec<Sighting> = serde_json::from_slice(&body).map_err(|_error| {
        let sentence = format!("{} sent no valid list of members", link.called());
        Failure::new(Kind::BadResponse, Side::Gateway, sentence)
    })?;
    for sighting in &mut seen {
        sighting.name = sighting.name.take().filter(|name| is_valid(name));
        sighting.version = sighting.version.take().map(|version| shown(&version));
    }
    Ok(seen)
}

impl Incoming {
    /// Answers with the members that this gateway has seen.
    pub async fn answer_roster(self, seen: Vec<Sighting>) {
        let json = serde_json::to_vec(&seen).unwrap_or_default();
        drop(seen);
        self.answer(&http::Response::new(()), json.into()).await;
    }
}
