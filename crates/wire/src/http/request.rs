//! The head of a request: checked as an app sends it, written as the server receives it.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use http::Method;

use super::forward::{Connection, FramingField, end_to_end, via_names, write_field, write_via};
use super::framing::{self, decimal};
use super::grammar::is_token;
use super::target::{authority, in_ascii, without_user_info, write_authority};
use super::{BodyLength, Fields, MAX_HEAD, MAX_LINK_HEAD, Malformed, RequestTarget, Version, login, tokens};

/// The head of a request.
///
/// `fields` are as received, including framing and hop-by-hop fields, and may be changed before forwarding:
/// [`RequestHead::write_forward`] writes framing, `Host` and connection fields from the other members.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// The method; any token (RFC 9110 §9).
    pub method: Method,
    /// The request target.
    pub target: RequestTarget,
    /// The client's version, which limits what it can be sent.
    pub version: Version,
    /// The fields as received.
    pub fields: Fields,
    /// How the body ends; never [`BodyLength::UntilClose`].
    pub body: BodyLength,
    /// The client waits for a `100 (Continue)` before it sends the body (RFC 9110 §10.1.1).
    pub expect_continue: bool,
    /// The client can send another request on this connection (RFC 9112 §9.3). Always false for HTTP/1.0: a
    /// proxy must not persist with such a client.
    pub keep_alive: bool,
    /// The protocol that the client wants to switch to, if it is one that is forwarded.
    pub upgrade: Option<Upgrade>,
}

/// A protocol that a request may switch to (RFC 9110 §7.8). Any other is ignored, as the RFC allows: the request is
/// then an ordinary one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// `Upgrade: websocket` on a GET without body (RFC 6455 §4.1).
    WebSocket,
}

impl RequestHead {
    /// Parses a head as [`super::head_end`] delimits it.
    ///
    /// # Errors
    /// Any deviation from RFC 9112 that could make two recipients see two different requests, and requests that this
    /// proxy cannot serve; [`Malformed::status`] is the status to respond with.
    pub fn parse(head: &[u8]) -> Result<RequestHead, Malformed> {
        Self::parse_within(head, MAX_HEAD)
    }

    /// As [`RequestHead::parse`], for a head that another node has written anew, of at most [`MAX_LINK_HEAD`] bytes.
    ///
    /// # Errors
    /// As [`RequestHead::parse`].
    pub fn parse_of_node(head: &[u8]) -> Result<RequestHead, Malformed> {
        Self::parse_within(head, MAX_LINK_HEAD)
    }

    fn parse_within(head: &[u8], most: usize) -> Result<RequestHead, Malformed> {
        let tokens::RequestTokens { method, target, version, fields } = tokens::request(head, most)?;
        let target = RequestTarget::parse(&method, target)?;
        check_host(version, &target, &fields)?;
        let body = framing::of_request(version, &fields)?;
        // Some clients send the length of what is to follow inside the tunnel. A CONNECT has no content (RFC 9110 §9.3.6).
        if method == Method::CONNECT && body == BodyLength::Chunked {
            return Err(Malformed::BodyOfConnect);
        }
        let connection = Connection::parse(&fields);
        let modern = version == Version::Http11;
        let expect = fields.get("expect").is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
        let websocket = modern
            && connection.upgrade
            && method == Method::GET
            && is_empty(body)
            && fields.all("upgrade").count() == 1
            && fields.get("upgrade").is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"));
        Ok(RequestHead {
            expect_continue: modern && expect && !is_empty(body),
            keep_alive: modern && !connection.close,
            upgrade: websocket.then_some(Upgrade::WebSocket),
            // The tunnel begins after the head of a CONNECT, whatever its length.
            body: if method == Method::CONNECT { BodyLength::None } else { body },
            method,
            target,
            version,
            fields,
        })
    }

    /// The host in the `Host` field, without port and brackets: the host in a browser's address bar. `None` without
    /// the field, or if it is empty.
    #[must_use]
    pub fn host_name(&self) -> Option<&str> {
        authority(self.fields.get("host")?).ok().map(|(host, _)| host)
    }

