//! The target of a request (RFC 9112 §3.2).

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::Ipv6Addr;

use bytes::{Bytes, BytesMut};
use http::Method;

use super::Malformed;
use crate::target::Host;

/// The target of a request, in one of its four forms (RFC 9112 §3.2).
///
/// A host consists of ASCII letters, digits, `-`, `.` and `_`, or is an IPv6 address without its brackets. It is not
/// resolved or decoded here, and keeps its case; one of another script was converted to ASCII. Path and query are bytes in
/// any encoding, as received: nothing in them is decoded, encoded or normalised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestTarget {
    /// `http://host:port/path`: a request to a proxy. The scheme is always `http`.
    Absolute {
        /// The host, an IPv6 address without brackets.
        host: String,
        /// The port, 80 if none was given.
        port: u16,
        /// Host and port as they were written, without user information.
        authority: String,
        /// At least `/`; `*` for OPTIONS of the server as a whole (RFC 9112 §3.2.4).
        path_and_query: Bytes,
    },
    /// `host:port`: CONNECT, and only that.
    Authority {
        /// The host, an IPv6 address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// `/path`: a request to this node as a web server.
    Origin {
        /// Path and query; begins with `/`.
        path: Bytes,
    },
    /// `*`: OPTIONS of this node itself.
    Asterisk,
}

impl RequestTarget {
    /// Parses the target of a request with this method.
    pub(super) fn parse(method: &Method, text: &[u8]) -> Result<RequestTarget, Malformed> {
        // RFC 3986 does not allow bytes above ASCII, but clients send paths in any encoding and servers accept them.
        if !text.iter().all(|byte| matches!(byte, b'!'..=b'~' | 0x80..)) {
            return Err(Malformed::TargetBytes);
        }
        if *method == Method::CONNECT {
            let text = in_ascii(text)?;
            let (host, port) = authority(&text)?;
            return Ok(RequestTarget::Authority {
                host: host.to_owned(),
                port: port.ok_or(Malformed::Port)?,
            });
        }
        if text == b"*" && *method == Method::OPTIONS {
            return Ok(RequestTarget::Asterisk);
        }
        if text.starts_with(b"/") {
            // A target has no fragment (§4.3).
            if text.contains(&b'#') {
                return Err(Malformed::TargetBytes);
            }
            return Ok(RequestTarget::Origin { path: Bytes::copy_from_slice(text) });
        }
        absolute(method, text)
    }

    /// Writes the target as it is sent to the server: in origin-form if it has a path (RFC 9112 §3.2.1).
    pub(super) fn write(&self, out: &mut BytesMut) {
        match self {
            RequestTarget::Absolute { path_and_query: path, .. } | RequestTarget::Origin { path } => {
                out.extend_from_slice(path);
            }
            RequestTarget::Authority { host, port } => write_authority(host, Some(*port), out),
            RequestTarget::Asterisk => out.extend_from_slice(b"*"),
        }
    }
}

/// Writes `uri-host [ ":" port ]`, an IPv6 address in brackets.
pub(super) fn write_authority(host: &str, port: Option<u16>, out: &mut BytesMut) {
    let (open, close): (&[u8], &[u8]) = if host.contains(':') { (b"[", b"]") } else { (b"", b"") };
    for part in [open, host.as_bytes(), close] {
        out.extend_from_slice(part);
    }
    if let Some(port) = port {
        write!(out, ":{port}").expect("a BytesMut grows");
    }
}

/// Parses `uri-host [ ":" [ port ] ]` (RFC 9110 §7.2) into the host without brackets and the port.
pub(super) fn authority(text: &[u8]) -> Result<(&str, Option<u16>), Malformed> {
    if text.contains(&b'@') {
        return Err(Malformed::UserInfo);
    }
    let text = str::from_utf8(text).ok().ok_or(Malformed::Host)?;
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or(Malformed::Host)?;
        host.parse::<Ipv6Addr>().ok().ok_or(Malformed::Host)?;
        match port.strip_prefix(':') {
            None if !port.is_empty() => return Err(Malformed::Host),
            port => (host, port.unwrap_or_default()),
        }
    } else {
        let (host, port) = text.split_once(':').unwrap_or((text, ""));
        let name_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        // A DNS name has at most 253 characters, and perhaps a final dot (RFC 1035 §2.3.4).
        if host.is_empty() || host.len() > 254 || !host.bytes().all(name_byte) {
            return Err(Malformed::Host);
        }
        (host, port)
    };
    Ok((host, parse_port(port)?))
}

