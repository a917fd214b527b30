//! Whether the rest of a download may be fetched over another connection, and whether a response contains that rest
//! (RFC 9110 §13, §14). Different content is never spliced together.

use std::time::Duration;

use http::Method;

use super::http::{BodyLength, Fields, RequestHead, ResponseHead};

/// How long before `Date` a `Last-Modified` must be to identify the content (RFC 9110 §8.8.2.2): a file may change
/// twice within a second, and the clocks of a server may disagree.
const MIN_AGE: Duration = Duration::from_secs(60);

/// What identifies the content of one download, and where the download ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// The size of the content in bytes, and the offset after the last one that is wanted.
    total: u64,
    end: u64,
    validator: Validator,
    /// Content-Encoding.
    encoding: Option<Vec<u8>>,
    /// Content-Type.
    media_type: Option<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Validator {
    /// A strong entity tag (RFC 9110 §8.8.3).
    Tag(Vec<u8>),
    /// A modification date that is strong (RFC 9110 §8.8.2.2).
    Date(Vec<u8>),
    /// None: the receiver checks the whole content.
    Checked,
}

/// Why a response does not contain the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The response has another status than 206: the content has changed, or the server does not support ranges.
    #[error("the server does not send the rest of the content that it sent before")]
    NotPartial,
    /// Another part than the requested one.
    #[error("the server sent another part than the requested one")]
    Range,
    /// The content is not the same.
    #[error("the content has changed at the server")]
    Changed,
}

impl Point {
    /// What identifies the content of `response`; `None` when the download cannot be resumed safely.
    pub fn of(request: &RequestHead, response: &ResponseHead) -> Option<Self> {
        Self::of_fields(&response.fields, plain_total(request, response)?)
    }

    /// As [`Point::of`], for a response to a request for one range.
    pub fn of_part(request: &RequestHead, response: &ResponseHead) -> Option<Self> {
        let (start, end, total) = content_range(&response.fields)?;
        let is_part = request.method == Method::GET
            && request.body == BodyLength::None
            && request.fields.get("range").is_some()
            && response.status == 206
            && response.body == BodyLength::Exact(end - start);
        Some(Self { end, ..Self::of_fields(&response.fields, total).filter(|_| is_part)? })
    }

    /// As [`Point::of`], for content that is checked against a digest before the last of it is used. It needs no validator.
    pub fn of_checked(request: &RequestHead, response: &ResponseHead) -> Option<Self> {
        let total = plain_total(request, response)?;
        let validator = Validator::of(&response.fields).unwrap_or(Validator::Checked);
        Self::with(&response.fields, total, validator)
    }

    /// What identifies content of `total` bytes that came with these `fields`; `None` when it has no strong validator.
    pub fn of_fields(fields: &Fields, total: u64) -> Option<Self> {
        Self::with(fields, total, Validator::of(fields)?)
    }

    fn with(fields: &Fields, total: u64, validator: Validator) -> Option<Self> {
        if fields.get("accept-ranges").is_some_and(|ranges| ranges.eq_ignore_ascii_case(b"none")) {
            return None;
        }
        let (encoding, media_type) = (single(fields, "content-encoding")?, single(fields, "content-type")?);
        Some(Self { total, end: total, validator, encoding, media_type })
    }

    /// The offset after the last byte that is wanted.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The size of the whole content in bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The request for everything that is wanted from `offset` on, on condition that the content is still the same.
    pub fn request(&self, original: &RequestHead, offset: u64) -> RequestHead {
        self.request_part(original, offset, self.end)
    }

    /// As [`Point::request`], for the bytes from `offset` up to `end`.
    pub fn request_part(&self, original: &RequestHead, offset: u64, end: u64) -> RequestHead {
        let mut request = original.clone();
        ["range", "if-range"].into_iter().for_each(|name| request.fields.remove(name));
        let range = match end < self.total {
            true => format!("bytes={offset}-{}", end.saturating_sub(1)),
            false => format!("bytes={offset}-"),
        };
        let mut pushed = request.fields.push("Range", range.as_bytes());
        if let Validator::Tag(validator) | Validator::Date(validator) = &self.validator {
            pushed = pushed.and_then(|()| request.fields.push("If-Range", validator));
        }
        debug_assert!(pushed.is_ok(), "digits, and a value that was parsed before, are field values");
        request
    }

    /// Checks that `response` contains exactly what is wanted of the same content from `offset` on.
    ///
    /// # Errors
    /// [`Mismatch`].
    pub fn check(&self, response: &ResponseHead, offset: u64) -> Result<(), Mismatch> {
        self.check_part(response, offset, self.end)
    }

