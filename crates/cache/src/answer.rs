//! How a stored response answers a request: conditions (RFC 9110 §13), ranges (§14), and the head of the answer.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use laneway_wire::http::RequestHead;

use crate::partial::OF_A_PART;
use crate::policy::{date, opaque};
use crate::ranges::{Multipart, Ranges};
use crate::stored::Stored;

/// The fields of a 304 (RFC 9110 §15.4.5), and others that HTTP/1.1 caches use.
const OF_NOT_MODIFIED: [&str; 8] = [
    "cache-control",
    "content-location",
    "date",
    "etag",
    "expires",
    "last-modified",
    "vary",
    "x-content-type-options",
];

const PARTIAL: &[u8] = b"Partial Content";

/// The minimum age of a modification date that identifies content (RFC 9110 §8.8.2.2).
const STRONG_DATE: Duration = Duration::from_secs(60);

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The whole response.
    Whole,
    /// These bytes of the body: the first one, and the one after the last.
    Part(u64, u64),
    /// A 304: the app already has the response.
    NotModified,
    /// A 416: the body has no such bytes (RFC 9110 §15.5.17).
    Unsatisfiable,
}

impl Answer {
    /// How the fresh or validated response `stored` answers `request`, which selects it.
    #[must_use]
    pub fn to(request: &RequestHead, stored: &Stored) -> Self {
        if stored.status != 200 {
            return Self::Whole;
        }
        if not_modified(request, stored) {
            return Self::NotModified;
        }
        match ranges(request, stored) {
            Ranges::Ignored | Ranges::Several(_) => Self::Whole,
            Ranges::One(start, end) => Self::Part(start, end),
            Ranges::Unsatisfiable => Self::Unsatisfiable,
        }
    }

    /// Which of the `total` bytes of the body are sent.
    #[must_use]
    pub fn body(self, total: u64) -> (u64, u64) {
        match self {
            Self::Whole => (0, total),
            Self::Part(start, end) => (start, end),
            Self::NotModified | Self::Unsatisfiable => (0, 0),
        }
    }

    /// The head of the answer. `age` is that of the response; `status` is the Cache-Status field (RFC 9211). Where `in_chunks`,
    /// the length of the body is not known yet.
    #[must_use]
    pub fn head(self, stored: &Stored, age: Duration, status: &str, in_chunks: bool) -> Bytes {
        let (code, reason) = match self {
            Self::Whole => (stored.status, &*stored.reason),
            Self::Part(..) => (206, PARTIAL),
            Self::NotModified => (304, &b"Not Modified"[..]),
            Self::Unsatisfiable => (416, &b"Range Not Satisfiable"[..]),
        };
        let mut out = begin(code, reason, stored, |name| self.keeps(name));
        let (total, (start, end)) = (stored.total, self.body(stored.total));
        match self {
            Self::Part(..) => write!(out, "Content-Range: bytes {start}-{}/{total}\r\n", end - 1),
            Self::Unsatisfiable => write!(out, "Content-Range: bytes */{total}\r\n"),
            Self::Whole | Self::NotModified => Ok(()),
        }
        .expect("a BytesMut grows");
        // RFC 9110 §8.6: a 204 has no length; that of a 304 would be the length of the body that is not sent.
        if in_chunks {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        } else if self != Self::NotModified && stored.status != 204 {
            write!(out, "Content-Length: {}\r\n", end - start).expect("a BytesMut grows");
        }
        write!(out, "Age: {}\r\nCache-Status: {status}\r\n\r\n", age.as_secs()).expect("a BytesMut grows");
        out.freeze()
    }

    fn keeps(self, name: &[u8]) -> bool {
        let is = |other: &&str| name.eq_ignore_ascii_case(other.as_bytes());
        match self {
            _ if is(&"age") || is(&"cache-status") => false,
            Self::Whole => true,
            Self::Part(..) => !OF_A_PART.iter().any(is),
            Self::NotModified => OF_NOT_MODIFIED.iter().any(is),
            Self::Unsatisfiable => is(&"date") || is(&"etag"),
        }
    }
}

