//! Asks a question over a link, and the next gateway where that fails or takes long: a question is always safe to repeat.

use std::sync::{Mutex, PoisonError};
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
use crate::wire::dns::{Query, Reason, failure, is_prohibited, network_error};
use crate::wire::id::NodeId;

/// The best answer that does not answer the question, and the gateway that gave it: for when no gateway has a better one.
type Unable = Mutex<Option<(Message, NodeId)>>;

/// The deadline of a question, where the hold time is not shorter: apps give up after 5 s.
const DEADLINE: Duration = Duration::from_millis(4500);

impl NameServer {
    /// The answer of a gateway, with that gateway, or of this machine's name servers while this node is a gateway. There always
    /// is one: SERVFAIL when nobody answered. That a name does not exist, or that its name servers failed, counts only once all
    /// gateways that can be asked say so: each has name servers of its own.
    pub(super) async fn ask_gateway(&self, query: &Query) -> (Message, Option<NodeId>) {
        let routes = &self.local.routes;
        let search = Search::begin(routes.hold().min(DEADLINE));
        let bytes = Bytes::from(query.to_link());
        let unable = Unable::default();
        let asked = routes.ask(None, search, |link, may_move| {
            ask_one(routes, link, may_move, (query, bytes.clone()), &unable)
        });
        let asked = timeout(DEADLINE, asked).await;
        match asked {
            Ok(Ok(Some((link, answer)))) => (answer, Some(link.gateway.id)),
            Ok(Ok(None)) => ((self.system)(query.clone()).await, None),
            failed => match (unable.into_inner().unwrap_or_else(PoisonError::into_inner), failed) {
                (Some((answer, gateway)), _) => (answer, Some(gateway)),
                (None, Ok(Err(failure))) => (refused(&failure), None),
                (None, _) => (servfail(Reason::NetworkError, "the gateways did not answer in time"), None),
            },
        }
    }
}

/// Asks one gateway.
async fn ask_one(
    routes: &Routes,
    link: Link,
    may_move: bool,
    (query, bytes): (&Query, Bytes),
    unable: &Unable,
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
    let ended = match answered.map(|bytes| parse(query, &bytes)) {
        Ok(answer) => match why_another(&answer) {
            Some(failure) => {
                if failure.kind != Kind::DnsTimeout {
                    keep_better(unable, answer, link.gateway.id);
                }
                Ended::Failed(failure, begun.elapsed())
            }
            None => Ended::Done(answer),
        },
        Err(failure) => Ended::Failed(failure, begun.elapsed()),
    };
    (link, ended)
}

/// Why another gateway may have a better answer than this one, whose name servers did not answer, have failed, or do not know the
/// name.
fn why_another(answer: &Message) -> Option<Failure> {
    let failed = |kind, sentence: &str| Some(Failure::new(kind, Side::Server, sentence));
    match (network_error(answer), answer.metadata.response_code) {
        (Some(sentence), _) => failed(Kind::DnsTimeout, &sentence),
        (None, ResponseCode::NXDomain) => failed(Kind::NameNotFound, "the name does not exist"),
        (None, ResponseCode::ServFail | ResponseCode::Refused) if !is_prohibited(answer) => {
            failed(Kind::DnsFailed, "the name servers failed")
        }
        _ => None,
    }
}

/// Prefers the answer that a name does not exist to one that nobody knows.
fn keep_better(unable: &Unable, answer: Message, gateway: NodeId) {
    let mut best = unable.lock().unwrap_or_else(PoisonError::into_inner);
    let is_certain = |answer: &Message| answer.metadata.response_code == ResponseCode::NXDomain;
    if !best.as_ref().is_some_and(|(best, _)| is_certain(best) || !is_certain(&answer)) {
        *best = Some((answer, gateway));
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
        Kind::NoGateway => servfail(Reason::NoReachableAuthority, &refusal.sentence),
        _ => servfail(Reason::NetworkError, &refusal.sentence),
    }
}

fn servfail(reason: Reason, sentence: &str) -> Message {
    failure(ResponseCode::ServFail, reason, sentence)
}
