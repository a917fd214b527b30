//! The head of a response: checked as a server sends it, written as the app receives it; and short responses of the
//! proxy itself.

use std::fmt::Write as _;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use http::Method;

use super::forward::{Connection, FramingField, end_to_end, write_field, write_via};
use super::framing::{self, ResponseFraming};
use super::grammar::{is_text_byte, is_token};
use super::{BodyLength, Fields, MAX_HEAD, MAX_LINK_HEAD, Malformed, Upgrade, Version, login, tokens};

/// The head of a response.
///
/// `fields` are as received, including framing and hop-by-hop fields; [`ResponseHead::write_forward`] writes those
/// anew.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    /// The status code, 100 to 999 (some servers send codes above 599).
    pub status: u16,
    /// The reason phrase, often empty; text in an unknown encoding.
    pub reason: Bytes,
    /// The server's version.
    pub version: Version,
    /// The fields as received.
    pub fields: Fields,
    /// How the body ends, given the method of the request (RFC 9112 §6.3).
    pub body: BodyLength,
    /// The transfer codings of the body besides `chunked`, as a list; usually empty. They are passed on: the app can
    /// decode them, or see that it cannot.
    codings: Bytes,
    /// The value of `Content-Length`, even if there is no body: in a response to HEAD and in a 304 it is the length
    /// that the body would have had. A 1xx or 204 has none, whatever it says (RFC 9110 §8.6).
    pub content_length: Option<u64>,
    /// The server accepts another request on its connection after this response (RFC 9112 §9.3).
    pub keep_alive: bool,
}

impl ResponseHead {
    /// Parses a head as [`super::head_end`] delimits it, of the response to a request with this method.
    ///
    /// # Errors
    /// When its meaning is not certain even after the repair of what is commonly wrong.
    pub fn parse(head: &[u8], request_method: &Method) -> Result<ResponseHead, Malformed> {
        Self::parse_within(head, request_method, MAX_HEAD)
    }

    /// As [`ResponseHead::parse`], for a head that another node may have written anew, of at most [`MAX_LINK_HEAD`] bytes.
    ///
    /// # Errors
    /// As [`ResponseHead::parse`].
    pub fn parse_of_node(head: &[u8], request_method: &Method) -> Result<ResponseHead, Malformed> {
        Self::parse_within(head, request_method, MAX_LINK_HEAD)
    }

    fn parse_within(head: &[u8], request_method: &Method, most: usize) -> Result<ResponseHead, Malformed> {
        let tokens::ResponseTokens { version, status, reason, fields, doubtful } =
            tokens::response(head, most)?;
        // RFC 9110 §15: the first digit is the class, and there is no class 0.
        if status < 100 {
            return Err(Malformed::StatusLine);
        }
        let connection = Connection::parse(&fields);
        let tunnel = *request_method == Method::CONNECT && (200..300).contains(&status);
        let empty = *request_method == Method::HEAD || status == 304 || never_has_body(status) || tunnel;
        let framing =
            if empty { without_body(status, &fields) } else { ResponseFraming::parse(version, &fields)? };
        let content_length = match framing.body {
            BodyLength::Exact(length) if !never_has_body(status) => Some(length),
            _ => None,
        };
        let body = if empty { BodyLength::None } else { framing.body };
        let persists = match version {
            Version::Http11 => !connection.close,
            Version::Http10 => connection.keep_alive && !connection.close,
        };
        Ok(ResponseHead {
            status,
            reason,
            version,
            body,
            codings: framing.codings.into(),
            content_length,
            keep_alive: persists && !doubtful && !framing.doubtful && body != BodyLength::UntilClose,
            fields,
        })
    }

    /// Whether this response asks for a login that holds for the connection to the server: NTLM or Negotiate (RFC 4559).
    #[must_use]
    pub fn asks_for_connection_login(&self) -> bool {
        self.status == 401 && login::is_asked_for(&self.fields)
    }

    /// Whether the body has transfer codings besides `chunked`.
    #[must_use]
    pub fn has_codings(&self) -> bool {
        !self.codings.is_empty()
    }

    /// The fields that are for every recipient (RFC 9110 §7.6.1), without those that frame the body: what a cache stores
    /// (RFC 9111 §3.1).
    #[must_use]
    pub fn end_to_end(&self) -> Fields {
        let frames = |name: &[u8]| {
            name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding")
        };
        end_to_end(&self.fields).filter(|(name, _)| !frames(name)).collect()
    }

