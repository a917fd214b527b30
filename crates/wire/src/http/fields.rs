//! The header fields of one message (RFC 9110 §5): in their order, found without regard to case.

use std::fmt;

use httparse::Header;

use super::grammar::{is_text_byte, is_token};
use super::{Malformed, diagnosis};

/// Header fields in the order received, names spelled as received, duplicates kept. One buffer holds all the bytes, so
/// a head costs two allocations whatever its number of fields.
#[derive(Clone, Default)]
pub struct Fields {
    text: Vec<u8>,
    spans: Vec<Span>,
}

/// The place of one field in the text: its name, immediately followed by its value.
#[derive(Clone)]
struct Span {
    start: usize,
    name_end: usize,
    end: usize,
}

impl Fields {
    /// Collects what httparse found in a head of `size` bytes.
    pub(super) fn collect(headers: &[Header<'_>], size: usize) -> Fields {
        let mut fields = Fields { text: Vec::with_capacity(size), spans: Vec::with_capacity(headers.len()) };
        for Header { name, value } in headers {
            fields.append(name.as_bytes(), value);
        }
        fields
    }

    /// The memory that they hold, in bytes.
    pub fn memory(&self) -> usize {
        self.text.capacity() + self.spans.capacity() * size_of::<Span>()
    }

    fn append(&mut self, name: &[u8], value: &[u8]) {
        let start = self.text.len();
        self.text.extend_from_slice(name);
        let name_end = self.text.len();
        self.text.extend_from_slice(value);
        self.spans.push(Span { start, name_end, end: self.text.len() });
    }

    /// The value of the first field called `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// The values of all fields called `name`, in order.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter(move |(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// The members of the comma-separated list that all fields called `name` make together (RFC 9110 §5.6.1),
    /// without empty ones. Not for fields whose values can contain quoted commas.
    pub(super) fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.all(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|member| !member.is_empty())
    }

    /// Every field as name and value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.spans
            .iter()
            .map(|span| (&self.text[span.start..span.name_end], &self.text[span.name_end..span.end]))
    }

    /// The number of fields.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is no field at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// An upper bound of the bytes that writing all fields takes.
    pub(super) fn written_size(&self) -> usize {
        self.text.len() + self.spans.len() * ": \r\n".len()
    }

    /// Removes every field called `name`.
    pub fn remove(&mut self, name: &str) {
        let text = &self.text;
        self.spans.retain(|span| !text[span.start..span.name_end].eq_ignore_ascii_case(name.as_bytes()));
    }

    /// Removes every field whose name begins with `prefix`.
    pub fn remove_beginning(&mut self, prefix: &str) {
        let (text, prefix) = (&self.text, prefix.as_bytes());
        self.spans.retain(|span| {
            let name = &text[span.start..span.name_end];
            !name.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
        });
    }

    /// Adds a field after all others; white space around the value is dropped.
    ///
    /// # Errors
    /// [`Malformed::FieldName`] and [`Malformed::FieldValue`] for what the parser would refuse too, so that no
    /// value can add a line.
    pub fn push(&mut self, name: &str, value: &[u8]) -> Result<(), Malformed> {
        if !is_token(name.as_bytes()) {
            return Err(Malformed::FieldName);
        }
        if !value.iter().copied().all(is_text_byte) {
            return Err(Malformed::FieldValue);
        }
        self.append(name.as_bytes(), value.trim_ascii());
        Ok(())
    }
}

/// Collects fields that were parsed before, so none of them is checked again.
impl<'a> FromIterator<(&'a [u8], &'a [u8])> for Fields {
    fn from_iter<T: IntoIterator<Item = (&'a [u8], &'a [u8])>>(parsed: T) -> Fields {
        let mut fields = Fields::default();
        parsed.into_iter().for_each(|(name, value)| fields.append(name, value));
        fields
    }
}

/// Names only: values can be secrets.
impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| String::from_utf8_lossy(name))).finish()
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Fields) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Fields {}

