//! Questions for names over HTTP (RFC 8484): for software that reaches nothing of this machine but the local port.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_TYPE, HeaderMap};
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

/// Answers a request with a question; `None` for one without.
pub(super) async fn answer(headers: &HeaderMap, body: Incoming, answer: &AnswerQuestion) -> Option<Vec<u8>> {
    if headers.get(CONTENT_TYPE).is_none_or(|kind| kind != TYPE) {
        return None;
    }
    let question = timeout(ARRIVES, Limited::new(body, LONGEST).collect()).await.ok()?.ok()?;
    answer(question.to_bytes()).await
}