    /// The host and the port in the `Host` field, as [`RequestHead::host_name`] gives the host; the port is `default` if none
    /// was given.
    #[must_use]
    pub fn host_and_port(&self, default: u16) -> Option<(&str, u16)> {
        authority(self.fields.get("host")?).ok().map(|(host, port)| (host, port.unwrap_or(default)))
    }

    /// Whether this request logs in with NTLM or Negotiate, which hold for the connection to the server (RFC 4559 §6) and
    /// for nobody else.
    #[must_use]
    pub fn logs_in_connection(&self) -> bool {
        login::is_offered(&self.fields)
    }

    /// Whether this request has already passed a proxy called `pseudonym`: a loop (RFC 9110 §7.6.3).
    #[must_use]
    pub fn via_names(&self, pseudonym: &str) -> bool {
        via_names(&self.fields, pseudonym)
    }

    /// The number of times that a TRACE or OPTIONS may still be forwarded; at 0 the proxy itself must respond
    /// (RFC 9110 §7.6.2). `None` for other methods. Forwarding writes one less.
    #[must_use]
    pub fn max_forwards(&self) -> Option<u64> {
        let counted = self.method == Method::TRACE || self.method == Method::OPTIONS;
        if counted { decimal(self.fields.get("max-forwards")?) } else { None }
    }

