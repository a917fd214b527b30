//! Ranges and partial content (RFC 9110 §14, §15.3.7; RFC 9111 §3.3, §3.4): what a request wants of a body, and what a 206
//! brings.

use http::Method;
use laneway_wire::http::{BodyLength, RequestHead, ResponseHead};
use laneway_wire::resume::{Point, content_range};

/// From this offset on, a request for the rest of a body is answered by a fetch that begins earlier, so that apps at
/// different offsets can share it.
const REWOUND_FROM: u64 = 64 * 1024;
/// How much earlier it begins, in bytes.
const REWIND: u64 = 1024 * 1024;

/// Fields that describe the part of a body that a response carries, not the whole body (RFC 9110 §14.4, RFC 9530 §2).
pub const OF_A_PART: [&str; 3] = ["content-range", "content-digest", "content-md5"];

/// What a request wants of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of it: it has no range, or one that is ignored.
    Whole,
    /// Everything from this offset on.
    From(u64),
    /// Something else: a range with an end, or the last bytes.
    Other,
}

/// What `request` wants.
#[must_use]
pub fn wanted(request: &RequestHead) -> Wanted {
    let range = request.fields.get("range").filter(|_| request.method == Method::GET);
    let Some(range) = range.and_then(|range| str::from_utf8(range).ok()) else { return Wanted::Whole };
    let Some((unit, spec)) = range.split_once('=') else { return Wanted::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || spec.contains(',') {
        return Wanted::Whole;
    }
    match spec.trim().strip_suffix('-').map(str::parse) {
        Some(Ok(start)) => Wanted::From(start),
        _ => Wanted::Other,
    }
}

/// Whether `request` has a range that is fetched for it alone: several ranges at once, or a unit other than bytes. Such a
/// client does not want the whole body: it may have most of it already.
#[must_use]
pub fn is_for_server(request: &RequestHead) -> bool {
    request.method == Method::GET && request.fields.get("range").is_some() && wanted(request) == Wanted::Whole
}

/// Whether `request` asks for several ranges of bytes at once.
#[must_use]
pub fn has_several(request: &RequestHead) -> bool {
    let range = request.fields.get("range").and_then(|range| str::from_utf8(range).ok());
    is_for_server(request)
        && range
            .and_then(|range| range.split_once('='))
            .is_some_and(|(unit, set)| unit.trim().eq_ignore_ascii_case("bytes") && set.contains(','))
}

/// The Range field with which a fetch for `request` asks the server, if nothing of the body is stored. `None` for the whole
/// body, and where several ranges are asked for.
#[must_use]
pub fn range(request: &RequestHead) -> Option<String> {
    match wanted(request) {
        Wanted::Whole => None,
        Wanted::From(start) if start >= REWOUND_FROM => {
            Some(format!("bytes={}-", start.saturating_sub(REWIND)))
        }
        Wanted::From(_) | Wanted::Other => {
            let own = request.fields.get("range").and_then(|range| str::from_utf8(range).ok());
            own.map(str::to_owned)
        }
    }
}

/// The bytes that a 206 contains, and the size of the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partial {
    /// The offset of the first byte.
    pub start: u64,
    /// The offset after the last byte.
    pub end: u64,
    /// The size of the whole.
    pub total: u64,
    /// What identifies the whole; without it nothing can be combined with this.
    pub point: Option<Point>,
}

impl Partial {
    /// What `response` contains; `None` unless it is one part of content with a known size.
    #[must_use]
    pub fn of(response: &ResponseHead) -> Option<Self> {
        let (start, end, total) = content_range(&response.fields)?;
        let is_whole = response.status == 206 && response.body == BodyLength::Exact(end - start);
        is_whole.then(|| Self { start, end, total, point: Point::of_fields(&response.fields, total) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use laneway_wire::http::Fields;
    use proptest::prelude::*;

    fn request(range: &str) -> RequestHead {
        RequestHead::parse(format!("GET /f HTTP/1.1\r\nHost: h\r\nRange: {range}\r\n\r\n").as_bytes())
            .unwrap()
    }

    fn response(fields: &str) -> ResponseHead {
        let head = format!("HTTP/1.1 206 P\r\nETag: \"a\"\r\n{fields}\r\n\r\n");
        ResponseHead::parse(head.as_bytes(), &Method::GET).unwrap()
    }

    #[test]
    fn a_request_for_the_rest_is_asked_for_from_a_little_earlier() {
        for (range, wants, asks) in [
            ("bytes=5-", Wanted::From(5), Some("bytes=5-")),
            ("bytes=70000-", Wanted::From(70_000), Some("bytes=0-")),
            ("bytes=5000000-", Wanted::From(5_000_000), Some("bytes=3951424-")),
            ("bytes=5-9", Wanted::Other, Some("bytes=5-9")),
            ("bytes=-9", Wanted::Other, Some("bytes=-9")),
            ("bytes=1-2,4-5", Wanted::Whole, None),
            ("lines=1-", Wanted::Whole, None),
        ] {
            let request = request(range);
            assert_eq!((wanted(&request), super::range(&request).as_deref()), (wants, asks), "{range}");
            assert_eq!(is_for_server(&request), wants == Wanted::Whole, "{range}");
            assert_eq!(has_several(&request), range.contains(','), "{range}");
        }
        assert!(!is_for_server(&RequestHead::parse(b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n").unwrap()));
    }

    #[test]
    fn only_one_part_of_known_content_is_partial_content() {
        let of = |fields: &str| Partial::of(&response(fields)).map(|part| (part.start, part.end, part.total));
        assert_eq!(of("Content-Length: 3\r\nContent-Range: bytes 2-4/10"), Some((2, 5, 10)));
        let twice = "Content-Length: 3\r\nETag: \"b\"\r\nContent-Range: bytes 2-4/10";
        assert!(Partial::of(&response(twice)).unwrap().point.is_none());
        for fields in [
            "Content-Length: 3",
            "Content-Length: 4\r\nContent-Range: bytes 2-4/10",
            "Content-Length: 3\r\nContent-Range: bytes 2-4/*",
            "Content-Length: 3\r\nContent-Range: bytes 8-10/10",
            "Content-Length: 3\r\nContent-Range: bytes +2-4/10",
            "Content-Length: 3\r\nContent-Range: lines 2-4/10",
            "Content-Length: 3\r\nContent-Range: bytes 2-4/10\r\nContent-Range: bytes 2-4/10",
            "Transfer-Encoding: chunked\r\nContent-Range: bytes 2-4/10",
        ] {
            assert_eq!(of(fields), None, "{fields}");
        }
    }

    proptest! {
        #[test]
        fn a_content_range_lies_within_the_whole(text in "bytes [0-9]{0,21}-[0-9]{0,21}/[0-9]{0,21}") {
            let mut fields = Fields::default();
            fields.push("Content-Range", text.as_bytes()).unwrap();
            if let Some((start, end, total)) = content_range(&fields) {
                prop_assert!(start < end && end <= total);
            }
        }
    }
}
