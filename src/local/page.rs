//! The node's own web server, on the local port: a live page, and the same facts as JSON, as an event stream and as
//! metrics. Read-only, and only for the users of this machine: their browsers also run pages of other sites, which must
//! not be able to read it.

mod connection;
mod events;
pub mod metrics;
mod names;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use self::names::AnswerQuestion;
use crate::telemetry::refusal::RefusalReason;
use crate::telemetry::report;
use crate::telemetry::snapshot::Snapshot;
use crate::wire::http::Fields;
use crate::wire::target::without_dot;

/// Maximum number of readers of the event stream at a time.
pub const MAX_FOLLOWERS: usize = 16;

/// Returns what the node shows of itself at this moment.
pub type TakeSnapshot = dyn Fn() -> Snapshot + Send + Sync;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The page of one node.
pub struct Page {
    snapshot: Arc<TakeSnapshot>,
    pac_direct: bool,
    followers: Arc<Semaphore>,
    /// Answers questions for names. Set later, because it needs what the page is a part of.
    names: OnceLock<Box<AnswerQuestion>>,
}

/// Sent with every response: nothing is loaded from elsewhere, no other site may embed or read it, and no browser
/// guesses its type.
const SECURITY_FIELDS: [(&str, &str); 6] = [
    ("cache-control", "no-store"),
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
];

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// The files of the page: path, type, content.
const FILES: [(&str, &str, &str); 6] = [
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("/map.js", "text/javascript; charset=utf-8", include_str!("page/map.js")),
    ("/chart.js", "text/javascript; charset=utf-8", include_str!("page/chart.js")),
    ("/format.js", "text/javascript; charset=utf-8", include_str!("page/format.js")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

impl Page {
    /// The page that shows what `snapshot` returns. With `pac_direct`, its /proxy.pac lets browsers connect directly
    /// while the proxy does not answer.
    pub fn new(snapshot: Box<TakeSnapshot>, pac_direct: bool) -> Self {
        Self {
            snapshot: snapshot.into(),
            pac_direct,
            followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
            names: OnceLock::new(),
        }
    }

    /// Lets software ask for names here, which `answer` answers. The first call counts.
    pub fn answer_questions(&self, answer: Box<AnswerQuestion>) {
        let _ = self.names.set(answer);
    }

    /// Serves a connection whose first request is in origin-form, until it ends or the node drains. `received` is what
    /// has been read from `socket`, from the first byte of that request.
    ///
    /// Such a request is never forwarded to the server that its Host field names: any web page could then use this port
    /// as a proxy.
    ///
    /// Returns why a later request could not be read, if one could not.
    pub async fn serve(
        &self,
        socket: TcpStream,
        received: BytesMut,
        drain: &CancellationToken,
    ) -> Option<RefusalReason> {
        let proxy = socket.local_addr().ok();
        let service = service_fn(async |request: Request<Incoming>| {
            let (parts, body) = request.into_parts();
            Ok::<_, Infallible>(self.respond(&parts, body, proxy, drain).await)
        });
        connection::serve(socket, received.freeze(), service, drain).await
    }

    async fn respond(
        &self,
        request: &Parts,
        body: Incoming,
        proxy: Option<SocketAddr>,
        drain: &CancellationToken,
    ) -> Response<Body> {
        let mut response = match (check(request), self.names.get()) {
            (Ok(names::PATH), Some(answer)) if request.method == Method::POST => {
                let answer = names::answer(&request.headers, body, answer).await;
                let answer = answer.map(|answer| response(names::TYPE, Full::from(answer).boxed_unsync()));
                answer.ok_or(PageError::NoQuestion)
            }
            (Ok("/events"), _) if request.method == Method::GET => self.follow(drain),
            (Ok(path), _) => self.resource(request, path, proxy),
            (Err(refusal), _) => Err(refusal),
        }
        .unwrap_or_else(PageError::into_response);
        for (name, value) in SECURITY_FIELDS {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
        response
    }

    /// The event stream, until `drain` is cancelled.
    fn follow(&self, drain: &CancellationToken) -> Result<Response<Body>, PageError> {
        let Ok(place) = self.followers.clone().try_acquire_owned() else {
            return Err(PageError::TooManyFollowers);
        };
        let events = events::stream(self.snapshot.clone(), drain.clone(), place);
        Ok(response(events::TYPE, StreamBody::new(events).boxed_unsync()))
    }

    /// The resource at `path`; `proxy` is the address that the connection was made to.
    fn resource(
        &self,
        request: &Parts,
        path: &str,
        proxy: Option<SocketAddr>,
    ) -> Result<Response<Body>, PageError> {
        let whole = |kind, content: String| Ok(response(kind, Full::from(content).boxed_unsync()));
        match (path, proxy) {
            ("/", _) if accepts_html(&request.headers) => whole(HTML, include_str!("page/index.html").into()),
            ("/", _) => whole(TEXT, report::text(&(self.snapshot)())),
            ("/status.json", _) => whole("application/json", events::json(&(self.snapshot)())),
            ("/metrics", _) => whole(metrics::TYPE, metrics::text(&(self.snapshot)())),
            // Reached by HEAD only: the stream itself has no end.
            ("/events", _) => whole(events::TYPE, String::new()),
            ("/proxy.pac", Some(proxy)) => {
                whole("application/x-ns-proxy-autoconfig", proxy_configuration(proxy, self.pac_direct))
            }
            (path, _) => match FILES.iter().find(|(name, _, _)| *name == path) {
                Some((_, kind, content)) => whole(kind, (*content).into()),
                None => Err(PageError::NotFound),
            },
        }
    }
}

fn response(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Browsers accept HTML and say so; curl and similar tools get text.
fn accepts_html(fields: &HeaderMap) -> bool {
    fields
        .get(header::ACCEPT)
        .is_some_and(|accept| accept.as_bytes().windows(9).any(|part| part == b"text/html"))
}

/// A proxy auto-configuration file that names `proxy`, the port it was requested from. Loopback destinations are
/// excluded: the proxy would refuse them.
fn proxy_configuration(proxy: SocketAddr, or_direct: bool) -> String {
    let otherwise = if or_direct { "; DIRECT" } else { "" };
    format!(
        "function FindProxyForURL(url, host) {{\n  \
           if (host === \"localhost\" || host === \"127.0.0.1\" || host === \"[::1]\" || host === \"::1\") return \"DIRECT\";\n  \
           return \"PROXY {proxy}{otherwise}\";\n}}\n"
    )
}

/// Why a request gets no resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum PageError {
    #[error("this connection serves the node's own page; open another one to use the proxy")]
    ProxyRequest,
    #[error("this is a proxy, not a web server: set it as http_proxy (http://127.0.0.1:1080)")]
    ForeignHost,
    #[error("this page is not for other sites")]
    OtherSite,
    #[error("this page is read-only")]
    Method,
    #[error("this is not a DNS query (RFC 8484)")]
    NoQuestion,
    #[error("there is no such page: try /")]
    NotFound,
    #[error("too many clients follow this page already")]
    TooManyFollowers,
}

impl PageError {
    fn into_response(self) -> Response<Body> {
        let mut response = response(TEXT, Full::from(format!("{self}\n")).boxed_unsync());
        *response.status_mut() = match self {
            Self::ProxyRequest | Self::ForeignHost => StatusCode::MISDIRECTED_REQUEST,
            Self::OtherSite => StatusCode::FORBIDDEN,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoQuestion => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::TooManyFollowers => StatusCode::SERVICE_UNAVAILABLE,
        };
        if self == Self::Method {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        if self != Self::NotFound {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// The path of a request that a user of this machine makes: to a name that is only this machine's (DNS rebinding makes
/// the name of another site lead here too), and not on behalf of another site.
fn check(request: &Parts) -> Result<&str, PageError> {
    // CONNECT, or absolute-form. The first request decides what a connection is: hyper has read ahead, so the
    // connection cannot be returned to the proxy. RFC 9110 §15.5.20 lets the client repeat the request on another.
    if request.uri.authority().is_some() {
        return Err(PageError::ProxyRequest);
    }
    let all =
        |name: &str| request.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
    check_strangers(&all("host"), &all("sec-fetch-site"), &all("origin")).map_err(
        |stranger| match stranger {
            Stranger::Host => PageError::ForeignHost,
            Stranger::Site => PageError::OtherSite,
        },
    )?;
    let is_question = request.uri.path() == names::PATH && request.method == Method::POST;
    if request.method != Method::GET && request.method != Method::HEAD && !is_question {
        return Err(PageError::Method);
    }
    Ok(request.uri.path())
}

/// Who makes a request that is not made by a user of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stranger {
    /// It names another host than this machine's loopback interface: the name of another site may lead here.
    Host,
    /// A browser makes it on behalf of another site.
    Site,
}

/// Checks who makes a request in origin form.
///
/// # Errors
/// [`Stranger`].
pub(super) fn check_origin(fields: &Fields) -> Result<(), Stranger> {
    let all = |name: &str| fields.all(name).collect::<Vec<_>>();
    check_strangers(&all("host"), &all("sec-fetch-site"), &all("origin"))
}

fn check_strangers(hosts: &[&[u8]], sites: &[&[u8]], origins: &[&[u8]]) -> Result<(), Stranger> {
    let [host] = hosts else { return Err(Stranger::Host) };
    if !is_loopback(host) {
        return Err(Stranger::Host);
    }
    // Only browsers send these fields.
    let is_other = sites.iter().any(|site| !matches!(*site, b"none" | b"same-origin"))
        || origins.iter().any(|origin| origin.strip_prefix(b"http://") != Some(*host));
    if is_other { Err(Stranger::Site) } else { Ok(()) }
}

/// Whether a Host field names this machine's loopback interface.
fn is_loopback(host: &[u8]) -> bool {
    let authority = Authority::try_from(host).ok();
    authority.filter(|authority| !authority.as_str().contains('@')).is_some_and(|authority| {
        let host = without_dot(authority.host());
        let ip = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        host.eq_ignore_ascii_case("localhost")
            || ip.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}
