//! Questions for names over HTTP (RFC 8484): for software that reaches nothing of this machine but the local port.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

/// The path of questions (RFC 8484 §4.1).
pub(super) const PATH: &str = "/dns-query";
/// The media type of questions and answers (RFC 8484 §6).
pub(super) const TYPE: &str = "application/dns-message";
/// Maximum length of a question, in bytes.
const LONGEST: usize = 4096;
/// How long a question may take to arrive.
const ARRIVES: Duration = Duration::from_secs(10);

/// Answers the bytes of a question: the answer, or `None` for what is not a question.
pub type AnswerQuestion = dyn Fn(Bytes) -> BoxFuture<'static, Option<Vec<u8>>> + Send + Sync;

/// Whether a media type is that of questions, in whatever case and with whatever parameters (RFC 9110 §8.3.1).
fn is_question(kind: &HeaderValue) -> bool {
    let named = kind.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    named.trim_ascii().eq_ignore_ascii_case(TYPE.as_bytes())
}

/// Answers a request with a question; `None` for one without.
pub(super) async fn answer(headers: &HeaderMap, body: Incoming, answer: &AnswerQuestion) -> Option<Vec<u8>> {
    if !headers.get(CONTENT_TYPE).is_some_and(is_question) {
        return None;
    }
    let question = timeout(ARRIVES, Limited::new(body, LONGEST).collect()).await.ok()?.ok()?;
    answer(question.to_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_media_type_of_a_question_may_have_parameters_and_capitals() {
        for (kind, expected) in [
            ("application/dns-message", true),
            ("Application/DNS-Message", true),
            ("application/dns-message; charset=binary", true),
            ("application/dns-message ;x=1", true),
            ("application/dns-messages", false),
            ("application/dns-json", false),
            ("text/plain; application/dns-message", false),
            ("", false),
        ] {
            assert_eq!(is_question(&HeaderValue::from_static(kind)), expected, "{kind}");
        }
    }
}