/// Checks one line of a trailer section (RFC 9112 §7.1.2), given with its CRLF, by the rules for request fields; its
/// content is dropped.
pub(super) fn check_trailer(line: &[u8]) -> Result<(), Malformed> {
    match httparse::parse_headers(line, &mut [httparse::EMPTY_HEADER; 1]) {
        Ok(_) => Ok(()),
        Err(_) => {
            let line = line.strip_suffix(b"\r\n").unwrap_or(line);
            Err(diagnosis::field_line(line).unwrap_or(Malformed::FieldName))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{MAX_HEAD, tokens};

    /// The fields of a request with this field section.
    fn parse(section: &str) -> Result<Fields, Malformed> {
        tokens::request(format!("GET / HTTP/1.1\r\n{section}").as_bytes(), MAX_HEAD)
            .map(|tokens| tokens.fields)
    }

    fn parse_of_response(section: &str) -> Result<Fields, Malformed> {
        tokens::response(format!("HTTP/1.1 200 OK\r\n{section}").as_bytes(), MAX_HEAD)
            .map(|tokens| tokens.fields)
    }

    #[test]
    fn keeps_order_case_and_duplicates() {
        let fields = parse("b: 1\r\nA:2\r\nB:\t 3 \t\r\nempty:\r\n\r\n").unwrap();
        let all: Vec<_> = fields.iter().collect();
        assert_eq!(all, [(&b"b"[..], &b"1"[..]), (b"A", b"2"), (b"B", b"3"), (b"empty", b"")]);
        assert_eq!(fields.get("a"), Some(&b"2"[..]));
        assert_eq!(fields.all("B").collect::<Vec<_>>(), [b"1", b"3"]);
        assert_eq!((fields.len(), fields.is_empty()), (4, false));
    }

    #[test]
    fn removes_and_pushes() {
        let mut fields = parse("Range: x\r\nA: 1\r\nrange: y\r\n\r\n").unwrap();
        fields.remove("RANGE");
        fields.push("Range", b" bytes=5- ").unwrap();
        assert_eq!(fields.iter().collect::<Vec<_>>(), [(&b"A"[..], &b"1"[..]), (b"Range", b"bytes=5-")]);
    }

    #[test]
    fn removes_what_begins_alike_in_any_case() {
        let mut fields =
            parse("Laneway-Digest: a\r\nLaneway: b\r\nX-Laneway-A: c\r\nLANEWAY-: d\r\n\r\n").unwrap();
        fields.remove_beginning("laneway-");
        let names: Vec<&[u8]> = fields.iter().map(|(name, _)| name).collect();
        assert_eq!(names, [&b"Laneway"[..], b"X-Laneway-A"]);
    }

    #[test]
    fn push_cannot_smuggle_a_line() {
        let mut fields = Fields::default();
        assert_eq!(fields.push("A", b"1\r\nB: 2"), Err(Malformed::FieldValue));
        assert_eq!(fields.push("A: 1\r\nB", b"2"), Err(Malformed::FieldName));
        assert_eq!(fields.push("", b"2"), Err(Malformed::FieldName));
        assert!(fields.is_empty());
    }

    #[test]
    fn lists_span_fields_and_skip_empty_members() {
        let fields = parse("Connection: a, ,b\r\nX: y\r\nconnection: ,c\r\n\r\n").unwrap();
        assert_eq!(fields.list("connection").collect::<Vec<_>>(), [b"a", b"b", b"c"]);
    }

    #[test]
    fn a_folded_response_field_is_joined_with_spaces() {
        let fields = parse_of_response("A: x\r\n\ty\r\n z\r\nB: 1\r\n\r\n").unwrap();
        assert_eq!(fields.get("a"), Some(&b"x y z"[..]));
        assert_eq!(fields.get("b"), Some(&b"1"[..]));
        assert_eq!(parse("A: x\r\n y\r\n\r\n"), Err(Malformed::ObsFold));
    }

    #[test]
    fn white_space_before_the_colon_of_a_response_field_is_removed() {
        let fields = parse_of_response("A : 1\r\nB\t :2\r\nC:3\r\n\r\n").unwrap();
        let all: Vec<_> = fields.iter().collect();
        assert_eq!(all, [(&b"A"[..], &b"1"[..]), (b"B", b"2"), (b"C", b"3")]);
        assert_eq!(parse("A : 1\r\n\r\n"), Err(Malformed::SpaceBeforeColon));
    }

    #[test]
    fn debug_shows_no_values() {
        let fields = parse("Authorization: secret\r\n\r\n").unwrap();
        assert_eq!(format!("{fields:?}"), r#"["Authorization"]"#);
    }
}
