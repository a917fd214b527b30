//! The answers of this proxy itself.

use bytes::Bytes;
use http::{Method, StatusCode};

use crate::failure::Failure;
use crate::telemetry::refusal::RefusalReason;
use crate::wire::http::{Malformed, RequestHead, simple_response, trace_response};

/// The answer to OPTIONS or TRACE when this proxy is the last recipient (RFC 9110 §7.6.2): what it supports, or the request
/// that it received (§9.3.8).
pub(super) fn answer_here(request: &RequestHead) -> Bytes {
    if request.method == Method::TRACE {
        return trace_response(&request.trace());
    }
    simple_response(
        200,
        "OK",
        &[("Allow", "CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, TRACE")],
        "",
        false,
    )
}

/// The answer that says why there is no connection to the server, in a field and in the body: not every app shows both.
pub(super) fn failed(failure: &Failure, name: &str, head: bool) -> Bytes {
    let status = failure.http_status();
    let proxy_status = failure.proxy_status(name);
    let mut fields = vec![("Proxy-Status", proxy_status.as_str())];
    if status == 503 {
        fields.push(("Retry-After", "5"));
    }
    let body = if head { String::new() } else { format!("{}\n", failure.sentence) };
    simple_response(status, reason_of(status), &fields, &body, false)
}

/// The reason under which a malformed message is counted.
pub(super) fn refusal_reason(malformed: Malformed) -> RefusalReason {
    match (malformed, malformed.status()) {
        (Malformed::Unfinished, _) => RefusalReason::Unfinished,
        (Malformed::HttpsInAbsoluteForm | Malformed::Scheme, _) | (_, 501) => RefusalReason::Unsupported,
        (Malformed::Host | Malformed::Port, _) => RefusalReason::Destination,
        (_, 414 | 431) => RefusalReason::TooLong,
        (_, 505) => RefusalReason::Version,
        _ => RefusalReason::Malformed,
    }
}

/// The answer that asks for a login (RFC 9110 §11.7.1, RFC 7617 §2.1).
pub(super) fn login_required(head: bool) -> Bytes {
    let challenge = ("Proxy-Authenticate", "Basic realm=\"laneway\", charset=\"UTF-8\"");
    let body = if head { "" } else { "this proxy asks for a login\n" };
    simple_response(407, reason_of(407), &[challenge], body, false)
}

/// An answer of one sentence.
pub(super) fn plain(status: u16, sentence: &str) -> Bytes {
    simple_response(status, reason_of(status), &[], &format!("{sentence}\n"), false)
}

/// The standard reason phrase of a status.
pub(super) fn reason_of(status: u16) -> &'static str {
    StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error")
}
