//! Requests and responses as header blocks (RFC 9113 §8.2 and §8.3).

use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};

use super::hpack::{Decoder, HpackError, encode};
use super::recv::Content;

/// The `:protocol` of an extended CONNECT (RFC 8441 §4), as an extension of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol(pub String);

/// Encodes the head of a request.
pub(super) fn request(request: &Request<()>) -> Vec<u8> {
    let mut block = Vec::with_capacity(64);
    encode(&mut block, ":method", request.method().as_str().as_bytes());
    let protocol = request.extensions().get::<Protocol>();
    if let Some(Protocol(protocol)) = protocol {
        encode(&mut block, ":protocol", protocol.as_bytes());
    }
    let uri = request.uri();
    if request.method() != Method::CONNECT || protocol.is_some() {
        encode(&mut block, ":scheme", uri.scheme_str().unwrap_or("https").as_bytes());
        encode(&mut block, ":path", uri.path_and_query().map_or("/", PathAndQuery::as_str).as_bytes());
    }
    if let Some(authority) = uri.authority() {
        encode(&mut block, ":authority", authority.as_str().as_bytes());
    }
    fields(&mut block, request.headers());
    block
}

/// Encodes the head of a response.
pub(super) fn response(response: &Response<()>) -> Vec<u8> {
    let mut block = Vec::with_capacity(64);
    encode(&mut block, ":status", response.status().as_str().as_bytes());
    fields(&mut block, response.headers());
    block
}

fn fields(block: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        encode(block, name.as_str(), value.as_bytes());
    }
}

/// A decoded header block.
#[derive(Debug, Default)]
pub(super) struct Fields {
    method: Option<Method>,
    scheme: Option<Scheme>,
    authority: Option<Authority>,
    path: Option<PathAndQuery>,
    protocol: Option<String>,
    status: Option<StatusCode>,
    others: HeaderMap,
    content_length: Option<u64>,
    malformed: bool,
}

impl Fields {
    /// Decodes a block whose fields have at most `max_size` bytes. A field with a wrong name or value makes this neither a
    /// request nor a response, and is not an error: it concerns its stream alone.
    ///
    /// # Errors
    /// When the block cannot be decoded.
    pub(super) fn read(decoder: &mut Decoder, block: &[u8], max_size: usize) -> Result<Self, HpackError> {
        let mut fields = Self::default();
        decoder
            .decode(block, max_size, |name, value| fields.malformed |= fields.take(name, value).is_none())?;
        Ok(fields)
    }

    fn take(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        fn once<T>(place: &mut Option<T>, value: Option<T>) -> Option<()> {
            place.replace(value?).is_none().then_some(())
        }
        let is_pseudo = name.first() == Some(&b':');
        // Pseudo-fields come before all others (RFC 9113 §8.3).
        if is_pseudo && !self.others.is_empty() {
            return None;
        }
        match name {
            b":method" => once(&mut self.method, Method::from_bytes(value).ok()),
            b":scheme" => once(&mut self.scheme, Scheme::try_from(value).ok()),
            b":authority" => once(&mut self.authority, Authority::try_from(value).ok()),
            b":path" => once(&mut self.path, PathAndQuery::try_from(value).ok()),
            b":protocol" => {
                let text = std::str::from_utf8(value).ok().filter(|text| !text.is_empty());
                once(&mut self.protocol, text.map(str::to_owned))
            }
            b":status" => once(&mut self.status, StatusCode::from_bytes(value).ok()),
            _ => self.take_regular(name, value),
        }
    }

    fn take_regular(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        let is_allowed = match name {
            // Fields of a single HTTP/1 connection (RFC 9113 §8.2.2).
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => false,
            b"te" => value.eq_ignore_ascii_case(b"trailers"),
            b"content-length" => {
                let length = number(value)?;
                self.content_length.replace(length).is_none_or(|before| before == length)
            }
            _ => true,
        };
        // RFC 9113 §8.2.1; `HeaderName` and `HeaderValue` refuse capitals and control characters.
        if !is_allowed || is_blank(value.first()) || is_blank(value.last()) {
            return None;
        }
        let name = HeaderName::from_lowercase(name).ok()?;
        self.others.try_append(name, HeaderValue::from_bytes(value).ok()?).ok().map(drop)
    }

    fn has_request_fields(&self) -> bool {
        let Self { method, scheme, authority, path, protocol, .. } = self;
        method.is_some() || scheme.is_some() || authority.is_some() || path.is_some() || protocol.is_some()
    }

    /// Whether the fields may follow a body (RFC 9113 §8.1): no pseudo-field is among them.
    pub(super) fn are_trailers(&self) -> bool {
        !self.malformed && self.status.is_none() && !self.has_request_fields()
    }

    /// The authority of a request that is not CONNECT: the pseudo-field, or Host, which must not differ (RFC 9113 §8.3.1).
    fn authority(&self) -> Option<Authority> {
        let mut hosts = self.others.get_all(HOST).iter();
        let host = hosts.next();
        let authority = match (&self.authority, host) {
            (Some(authority), Some(host))
                if !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) =>
            {
                return None;
            }
            (Some(authority), _) => authority.clone(),
            (None, host) => Authority::try_from(host?.as_bytes()).ok()?,
        };
        (hosts.next().is_none() && !authority.as_str().contains('@')).then_some(authority)
    }

    /// The request that the fields make up, and what its content is (RFC 9113 §8.3.1, §8.5; RFC 8441 §4); `None` when they
    /// are malformed.
    pub(super) fn request(self) -> Option<(Request<()>, Content)> {
        let Self { method: Some(method), status: None, malformed: false, .. } = &self else { return None };
        let (method, is_connect) = (method.clone(), method == Method::CONNECT);
        let mut parts = http::uri::Parts::default();
        if is_connect && self.protocol.is_none() {
            if self.scheme.is_some() || self.path.is_some() {
                return None;
            }
            parts.authority = self.authority;
        } else {
            let path = self.path.as_ref()?.as_str();
            let is_path = path.starts_with('/') || (path == "*" && method == Method::OPTIONS);
            if !is_path || self.scheme.is_none() || (self.protocol.is_some() && !is_connect) {
                return None;
            }
            parts.authority = self.authority();
            (parts.scheme, parts.path_and_query) = (self.scheme, self.path);
        }
        let content = if is_connect { Content::Tunnel } else { Content::of(self.content_length) };
        parts.authority.as_ref()?;
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from_parts(parts).ok()?;
        *request.method_mut() = method;
        *request.headers_mut() = self.others;
        if let Some(protocol) = self.protocol {
            request.extensions_mut().insert(Protocol(protocol));
        }
        Some((request, content))
    }

    /// The response that the fields make up, and what Content-Length says about its content; `None` when they are malformed,
    /// or the status is 101 (RFC 9113 §8.6).
    pub(super) fn response(self) -> Option<(Response<()>, Content)> {
        let Self { status: Some(status), malformed: false, .. } = self else { return None };
        if self.has_request_fields() || status == StatusCode::SWITCHING_PROTOCOLS {
            return None;
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = self.others;
        Some((response, Content::of(self.content_length)))
    }
}

/// A Content-Length (RFC 9110 §8.6): digits only.
fn number(value: &[u8]) -> Option<u64> {
    let digits =
        std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}