    /// Checks that a client of this version can read the body: HTTP/1.0 has no transfer codings.
    ///
    /// # Errors
    /// [`Malformed::TransferEncoding`].
    pub fn check_codings(&self, client: Version) -> Result<(), Malformed> {
        let readable = self.codings.is_empty() || client == Version::Http11;
        if readable { Ok(()) } else { Err(Malformed::TransferEncoding) }
    }

    /// Whether this is an interim response, which the final one follows (RFC 9110 §15.2). A 101 is final.
    #[must_use]
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// Whether this response is sent to a client of this version: HTTP/1.0 has no interim responses (RFC 9110 §15.2).
    #[must_use]
    pub fn reaches(&self, client: Version) -> bool {
        client == Version::Http11 || !self.is_interim()
    }

    /// Whether this 101 switches to the requested protocol. Any other 101 is the server's error, and must not become
    /// a tunnel.
    #[must_use]
    pub fn switches_to(&self, upgrade: Upgrade) -> bool {
        let Upgrade::WebSocket = upgrade;
        self.status == 101 && self.fields.list("upgrade").any(|name| name.eq_ignore_ascii_case(b"websocket"))
    }

    /// How the body is delimited for a client of this version: as received, but not by the end of the connection if
    /// the client supports chunks, so that it can tell a truncated body from a complete one.
    #[must_use]
    pub fn client_body(&self, client: Version) -> BodyLength {
        match (self.body, client) {
            (BodyLength::Chunked | BodyLength::UntilClose, Version::Http11) => BodyLength::Chunked,
            (BodyLength::Chunked | BodyLength::UntilClose, Version::Http10) => BodyLength::UntilClose,
            (body, _) => body,
        }
    }

