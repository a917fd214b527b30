//! The length of a message body (RFC 9112 §6). Anything that two recipients could read differently is refused.

use super::{Fields, Malformed, Message, Version};

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

/// The framing fields of a message, whether or not it can have a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Framing {
    pub(super) content_length: Option<u64>,
    pub(super) chunked: bool,
}

impl Framing {
    /// Reads `Content-Length` and `Transfer-Encoding` (RFC 9112 §6.1, §6.2).
    pub(super) fn parse(version: Version, fields: &Fields, message: Message) -> Result<Framing, Malformed> {
        if fields.get("transfer-encoding").is_some() && fields.get("content-length").is_some() {
            return Err(Malformed::BothLengths);
        }
        Ok(Framing {
            content_length: content_length(fields, message)?,
            chunked: transfer_encoding(version, fields)?,
        })
    }

    /// The length of the body of a message that can have one; `otherwise` if no field gives it.
    pub(super) fn body(self, otherwise: BodyLength) -> BodyLength {
        match self.content_length {
            _ if self.chunked => BodyLength::Chunked,
            Some(length) => BodyLength::Exact(length),
            None => otherwise,
        }
    }
}

/// A response may give the same length several times (RFC 9110 §8.6); a request may not.
fn content_length(fields: &Fields, message: Message) -> Result<Option<u64>, Malformed> {
    let mut agreed = None;
    for value in fields.all("content-length") {
        for member in value.split(|&byte| byte == b',') {
            let length = decimal(member.trim_ascii()).ok_or(Malformed::ContentLength)?;
            if agreed.is_some_and(|known| message == Message::Request || known != length) {
                return Err(Malformed::SeveralContentLengths);
            }
            agreed = Some(length);
        }
    }
    Ok(agreed)
}

/// Whether the body is chunked; any other coding is refused.
fn transfer_encoding(version: Version, fields: &Fields) -> Result<bool, Malformed> {
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
    fn decimals_are_digits_only() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"007"), Some(7));
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        for bad in ["", "+5", "-5", "5 ", " 5", "0x5", "5e0", "5_0", "\u{665}", "18446744073709551616"] {
            assert_eq!(decimal(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
