//! DNS queries of clients: checked against the rules, answered by the gateway's resolver.

use std::sync::Arc;

use hickory_proto::op::ResponseCode;

use super::clients::Admitted;
use super::state::Gateway;
use crate::failure::{Failure, Kind, Side};
use crate::link::incoming::Incoming;
use crate::wire::dns::{self, Decision, Reason, encode, lifetime};

impl Gateway {
    /// Answers one DNS query of a client.
    pub(super) async fn resolve(self: Arc<Self>, mut incoming: Box<Incoming>, _admitted: Admitted) {
        let malformed = || Failure::new(Kind::BadResponse, Side::Gateway, "not a DNS message");
        let Some(bytes) = incoming.read_query().await else {
            return incoming.refuse(&malformed(), &self.name);
        };
        let decision = Decision::of(&bytes);
        drop(bytes);
        let query = match decision {
            Decision::Ask(query) => query,
            Decision::Answer(_, _, bytes) => return incoming.answer_query(bytes, 0).await,
            Decision::Ignore => return incoming.refuse(&malformed(), &self.name),
        };
        let answered = async {
            match self.egress.dialer().judge_question(&query.subject()) {
                Ok(()) => self.egress.dialer().resolver().answer(&query).await,
                Err(failure) => dns::failure(ResponseCode::Refused, Reason::Prohibited, &failure.sentence),
            }
        };
        let found = tokio::select! {
            found = answered => found,
            () = incoming.abandoned() => return,
        };
        // Only the encoded answer is kept while the client takes it: decoded it is many times as large.
        let (answer, seconds) = {
            let answer = query.answer(&found);
            (encode(&answer), lifetime(&answer))
        };
        drop((found, query));
        incoming.answer_query(answer, seconds).await;
    }
}