    /// Writes the request for the server: origin-form (RFC 9112 §3.2.1), HTTP/1.1, the end-to-end fields in their order
    /// and spelling, with the value of `Host` from the target (§3.2.2) and the framing from `body`, and our own `Via`.
    /// There is no `Connection` field, so the connection persists, except for an upgrade.
    ///
    /// `via` is this proxy's pseudonym, a token.
    pub fn write_forward(&self, via: &str, out: &mut BytesMut) {
        debug_assert!(is_token(via.as_bytes()), "the pseudonym must be a token");
        let max_forwards = self.max_forwards().map(|left| left.saturating_sub(1).to_string());
        out.reserve(self.fields.written_size() + 512);
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.extend_from_slice(b" ");
        self.target.write(out);
        out.extend_from_slice(b" HTTP/1.1\r\n");
        if self.fields.get("host").is_none() {
            self.write_host(b"Host", out);
        }
        let mut framing = FramingField::new(self.body, &[]);
        for (name, value) in end_to_end(&self.fields) {
            match &max_forwards {
                _ if framing.replaces(name, out) => {}
                _ if name.eq_ignore_ascii_case(b"host") => self.write_host(name, out),
                // RFC 9110 §10.1.1: the expectation of an HTTP/1.0 client is ignored, so it must not be forwarded as
                // one of HTTP/1.1.
                _ if self.version == Version::Http10 && name.eq_ignore_ascii_case(b"expect") => {}
                Some(left) if name.eq_ignore_ascii_case(b"max-forwards") => {
                    write_field(name, left.as_bytes(), out);
                }
                _ => write_field(name, value, out),
            }
        }
        framing.finish(out);
        write_via(self.version, via, out);
        match self.upgrade {
            Some(Upgrade::WebSocket) => {
                out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
            }
            None => {}
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Writes a request that was written by [`RequestHead::write_forward`] before, and read again, with the fields as they are
    /// now.
    pub fn write_as_is(&self, out: &mut BytesMut) {
        out.reserve(self.fields.written_size() + 512);
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.extend_from_slice(b" ");
        self.target.write(out);
        out.extend_from_slice(b" HTTP/1.1\r\n");
        for (name, value) in self.fields.iter() {
            write_field(name, value, out);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// The head as received, for the response to a TRACE, without credentials: no response should show them (RFC 9110
    /// §9.3.8).
    #[must_use]
    pub fn trace(&self) -> Bytes {
        const CREDENTIALS: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];
        let mut out = BytesMut::with_capacity(self.fields.written_size() + 256);
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.extend_from_slice(b" ");
        if let RequestTarget::Absolute { authority, .. } = &self.target {
            out.extend_from_slice(b"http://");
            out.extend_from_slice(authority.as_bytes());
        }
        self.target.write(&mut out);
        write!(out, " HTTP/{}\r\n", self.version.number()).expect("a BytesMut grows");
        for (name, value) in self.fields.iter() {
            if !CREDENTIALS.iter().any(|secret| name.eq_ignore_ascii_case(secret.as_bytes())) {
                write_field(name, value, &mut out);
            }
        }
        out.extend_from_slice(b"\r\n");
        out.freeze()
    }

    /// `Host` from the target, or as received where the target has no host of its own. Where both mean the same host and
    /// port, the spelling is the received one, which may be signed.
    fn write_host(&self, name: &[u8], out: &mut BytesMut) {
        let received = self.fields.get("host");
        match &self.target {
            RequestTarget::Absolute { host, port, authority: written, .. } => {
                let same = received.filter(|value| {
                    authority(value).is_ok_and(|(other, other_port)| {
                        other.eq_ignore_ascii_case(host) && other_port.unwrap_or(80) == *port
                    })
                });
                write_field(name, same.unwrap_or(written.as_bytes()), out);
            }
            RequestTarget::Authority { host, port } => {
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
                write_authority(host, Some(*port), out);
                out.extend_from_slice(b"\r\n");
            }
            RequestTarget::Origin { .. } | RequestTarget::Asterisk => {
                if let Some(host) = received {
                    write_field(name, host, out);
                }
            }
        }
    }
}

/// RFC 9112 §3.2: exactly one valid `Host` in HTTP/1.1. It may differ from the host of the target, which takes precedence, and
/// may then be empty or have the user information of a URL: Python sends both to a proxy as they are. The `Host` of a CONNECT
/// is not forwarded, and says nothing beyond its target: many clients send none, and others a URL or an address with a zone.
fn check_host(version: Version, target: &RequestTarget, fields: &Fields) -> Result<(), Malformed> {
    let target_has_host = match target {
        RequestTarget::Authority { .. } => return Ok(()),
        RequestTarget::Absolute { .. } => true,
        RequestTarget::Origin { .. } | RequestTarget::Asterisk => false,
    };
    let mut hosts = fields.all("host");
    let Some(host) = hosts.next() else {
        return if version == Version::Http10 { Ok(()) } else { Err(Malformed::HostMissing) };
    };
    if hosts.next().is_some() {
        return Err(Malformed::SeveralHosts);
    }
    if target_has_host && host.is_empty() {
        return Ok(());
    }
    let host = if target_has_host { without_user_info(host).and_then(in_ascii) } else { Ok(host.into()) };
    host.and_then(|host| authority(&host).map(drop)).ok().ok_or(Malformed::HostField)
}

fn is_empty(body: BodyLength) -> bool {
    matches!(body, BodyLength::None | BodyLength::Exact(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<RequestHead, Malformed> {
        RequestHead::parse(head.as_bytes())
    }

    /// A GET of `http://h/` with these field lines besides `Host`.
    fn get(lines: &str) -> RequestHead {
        parse(&format!("GET http://h/ HTTP/1.1\r\nHost: h\r\n{lines}\r\n")).unwrap()
    }

    fn forwarded(head: &RequestHead) -> String {
        let mut out = BytesMut::new();
        head.write_forward("laneway", &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn check_refusals(table: &[(&str, Malformed)]) {
        for (head, want) in table {
            assert_eq!(parse(head).map(|_| ()), Err(*want), "{:?}", &head[..head.len().min(120)]);
        }
    }

    #[test]
    fn refuses_every_smuggling_shape() {
        use Malformed::*;
        check_refusals(&[
            // Two lengths.
            (
                "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                BothLengths,
            ),
            (
                "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\ncontent-length: 0\r\n\r\n",
                BothLengths,
            ),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\n\r\n", BothLengths),
            (
                "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
                SeveralContentLengths,
            ),
            (
                "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
                SeveralContentLengths,
            ),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 5\r\n\r\n", SeveralContentLengths),
            // Lengths that are not numbers.
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\n", ContentLength),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", ContentLength),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x5\r\n\r\n", ContentLength),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5 6\r\n\r\n", ContentLength),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n", ContentLength),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: ,5\r\n\r\n", ContentLength),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551616\r\n\r\n", ContentLength),
            // Codings.
            ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", TransferEncoding),
            ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", TransferEncoding),
            ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked,\r\n\r\n", TransferEncoding),
            ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n", TransferEncoding),
            ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n", TransferEncoding),
            ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", TransferEncoding),
            ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", TransferEncoding),
            ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n\r\n", TransferEncoding),
            (
                "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-encoding: x\r\n\r\n",
                SeveralTransferEncodings,
            ),
            (
                "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                SeveralTransferEncodings,
            ),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncodingInHttp10),
            // Line ends.
            ("GET / HTTP/1.1\nHost: h\n\n", LineBreak),
            ("GET / HTTP/1.1\r\nHost: h\nA: 1\r\n\r\n", LineBreak),
            ("GET / HTTP/1.1\r\nHost: h\r\n\n", LineBreak),
            ("GET / HTTP/1.1\r\nHost: h\rA: 1\r\n\r\n", LineBreak),
            ("GET / HTTP/1.1\r\nHost: h\r\r\n\r\n", LineBreak),
            ("GET / HTTP/1.1\r\r\nHost: h\r\n\r\n", LineBreak),
            ("GET /\rx HTTP/1.1\r\nHost: h\r\n\r\n", LineBreak),
            ("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", LineBreak),
            // Fields.
            ("GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\n 2\r\n\r\n", ObsFold),
            ("GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\n\t2\r\n\r\n", ObsFold),
            ("GET / HTTP/1.1\r\n Host: h\r\n\r\n", ObsFold),
            ("GET / HTTP/1.1\r\nHost: h\r\n \r\n\r\n", ObsFold),
            ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", ObsFold),
            ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", SpaceBeforeColon),
            ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding\t: chunked\r\n\r\n", SpaceBeforeColon),
            ("GET / HTTP/1.1\r\nHost: h\r\n: 1\r\n\r\n", FieldName),
            ("GET / HTTP/1.1\r\nHost: h\r\nA\r\n\r\n", FieldName),
            ("GET / HTTP/1.1\r\nHost: h\r\nA B: 1\r\n\r\n", FieldName),
            ("GET / HTTP/1.1\r\nHost: h\r\nA\0: 1\r\n\r\n", FieldName),
            ("GET / HTTP/1.1\r\nHost: h\r\n\u{e4}: 1\r\n\r\n", FieldName),
            ("GET / HTTP/1.1\r\nHost: h\r\nA(: 1\r\n\r\n", FieldName),
            ("GET / HTTP/1.1\r\nHost: h\r\nA: \0\r\n\r\n", FieldValue),
            ("GET / HTTP/1.1\r\nHost: h\r\nA: x\x0by\r\n\r\n", FieldValue),
            ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0cchunked\r\n\r\n", FieldValue),
            ("GET / HTTP/1.1\r\nHost: h\r\nA: \x7f\r\n\r\n", FieldValue),
        ]);
    }

    #[test]
    fn refuses_other_malformed_requests() {
        use Malformed::*;
        let many_fields = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "A: 1\r\n".repeat(11_000));
        let huge = format!("GET / HTTP/1.1\r\nHost: h\r\nA: {}\r\n\r\n", "a".repeat(64 * 1024));
        check_refusals(&[
            // The request line.
            ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n", TargetBytes),
            ("GET /  HTTP/1.1\r\nHost: h\r\n\r\n", TargetBytes),
            ("GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", TargetBytes),
            ("GET /\x0b HTTP/1.1\r\nHost: h\r\n\r\n", TargetBytes),
            ("GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n", TargetBytes),
            ("GET\t/\tHTTP/1.1\r\nHost: h\r\n\r\n", RequestLine),
            ("GET / HTTP/1.1 \r\nHost: h\r\n\r\n", RequestLine),
            ("GET HTTP/1.1\r\nHost: h\r\n\r\n", RequestLine),
            ("GET  HTTP/1.1\r\nHost: h\r\n\r\n", RequestLine),
            ("GET /\r\nHost: h\r\n\r\n", RequestLine),
            ("GET / http/1.1\r\nHost: h\r\n\r\n", RequestLine),
            ("GET / HTTP/1.10\r\nHost: h\r\n\r\n", RequestLine),
            ("GET / HTTP/01.1\r\nHost: h\r\n\r\n", RequestLine),
            ("GET / HTTP/1,1\r\nHost: h\r\n\r\n", RequestLine),
            ("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", RequestLine),
            (" GET / HTTP/1.1\r\nHost: h\r\n\r\n", Method),
            ("G(T / HTTP/1.1\r\nHost: h\r\n\r\n", Method),
            ("G\u{e4}T / HTTP/1.1\r\nHost: h\r\n\r\n", Method),
            ("GET / HTTP/2.2\r\nHost: h\r\n\r\n", Version),
            ("GET /HTTP/1.2\r\nHost: h\r\n\r\n", RequestLine),
            ("GET / HTTP/0.9\r\nHost: h\r\n\r\n", Version),
            ("PRI * HTTP/2.0\r\n\r\n", Version),
            ("GET https://h/ HTTP/1.1\r\nHost: h\r\n\r\n", HttpsInAbsoluteForm),
            // Host.
            ("GET / HTTP/1.1\r\n\r\n", HostMissing),
            ("GET http://h/ HTTP/1.1\r\nA: 1\r\n\r\n", HostMissing),
            ("GET / HTTP/1.1\r\nHost: h\r\nhost: h\r\n\r\n", SeveralHosts),
            ("GET / HTTP/1.0\r\nHost: h\r\nHost: i\r\n\r\n", SeveralHosts),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", HostField),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", HostField),
            ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", HostField),
            ("GET / HTTP/1.1\r\nHost: http://h/\r\n\r\n", HostField),
            ("GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", HostField),
            ("GET http://h/ HTTP/1.1\r\nHost: u@v@h\r\n\r\n", HostField),
            ("GET http://h/ HTTP/1.1\r\nHost: h:x\r\n\r\n", HostField),
            // CONNECT.
            ("CONNECT h:443 HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n", ContentLength),
            ("CONNECT h:443 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", BodyOfConnect),
            ("CONNECT h HTTP/1.1\r\nHost: h\r\n\r\n", Port),
            // Sizes and ends.
            (&many_fields, HeadTooLarge),
            (&huge, HeadTooLarge),
            ("", Unfinished),
            ("GET / HTTP/1.1\r\n", Unfinished),
            ("GET / HTTP/1.1\r\nHost: h\r\n", Unfinished),
            ("GET / HTTP/1.1\r\nHost: h\r\n\r\nGET", Unfinished),
            ("\r\n\r\n", Unfinished),
        ]);
    }

    #[test]
    fn statuses() {
        for (malformed, status) in [
            (Malformed::BothLengths, 400),
            (Malformed::HeadTooLarge, 431),
            (Malformed::TargetTooLong, 414),
            (Malformed::TrailerTooLarge, 431),
            (Malformed::TransferEncoding, 501),
            (Malformed::Version, 505),
        ] {
            assert_eq!(malformed.status(), status);
        }
    }

    #[test]
    fn largest_accepted() {
        for count in [127, 128, 10_000] {
            let fields = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "A: 1\r\n".repeat(count));
            assert_eq!(parse(&fields).unwrap().fields.len(), count + 1);
        }
        let start = "GET / HTTP/1.1\r\nHost: h\r\nA: ";
        let large = format!("{start}{}\r\n\r\n", "a".repeat(64 * 1024 - start.len() - 4));
        assert!(parse(&large).is_ok());
    }

