//! Asks a question over a link, and the next gateway where that fails or takes long: a question is always safe to repeat.

use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::{Message, ResponseCode};
use tokio::time::{Instant, timeout};

use super::NameServer;
use crate::failure::{Failure, Kind, Side};
use crate::limited;
use crate::link::client::Link;
use crate::link::resolve;
use crate::local::asking::Ended;
use crate::local::routes::{Routes, Search};
use crate::wire::dns::{Query, Reason, failure, network_error};
use crate::wire::id::NodeId;

/// The deadline of a question, where the hold time is not shorter: apps give up after 5 s.
const DEADLINE: Duration = Duration::from_millis(4500);

impl NameServer {
    /// The answer of a gateway, or of this machine's name servers while this node is a gateway. There is always one:
    /// SERVFAIL when nobody answered. With it the gateway that gave it.
    pub(super) async fn ask_gateway(&self, query: &Query) -> (Message, Option<NodeId>) {
        let routes = &self.local.routes;
        let search = Search::begin((*routes.hold.borrow()).min(DEADLINE));
        let bytes = Bytes::from(query.to_link());
        let asked =
            routes.ask(None, search, |link, may_move| ask_one(routes, link, may_move, query, bytes.clone()));
        match timeout(DEADLINE, asked).await {
            Ok(Ok(Some((link, answer)))) => (answer, Some(link.gateway.id)),
            Ok(Ok(None)) => ((self.system)(query.clone()).await, None),
            Ok(Err(failure)) => (refused(&failure), None),
            Err(_) => (servfail(Reason::NetworkError, "the gateways did not answer in time"), None),
        }
    }
}

/// Asks one gateway.
async fn ask_one(
    routes: &Routes,
    link: Link,
    may_move: bool,
    query: &Query,
    bytes: Bytes,
) -> (Link, Ended<Message>) {
    let begun = Instant::now();
    let answered = tokio::select! {
        biased;
        answered = resolve::resolve(&link, bytes) => answered,
        () = routes.until_better(&link.state, link.address), if may_move => {
            let (id, gateway) = (link.gateway.id, &*link.gateway.name);
            limited!(info, id, gateway, "no answer: the question moves on");
            return (link, Ended::Moved);
        }
    };
    // Where its name servers did not answer, those of another gateway may.
    let silent =
        |answer: &Message| Some(Failure::new(Kind::DnsTimeout, Side::Server, network_error(answer)?));
    let ended = match answered.map(|bytes| parse(query, &bytes)) {
        Ok(answer) => match silent(&answer) {
            Some(failure) => Ended::Failed(failure, begun.elapsed()),
            None => Ended::Done(answer),
        },
        Err(failure) => Ended::Failed(failure, begun.elapsed()),
    };
    (link, ended)
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
        Kind::NoGateway => servfail(Reason::NoReachableAuthority, &refusal.sentence),
        _ => servfail(Reason::NetworkError, &refusal.sentence),
    }
}

fn servfail(reason: Reason, sentence: &str) -> Message {
    failure(ResponseCode::ServFail, reason, sentence)
}
