//! The target of a request (RFC 9112 §3.2).

use std::fmt::Write as _;
use std::net::Ipv6Addr;

use bytes::BytesMut;
use http::Method;

use super::Malformed;

/// The target of a request, in one of its four forms (RFC 9112 §3.2).
///
/// A host consists of ASCII letters, digits, `-`, `.` and `_`, or is an IPv6 address without its brackets. It is not
/// resolved or decoded here, and keeps its case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestTarget {
    /// `http://host:port/path`: a request to a proxy. The scheme is always `http`.
    Absolute {
        /// The host, an IPv6 address without brackets.
        host: String,
        /// The port, 80 if none was given.
        port: u16,
        /// At least `/`; `*` for OPTIONS of the server as a whole (RFC 9112 §3.2.4).
        path_and_query: String,
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
        path: String,
    },
    /// `*`: OPTIONS of this node itself.
    Asterisk,
}

impl RequestTarget {
    /// Parses the target of a request with this method.
    pub(super) fn parse(method: &Method, text: &[u8]) -> Result<RequestTarget, Malformed> {
        // RFC 3986 does not allow bytes above ASCII, but clients send UTF-8 paths and servers accept them;
        // `authority` refuses them in a host. httparse accepts a fragment, which no target has (§4.3).
        if !text.iter().all(|byte| matches!(byte, b'!'..=b'~' | 0x80..) && *byte != b'#') {
            return Err(Malformed::TargetBytes);
        }
        let text = str::from_utf8(text).ok().ok_or(Malformed::TargetBytes)?;
        if *method == Method::CONNECT {
            let (host, port) = authority(text)?;
            return Ok(RequestTarget::Authority {
                host: host.to_owned(),
                port: port.ok_or(Malformed::Port)?,
            });
        }
        if text == "*" && *method == Method::OPTIONS {
            return Ok(RequestTarget::Asterisk);
        }
        if text.starts_with('/') {
            return Ok(RequestTarget::Origin { path: text.to_owned() });
        }
        absolute(method, text)
    }

    /// The path of an origin-form, without its query; empty for the other forms.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            RequestTarget::Origin { path } => path.split('?').next().unwrap_or_default(),
            _ => "",
        }
    }

    /// Writes the target as it is sent to the server: in origin-form if it has a path (RFC 9112 §3.2.1).
    pub(super) fn write(&self, out: &mut BytesMut) {
        match self {
            RequestTarget::Absolute { path_and_query: path, .. } | RequestTarget::Origin { path } => {
                out.extend_from_slice(path.as_bytes());
            }
            RequestTarget::Authority { host, port } => write_authority(host, Some(*port), out),
            RequestTarget::Asterisk => out.extend_from_slice(b"*"),
        }
    }
}

/// Writes `uri-host [ ":" port ]`, an IPv6 address in brackets.
pub(super) fn write_authority(host: &str, port: Option<u16>, out: &mut BytesMut) {
    let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
    write!(out, "{open}{host}{close}").expect("a BytesMut grows");
    if let Some(port) = port {
        write!(out, ":{port}").expect("a BytesMut grows");
    }
}

/// Parses `uri-host [ ":" [ port ] ]` (RFC 9110 §7.2) into the host without brackets and the port.
pub(super) fn authority(text: &str) -> Result<(&str, Option<u16>), Malformed> {
    if text.contains('@') {
        return Err(Malformed::UserInfo);
    }
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

/// Parses absolute-form (RFC 9112 §3.2.2); the default port is 80 (RFC 9110 §4.2.1).
fn absolute(method: &Method, text: &str) -> Result<RequestTarget, Malformed> {
    let (scheme, rest) = text.split_once("://").ok_or(Malformed::TargetForm)?;
    if scheme.eq_ignore_ascii_case("https") {
        return Err(Malformed::HttpsInAbsoluteForm);
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(Malformed::Scheme);
    }
    let (name, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (host, port) = authority(name)?;
    let path_and_query = match path {
        "" if *method == Method::OPTIONS => "*".to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        query => format!("/{query}"),
    };
    Ok(RequestTarget::Absolute { host: host.to_owned(), port: port.unwrap_or(80), path_and_query })
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

    fn absolute(host: &str, port: u16, path: &str) -> RequestTarget {
        RequestTarget::Absolute { host: host.into(), port, path_and_query: path.into() }
    }

    #[test]
    fn four_forms() {
        for (method, text, want) in [
            ("GET", "http://example.com", absolute("example.com", 80, "/")),
            ("GET", "HTTP://Example.com:/", absolute("Example.com", 80, "/")),
            ("GET", "http://h:8080/a?b=c://d@e", absolute("h", 8080, "/a?b=c://d@e")),
            ("GET", "http://h?q", absolute("h", 80, "/?q")),
            ("GET", "http://[::1]:81/", absolute("::1", 81, "/")),
            ("GET", "http://[2001:db8::7]", absolute("2001:db8::7", 80, "/")),
            ("GET", "http://my_service/\u{e4}|{}", absolute("my_service", 80, "/\u{e4}|{}")),
            ("OPTIONS", "http://h:80", absolute("h", 80, "*")),
            ("OPTIONS", "http://h:80/", absolute("h", 80, "/")),
            ("OPTIONS", "http://h?q", absolute("h", 80, "/?q")),
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
            ("GET", "http://u@h/", UserInfo),
            ("GET", "http://u:p@h/", UserInfo),
            ("GET", "http://h@", UserInfo),
            ("CONNECT", "u@h:443", UserInfo),
            ("GET", "http:///x", Host),
            ("GET", "http://", Host),
            ("GET", "http://:80/", Host),
            ("GET", "http://h\u{e4}/", Host),
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
            ("GET", "http://h#x", TargetBytes),
        ] {
            assert_eq!(parse(method, text).map(|_| ()), Err(want), "{method} {text}");
        }
        assert_eq!(RequestTarget::parse(&http::Method::GET, b"/\xff"), Err(TargetBytes));
    }
}
