//! Asks a question over a link, and the next gateway where that fails: a question is always safe to repeat.

use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use tokio::time::{Instant, timeout_at};

use super::NameServer;
use crate::failure::{Failure, Kind};
use crate::limited;
use crate::link::resolve;
use crate::local::routes::{Route, Search};
use crate::wire::dns::{Query, Reason, failure};
use crate::wire::id::NodeId;

/// The deadline of a question, where the hold time is not shorter: apps give up after 5 s.
const DEADLINE: Duration = Duration::from_millis(4500);

impl NameServer {
    /// The answer of a gateway, or of this machine's name servers while this node is a gateway. There is always one:
    /// SERVFAIL when nobody answered. With it the gateway that gave it.
    pub(super) async fn ask_gateway(&self, query: &Query) -> (Message, Option<NodeId>) {
        let routes = &self.local.routes;
        let mut search = Search::begin((*routes.hold.borrow()).min(DEADLINE));
        let (deadline, bytes) = (Instant::now() + DEADLINE, bytes::Bytes::from(query.to_link()));
        loop {
            let link = match search.next(routes.route()).await {
                Some(Route::Direct) => return ((self.system)(query.clone()).await, None),
                Some(Route::Link(link)) => link,
                None => {
                    let sentence = routes.no_gateway(None).sentence;
                    return (servfail(Reason::NoReachableAuthority, &sentence), None);
                }
            };
            let answered = tokio::select! {
                biased;
                answered = timeout_at(deadline, resolve::resolve(&link, bytes.clone())) => answered,
                () = routes.until_better(&link.state, link.address), if search.may_move_on() => {
                    let (id, gateway) = (link.gateway.id, &*link.gateway.name);
                    limited!(info, id, gateway, "no answer: the question moves on");
                    continue;
                }
            };
            match answered {
                Ok(Ok(bytes)) => return (parse(query, &bytes), Some(link.gateway.id)),
                Ok(Err(failure)) if failure.blames_gateway() && search.may_move_on() => {
                    link.retire();
                    limited!(info, link.gateway.id, reason = %failure, "the gateway failed a question");
                }
                Ok(Err(failure)) => return (refused(&failure), Some(link.gateway.id)),
                Err(_) => {
                    return (servfail(Reason::NetworkError, "the gateway did not answer in time"), None);
                }
            }
        }
    }
}

/// The answer of a gateway, if it is about the question.
fn parse(query: &Query, bytes: &[u8]) -> Message {
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
