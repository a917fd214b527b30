//! What came of each question, counted.

use hickory_resolver::proto::op::{Message, ResponseCode};

use super::Names;
use crate::telemetry::refusal::Refusal;
use crate::wire::dns::{Decision, word};

/// Where an answer is from.
#[derive(Clone, Copy)]
pub(super) enum From {
    /// It was kept here.
    Cache,
    /// Somebody was asked.
    Asked,
    /// It is known without asking.
    Here,
}

impl Names {
    /// Notes a question that came by `transport`, with what is to become of it.
    pub(super) fn met(&self, transport: &'static str, decision: &Decision) {
        let telemetry = &self.local.telemetry;
        telemetry.questions.one(transport);
        match decision {
            Decision::Ask(_) => {}
            Decision::Ignore => telemetry.refused.one(("dns", Refusal::Malformed)),
            Decision::Answer(_, code, _) => {
                self.answered(*code, From::Here);
                let reason = match *code {
                    ResponseCode::FormErr => Refusal::Malformed,
                    ResponseCode::BADVERS => Refusal::Version,
                    ResponseCode::NotImp | ResponseCode::Refused => Refusal::Unsupported,
                    // A name that means this machine, or nobody.
                    _ => return,
                };
                telemetry.refused.one(("dns", reason));
            }
        }
    }

    /// Notes a question that is answered with SERVFAIL, as there are too many.
    pub(super) fn turned_away(&self) {
        self.local.telemetry.refused.one(("dns", Refusal::TooMany));
        self.answered(ResponseCode::ServFail, From::Here);
    }

    /// The same answer, noted.
    pub(super) fn noted(&self, answer: Message, from: From) -> Message {
        self.answered(answer.metadata.response_code, from);
        answer
    }

    fn answered(&self, code: ResponseCode, from: From) {
        let from = match from {
            From::Cache => "cache",
            From::Asked => "asked",
            From::Here => "here",
        };
        self.local.telemetry.answers.one((word(code), from));
    }
}
