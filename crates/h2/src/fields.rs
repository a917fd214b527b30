//! Requests and responses as header blocks (RFC 9113 §8.3).

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};

use super::hpack::{Decoder, HpackError, encode};

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
    malformed: bool,
}

impl Fields {
    /// Decodes a block whose fields have at most `max_size` bytes. A field with a wrong name or value makes this neither a
    /// request nor a response, and is no error: it concerns its stream alone.
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
        let text = std::str::from_utf8(value).ok();
        match name {
            b":method" => once(&mut self.method, Method::from_bytes(value).ok()),
            b":scheme" => once(&mut self.scheme, Scheme::try_from(value).ok()),
            b":authority" => once(&mut self.authority, Authority::try_from(value).ok()),
            b":path" => once(&mut self.path, PathAndQuery::try_from(value).ok()),
            b":protocol" => once(&mut self.protocol, text.map(str::to_owned)),
            b":status" => once(&mut self.status, StatusCode::from_bytes(value).ok()),
            _ => {
                let name = HeaderName::from_lowercase(name).ok()?;
                self.others.try_append(name, HeaderValue::from_bytes(value).ok()?).ok().map(drop)
            }
        }
    }

    /// The request that the fields make up (RFC 9113 §8.3.1, §8.5; RFC 8441 §4); `None` when they are malformed.
    pub(super) fn request(self) -> Option<Request<()>> {
        let Self { method: Some(method), status: None, malformed: false, .. } = self else { return None };
        let mut parts = http::uri::Parts::default();
        (parts.scheme, parts.authority, parts.path_and_query) = (self.scheme, self.authority, self.path);
        let is_plain_connect = method == Method::CONNECT && self.protocol.is_none();
        let is_whole = match &parts {
            parts if is_plain_connect => parts.scheme.is_none() && parts.path_and_query.is_none(),
            parts => parts.scheme.is_some() && parts.path_and_query.is_some(),
        };
        if !is_whole || parts.authority.is_none() || (self.protocol.is_some() && method != Method::CONNECT) {
            return None;
        }
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from_parts(parts).ok()?;
        *request.method_mut() = method;
        *request.headers_mut() = self.others;
        if let Some(protocol) = self.protocol {
            request.extensions_mut().insert(Protocol(protocol));
        }
        Some(request)
    }

    /// The response that the fields make up; `None` when they are malformed.
    pub(super) fn response(self) -> Option<Response<()>> {
        let Self { status: Some(status), method: None, malformed: false, .. } = self else { return None };
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = self.others;
        Some(response)
    }
}