    #[test]
    fn meaning() {
        let head =
            parse("\r\n\r\nPOST http://h:81/p?q HTTP/1.1\r\nhost: other\r\nContent-LENGTH: 042\r\n\r\n")
                .unwrap();
        assert_eq!(head.method, Method::POST);
        assert_eq!(head.version, Version::Http11);
        assert_eq!(head.body, BodyLength::Exact(42));
        assert_eq!(head.host_name(), Some("other"));
        assert!(head.keep_alive && !head.expect_continue && head.upgrade.is_none());
        assert_eq!(get("Transfer-Encoding: CHUNKED\r\n").body, BodyLength::Chunked);
        assert_eq!(get("").body, BodyLength::None);
        assert!(!get("Connection: x, CLOSE\r\n").keep_alive);
        assert!(get("Expect: 100-Continue\r\nContent-Length: 1\r\n").expect_continue);
        assert!(!get("Expect: 100-continue\r\n").expect_continue);
    }

    #[test]
    fn http10_clients_never_persist_nor_wait_for_100() {
        let lines = "Connection: keep-alive\r\nContent-Length: 1\r\nExpect: 100-continue\r\n";
        let head = parse(&format!("POST http://h/ HTTP/1.0\r\n{lines}\r\n")).unwrap();
        assert!(!head.keep_alive && !head.expect_continue);
        assert_eq!(head.host_name(), None);
    }

