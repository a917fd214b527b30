//! Counts questions and answers.

use std::sync::Arc;

use hickory_proto::op::{Message, ResponseCode};

use crate::telemetry::Telemetry;
use crate::telemetry::refusal::RefusalReason;
use crate::wire::dns::{Decision, word};

/// Where an answer comes from. The words of the metrics follow from it.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// The cache of this node.
    Cache,
    /// Another name server was asked.
    Asked,
    /// It is known without asking.
    Here,
}

/// The counters of the local name server.
pub(super) struct Counts(pub(super) Arc<Telemetry>);

impl Counts {
    /// Counts a question that came by `transport`, with the decision about it.
    pub(super) fn question(&self, transport: &'static str, decision: &Decision) {
        let telemetry = &self.0;
        telemetry.questions.one(transport);
        match decision {
            Decision::Ask(_) => {}
            Decision::Ignore => telemetry.refused.one(("dns", RefusalReason::Malformed)),
            Decision::Answer(_, code, _) => {
                self.add_answer(*code, Source::Here);
                let reason = match *code {
                    ResponseCode::FormErr => RefusalReason::Malformed,
                    ResponseCode::BADVERS => RefusalReason::Version,
                    ResponseCode::NotImp | ResponseCode::Refused => RefusalReason::Unsupported,
                    // A name of this machine, or one that never exists.
                    _ => return,
                };
                telemetry.refused.one(("dns", reason));
            }
        }
    }

    /// Counts a question that is answered with SERVFAIL because there are too many.
    pub(super) fn excess(&self) {
        self.0.refused.one(("dns", RefusalReason::TooMany));
        self.add_answer(ResponseCode::ServFail, Source::Here);
    }

    /// The same answer, counted.
    pub(super) fn counted(&self, answer: Message, source: Source) -> Message {
        self.add_answer(answer.metadata.response_code, source);
        answer
    }

    fn add_answer(&self, code: ResponseCode, source: Source) {
        let source = match source {
            Source::Cache => "cache",
            Source::Asked => "asked",
            Source::Here => "here",
        };
        self.0.answers.one((word(code), source));
    }
}
