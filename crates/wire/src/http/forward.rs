//! The fields of a forwarded message: which go on, and what an intermediary adds (RFC 9110 §7.6).

use std::cmp::Ordering;

use bytes::BytesMut;

use super::{BodyLength, Fields, Version, framing};

/// Fields for one connection only, whether or not `Connection` names them (RFC 9110 §7.6.1). `TE` and `Trailer` are
/// among them because trailers are dropped.
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "proxy-support",
    "te",
    "trailer",
    "upgrade",
];

/// Fields that are forwarded even if `Connection` names them: they are for every recipient (RFC 9110 §7.6.1), and
/// without them the message would mean something else, or a loop would not be noticed.
const END_TO_END: [&str; 25] = [
    "allow",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "max-forwards",
    "range",
    "set-cookie",
    "transfer-encoding",
    "via",
    "www-authenticate",
];

/// The options of `Connection` about the connection itself (RFC 9110 §7.6.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
}

impl Connection {
    pub(super) fn parse(fields: &Fields) -> Connection {
        let mut connection = Connection::default();
        for option in fields.list("connection") {
            connection.close |= option.eq_ignore_ascii_case(b"close");
            connection.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            connection.upgrade |= option.eq_ignore_ascii_case(b"upgrade");
        }
        connection
    }
}

/// The fields that are forwarded, in order. Those that frame the body are among them for [`FramingField`] to replace.
pub(super) fn end_to_end(fields: &Fields) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut nominated: Vec<&[u8]> =
        fields.list("connection").filter(|option| !is_among(option, &END_TO_END)).collect();
    // Sorted, so that a head full of options and fields is not compared each with each.
    nominated.sort_unstable_by(|a, b| compare(a, b));
    fields.iter().filter(move |(name, _)| {
        !is_among(name, &HOP_BY_HOP) && nominated.binary_search_by(|option| compare(option, name)).is_err()
    })
}

/// The field that frames the body of a forwarded message: in the place and the spelling of the one received, so that the
/// order of fields stays, and after all others if none was received.
pub(super) struct FramingField(Option<(&'static str, Vec<u8>)>);

impl FramingField {
    /// The field for a body that ends like this; `codings` come before `chunked`.
    pub(super) fn new(body: BodyLength, codings: &[u8]) -> FramingField {
        FramingField(framing::field(body, codings))
    }

    /// Whether the received field called `name` frames the body. Writes the field in its place if it has the same name.
    pub(super) fn replaces(&mut self, name: &[u8], out: &mut BytesMut) -> bool {
        if let Some((_, value)) = self.0.take_if(|(own, _)| own.as_bytes().eq_ignore_ascii_case(name)) {
            write_field(name, &value, out);
            return true;
        }
        is_among(name, &["content-length", "transfer-encoding"])
    }

    /// Writes the field unless it has been written.
    pub(super) fn finish(self, out: &mut BytesMut) {
        if let Some((name, value)) = self.0 {
            write_field(name.as_bytes(), &value, out);
        }
    }
}

/// Writes one field line.
pub(super) fn write_field(name: &[u8], value: &[u8], out: &mut BytesMut) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes our own `Via` field, which comes after those received (RFC 9110 §7.6.3).
pub(super) fn write_via(received: Version, pseudonym: &str, out: &mut BytesMut) {
    out.extend_from_slice(b"Via: ");
    out.extend_from_slice(received.number().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(pseudonym.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Whether a recipient named in `Via` is `pseudonym` (RFC 9110 §7.6.3). Comments do not count.
pub(super) fn via_names(fields: &Fields, pseudonym: &str) -> bool {
    fields.all("via").any(|value| {
        without_comments(value).split(|&byte| byte == b',').any(|hop| {
            let mut words = hop.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            words.nth(1).is_some_and(|received_by| received_by.eq_ignore_ascii_case(pseudonym.as_bytes()))
        })
    })
}

/// `value` with every comment replaced by a space (RFC 9110 §5.6.5). Comments nest and may contain commas.
fn without_comments(value: &[u8]) -> Vec<u8> {
    let (mut depth, mut escaped) = (0_usize, false);
    let mut text = Vec::with_capacity(value.len());
    for &byte in value {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if depth > 0 => escaped = true,
            b'(' => depth += 1,
            b')' if depth > 0 => {
                depth -= 1;
                text.push(b' ');
            }
            _ if depth == 0 => text.push(byte),
            _ => {}
        }
    }
    text
}

/// The order of two names without regard to case.
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    a.iter().map(u8::to_ascii_lowercase).cmp(b.iter().map(u8::to_ascii_lowercase))
}

fn is_among(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|other| other.as_bytes().eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{MAX_HEAD, tokens};

    fn fields(section: &str) -> Fields {
        tokens::request(format!("GET / HTTP/1.1\r\n{section}\r\n").as_bytes(), MAX_HEAD).unwrap().fields
    }

    fn names(section: &str) -> Vec<String> {
        let fields = fields(section);
        end_to_end(&fields).map(|(name, _)| String::from_utf8(name.to_vec()).unwrap()).collect()
    }

    #[test]
    fn hop_by_hop_fields_are_dropped() {
        for name in HOP_BY_HOP {
            assert_eq!(
                names(&format!("A: 1\r\n{}: x\r\nB: 2\r\n", name.to_uppercase())),
                ["A", "B"],
                "{name}"
            );
        }
    }

    #[test]
    fn fields_that_connection_names_are_dropped_wherever_they_are() {
        let section =
            "X-A: 1\r\nConnection: close, x-a\r\nX-B: 1\r\nX-a: 2\r\nConnection: X-B,,\r\nX-C: 3\r\n";
        assert_eq!(names(section), ["X-C"]);
    }

    #[test]
    fn fields_for_every_recipient_are_kept_although_connection_names_them() {
        for name in END_TO_END {
            assert_eq!(names(&format!("{name}: x\r\nConnection: {name}\r\n")), [name]);
        }
    }

    #[test]
    fn connection_options_are_read_whatever_their_number() {
        let connection = Connection::parse(&fields("Connection: Close, x\r\nconnection: Upgrade\r\n"));
        assert_eq!(connection, Connection { close: true, keep_alive: false, upgrade: true });
        let many: Vec<String> = (0..2000).map(|number| format!("x-{number}")).collect();
        let section = format!("Connection: {}, close\r\nX-1234: 1\r\nX-2000: 1\r\n", many.join(","));
        assert!(Connection::parse(&fields(&section)).close);
        assert_eq!(names(&section), ["X-2000"]);
    }

    #[test]
    fn via_names_received_by_only() {
        let named = |value: &str| via_names(&fields(&format!("Via: 1.0 x\r\nVia: {value}\r\n")), "laneway");
        for value in ["1.1 laneway", "1.0 a, HTTP/1.1 LaneWay (c)", "1.1\tlaneway,", "1.1 (x, \\) y) laneway"]
        {
            assert!(named(value), "{value}");
        }
        for value in ["1.1 laneway2", "laneway", "1.1 a (1.1, 1.1 laneway)", "1.1 a (b (c), 1.1 laneway", ""]
        {
            assert!(!named(value), "{value}");
        }
    }
}
