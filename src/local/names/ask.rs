//! A question over a link, and to the next gateway where that fails: to ask again is always safe.

use std::time::Duration;

use hickory_resolver::proto::op::{Message, ResponseCode};
use tokio::time::{Instant, timeout_at};

use super::Names;
use crate::failure::{Failure, Kind};
use crate::link::resolve;
use crate::local::session::{MOST_ATTEMPTS, Way};
use crate::wire::dns::{Query, Reason, failure};

/// The deadline of a question, where connections are not held for less: apps give up after 5 s.
const PATIENCE: Duration = Duration::from_millis(4500);

impl Names {
    /// The answer of a gateway, or of this machine's name servers where it is one. There is always one: SERVFAIL says
    /// that nobody gave any.
    pub(super) async fn ask_a_gateway(&self, query: &Query) -> Message {
        let routes = &self.local.routes;
        let held = (*routes.hold.borrow()).min(PATIENCE);
        let (begun, bytes) = (Instant::now(), bytes::Bytes::from(query.to_link()));
        let mut attempts = 0;
        loop {
            let Ok(way) = timeout_at(begun + held, routes.way()).await else {
                let failure = routes.no_gateway();
                return servfail(Reason::NoReachableAuthority, &failure.sentence);
            };
            let link = match way {
                Way::Direct => return (self.own)(query.clone()).await,
                Way::Link(link) => link,
            };
            attempts += 1;
            let answered = tokio::select! {
                biased;
                answered = timeout_at(begun + PATIENCE, resolve::resolve(&link, bytes.clone())) => answered,
                () = routes.better_than(&link.pulse, link.address) => {
                    tracing::info!(gateway = link.gateway.id.short(), "no answer: the question moves on");
                    continue;
                }
            };
            match answered {
                Ok(Ok(bytes)) => return read(query, &bytes),
                Ok(Err(failure)) if failure.blames_gateway() && attempts < MOST_ATTEMPTS => {
                    link.retire();
                    tracing::info!(reason = %failure, "the gateway failed a question");
                }
                Ok(Err(failure)) => return refused(&failure),
                Err(_) => return servfail(Reason::NetworkError, "the gateway did not answer in time"),
            }
        }
    }
}

/// What a gateway answered, if it is about the question.
fn read(query: &Query, bytes: &[u8]) -> Message {
    match Message::from_vec(bytes) {
        Ok(message) if message.queries.first() == Some(query.question()) => message,
        _ => servfail(Reason::Other, "the gateway answered another question"),
    }
}

fn refused(refusal: &Failure) -> Message {
    match refusal.kind {
        Kind::NameForbidden => failure(ResponseCode::Refused, Reason::Prohibited, &refusal.sentence),
        _ => servfail(Reason::NetworkError, &refusal.sentence),
    }
}

fn servfail(reason: Reason, sentence: &str) -> Message {
    failure(ResponseCode::ServFail, reason, sentence)
}