    /// Writes the response for the client: HTTP/1.1, the end-to-end fields in their order and spelling, the framing from
    /// `body_as`, `Date` if the server sent none (RFC 9110 §6.6.1), and our own `Via`.
    ///
    /// `via` is this proxy's pseudonym, a token. `body_as` is how the caller will send the body, normally
    /// [`ResponseHead::client_body`]. `received` is when the response arrived.
    pub fn write_forward(
        &self,
        via: &str,
        to: Recipient,
        body_as: BodyLength,
        received: SystemTime,
        out: &mut BytesMut,
    ) {
        debug_assert!(is_token(via.as_bytes()), "the pseudonym must be a token");
        out.reserve(self.fields.written_size() + self.reason.len() + 256);
        write!(out, "HTTP/1.1 {} ", self.status).expect("a BytesMut grows");
        out.extend_from_slice(&self.reason);
        out.extend_from_slice(b"\r\n");
        let mut framing = match self.content_length {
            Some(length) if body_as == BodyLength::None => FramingField::new(BodyLength::Exact(length), &[]),
            _ => FramingField::new(body_as, &self.codings),
        };
        for (name, value) in end_to_end(&self.fields) {
            if !framing.replaces(name, out) {
                write_field(name, value, out);
            }
        }
        framing.finish(out);
        if self.fields.get("date").is_none() {
            write_field(b"Date", httpdate::fmt_http_date(received).as_bytes(), out);
        }
        write_via(self.version, via, out);
        if self.asks_for_connection_login() {
            // RFC 4559 §6: without it a client does not log in through a proxy. It concerns this connection alone.
            write_field(b"Proxy-Support", b"Session-Based-Authentication", out);
            write_field(b"Connection", b"Proxy-Support", out);
        }
        // A 426 says what the server wants, and must (RFC 9110 §15.5.22).
        if matches!(self.status, 101 | 426) && self.fields.get("upgrade").is_some() {
            out.extend_from_slice(b"Connection: Upgrade\r\n");
            for protocol in self.fields.all("upgrade") {
                write_field(b"Upgrade", protocol, out);
            }
        }
        if self.status != 101
            && !self.is_interim()
            && (!to.keep_alive || to.version == Version::Http10 || body_as == BodyLength::UntilClose)
        {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// The client that a response is written for.
#[derive(Debug, Clone, Copy)]
pub struct Recipient {
    /// Its version.
    pub version: Version,
    /// The connection to it stays open. `Connection: close` is written if not, and also where it cannot stay open: for
    /// HTTP/1.0 and after a body until close.
    pub keep_alive: bool,
}

/// The framing of a response that ends with its head, whose fields say nothing (RFC 9112 §6.3), except for the length that
/// the body of a HEAD or 304 would have had. A server that announces a body after a 1xx or 204 violates §6.1, and may send
/// it nevertheless; it would be read as the next response.
fn without_body(status: u16, fields: &Fields) -> ResponseFraming {
    let coded = fields.get("transfer-encoding").is_some();
    let length = framing::content_length(fields, true);
    let strays = never_has_body(status) && (coded || !matches!(length, Ok(None | Some(0))));
    let known = length.ok().flatten().filter(|_| !coded);
    ResponseFraming {
        body: known.map_or(BodyLength::None, BodyLength::Exact),
        codings: Vec::new(),
        doubtful: strays,
    }
}

/// A whole response of the proxy itself, with `body` as plain text.
///
/// It has `Content-Length`, so it must not be the response to a HEAD unless `body` is empty. `fields` must not contain
/// framing fields. Control characters in `reason` and in values become spaces: the text may come from a peer.
#[must_use]
pub fn simple_response(
    status: u16,
    reason: &str,
    fields: &[(&str, &str)],
    body: &str,
    keep_alive: bool,
) -> Bytes {
    complete_response(status, reason, fields, "text/plain; charset=utf-8", body.as_bytes(), keep_alive)
}

/// The response to a TRACE (RFC 9110 §9.3.8): `message` is the request as it was received.
#[must_use]
pub fn trace_response(message: &[u8]) -> Bytes {
    complete_response(200, "OK", &[], "message/http", message, false)
}

/// A whole response of the proxy itself, with a body of any type.
fn complete_response(
    status: u16,
    reason: &str,
    fields: &[(&str, &str)],
    content_type: &str,
    body: &[u8],
    keep_alive: bool,
) -> Bytes {
    let mut out = BytesMut::with_capacity(256 + body.len());
    write!(out, "HTTP/1.1 {status} ").expect("a BytesMut grows");
    write_clean(reason, &mut out);
    out.extend_from_slice(b"\r\n");
    for (name, value) in fields {
        debug_assert!(is_token(name.as_bytes()), "a field name must be a token");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        write_clean(value, &mut out);
        out.extend_from_slice(b"\r\n");
    }
    write!(out, "Content-Type: {content_type}\r\nContent-Length: {}\r\n", body.len())
        .expect("a BytesMut grows");
    if !keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    out.freeze()
}

/// Responses that end with their head and must not have a `Content-Length` (RFC 9110 §8.6, §15.3.5).
fn never_has_body(status: u16) -> bool {
    status < 200 || status == 204
}

fn write_clean(text: &str, out: &mut BytesMut) {
    out.extend(text.bytes().map(|byte| if is_text_byte(byte) { byte } else { b' ' }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<ResponseHead, Malformed> {
        ResponseHead::parse(head.as_bytes(), &Method::GET)
    }

    fn answer(method: &str, status: &str, lines: &str) -> ResponseHead {
        let head = format!("HTTP/1.1 {status}\r\n{lines}\r\n");
        ResponseHead::parse(head.as_bytes(), &method.parse().unwrap()).unwrap()
    }

    /// The field that is added to a response without one.
    const DATE: &str = "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";

    /// As written for a client that stays connected, without the first line and the added date.
    fn forwarded(head: &ResponseHead, client: Version) -> String {
        let mut out = BytesMut::new();
        let to = Recipient { version: client, keep_alive: true };
        head.write_forward("laneway", to, head.client_body(client), SystemTime::UNIX_EPOCH, &mut out);
        let text = String::from_utf8(out.to_vec()).unwrap().replace(DATE, "");
        text.split_once("\r\n").unwrap().1.to_owned()
    }

    #[test]
    fn refusals() {
        use Malformed::*;
        for (head, want) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", SeveralContentLengths),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n", SeveralContentLengths),
            ("HTTP/1.1 200 OK\r\nContent-Length: ,\r\n\r\n", ContentLength),
            ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", ContentLength),
            ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", ContentLength),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n 6\r\n\r\n", ContentLength),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: identity\r\nContent-Length: 6\r\n\r\n",
                SeveralContentLengths,
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", TransferEncoding),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", TransferEncoding),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", TransferEncoding),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding\r\n\r\n", FieldName),
            ("HTTP/1.1 20 OK\r\n\r\n", StatusLine),
            ("HTTP/1.1 2000 OK\r\n\r\n", StatusLine),
            ("HTTP/1.1 099 OK\r\n\r\n", StatusLine),
            ("HTTP/1.1 +20 OK\r\n\r\n", StatusLine),
            ("SSH-2.0-OpenSSH\r\n\r\n", NotHttp),
            ("HTTP/3.0 200 OK\r\n\r\n", Malformed::Version),
            ("HTTP/1.1 200 OK\r\n\r\nx", Unfinished),
            ("HTTP/1.1 200 OK\r\nA: 1\r\n\r\n x\r\n\r\n", Unfinished),
            ("HTTP/1.1 200 OK\r\n", Unfinished),
        ] {
            assert_eq!(parse(head).map(|_| ()), Err(want), "{head:?}");
        }
    }