    /// Checks that `response` contains exactly the bytes from `offset` up to `end` of the same content.
    ///
    /// # Errors
    /// [`Mismatch`].
    pub fn check_part(&self, response: &ResponseHead, offset: u64, end: u64) -> Result<(), Mismatch> {
        if offset >= end || end > self.total {
            return Err(Mismatch::Range);
        }
        if response.status != 206 {
            return Err(Mismatch::NotPartial);
        }
        let expected = format!("bytes {offset}-{}/{}", end - 1, self.total);
        let mut ranges = response.fields.all("content-range");
        let range = ranges.next().is_some_and(|range| range.eq_ignore_ascii_case(expected.as_bytes()));
        if !range || ranges.next().is_some() || response.body != BodyLength::Exact(end - offset) {
            return Err(Mismatch::Range);
        }
        let fields = &response.fields;
        let same_validator = match &self.validator {
            Validator::Tag(tag) => single(fields, "etag").flatten().as_ref() == Some(tag),
            Validator::Date(date) => single(fields, "last-modified").flatten().as_ref() == Some(date),
            Validator::Checked => true,
        };
        let same = same_validator
            && single(fields, "content-encoding") == Some(self.encoding.clone())
            && single(fields, "content-type") == Some(self.media_type.clone());
        if same { Ok(()) } else { Err(Mismatch::Changed) }
    }
}

/// The size of the content of a whole response to a plain GET.
fn plain_total(request: &RequestHead, response: &ResponseHead) -> Option<u64> {
    let BodyLength::Exact(total) = response.body else { return None };
    let is_plain = request.method == Method::GET
        && request.body == BodyLength::None
        && request.fields.get("range").is_none()
        && request.fields.get("if-range").is_none();
    (is_plain && response.status == 200 && total > 0).then_some(total)
}

/// Reads the only Content-Range field (RFC 9110 §14.4): the offsets of the first byte and after the last one, and the size of the
/// whole; `None` where one of them is unknown.
pub fn content_range(fields: &Fields) -> Option<(u64, u64, u64)> {
    let text = str::from_utf8(&single(fields, "content-range")??).ok()?.to_owned();
    let (unit, spec) = text.split_once(' ')?;
    let (range, total) = spec.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => digits.parse::<u64>().ok(),
        false => None,
    };
    let (first, last, total) = (number(first)?, number(last)?, number(total)?);
    (unit.eq_ignore_ascii_case("bytes") && first <= last && last < total).then_some((first, last + 1, total))
}

impl Validator {
    fn of(fields: &Fields) -> Option<Self> {
        if let Some(tag) = single(fields, "etag")? {
            let strong = tag.len() >= 2 && tag.starts_with(b"\"") && tag.ends_with(b"\"");
            return strong.then_some(Self::Tag(tag));
        }
        let modified = single(fields, "last-modified")??;
        let date = |text: &[u8]| httpdate::parse_http_date(std::str::from_utf8(text).ok()?).ok();
        let since = date(&single(fields, "date")??)?.duration_since(date(&modified)?).ok()?;
        (since >= MIN_AGE).then_some(Self::Date(modified))
    }
}

