//! The ranges of a stored body that a request asks for (RFC 9110 §14.1.2), and several of them as one body (§14.6).

use bytes::Bytes;

use crate::stored::Stored;

/// Maximum number of ranges that are answered one by one; a request for more of them gets the whole (RFC 9110 §14.2). Tools that
/// know which blocks of a file they lack ask for up to this many.
const MOST: usize = 256;
/// The characters of a boundary.
const BOUNDARY: usize = 32;

/// What a Range field asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// Nothing that is understood or worth sending in parts: the whole is sent.
    Ignored,
    /// One range: the first byte, and the one after the last.
    One(u64, u64),
    /// At least two ranges that the body has, in the order of the field.
    Several(Vec<(u64, u64)>),
    /// No range that the body has.
    Unsatisfiable,
}

impl Ranges {
    /// Reads the field for `stored`.
    pub(crate) fn read(field: &[u8], stored: &Stored) -> Self {
        let text = str::from_utf8(field).ok().and_then(|text| text.split_once('='));
        let Some((_, set)) = text.filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes")) else {
            return Self::Ignored;
        };
        // RFC 9110 §5.6.1: empty members of a list mean nothing.
        let members = set.split(',').map(str::trim).filter(|member| !member.is_empty());
        let Some(specs) = members.take(MOST + 1).map(Spec::read).collect::<Option<Vec<_>>>() else {
            return Self::Ignored;
        };
        if specs.is_empty() || specs.len() > MOST {
            return Self::Ignored;
        }
        let parts: Vec<_> = specs.iter().filter_map(|spec| spec.within(stored.total)).collect();
        match *parts {
            [] => Self::Unsatisfiable,
            [(start, end)] => Self::One(start, end),
            _ if Multipart::new(parts.clone(), stored, [0; BOUNDARY / 2]).length() < stored.total => {
                Self::Several(parts)
            }
            _ => Self::Ignored,
        }
    }
}

/// One member of a Range field.
enum Spec {
    /// A first byte, and perhaps the last one.
    From(u64, Option<u64>),
    /// The last bytes.
    Last(u64),
}

impl Spec {
    fn read(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        let number = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => Some(digits.parse::<u64>().unwrap_or(u64::MAX)),
            false => None,
        };
        match (first, last) {
            ("", "") => None,
            ("", last) => Some(Self::Last(number(last)?)),
            (first, "") => Some(Self::From(number(first)?, None)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From(first, Some(last)))
            }
        }
    }

    /// The bytes that it means in a body of `total` bytes: the first one, and the one after the last; `None` if there are none.
    fn within(&self, total: u64) -> Option<(u64, u64)> {
        let (start, end) = match *self {
            Self::From(first, last) => (first, last.map_or(total, |last| last.saturating_add(1).min(total))),
            Self::Last(count) => (total.saturating_sub(count), total),
        };
        (start < end).then_some((start, end))
    }
}

/// Several parts of a body as one (RFC 9110 §14.6).
#[derive(Debug)]
pub struct Multipart {
    parts: Vec<(u64, u64)>,
    /// What stands before each part.
    before: Vec<Bytes>,
    end: Bytes,
    boundary: String,
}

impl Multipart {
    /// These parts of the body of `stored`. The writer of a body must not be able to predict the random bytes.
    #[must_use]
    pub fn new(parts: Vec<(u64, u64)>, stored: &Stored, random: [u8; BOUNDARY / 2]) -> Self {
        let boundary: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let kind = stored.fields.get("content-type").map(|kind| [b"Content-Type: ", kind, b"\r\n"].concat());
        let kind = kind.unwrap_or_default();
        let before = parts.iter().map(|(start, end)| {
            let range = format!("Content-Range: bytes {start}-{}/{}\r\n\r\n", end - 1, stored.total);
            let lines = [b"\r\n--", boundary.as_bytes(), b"\r\n", &kind, range.as_bytes()];
            Bytes::from(lines.concat())
        });
        let before = before.collect();
        Self { parts, before, end: format!("\r\n--{boundary}--\r\n").into(), boundary }
    }

    /// The parts, each with what is sent before it.
    pub fn parts(&self) -> impl Iterator<Item = ((u64, u64), &Bytes)> {
        self.parts.iter().copied().zip(&self.before)
    }