/// Parses absolute-form (RFC 9112 §3.2.2); the default port is 80 (RFC 9110 §4.2.1). Some clients send the fragment to a proxy,
/// which is not a part of what is asked for (RFC 9110 §7.1); the server is not told.
fn absolute(method: &Method, text: &[u8]) -> Result<RequestTarget, Malformed> {
    let text = text.split(|&byte| byte == b'#').next().unwrap_or_default();
    let scheme_end = text.windows(3).position(|bytes| bytes == b"://").ok_or(Malformed::TargetForm)?;
    let (scheme, rest) = (&text[..scheme_end], &text[scheme_end + 3..]);
    if scheme.eq_ignore_ascii_case(b"https") {
        return Err(Malformed::HttpsInAbsoluteForm);
    }
    if !scheme.eq_ignore_ascii_case(b"http") {
        return Err(Malformed::Scheme);
    }
    let path_start = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (name, path) = rest.split_at(path_start);
    let name = in_ascii(without_user_info(name)?)?;
    let (host, port) = authority(&name)?;
    let path_and_query = match path {
        b"" if *method == Method::OPTIONS => Bytes::from_static(b"*"),
        path if path.starts_with(b"/") => Bytes::copy_from_slice(path),
        query => Bytes::from([b"/", query].concat()),
    };
    Ok(RequestTarget::Absolute {
        host: host.to_owned(),
        port: port.unwrap_or(80),
        authority: str::from_utf8(&name).ok().ok_or(Malformed::Host)?.to_owned(),
        path_and_query,
    })
}

/// `host[:port]` with a host of another script converted to A-labels (RFC 5890 §2.3.2.1), as clients do that can: only UTF-8
/// has a certain meaning.
pub(super) fn in_ascii(authority: &[u8]) -> Result<Cow<'_, [u8]>, Malformed> {
    if authority.is_ascii() {
        return Ok(authority.into());
    }
    let text = str::from_utf8(authority).ok().ok_or(Malformed::Host)?;
    let (host, port) = text.split_at(text.rfind(':').unwrap_or(text.len()));
    match Host::parse(host) {
        Ok(Host::Name(name)) => Ok([name.as_bytes(), port.as_bytes()].concat().into()),
        Ok(Host::Address(_)) | Err(_) => Err(Malformed::Host),
    }
}

/// `authority` without `userinfo "@"` (RFC 3986 §3.2.1). RFC 9110 §4.2.4 forbids clients to send it, and some do so
/// nevertheless, also with a password as it was typed; the server is not told (RFC 9112 §3.2). What some readers take for the
/// end of the host or for another host is refused.
pub(super) fn without_user_info(authority: &[u8]) -> Result<&[u8], Malformed> {
    let Some(end) = authority.iter().position(|&byte| byte == b'@') else { return Ok(authority) };
    if authority[..end].iter().any(|byte| b"\\[]".contains(byte)) || authority[end + 1..].contains(&b'@') {
        return Err(Malformed::UserInfo);
    }
    Ok(&authority[end + 1..])
}

