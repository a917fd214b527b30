//! What somebody gets who talks to the local port as to a web server: a live page, and the same facts as JSON, as a
//! stream and as metrics. Read-only, and only for this machine's own users: a web page from elsewhere runs in a browser
//! here, too, and must not read it.

mod events;
pub mod metrics;

use bytes::Bytes;
use http::Method;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::listener::Local;
use crate::telemetry::report;
use crate::telemetry::snapshot::Snapshot;
use crate::wire::http::{RequestHead, head_end, own_response};

/// How many read the stream of events at a time.
pub const MOST_FOLLOWERS: usize = 16;

/// Gives what the node shows of itself now.
pub type Look = dyn Fn() -> Snapshot + Send + Sync;

/// The page of one node.
pub struct Page {
    look: Box<Look>,
    pac_direct: bool,
    followers: Semaphore,
}

impl Page {
    /// The page that shows what `look` gives. With `pac_direct` its /proxy.pac lets browsers go out directly where the
    /// proxy does not answer.
    pub fn new(look: Box<Look>, pac_direct: bool) -> Self {
        Self { look, pac_direct, followers: Semaphore::new(MOST_FOLLOWERS) }
    }
}

/// Nothing is loaded but from here, nothing embeds it, nobody guesses what it is.
const SEALED: [(&str, &str); 6] = [
    ("Cache-Control", "no-store"),
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
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

/// Answers a request in origin-form. It is never forwarded by its Host field: that would make this port an
/// open door for web pages that guess it. What follows the events gets them from here, and an empty answer when it is
/// over.
pub async fn answer(local: &Local, socket: &TcpStream, request: &RequestHead) -> Bytes {
    let answer = match guard(request) {
        Err((status, reason, text)) => sealed(status, reason, TEXT, &text),
        Ok("/events") if request.method == Method::GET => match local.page.followers.try_acquire() {
            Ok(_place) => {
                events::follow(local, socket).await;
                return Bytes::new();
            }
            Err(_) => sealed(503, "Service Unavailable", TEXT, "too many follow this page already\n"),
        },
        Ok(path) => match resource(local, socket, request, path) {
            Some((kind, body)) => sealed(200, "OK", kind, &body),
            None => sealed(404, "Not Found", TEXT, "there is no such page: try /\n"),
        },
    };
    if request.method == Method::HEAD {
        return answer.slice(..head_end(&answer, 0).unwrap_or_default());
    }
    answer
}

fn sealed(status: u16, reason: &str, kind: &str, body: &str) -> Bytes {
    own_response(status, reason, &SEALED, kind, body.as_bytes(), false)
}

/// The type and the content of what is at `path`.
fn resource(
    local: &Local,
    socket: &TcpStream,
    request: &RequestHead,
    path: &str,
) -> Option<(&'static str, String)> {
    let look = || (local.page.look)();
    Some(match path {
        "/" if wants_html(request) => (HTML, include_str!("page/index.html").into()),
        "/" => (TEXT, report::text(&look())),
        "/status.json" => ("application/json", events::json(&look())),
        "/metrics" => (metrics::TYPE, metrics::text(&look())),
        "/events" => (events::TYPE, String::new()),
        "/proxy.pac" => ("application/x-ns-proxy-autoconfig", pac(local, socket)?),
        path => {
            let (_, kind, content) = FILES.iter().find(|(name, _, _)| *name == path)?;
            (*kind, (*content).to_owned())
        }
    })
}

/// A browser says so; curl and its like get text.
fn wants_html(request: &RequestHead) -> bool {
    request.fields.get("accept").is_some_and(|accept| accept.windows(9).any(|part| part == b"text/html"))
}

/// A proxy auto-configuration file that names the port which it was asked from. What is on this machine is not for the
/// proxy, which would refuse it.
fn pac(local: &Local, socket: &TcpStream) -> Option<String> {
    let proxy = socket.local_addr().ok()?;
    let otherwise = if local.page.pac_direct { "; DIRECT" } else { "" };
    Some(format!(
        "function FindProxyForURL(url, host) {{\n  \
           if (host === \"localhost\" || host === \"127.0.0.1\" || host === \"[::1]\" || host === \"::1\") return \"DIRECT\";\n  \
           return \"PROXY {proxy}{otherwise}\";\n}}\n"
    ))
}

type Refusal = (u16, &'static str, String);

/// The path of a request that this machine's user makes, to a name that is only this machine's (a name of another
/// site may lead here as well: DNS rebinding), and that no other site makes for them.
fn guard(request: &RequestHead) -> Result<&str, Refusal> {
    let host = request.host_name().unwrap_or_default();
    if !is_loopback(host) {
        let text = "this is a proxy, not a web server: set it as http_proxy (http://127.0.0.1:1080)\n";
        return Err((421, "Misdirected Request", text.to_owned()));
    }
    let field = |name| request.fields.get(name);
    let own_origin =
        |origin: &[u8]| origin.strip_prefix(b"http://").is_some_and(|from| Some(from) == field("host"));
    // Absent where no browser is at work.
    let elsewhere = field("sec-fetch-site").is_some_and(|site| site != b"none" && site != b"same-origin")
        || field("origin").is_some_and(|origin| !own_origin(origin));
    if elsewhere {
        return Err((403, "Forbidden", "this page is not for other sites\n".to_owned()));
    }
    if request.method != Method::GET && request.method != Method::HEAD {
        return Err((405, "Method Not Allowed", "this page is for reading\n".to_owned()));
    }
    Ok(request.target.path())
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
