//! The header fields of one message (RFC 9110 §5): parsed strictly, kept in order, found without regard to
//! case.

use std::fmt;
use std::ops::Range;

use super::{MAX_FIELDS, Malformed, Message, line};

/// Header fields in the order they came, names spelled as they came, duplicates kept. One buffer holds all the
/// bytes, so a head costs two allocations whatever its number of fields.
#[derive(Clone, Default)]
pub struct Fields {
    text: Vec<u8>,
    spans: Vec<Span>,
}

/// Where one field's name and value lie in the text.
#[derive(Clone)]
struct Span {
    name: Range<usize>,
    value: Range<usize>,
}

impl Fields {
    /// Parses a field section up to and including its blank line, and nothing after that (RFC 9112 §5). A
    /// folded line (§5.2) is refused in a request, and joined with spaces in a response.
    pub(super) fn parse(section: &[u8], message: Message) -> Result<Fields, Malformed> {
        let mut text = section.to_vec();
        if message == Message::Response {
            unfold(&mut text);
        }
        let mut spans = Vec::with_capacity(16);
        let mut at = 0;
        loop {
            let line = line(&text, at)?.ok_or(Malformed::Unfinished)?;
            let next = line.end + 2;
            if line.is_empty() {
                return if next == text.len() {
                    Ok(Fields { text, spans })
                } else {
                    Err(Malformed::Unfinished)
                };
            }
            if spans.len() == MAX_FIELDS {
                return Err(Malformed::TooManyFields);
            }
            spans.push(field_line(&text, line)?);
            at = next;
        }
    }

    /// The value of the first field called `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(own, _)| own.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The values of all fields called `name`, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |(own, _)| own.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The members of the comma-separated list that all fields called `name` make together (RFC 9110 §5.6.1),
    /// without empty ones. Not for fields whose values may hold quoted commas.
    pub(super) fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.all(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|member| !member.is_empty())
    }

    /// Every field as name and value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.spans.iter().map(|span| (&self.text[span.name.clone()], &self.text[span.value.clone()]))
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

    /// The number of bytes that writing all fields needs, or a little more.
    pub(super) fn size(&self) -> usize {
        self.text.len()
    }

    /// Removes every field called `name`.
    pub fn remove(&mut self, name: &str) {
        let text = &self.text;
        self.spans.retain(|span| !text[span.name.clone()].eq_ignore_ascii_case(name.as_bytes()));
    }

    /// Adds a field after all others; white space around the value is dropped.
    ///
    /// # Errors
    /// [`Malformed::FieldName`] and [`Malformed::FieldValue`] for what the parser would not accept either, so
    /// that no value can smuggle in a line of its own.
    pub fn push(&mut self, name: &str, value: &[u8]) -> Result<(), Malformed> {
        if !is_token(name.as_bytes()) {
            return Err(Malformed::FieldName);
        }
        if !value.iter().copied().all(is_text_byte) {
            return Err(Malformed::FieldValue);
        }
        let start = self.text.len();
        self.text.extend_from_slice(name.as_bytes());
        let middle = self.text.len();
        self.text.extend_from_slice(value.trim_ascii());
        self.spans.push(Span { name: start..middle, value: middle..self.text.len() });
        Ok(())
    }
}

/// Names only: values carry secrets.
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

/// Judges one line of a trailer section (RFC 9112 §7.1.2) by the rules for fields; what it says is dropped.
pub(super) fn check_trailer(line: &[u8]) -> Result<(), Malformed> {
    field_line(line, 0..line.len()).map(|_| ())
}

/// Whether `text` is a `token` (RFC 9110 §5.6.2).
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().copied().all(is_token_byte)
}

/// Whether `byte` may stand in a field value, a reason phrase or a chunk extension: HTAB, SP, VCHAR or obs-text
/// (RFC 9110 §5.5).
pub(super) fn is_text_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// `tchar` (RFC 9110 §5.6.2).
fn is_token_byte(byte: u8) -> bool {
    matches!(byte,
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z'
        | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// Parses the one field line that lies at `line` in `text` (RFC 9112 §5), which is not empty.
fn field_line(text: &[u8], line: Range<usize>) -> Result<Span, Malformed> {
    let bytes = &text[line.clone()];
    if bytes.first().is_some_and(is_blank) {
        return Err(Malformed::ObsFold);
    }
    let colon = bytes.iter().position(|&byte| byte == b':').ok_or(Malformed::FieldName)?;
    let (name, value) = (&bytes[..colon], &bytes[colon + 1..]);
    if name.last().is_some_and(is_blank) {
        return Err(Malformed::SpaceBeforeColon);
    }
    if !is_token(name) {
        return Err(Malformed::FieldName);
    }
    if !value.iter().copied().all(is_text_byte) {
        return Err(Malformed::FieldValue);
    }
    let start = line.end - value.trim_ascii_start().len();
    Ok(Span { name: line.start..line.start + colon, value: start..start + value.trim_ascii().len() })
}

/// Replaces the line break of every folded line by spaces (RFC 9112 §5.2). A line before the first field is no
/// fold and stays, to be refused (§2.2).
fn unfold(text: &mut [u8]) {
    for at in 1..text.len().saturating_sub(2) {
        if text[at - 1] != b'\n' && text[at] == b'\r' && text[at + 1] == b'\n' && is_blank(&text[at + 2]) {
            text[at] = b' ';
            text[at + 1] = b' ';
        }
    }
}

/// SP or HTAB.
fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(section: &str) -> Result<Fields, Malformed> {
        Fields::parse(section.as_bytes(), Message::Request)
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
        let fields = Fields::parse(b"A: x\r\n\ty\r\n z\r\nB: 1\r\n\r\n", Message::Response).unwrap();
        assert_eq!(fields.get("a"), Some(&b"x  \ty   z"[..]));
        assert_eq!(fields.get("b"), Some(&b"1"[..]));
        assert_eq!(Fields::parse(b" A: x\r\n\r\n", Message::Response), Err(Malformed::ObsFold));
        assert_eq!(parse("A: x\r\n y\r\n\r\n"), Err(Malformed::ObsFold));
    }

    #[test]
    fn debug_shows_no_values() {
        let fields = parse("Authorization: secret\r\n\r\n").unwrap();
        assert_eq!(format!("{fields:?}"), r#"["Authorization"]"#);
    }
}