    #[test]
    fn a_connect_has_no_body_even_with_a_content_length() {
        for length in ["0", "123"] {
            let head = format!("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\nContent-Length: {length}\r\n\r\n");
            assert_eq!(parse(&head).unwrap().body, BodyLength::None);
        }
    }

    #[test]
    fn host_name_for_the_local_page() {
        for (host, want) in
            [("127.0.0.1:1080", "127.0.0.1"), ("[::1]:1080", "::1"), ("LocalHost", "LocalHost")]
        {
            let head = parse(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
            assert_eq!(head.host_name(), Some(want));
        }
    }

    #[test]
    fn forwards_end_to_end_fields_only() {
        let head = parse(
            "POST http://[::1]:8080/p?q HTTP/1.1\r\nhost: evil\r\nUser-Agent: x\r\nProxy-Connection: keep-alive\r\n\
             Proxy-Authorization: secret\r\nX-Hop: 1\r\nConnection: keep-alive, x-hop, Content-Length, Host, Via\r\n\
             Keep-Alive: 5\r\nTE: trailers\r\nTrailer: X\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nVia: 1.0 a\r\n\
             Accept: */*\r\ncontent-length: 007\r\nExpect: 100-continue\r\nACCEPT: b\r\n\r\n",
        )
        .unwrap();
        assert_eq!(
            forwarded(&head),
            "POST /p?q HTTP/1.1\r\nhost: [::1]:8080\r\nUser-Agent: x\r\nVia: 1.0 a\r\nAccept: */*\r\n\
             content-length: 7\r\nExpect: 100-continue\r\nACCEPT: b\r\nVia: 1.1 laneway\r\n\r\n"
        );
    }

    #[test]
    fn host_keeps_the_spelling_of_the_app_unless_it_means_another_server() {
        for (target, host, want) in [
            ("http://h:80/", "Host: h:80", "Host: h:80"),
            ("http://h/", "Host: h:80", "Host: h:80"),
            ("http://h:80/", "HOST: H", "HOST: H"),
            ("http://H:8080/", "host: h:8080", "host: h:8080"),
            ("http://h:80/", "Host: other", "Host: h:80"),
            ("http://h/", "Host: h:81", "Host: h"),
            ("http://u:p@h:80/", "Host:", "Host: h:80"),
            ("http://[::1]/", "Host: [::1]:80", "Host: [::1]:80"),
            ("http://[::1]:80/", "Host: x", "Host: [::1]:80"),
        ] {
            let head = parse(&format!("GET {target} HTTP/1.1\r\nA: 1\r\n{host}\r\nB: 2\r\n\r\n")).unwrap();
            let want = format!("GET / HTTP/1.1\r\nA: 1\r\n{want}\r\nB: 2\r\nVia: 1.1 laneway\r\n\r\n");
            assert_eq!(forwarded(&head), want, "{target} {host}");
        }
    }

    #[test]
    fn the_host_of_a_connect_goes_nowhere_and_that_of_another_request_must_be_there() {
        for host in ["", "Host: https://h/\r\n", "Host: [fe80::1%eth0]:443\r\n", "Host: u@h\r\nHost: h\r\n"] {
            for version in ["1.0", "1.1"] {
                assert!(parse(&format!("CONNECT h:443 HTTP/{version}\r\n{host}\r\n")).is_ok(), "{host}");
            }
        }
        check_refusals(&[("GET http://h/ HTTP/1.1\r\n\r\n", Malformed::HostMissing)]);
    }

    #[test]
    fn a_host_of_another_script_is_converted() {
        let text =
            "GET http://B\u{fc}cher.example:81/\u{fc} HTTP/1.1\r\nHost: b\u{fc}cher.example:81\r\n\r\n";
        let want = "GET /\u{fc} HTTP/1.1\r\nHost: xn--bcher-kva.example:81\r\nVia: 1.1 laneway\r\n\r\n";
        assert_eq!(forwarded(&parse(text).unwrap()), want);
        check_refusals(&[("GET / HTTP/1.1\r\nHost: b\u{fc}cher.example\r\n\r\n", Malformed::HostField)]);
    }

    #[test]
    fn bytes_above_ascii_are_passed_in_the_target_alone() {
        let head =
            RequestHead::parse(b"GET http://h/\xe9?\xff\xfe HTTP/1.1\r\nHost: h\r\nA: \xe9\r\n\r\n").unwrap();
        let mut out = BytesMut::new();
        head.write_forward("laneway", &mut out);
        assert!(
            out.starts_with(b"GET /\xe9?\xff\xfe HTTP/1.1\r\nHost: h\r\nA: \xe9\r\n"),
            "{}",
            out.escape_ascii()
        );
        for refused in
            [&b"G\xe9T /\xe9 HTTP/1.1\r\nHost: h\r\n\r\n"[..], b"GET /\xe9 HTTP/1.\xe9\r\nHost: h\r\n\r\n"]
        {
            assert!(RequestHead::parse(refused).is_err(), "{}", refused.escape_ascii());
        }
    }

    #[test]
    fn forwards_http10_as_http11() {
        let head = parse("GET http://h/ HTTP/1.0\r\nExpect: 100-continue\r\nA: 1\r\n\r\n").unwrap();
        assert_eq!(forwarded(&head), "GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\nVia: 1.0 laneway\r\n\r\n");
    }

    #[test]
    fn forwards_options_of_a_server_as_asterisk() {
        let head = parse("OPTIONS http://h:80 HTTP/1.1\r\nHost: h\r\nMax-Forwards: 5\r\n\r\n").unwrap();
        assert_eq!(head.max_forwards(), Some(5));
        assert_eq!(
            forwarded(&head),
            "OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 4\r\nVia: 1.1 laneway\r\n\r\n"
        );
        assert_eq!(get("Max-Forwards: 0\r\n").max_forwards(), None);
        assert!(forwarded(&get("Max-Forwards: 7\r\n")).contains("\r\nMax-Forwards: 7\r\n"));
    }

    #[test]
    fn a_changed_field_is_forwarded_and_framing_cannot_be_pushed() {
        let mut head = get("Range: bytes=0-\r\nTransfer-Encoding: chunked\r\n");
        head.fields.remove("range");
        head.fields.push("Range", b"bytes=5-").unwrap();
        head.fields.push("Content-Length", b"9").unwrap();
        assert_eq!(
            forwarded(&head),
            "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nRange: bytes=5-\r\nVia: 1.1 laneway\r\n\r\n"
        );
    }

    #[test]
    fn only_a_websocket_upgrade_passes() {
        let head = get("Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: k\r\n");
        assert_eq!(head.upgrade, Some(Upgrade::WebSocket));
        assert_eq!(
            forwarded(&head),
            "GET / HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: k\r\nVia: 1.1 laneway\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\n\r\n"
        );
        for lines in [
            "Upgrade: websocket\r\n",
            "Connection: upgrade\r\nUpgrade: h2c\r\n",
            "Connection: upgrade\r\nUpgrade: websocket, h2c\r\n",
            "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
            "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n",
            "Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n",
        ] {
            let head = get(lines);
            assert_eq!(head.upgrade, None, "{lines}");
            assert!(!forwarded(&head).to_lowercase().contains("upgrade"), "{lines}");
        }
    }

    #[test]
    fn an_upgrade_in_http10_is_ignored() {
        let head =
            parse("GET http://h/ HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
        assert_eq!(head.upgrade, None);
        assert!(!forwarded(&head).to_lowercase().contains("upgrade"));
    }

    #[test]
    fn sees_a_loop() {
        let head = get("A: 1\r\n");
        assert!(!head.via_names("laneway"));
        assert!(RequestHead::parse(forwarded(&head).as_bytes()).unwrap().via_names("laneway"));
    }
}