/// The value of a field, or `Some(None)` without it; `None` if there are several.
fn single(fields: &Fields, name: &str) -> Option<Option<Vec<u8>>> {
    let mut values = fields.all(name);
    let first = values.next().map(<[u8]>::to_vec);
    if values.next().is_some() { None } else { Some(first) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &str) -> RequestHead {
        let head = format!("GET http://h/f HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        RequestHead::parse(head.as_bytes()).unwrap()
    }

    fn response(status: u16, fields: &str) -> ResponseHead {
        let head = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
        ResponseHead::parse(head.as_bytes(), &Method::GET).unwrap()
    }

    const OLD: &str =
        "Date: Sun, 06 Nov 1994 08:50:00 GMT\r\nLast-Modified: Sun, 06 Nov 1994 08:48:00 GMT\r\n";

    #[test]
    fn only_a_plain_whole_download_with_a_strong_validator_can_be_resumed() {
        let of = |request_fields: &str, status: u16, fields: &str| {
            Point::of(&request(request_fields), &response(status, fields)).is_some()
        };
        assert!(of("", 200, "Content-Length: 10\r\nETag: \"a\"\r\n"));
        assert!(of("", 200, &format!("Content-Length: 10\r\n{OLD}")));
        for fields in [
            "Content-Length: 10\r\n",
            "Content-Length: 10\r\nETag: W/\"a\"\r\n",
            "Content-Length: 10\r\nETag: a\r\n",
            "Content-Length: 10\r\nETag: \"a\"\r\nETag: \"b\"\r\n",
            "Content-Length: 10\r\nETag: \"a\"\r\nAccept-Ranges: none\r\n",
            "Transfer-Encoding: chunked\r\nETag: \"a\"\r\n",
            "ETag: \"a\"\r\n",
            "Content-Length: 10\r\nLast-Modified: Sun, 06 Nov 1994 08:48:00 GMT\r\n",
            "Content-Length: 10\r\nDate: Sun, 06 Nov 1994 08:48:30 GMT\r\nLast-Modified: Sun, 06 Nov 1994 08:48:00 GMT\r\n",
            // With a weak tag, the date is not reliable either.
            &format!("Content-Length: 10\r\nETag: W/\"a\"\r\n{OLD}"),
        ] {
            assert!(!of("", 200, fields), "{fields}");
        }
        assert!(!of("", 206, "Content-Length: 10\r\nETag: \"a\"\r\n"));
        assert!(!of("Range: bytes=5-\r\n", 200, "Content-Length: 10\r\nETag: \"a\"\r\n"));
    }

    #[test]
    fn of_one_part_only_its_rest_is_asked_for_and_accepted() {
        let original = request("Range: bytes=2-7\r\nIf-Range: \"a\"\r\n");
        let of = |status: u16, fields: &str| Point::of_part(&original, &response(status, fields));
        let head = "Content-Length: 6\r\nContent-Range: bytes 2-7/10\r\n";
        let point = of(206, &format!("{head}ETag: \"a\"\r\n")).unwrap();
        let asked = point.request(&original, 4).fields;
        assert_eq!(asked.all("range").collect::<Vec<_>>(), [b"bytes=4-7"]);
        assert_eq!(asked.all("if-range").collect::<Vec<_>>(), [b"\"a\""]);
        let rest = |range: &str, length: u32| {
            let fields = format!("Content-Length: {length}\r\nContent-Range: {range}\r\nETag: \"a\"\r\n");
            point.check(&response(206, &fields), 4)
        };
        assert_eq!(rest("bytes 4-7/10", 4), Ok(()));
        assert_eq!(rest("bytes 4-9/10", 6), Err(Mismatch::Range));
        for (status, fields) in [
            (206, head.to_owned()),
            (206, format!("{head}ETag: W/\"a\"\r\n")),
            (200, format!("{head}ETag: \"a\"\r\n")),
            (206, "Content-Length: 6\r\nETag: \"a\"\r\n".to_owned()),
            (206, "Content-Length: 6\r\nContent-Range: bytes 2-7/*\r\nETag: \"a\"\r\n".to_owned()),
            (206, "Content-Length: 5\r\nContent-Range: bytes 2-7/10\r\nETag: \"a\"\r\n".to_owned()),
            (
                206,
                "Content-Length: 9\r\nContent-Type: multipart/byteranges; boundary=x\r\nETag: \"a\"\r\n"
                    .to_owned(),
            ),
        ] {
            assert_eq!(of(status, &fields), None, "{fields}");
        }
        let whole = response(206, &format!("{head}ETag: \"a\"\r\n"));
        assert_eq!(Point::of_part(&request(""), &whole), None, "nobody asked for a part");
    }

    #[test]
    fn content_that_is_checked_against_a_digest_needs_no_validator() {
        let point = |fields: &str| Point::of_checked(&request(""), &response(200, fields));
        assert!(point("Content-Length: 10\r\nAccept-Ranges: none\r\n").is_none());
        let plain = point("Content-Length: 10\r\n").unwrap();
        let asked = plain.request_part(&request(""), 4, 7);
        assert_eq!(
            (asked.fields.get("range"), asked.fields.get("if-range")),
            (Some(&b"bytes=4-6"[..]), None)
        );
        let part = |fields: &str| {
            let fields = format!("Content-Length: 3\r\nContent-Range: bytes 4-6/10\r\n{fields}");
            plain.check_part(&response(206, &fields), 4, 7)
        };
        assert_eq!(part("ETag: W/\"any\"\r\n"), Ok(()));
        assert_eq!(part("Content-Encoding: gzip\r\n"), Err(Mismatch::Changed));
        let tagged = point("Content-Length: 10\r\nETag: \"a\"\r\n").unwrap();
        assert_eq!(tagged.request(&request(""), 4).fields.get("if-range"), Some(&b"\"a\""[..]));
    }

    /// RFC 9110 §5.6.7.
    #[test]
    fn dates_of_all_three_formats_identify_content() {
        for modified in
            ["Sun, 06 Nov 1994 08:48:00 GMT", "Sunday, 06-Nov-94 08:48:00 GMT", "Sun Nov  6 08:48:00 1994"]
        {
            let fields = format!(
                "Content-Length: 10\r\nDate: Sun, 06 Nov 1994 08:50:00 GMT\r\nLast-Modified: {modified}\r\n"
            );
            assert!(Point::of(&request(""), &response(200, &fields)).is_some(), "{modified}");
        }
    }

    #[test]
    fn the_rest_is_asked_for_by_range_and_validator() {
        let original = request("Accept: x\r\n");
        let point = Point::of(&original, &response(200, "Content-Length: 10\r\nETag: \"a\"\r\n")).unwrap();
        let mut out = bytes::BytesMut::new();
        point.request(&original, 4).write_forward("p", &mut out);
        let text = String::from_utf8(out.to_vec()).unwrap();
        assert!(
            text.contains("\r\nRange: bytes=4-\r\n") && text.contains("\r\nIf-Range: \"a\"\r\n"),
            "{text}"
        );
        assert!(text.contains("\r\nAccept: x\r\n"), "{text}");
    }

    #[test]
    fn only_exactly_the_rest_of_the_same_content_is_accepted() {
        let whole = "Content-Length: 10\r\nETag: \"a\"\r\nContent-Type: t/t\r\n";
        let point = Point::of(&request(""), &response(200, whole)).unwrap();
        let rest = |status: u16, length: u32, range: &str, others: &str| {
            let fields = format!("Content-Length: {length}\r\nContent-Range: {range}\r\n{others}");
            point.check(&response(status, &fields), 4)
        };
        let same = "ETag: \"a\"\r\nContent-Type: t/t\r\n";
        assert_eq!(rest(206, 6, "bytes 4-9/10", same), Ok(()));
        assert_eq!(rest(200, 6, "bytes 4-9/10", same), Err(Mismatch::NotPartial));
        assert_eq!(rest(416, 6, "bytes */10", same), Err(Mismatch::NotPartial));
        for (length, range) in [
            (7, "bytes 3-9/10"),
            (5, "bytes 4-8/10"),
            (6, "bytes 4-9/11"),
            (6, "bytes 4-9/*"),
            (7, "bytes 4-9/10"),
            (6, "bytes 5-10/10"),
            (6, "lines 4-9/10"),
        ] {
            assert_eq!(rest(206, length, range, same), Err(Mismatch::Range), "{range}");
        }
        for others in [
            "ETag: \"b\"\r\nContent-Type: t/t\r\n",
            "Content-Type: t/t\r\n",
            "ETag: W/\"a\"\r\nContent-Type: t/t\r\n",
            "ETag: \"a\"\r\nContent-Type: t/t\r\nContent-Encoding: gzip\r\n",
            "ETag: \"a\"\r\nContent-Type: multipart/byteranges; boundary=x\r\n",
        ] {
            assert_eq!(rest(206, 6, "bytes 4-9/10", others), Err(Mismatch::Changed), "{others}");
        }
        let twice = "ETag: \"a\"\r\nContent-Type: t/t\r\nContent-Range: bytes 4-9/10\r\n";
        assert_eq!(rest(206, 6, "bytes 4-9/10", twice), Err(Mismatch::Range));
    }

    #[test]
    fn a_gap_is_asked_for_and_accepted_only_whole() {
        let whole = "Content-Length: 10\r\nETag: \"a\"\r\n";
        let point = Point::of(&request(""), &response(200, whole)).unwrap();
        let asked = point.request_part(&request(""), 4, 7);
        assert_eq!(asked.fields.get("range"), Some(&b"bytes=4-6"[..]));
        let part = |length: u64, range: &str, from: u64, to: u64| {
            let fields = format!("Content-Length: {length}\r\nContent-Range: {range}\r\nETag: \"a\"\r\n");
            point.check_part(&response(206, &fields), from, to)
        };
        assert_eq!(part(3, "bytes 4-6/10", 4, 7), Ok(()));
        assert_eq!(part(6, "bytes 4-9/10", 4, 7), Err(Mismatch::Range));
        assert_eq!(part(2, "bytes 4-5/10", 4, 7), Err(Mismatch::Range));
        assert_eq!(part(7, "bytes 4-10/10", 4, 11), Err(Mismatch::Range));
        assert_eq!(part(0, "bytes 4-3/10", 4, 4), Err(Mismatch::Range));
    }
}
