//! The length of a message body (RFC 9112 §6). In a request, anything that two recipients could read differently is
//! refused. In a response the RFC says which field counts; what it does not decide is refused.

use super::grammar::is_token;
use super::{Fields, Malformed, Version};

/// How the end of a message body is known (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body, not even an empty one.
    None,
    /// This number of bytes: `Content-Length`.
    Exact(u64),
    /// Until the last chunk: `Transfer-Encoding: chunked`.
    Chunked,
    /// Until the connection ends. Responses only; a truncated one looks complete.
    UntilClose,
}

/// The framing fields of a request.
pub(super) fn of_request(version: Version, fields: &Fields) -> Result<BodyLength, Malformed> {
    if fields.get("transfer-encoding").is_some() && fields.get("content-length").is_some() {
        return Err(Malformed::BothLengths);
    }
    Ok(match content_length(fields, false)? {
        _ if is_chunked(version, fields)? => BodyLength::Chunked,
        Some(length) => BodyLength::Exact(length),
        None => BodyLength::None,
    })
}

/// The framing fields of a response that can have a body.
pub(super) struct ResponseFraming {
    pub(super) body: BodyLength,
    /// The transfer codings besides a final `chunked`, as a list (RFC 9112 §7); usually empty.
    pub(super) codings: Vec<u8>,
    /// The fields contradict each other, or other recipients may read them otherwise. After the response the connection
    /// is not used again (RFC 9112 §6.1, §6.3).
    pub(super) doubtful: bool,
}

impl ResponseFraming {
    /// Reads `Transfer-Encoding`, which overrides `Content-Length` (RFC 9112 §6.3), or else `Content-Length`.
    pub(super) fn parse(version: Version, fields: &Fields) -> Result<ResponseFraming, Malformed> {
        let mut codings: Vec<&[u8]> = fields.list("transfer-encoding").collect();
        let given = codings.len();
        // No coding at all. RFC 2616 had this name for it, and some servers still send it.
        codings.retain(|coding| !coding.eq_ignore_ascii_case(b"identity"));
        if codings.is_empty() {
            let body = content_length(fields, true)?.map_or(BodyLength::UntilClose, BodyLength::Exact);
            let doubtful = fields.get("transfer-encoding").is_some();
            return Ok(ResponseFraming { body, codings: Vec::new(), doubtful });
        }
        let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
        let last = codings.iter().rposition(|coding| !is_chunked(coding)).map_or(0, |last| last + 1);
        // A server and its framework both add the field, and chunk once: browsers read it so.
        let chunked = codings.len() - last;
        codings.truncate(last);
        if codings.iter().any(|coding| is_chunked(coding) || !is_token(coding)) {
            return Err(Malformed::TransferEncoding);
        }
        Ok(ResponseFraming {
            body: if chunked > 0 { BodyLength::Chunked } else { BodyLength::UntilClose },
            codings: codings.join(&b", "[..]),
            // §6.1: with Transfer-Encoding in HTTP/1.0 the framing counts as faulty.
            doubtful: given != 1 || version == Version::Http10 || fields.get("content-length").is_some(),
        })
    }
}

/// The length that all fields agree on. A response may give the same length several times (RFC 9110 §8.6), with empty members
/// in such a list (§5.6.1.2); a request may not.
pub(super) fn content_length(fields: &Fields, may_repeat: bool) -> Result<Option<u64>, Malformed> {
    let mut agreed = None;
    for value in fields.all("content-length") {
        let members = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        let mut members = members.filter(|member| !(may_repeat && member.is_empty())).peekable();
        members.peek().ok_or(Malformed::ContentLength)?;
        for member in members {
            let length = decimal(member).ok_or(Malformed::ContentLength)?;
            if agreed.is_some_and(|known| !may_repeat || known != length) {
                return Err(Malformed::SeveralContentLengths);
            }
            agreed = Some(length);
        }
    }
    Ok(agreed)
}

/// Whether the body of a request is chunked; any other coding is refused.
fn is_chunked(version: Version, fields: &Fields) -> Result<bool, Malformed> {
    let mut all = fields.all("transfer-encoding");
    let Some(coding) = all.next() else { return Ok(false) };
    if all.next().is_some() {
        return Err(Malformed::SeveralTransferEncodings);
    }
    if version == Version::Http10 {
        return Err(Malformed::TransferEncodingInHttp10);
    }
    if !coding.eq_ignore_ascii_case(b"chunked") {
        return Err(Malformed::TransferEncoding);
    }
    Ok(true)
}

/// The field that says how a body ends, if there is one: its name and its value. `codings` come before `chunked`.
pub(super) fn field(body: BodyLength, codings: &[u8]) -> Option<(&'static str, Vec<u8>)> {
    match body {
        BodyLength::Exact(length) => Some(("Content-Length", length.to_string().into_bytes())),
        BodyLength::Chunked if codings.is_empty() => Some(("Transfer-Encoding", b"chunked".to_vec())),
        BodyLength::Chunked => Some(("Transfer-Encoding", [codings, b", chunked"].concat())),
        BodyLength::None | BodyLength::UntilClose => None,
    }
}

/// `1*DIGIT` that fits: no sign, no space, no overflow.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_response_may_repeat_its_length_with_empty_members_between() {
        let length = |value: &str, may_repeat| {
            let mut fields = Fields::default();
            fields.push("Content-Length", value.as_bytes()).unwrap();
            content_length(&fields, may_repeat)
        };
        for value in ["5,", ", 5", "5,,5", " ,\t5 , "] {
            assert_eq!(length(value, true), Ok(Some(5)), "{value:?}");
            assert!(length(value, false).is_err(), "{value:?}");
        }
        for value in ["", ",", " , ", "5;", "5, 6", "5,x"] {
            assert!(length(value, true).is_err(), "{value:?}");
        }
    }

    #[test]
    fn decimals_are_digits_only() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"007"), Some(7));
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        for bad in ["", "+5", "-5", "5 ", " 5", "0x5", "5e0", "5_0", "\u{665}", "18446744073709551616"] {
            assert_eq!(decimal(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