/// The beginning of a head, with the fields of `stored` that `keeps` accepts.
fn begin(code: u16, reason: &[u8], stored: &Stored, keeps: impl Fn(&[u8]) -> bool) -> BytesMut {
    let mut out = BytesMut::with_capacity(512);
    write!(out, "HTTP/1.1 {code} ").expect("a BytesMut grows");
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
    for (name, value) in stored.fields.iter().filter(|(name, _)| keeps(name)) {
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// The ranges of `stored` that `request` asks for, if there are several that apply and can be sent; [`Answer::to`]
/// answers all other requests.
#[must_use]
pub fn several(request: &RequestHead, stored: &Stored) -> Option<Vec<(u64, u64)>> {
    if stored.status != 200 || not_modified(request, stored) {
        return None;
    }
    match ranges(request, stored) {
        Ranges::Several(parts) => Some(parts),
        _ => None,
    }
}

/// The head of the answer with these parts of `stored`; the rest is as in [`Answer::head`].
#[must_use]
pub fn multipart_head(parts: &Multipart, stored: &Stored, age: Duration, status: &str) -> Bytes {
    let left_out = |name: &[u8]| {
        let is = |other: &&str| name.eq_ignore_ascii_case(other.as_bytes());
        ["age", "cache-status", "content-type"].iter().chain(&OF_A_PART).any(is)
    };
    let mut out = begin(206, PARTIAL, stored, |name| !left_out(name));
    let (kind, length, age) = (parts.content_type(), parts.length(), age.as_secs());
    write!(
        out,
        "Content-Type: {kind}\r\nContent-Length: {length}\r\nAge: {age}\r\nCache-Status: {status}\r\n\r\n"
    )
    .expect("a BytesMut grows");
    out.freeze()
}

fn ranges(request: &RequestHead, stored: &Stored) -> Ranges {
    let range = request.fields.get("range").filter(|_| request.method == http::Method::GET);
    let range = range.filter(|_| range_applies(request, stored));
    range.map_or(Ranges::Ignored, |range| Ranges::read(range, stored))
}

/// RFC 9110 §13.2.2: If-None-Match, or without it If-Modified-Since.
fn not_modified(request: &RequestHead, stored: &Stored) -> bool {
    let mut tags = request.fields.all("if-none-match").peekable();
    if tags.peek().is_some() {
        let known = stored.fields.get("etag").map(opaque);
        return tags.flat_map(members).any(|tag| tag == b"*" || known == Some(opaque(tag)));
    }
    let modified = ["last-modified", "date"].iter().find_map(|name| stored.fields.get(name)).and_then(date);
    let since = request.fields.get("if-modified-since").and_then(date);
    modified.zip(since).is_some_and(|(modified, since)| modified <= since)
}

/// The entity tags of a list. A comma inside of a tag separates nothing.
fn members(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    list.split(move |&byte| {
        quoted ^= byte == b'"';
        byte == b',' && !quoted
    })
    .map(<[u8]>::trim_ascii)
}

/// RFC 9110 §13.1.5: without If-Range, or if its strong validator is that of the stored response.
fn range_applies(request: &RequestHead, stored: &Stored) -> bool {
    let Some(condition) = request.fields.get("if-range") else { return true };
    if condition.ends_with(b"\"") {
        return !condition.starts_with(b"W/") && stored.fields.get("etag") == Some(condition);
    }
    let modified = stored.fields.get("last-modified");
    let sent = stored.fields.get("date").and_then(date);
    let is_strong = modified.and_then(date).zip(sent).is_some_and(|(modified, sent)| {
        sent.duration_since(modified).is_ok_and(|since| since >= STRONG_DATE)
    });
    is_strong && modified == Some(condition)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::tests::example;

    fn request(fields: &str) -> RequestHead {
        RequestHead::parse(format!("GET /f HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes()).unwrap()
    }

    fn stored(total: u64, fields: &[(&str, &str)]) -> Stored {
        let mut stored = Stored { total, ..example() };
        stored.fields = Default::default();
        fields.iter().for_each(|(name, value)| stored.fields.push(name, value.as_bytes()).unwrap());
        stored
    }

    /// RFC 9110 §14.1.2, §14.2, §15.5.17.
    #[test]
    fn one_range_is_served_and_everything_else_gets_the_whole() {
        for (range, want) in [
            ("bytes=0-0", Answer::Part(0, 1)),
            ("bytes=2-4", Answer::Part(2, 5)),
            ("bytes=2-", Answer::Part(2, 10)),
            ("bytes=2-99", Answer::Part(2, 10)),
            ("bytes=2-99999999999999999999999", Answer::Part(2, 10)),
            ("bytes=-3", Answer::Part(7, 10)),
            ("bytes=-99", Answer::Part(0, 10)),
            ("BYTES=1-2", Answer::Part(1, 3)),
            ("bytes=10-", Answer::Unsatisfiable),
            ("bytes=-0", Answer::Unsatisfiable),
            ("bytes=4-2", Answer::Whole),
            ("bytes=-", Answer::Whole),
            ("bytes=1-2,4-5", Answer::Whole),
            ("bytes=1-2,10-", Answer::Part(1, 3)),
            ("bytes=10-,-0", Answer::Unsatisfiable),
            ("lines=1-2", Answer::Whole),
            ("bytes=+1-2", Answer::Whole),
            ("bytes", Answer::Whole),
        ] {
            let request = request(&format!("Range: {range}\r\n"));
            assert_eq!(Answer::to(&request, &stored(10, &[])), want, "{range}");
        }
        let head = RequestHead::parse(b"HEAD / HTTP/1.1\r\nHost: h\r\nRange: bytes=1-2\r\n\r\n").unwrap();
        assert_eq!(Answer::to(&head, &stored(10, &[])), Answer::Whole, "§14.2: only GET has ranges");
    }

    /// RFC 9110 §13.1.5.
    #[test]
    fn a_range_applies_only_under_the_same_strong_validator() {
        let old = ("Last-Modified", "Sun, 06 Nov 1994 08:48:00 GMT");
        let aged = [old, ("Date", "Sun, 06 Nov 1994 08:50:00 GMT")];
        let young = [old, ("Date", "Sun, 06 Nov 1994 08:48:30 GMT")];
        for (condition, fields, applies) in [
            ("\"a\"", &[("ETag", "\"a\"")][..], true),
            ("\"b\"", &[("ETag", "\"a\"")], false),
            ("W/\"a\"", &[("ETag", "W/\"a\"")], false),
            ("\"a\"", &[("ETag", "W/\"a\"")], false),
            (old.1, &aged, true),
            (old.1, &young, false),
            (old.1, &[old], false),
            ("Sun, 06 Nov 1994 08:48:01 GMT", &aged, false),
        ] {
            let request = request(&format!("Range: bytes=1-\r\nIf-Range: {condition}\r\n"));
            let want = if applies { Answer::Part(1, 10) } else { Answer::Whole };
            assert_eq!(Answer::to(&request, &stored(10, fields)), want, "{condition} {fields:?}");
        }
    }

    /// RFC 9110 §13.1.2, §13.1.3, §13.2.2.
    #[test]
    fn an_app_that_has_the_response_is_told_so() {
        let modified = ("Last-Modified", "Sun, 06 Nov 1994 08:48:00 GMT");
        for (conditions, fields, want) in [
            ("If-None-Match: \"a\"", &[("ETag", "\"a\"")][..], true),
            ("If-None-Match: W/\"a\"", &[("ETag", "\"a\"")], true),
            ("If-None-Match: \"x\", \"a,b\", \"a\"", &[("ETag", "\"a\"")], true),
            ("If-None-Match: \"x\"\r\nIf-None-Match: \"a\"", &[("ETag", "\"a\"")], true),
            ("If-None-Match: \"a,b\"", &[("ETag", "\"a,b\"")], true),
            ("If-None-Match: *", &[], true),
            ("If-None-Match: \"b\"", &[("ETag", "\"a\"")], false),
            ("If-None-Match: \"b\"\r\nIf-Modified-Since: Sun, 06 Nov 1994 08:48:00 GMT", &[modified], false),
            ("If-Modified-Since: Sun, 06 Nov 1994 08:48:00 GMT", &[modified], true),
            ("If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT", &[modified], true),
            ("If-Modified-Since: Sun, 06 Nov 1994 08:47:59 GMT", &[modified], false),
            ("If-Modified-Since: Sun, 06 Nov 1994 08:49:00 GMT", &[("Date", modified.1)], true),
            ("If-Modified-Since: yesterday", &[modified], false),
        ] {
            let answer = Answer::to(&request(&format!("{conditions}\r\n")), &stored(10, fields));
            assert_eq!(answer == Answer::NotModified, want, "{conditions} {fields:?}");
        }
    }

    #[test]
    fn heads_say_what_they_carry() {
        let stored = stored(10, &[("ETag", "\"a\""), ("Content-Type", "t/t"), ("Age", "7"), ("X-A", "1")]);
        let head = |answer: Answer| {
            String::from_utf8(answer.head(&stored, Duration::from_secs(9), "laneway; hit", false).to_vec())
                .unwrap()
        };
        let end = "Age: 9\r\nCache-Status: laneway; hit\r\n\r\n";
        let fields = "ETag: \"a\"\r\nContent-Type: t/t\r\nX-A: 1\r\n";
        assert_eq!(head(Answer::Whole), format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 10\r\n{end}"));
        assert_eq!(
            head(Answer::Part(2, 5)),
            format!(
                "HTTP/1.1 206 Partial Content\r\n{fields}Content-Range: bytes 2-4/10\r\nContent-Length: 3\r\n{end}"
            )
        );
        assert_eq!(head(Answer::NotModified), format!("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n{end}"));
        assert_eq!(
            head(Answer::Unsatisfiable),
            format!(
                "HTTP/1.1 416 Range Not Satisfiable\r\nETag: \"a\"\r\nContent-Range: bytes */10\r\nContent-Length: 0\r\n{end}"
            )
        );
    }
}
