//! Resuming a download: a response that is accepted as the rest has the offset, the size and the validator of that content.

use bytes::BytesMut;
use http::Method;
use laneway::wire::http::{BodyLength, RequestHead, ResponseHead, head_end};
use laneway::wire::resume::{self, Point};

/// `data` is a request, its response and the response to the request for the rest, three heads; then the number of
/// bytes that arrived, in decimal.
pub fn run(data: &[u8]) {
    let Some((request, rest)) = head(data) else { return };
    let Some((first, rest)) = head(rest) else { return };
    let Ok(request) = RequestHead::parse(request) else { return };
    let Ok(first) = ResponseHead::parse(first, &request.method) else { return };
    let whole = Point::of(&request, &first);
    let start =
        resume::content_range(&first.fields).filter(|_| whole.is_none()).map_or(0, |(start, ..)| start);
    let is_whole = whole.is_some();
    let Some(point) = whole.or_else(|| Point::of_part(&request, &first)) else { return };
    assert_eq!(request.method, Method::GET);
    let status = if is_whole { 200 } else { 206 };
    assert_eq!((first.status, first.body), (status, BodyLength::Exact(point.end() - start)));
    assert!(start < point.end() && point.end() <= point.total());
    assert!(!is_whole || point.end() == point.total());

    let (second, offset) = head(rest).unwrap_or((&[], rest));
    let offset = str::from_utf8(offset).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1);
    if offset >= point.end() {
        return;
    }
    let asked = point.request(&request, offset);
    let mut written = BytesMut::new();
    asked.write_forward("laneway", &mut written);
    let range = match point.end() == point.total() {
        true => format!("bytes={offset}-"),
        false => format!("bytes={offset}-{}", point.end() - 1),
    };
    assert_eq!(asked.fields.all("range").collect::<Vec<_>>(), [range.as_bytes()]);
    let validator = asked.fields.all("if-range").collect::<Vec<_>>();
    assert!(
        matches!(validator[..], [value] if [first.fields.get("etag"), first.fields.get("last-modified")].contains(&Some(value)))
    );
    // The two new fields may make the head too large.
    if let Ok(again) = RequestHead::parse(&written) {
        assert_eq!(again.fields.get("range"), Some(range.as_bytes()), "Connection removed it");
        assert_eq!(again.fields.get("if-range"), Some(validator[0]));
    }

    let Ok(second) = ResponseHead::parse(second, &asked.method) else { return };
    if point.check(&second, offset).is_ok() {
        assert_eq!((second.status, second.body), (206, BodyLength::Exact(point.end() - offset)));
        let place = format!("bytes {offset}-{}/{}", point.end() - 1, point.total());
        assert!(
            second
                .fields
                .get("content-range")
                .is_some_and(|value| value.eq_ignore_ascii_case(place.as_bytes()))
        );
        for name in ["content-encoding", "content-type"] {
            assert_eq!(second.fields.get(name), first.fields.get(name));
        }
        let by_tag = first.fields.get("etag").is_some();
        let name = if by_tag { "etag" } else { "last-modified" };
        assert_eq!(second.fields.get(name), first.fields.get(name));
        assert!(!by_tag || first.fields.get(name).is_some_and(|tag| tag.starts_with(b"\"")), "a weak tag");
    }
}

fn head(data: &[u8]) -> Option<(&[u8], &[u8])> {
    data.split_at_checked(head_end(data, 0)?)
}
