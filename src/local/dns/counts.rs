//! Counts questions and answers.

use hickory_resolver::proto::op::{Message, ResponseCode};

use super::NameServer;
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

impl NameServer {
    /// Counts a question that came by `transport`, with the decision about it.
    pub(super) fn count_question(&self, transport: &'static str, decision: &Decision) {
        let telemetry = &self.local.telemetry;
        telemetry.questions.one(transport);
        match decision {
            Decision::Ask(_) => {}
            Decision::Ignore => telemetry.refused.one(("dns", RefusalReason::Malformed)),
            Decision::Answer(_, code, _) => {
                self.count_answer(*code, Source::Here);
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
    pub(super) fn count_excess(&self) {
        self.local.telemetry.refused.one(("dns", RefusalReason::TooMany));
        self.count_answer(ResponseCode::ServFail, Source::Here);
    }

    /// The same answer, counted.
    pub(super) fn counted(&self, answer: Message, source: Source) -> Message {
        self.count_answer(answer.metadata.response_code, source);
        answer
    }

    fn count_answer(&self, code: ResponseCode, source: Source) {
        let source = match source {
            Source::Cache => "cache",
            Source::Asked => "asked",
            Source::Here => "here",
        };
        self.local.telemetry.answers.one((word(code), source));
    }
}
