//! What somebody gets who talks to the local port as to a web server. Read-only, and only for this machine's own
//! users: a web page from elsewhere runs in a browser here, too, and must not read it.

use bytes::Bytes;
use http::Method;

use super::listener::Local;
use crate::wire::http::{RequestHead, head_end, simple_response};

/// Nothing is loaded, nothing embeds it, nobody guesses what it is.
const SEALED: [(&str, &str); 5] = [
    ("Cache-Control", "no-store"),
    (
        "Content-Security-Policy",
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
];

/// Answers a request in origin-form. It is never forwarded by its Host field: that would make this port an
/// open door for web pages that guess it.
pub fn answer(local: &Local, request: &RequestHead) -> Bytes {
    let (status, reason, text) = match guard(request) {
        Err(refusal) => refusal,
        Ok("/") => (200, "OK", state(local)),
        Ok(_) => (404, "Not Found", "there is one page only: /\n".to_owned()),
    };
    let mut answer = simple_response(status, reason, &SEALED, &text, false);
    if request.method == Method::HEAD {
        answer.truncate(head_end(&answer, 0).unwrap_or_default());
    }
    answer
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

fn state(local: &Local) -> String {
    let way = match (*local.routes.is_gateway.borrow(), local.routes.links.standing().borrow().first()) {
        (true, _) => "this node is a gateway: its own software goes out directly".to_owned(),
        (_, Some(link)) => format!("linked to gateway {} at {}", link.gateway.id.short(), link.address),
        _ => match local.routes.links.trouble() {
            Some(trouble) => format!("no gateway: {trouble}"),
            None => "no gateway has answered yet".to_owned(),
        },
    };
    format!("{}\n{way}\nThis port is a SOCKS5 and HTTP proxy.\n", local.name)
}