    /// What servers send in spite of the grammar, and what the app gets.
    #[test]
    fn odd_responses_are_passed_on_cleanly_and_end_their_connection_where_there_is_doubt() {
        let chunked = "Transfer-Encoding: chunked\r\n";
        for (head, want, keep_alive) in [
            (
                "HTTP/1.1 200 OK\r\nA : 1\r\nContent-Length\t: 5\r\n\r\n",
                "A: 1\r\nContent-Length: 5\r\n",
                true,
            ),
            ("HTTP/1.1 200 OK\nA: 1\nContent-Length: 5\n\n", "A: 1\r\nContent-Length: 5\r\n", true),
            (
                "HTTP/1.1 200\r\nContent-Length: 5, 5\r\ncontent-length: 005\r\n\r\n",
                "Content-Length: 5\r\n",
                true,
            ),
            ("HTTP/1.1  200   OK\r\nContent-Length: 5\r\n\r\n", "Content-Length: 5\r\n", true),
            ("\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "Content-Length: 5\r\n", true),
            (
                "HTTP/1.1 200 OK\r\nA: \u{80}\u{ff}\r\nContent-Length: 5\r\n\r\n",
                "A: \u{80}\u{ff}\r\nContent-Length: 5\r\n",
                true,
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n", chunked, false),
            ("HTTP/1.1 200 OK\r\nContent-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n", chunked, false),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: identity\r\n\r\n",
                "Content-Length: 5\r\n",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding:\r\n\r\n",
                "Content-Length: 5\r\n",
                false,
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n", chunked, false),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked, identity\r\n\r\n", chunked, false),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                chunked,
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                "Transfer-Encoding: gzip, chunked\r\n",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
                "Transfer-Encoding: gzip, chunked\r\n",
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
                chunked,
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nA: a\0b\r\nContent-Length: 5\r\n\r\n",
                "A: a b\r\nContent-Length: 5\r\n",
                false,
            ),
            ("HTTP/1.1 200 OK\r\n: 1\r\nContent-Length: 5\r\n\r\n", "Content-Length: 5\r\n", false),
            (
                "HTTP/1.1 200 OK\r\n Content-Length: 9\r\nContent-Length: 5\r\n\r\n",
                "Content-Length: 5\r\n",
                false,
            ),
            ("HTTP/1.1 204 No\r\nContent-Length: x\r\n\r\n", "", false),
            ("HTTP/1.1 304 No\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "", true),
            ("HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n", "Content-Length: 0\r\n", true),
        ] {
            let parsed = parse(head).unwrap_or_else(|error| panic!("{head:?}: {error}"));
            let via = format!("Via: {} laneway\r\n\r\n", parsed.version.number());
            let written = forwarded(&parsed, Version::Http11);
            assert_eq!((written, parsed.keep_alive), (format!("{want}{via}"), keep_alive), "{head:?}");
        }
    }

    #[test]
    fn a_client_of_http10_gets_no_transfer_coding() {
        let coded = answer("GET", "200 OK", "Transfer-Encoding: gzip, chunked\r\n");
        assert_eq!(coded.check_codings(Version::Http10), Err(Malformed::TransferEncoding));
        assert_eq!(coded.check_codings(Version::Http11), Ok(()));
        let chunked = answer("GET", "200 OK", "Transfer-Encoding: chunked\r\n");
        assert_eq!(chunked.check_codings(Version::Http10), Ok(()));
    }

    #[test]
    fn a_date_is_added_only_to_a_response_without_one() {
        let dated = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        for (lines, want) in [(dated, dated), ("", DATE)] {
            let mut out = BytesMut::new();
            let to = Recipient { version: Version::Http11, keep_alive: true };
            let head = answer("GET", "204 No Content", lines);
            head.write_forward("l", to, BodyLength::None, SystemTime::UNIX_EPOCH, &mut out);
            assert_eq!(out, format!("HTTP/1.1 204 No Content\r\n{want}Via: 1.1 l\r\n\r\n"));
        }
    }

    #[test]
    fn a_login_of_the_connection_is_announced_as_possible_through_this_proxy() {
        let supported = "Proxy-Support: Session-Based-Authentication\r\n";
        let asks =
            |status, lines| forwarded(&answer("GET", status, lines), Version::Http11).contains(supported);
        assert!(asks("401 No", "WWW-Authenticate: Negotiate\r\n"));
        assert!(!asks("401 No", "WWW-Authenticate: Basic realm=\"NTLM\"\r\n"));
        assert!(!asks("407 No", "Proxy-Authenticate: NTLM\r\n"));
        assert!(!asks("200 OK", "WWW-Authenticate: NTLM\r\n"));
    }

    #[test]
    fn body_by_method_and_status() {
        let length = "Content-Length: 5\r\n";
        for (method, status, lines, want) in [
            ("GET", "200 OK", length, BodyLength::Exact(5)),
            ("GET", "200", length, BodyLength::Exact(5)),
            ("GET", "200 ", "", BodyLength::UntilClose),
            ("GET", "200 OK", "Transfer-Encoding: Chunked\r\n", BodyLength::Chunked),
            ("GET", "200 OK", "Content-Length: 5, 5\r\ncontent-length: 5\r\n", BodyLength::Exact(5)),
            ("GET", "200 OK", "Content-Length:\r\n 5\r\n", BodyLength::Exact(5)),
            ("GET", "999 No", length, BodyLength::Exact(5)),
            ("HEAD", "200 OK", length, BodyLength::None),
            ("HEAD", "200 OK", "Transfer-Encoding: chunked\r\n", BodyLength::None),
            ("GET", "304 Not Modified", length, BodyLength::None),
            ("GET", "204 No Content", "", BodyLength::None),
            ("GET", "100 Continue", "", BodyLength::None),
            ("GET", "101 Switching Protocols", "", BodyLength::None),
            ("CONNECT", "200 OK", "", BodyLength::None),
            ("CONNECT", "403 No", length, BodyLength::Exact(5)),
        ] {
            assert_eq!(answer(method, status, lines).body, want, "{method} {status} {lines}");
        }
    }

    #[test]
    fn persistence() {
        assert!(answer("GET", "200 OK", "Content-Length: 0\r\n").keep_alive);
        assert!(!answer("GET", "200 OK", "Content-Length: 0\r\nConnection: close\r\n").keep_alive);
        assert!(!answer("GET", "200 OK", "").keep_alive);
        assert!(answer("GET", "204 No Content", "Content-Length: 0\r\n").keep_alive);
        assert!(answer("GET", "304 Not Modified", "Content-Length: 5\r\n").keep_alive);
        let old =
            |lines: &str| parse(&format!("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n{lines}\r\n")).unwrap();
        assert!(!old("").keep_alive);
        assert!(old("Connection: Keep-Alive\r\n").keep_alive);
    }

    #[test]
    fn a_body_after_204_cannot_become_the_next_response() {
        assert!(!answer("GET", "204 No Content", "Content-Length: 5\r\n").keep_alive);
        assert!(!answer("GET", "204 No Content", "Transfer-Encoding: chunked\r\n").keep_alive);
    }

    #[test]
    fn what_cannot_have_a_body_has_no_length() {
        let length = |method, status| answer(method, status, "Content-Length: 5\r\n").content_length;
        assert_eq!([length("GET", "204 No Content"), length("GET", "103 Early Hints")], [None; 2]);
        assert_eq!([length("HEAD", "200 OK"), length("GET", "304 Not Modified")], [Some(5); 2]);
    }

    #[test]
    fn forwards_with_framing_for_the_client() {
        use Version::{Http10, Http11};
        for (method, status, lines, client, want) in [
            (
                "GET",
                "200 OK",
                "A: 1\r\nContent-Length: 05\r\n",
                Http11,
                "A: 1\r\nContent-Length: 5\r\nVia: 1.1 laneway\r\n\r\n",
            ),
            (
                "GET",
                "200 OK",
                "Content-Length: 5\r\n",
                Http10,
                "Content-Length: 5\r\nVia: 1.1 laneway\r\nConnection: close\r\n\r\n",
            ),
            (
                "GET",
                "200 OK",
                "Transfer-Encoding: chunked\r\n",
                Http11,
                "Transfer-Encoding: chunked\r\nVia: 1.1 laneway\r\n\r\n",
            ),
            (
                "GET",
                "200 OK",
                "Transfer-Encoding: chunked\r\n",
                Http10,
                "Via: 1.1 laneway\r\nConnection: close\r\n\r\n",
            ),
            ("GET", "200 OK", "", Http11, "Transfer-Encoding: chunked\r\nVia: 1.1 laneway\r\n\r\n"),
            ("GET", "200 OK", "", Http10, "Via: 1.1 laneway\r\nConnection: close\r\n\r\n"),
            (
                "HEAD",
                "200 OK",
                "Content-Length: 5,5\r\n",
                Http11,
                "Content-Length: 5\r\nVia: 1.1 laneway\r\n\r\n",
            ),
            ("HEAD", "200 OK", "", Http11, "Via: 1.1 laneway\r\n\r\n"),
            (
                "GET",
                "304 Not Modified",
                "Content-Length: 5\r\nETag: x\r\n",
                Http11,
                "Content-Length: 5\r\nETag: x\r\nVia: 1.1 laneway\r\n\r\n",
            ),
            ("GET", "204 No Content", "Content-Length: 5\r\n", Http11, "Via: 1.1 laneway\r\n\r\n"),
            ("GET", "103 Early Hints", "Link: x\r\n", Http11, "Link: x\r\nVia: 1.1 laneway\r\n\r\n"),
            (
                "GET",
                "200 OK",
                "Connection: x-a, close\r\nX-A: 1\r\nKeep-Alive: 5\r\nTrailer: T\r\nUpgrade: h2\r\nA: x\r\n y\r\nContent-Length: 0\r\n",
                Http11,
                "A: x y\r\nContent-Length: 0\r\nVia: 1.1 laneway\r\n\r\n",
            ),
            (
                "GET",
                "101 Switching Protocols",
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: a\r\n",
                Http11,
                "Sec-WebSocket-Accept: a\r\nVia: 1.1 laneway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            ),
            (
                "GET",
                "426 Upgrade Required",
                "Upgrade: websocket\r\nConnection: upgrade, close\r\nContent-Length: 0\r\n",
                Http10,
                "Content-Length: 0\r\nVia: 1.1 laneway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Connection: close\r\n\r\n",
            ),
        ] {
            assert_eq!(forwarded(&answer(method, status, lines), client), want, "{method} {status} {lines}");
        }
    }

    #[test]
    fn connection_close_is_written_if_the_connection_ends_and_not_in_an_interim_response() {
        for (status, lines, want) in [
            (
                "200 OK",
                "Content-Length: 5\r\n",
                "Content-Length: 5\r\nVia: 1.1 l\r\nConnection: close\r\n\r\n",
            ),
            ("103 Early Hints", "", "Via: 1.1 l\r\n\r\n"),
        ] {
            let (head, mut out) = (answer("GET", status, lines), BytesMut::new());
            let to = Recipient { version: Version::Http11, keep_alive: false };
            head.write_forward("l", to, head.body, SystemTime::UNIX_EPOCH, &mut out);
            let text = String::from_utf8(out.to_vec()).unwrap().replace(DATE, "");
            assert_eq!(text, format!("HTTP/1.1 {status}\r\n{want}"));
        }
    }

    #[test]
    fn interim_responses_are_for_http11_clients() {
        let hints = answer("GET", "103 Early Hints", "");
        assert!(hints.is_interim() && hints.reaches(Version::Http11) && !hints.reaches(Version::Http10));
        let switch = answer("GET", "101 x", "Upgrade: WebSocket\r\n");
        assert!(!switch.is_interim() && switch.switches_to(Upgrade::WebSocket));
        assert!(!answer("GET", "101 x", "Upgrade: h2c\r\n").switches_to(Upgrade::WebSocket));
        assert!(answer("GET", "200 OK", "").reaches(Version::Http10));
    }

    #[test]
    fn responses_of_the_proxy_itself() {
        assert_eq!(
            &simple_response(503, "Service Unavailable", &[("Retry-After", "1")], "no gateway\n", false)[..],
            b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: text/plain; charset=utf-8\r\n\
              Content-Length: 11\r\nConnection: close\r\n\r\nno gateway\n"
        );
    }

    #[test]
    fn text_of_a_peer_cannot_split_a_response_of_the_proxy() {
        let answer = simple_response(502, "Bad\r\nX: 1", &[("Proxy-Status", "a\r\n\r\nb\0")], "", true);
        let head = ResponseHead::parse(&answer, &Method::GET).unwrap();
        assert_eq!(&head.reason[..], b"Bad  X: 1");
        assert_eq!(head.fields.get("proxy-status"), Some(&b"a    b"[..]));
        assert!(head.keep_alive && head.body == BodyLength::Exact(0));
    }
}