/// `*DIGIT`: empty means the default; 0 is not a port.
fn parse_port(text: &str) -> Result<Option<u16>, Malformed> {
    if text.is_empty() {
        return Ok(None);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed::Port);
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(Malformed::Port),
        Ok(port) => Ok(Some(port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &str, text: &str) -> Result<RequestTarget, Malformed> {
        RequestTarget::parse(&method.parse().unwrap(), text.as_bytes())
    }

    fn absolute(host: &str, port: u16, authority: &str, path: &str) -> RequestTarget {
        let path_and_query = Bytes::copy_from_slice(path.as_bytes());
        RequestTarget::Absolute { host: host.into(), port, authority: authority.into(), path_and_query }
    }

    #[test]
    fn four_forms() {
        for (method, text, want) in [
            ("GET", "http://example.com", absolute("example.com", 80, "example.com", "/")),
            ("GET", "HTTP://Example.com:/", absolute("Example.com", 80, "Example.com:", "/")),
            ("GET", "http://h:8080/a?b=c://d@e", absolute("h", 8080, "h:8080", "/a?b=c://d@e")),
            ("GET", "http://h?q", absolute("h", 80, "h", "/?q")),
            ("GET", "http://h:80//a/../%2e%zz/", absolute("h", 80, "h:80", "//a/../%2e%zz/")),
            ("GET", "http://[::1]:81/", absolute("::1", 81, "[::1]:81", "/")),
            ("GET", "http://[2001:db8::7]", absolute("2001:db8::7", 80, "[2001:db8::7]", "/")),
            ("GET", "http://my_service/\u{e4}|{}", absolute("my_service", 80, "my_service", "/\u{e4}|{}")),
            ("GET", "http://u@h/", absolute("h", 80, "h", "/")),
            ("GET", "http://u:p%40@h:81/@", absolute("h", 81, "h:81", "/@")),
            ("GET", "http://@h?@", absolute("h", 80, "h", "/?@")),
            ("GET", "http://u:p^`{|}\"<>@h/", absolute("h", 80, "h", "/")),
            (
                "GET",
                "http://b\u{fc}cher.example:81/",
                absolute("xn--bcher-kva.example", 81, "xn--bcher-kva.example:81", "/"),
            ),
            ("GET", "http://\u{fc}@\u{4f8b}.test", absolute("xn--fsq.test", 80, "xn--fsq.test", "/")),
            (
                "CONNECT",
                "\u{4f8b}.test:443",
                RequestTarget::Authority { host: "xn--fsq.test".into(), port: 443 },
            ),
            ("GET", "http://h/a#b?c", absolute("h", 80, "h", "/a")),
            ("GET", "http://h#x@y/", absolute("h", 80, "h", "/")),
            ("OPTIONS", "http://h:80#", absolute("h", 80, "h:80", "*")),
            ("OPTIONS", "http://h:80", absolute("h", 80, "h:80", "*")),
            ("OPTIONS", "http://h:80/", absolute("h", 80, "h:80", "/")),
            ("OPTIONS", "http://h?q", absolute("h", 80, "h", "/?q")),
            ("OPTIONS", "*", RequestTarget::Asterisk),
            ("GET", "/", RequestTarget::Origin { path: "/".into() }),
            ("GET", "//h/x", RequestTarget::Origin { path: "//h/x".into() }),
            ("CONNECT", "h:443", RequestTarget::Authority { host: "h".into(), port: 443 }),
            ("CONNECT", "[fe80::1]:22", RequestTarget::Authority { host: "fe80::1".into(), port: 22 }),
        ] {
            assert_eq!(parse(method, text), Ok(want), "{method} {text}");
        }
    }

    #[test]
    fn refusals() {
        use Malformed::*;
        let long = format!("http://{}/", "a".repeat(255));
        for (method, text, want) in [
            ("GET", "https://h/", HttpsInAbsoluteForm),
            ("GET", "HttpS://h/", HttpsInAbsoluteForm),
            ("GET", "ftp://h/", Scheme),
            ("GET", "ws://h/", Scheme),
            ("GET", "://h/", Scheme),
            ("GET", "h:80", TargetForm),
            ("GET", "h", TargetForm),
            ("GET", "*", TargetForm),
            ("GET", "http:/h/", TargetForm),
            ("GET", "http://u@v@h/", UserInfo),
            ("GET", "http://evil\\@h/", UserInfo),
            ("GET", "http://[::1]@h/", UserInfo),
            ("GET", "http://h@", Host),
            ("CONNECT", "u@h:443", UserInfo),
            ("GET", "http:///x", Host),
            ("GET", "http://", Host),
            ("GET", "http://:80/", Host),
            ("GET", "http://\u{ff11}.2.3.4/", Host),
            ("GET", "http://[\u{e4}]/", Host),
            ("GET", "http://\u{e4}:0/", Port),
            ("CONNECT", "\u{e4}", Port),
            ("GET", "http://a%2fb/", Host),
            ("GET", "http://a\\b/", Host),
            ("GET", "http://a,b/", Host),
            ("GET", "http://::1/", Host),
            ("GET", "http://[::1/", Host),
            ("GET", "http://[::1]x/", Host),
            ("GET", "http://[::1%25eth0]/", Host),
            ("GET", "http://[v1.x]/", Host),
            ("GET", "http://[1.2.3.4]/", Host),
            ("GET", &long, Host),
            ("GET", "http://h:0/", Port),
            ("GET", "http://h:65536/", Port),
            ("GET", "http://h:+80/", Port),
            ("GET", "http://h:80:80/", Port),
            ("GET", "http://h:x/", Port),
            ("CONNECT", "h", Port),
            ("CONNECT", "h:", Port),
            ("CONNECT", "[::1]", Port),
            ("CONNECT", "/", Host),
            ("CONNECT", "*", Host),
            ("CONNECT", "http://h:80", Port),
            ("GET", "/a b", TargetBytes),
            ("GET", " /", TargetBytes),
            ("GET", "/a\tb", TargetBytes),
            ("GET", "/a\0b", TargetBytes),
            ("GET", "/a\x7fb", TargetBytes),
            ("GET", "/a#b", TargetBytes),
            ("GET", "#http://h/", TargetForm),
            ("GET", "http:#//h/", TargetForm),
            ("GET", "http://#h/", Host),
            ("CONNECT", "h#:443", Host),
            ("CONNECT", "h:443#", Port),
        ] {
            assert_eq!(parse(method, text).map(|_| ()), Err(want), "{method} {text}");
        }
    }

    #[test]
    fn a_path_is_bytes_in_any_encoding_and_a_host_is_not() {
        let latin = RequestTarget::parse(&Method::GET, b"http://h/caf\xe9?\xff").unwrap();
        let mut out = BytesMut::new();
        latin.write(&mut out);
        assert_eq!(&out[..], b"/caf\xe9?\xff");
        assert_eq!(RequestTarget::parse(&Method::GET, b"http://caf\xe9/"), Err(Malformed::Host));
    }
}