    /// What is sent after the last part.
    #[must_use]
    pub fn end(&self) -> &Bytes {
        &self.end
    }

    /// The number of bytes in all.
    #[must_use]
    pub fn length(&self) -> u64 {
        let parts = self.parts().map(|((start, end), before)| end - start + before.len() as u64);
        // Parts may overlap, and lengths may be anything.
        parts.fold(self.end.len() as u64, u64::saturating_add)
    }

    /// The memory that it takes, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        let before: usize = self.before.iter().map(Bytes::len).sum();
        before + self.parts.len() * (size_of::<(u64, u64)>() + size_of::<Bytes>())
    }

    /// The value of the Content-Type field.
    #[must_use]
    pub fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::tests::example;
    use proptest::prelude::*;

    fn stored(total: u64) -> Stored {
        let mut stored = Stored { total, ..example() };
        stored.fields = [(&b"Content-Type"[..], &b"t/t"[..])].into_iter().collect();
        stored
    }

    #[test]
    fn several_ranges_are_sent_where_that_is_less_than_the_whole() {
        let read = |field: &str| Ranges::read(field.as_bytes(), &stored(1_000_000));
        assert_eq!(read("bytes=0-9,20-29"), Ranges::Several(vec![(0, 10), (20, 30)]));
        assert_eq!(read("bytes= -1 , ,5-5,"), Ranges::Several(vec![(999_999, 1_000_000), (5, 6)]));
        assert_eq!(read("bytes=5-5,2000000-"), Ranges::One(5, 6));
        assert_eq!(read("bytes=1000000-,-0"), Ranges::Unsatisfiable);
        for field in
            ["bytes=0-9,x", "bytes=0-9,9-8", "bytes=,", "bytes=0-,0-", "bytes=0-9,-", "lines=1-2,3-4"]
        {
            assert_eq!(read(field), Ranges::Ignored, "{field}");
        }
        let many = |count: usize| format!("bytes={}", vec!["0-0"; count].join(","));
        assert!(matches!(read(&many(MOST)), Ranges::Several(parts) if parts.len() == MOST));
        assert_eq!(read(&many(MOST + 1)), Ranges::Ignored);
        assert_eq!(Ranges::read(b"bytes=0-0,2-2", &stored(10)), Ranges::Ignored);
    }

    /// RFC 9110 §14.6.
    #[test]
    fn parts_are_framed_and_their_length_is_known() {
        let parts = Multipart::new(vec![(0, 2), (5, 9)], &stored(10), [0xab; BOUNDARY / 2]);
        let body = "0123456789";
        let mut out = String::new();
        for ((start, end), before) in parts.parts() {
            out.push_str(str::from_utf8(before).unwrap());
            out.push_str(&body[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()]);
        }
        out.push_str(str::from_utf8(parts.end()).unwrap());
        let boundary = "ab".repeat(16);
        let part = |range: &str, text: &str| {
            format!("\r\n--{boundary}\r\nContent-Type: t/t\r\nContent-Range: bytes {range}/10\r\n\r\n{text}")
        };
        assert_eq!(out, format!("{}{}\r\n--{boundary}--\r\n", part("0-1", "01"), part("5-8", "5678")));
        assert_eq!(out.len() as u64, parts.length());
        assert_eq!(parts.content_type(), format!("multipart/byteranges; boundary={boundary}"));
    }

    proptest! {
        #[test]
        fn no_range_leaves_the_body_or_is_more_than_it(
            field in "bytes=([0-9]{0,3}-[0-9]{0,20},?){0,4}",
            total in 0_u64..2000,
        ) {
            let stored = stored(total);
            let parts = match Ranges::read(field.as_bytes(), &stored) {
                Ranges::One(start, end) => vec![(start, end)],
                Ranges::Several(parts) => {
                    prop_assert!(parts.len() > 1);
                    prop_assert!(Multipart::new(parts.clone(), &stored, [0; 16]).length() < total);
                    parts
                }
                Ranges::Ignored | Ranges::Unsatisfiable => Vec::new(),
            };
            prop_assert!(parts.iter().all(|(start, end)| start < end && *end <= total));
        }
    }
}
