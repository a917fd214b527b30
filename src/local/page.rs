//! What somebody gets who talks to the local port as to a web server.

use bytes::Bytes;

use super::listener::Local;
use crate::wire::http::{RequestHead, simple_response};

/// Answers a request in origin-form. It is never forwarded by its Host field: that would make this port an
/// open door for web pages that guess it. Only loopback names are answered (DNS rebinding).
pub fn answer(local: &Local, request: &RequestHead) -> Bytes {
    let host = request.host_name().unwrap_or_default();
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !loopback {
        let text = "this is a proxy, not a web server: set it as http_proxy (http://127.0.0.1:1080)\n";
        return simple_response(421, "Misdirected Request", &[], text, false);
    }
    let way = match (*local.routes.is_gateway.borrow(), local.routes.links.standing().borrow().first()) {
        (true, _) => "this node is a gateway: its own software goes out directly".to_owned(),
        (_, Some(link)) => format!("linked to gateway {} at {}", link.gateway.id.short(), link.address),
        _ => match local.routes.links.trouble() {
            Some(trouble) => format!("no gateway: {trouble}"),
            None => "no gateway has answered yet".to_owned(),
        },
    };
    let text = format!("{}\n{way}\nThis port is a SOCKS5 and HTTP proxy.\n", local.name);
    simple_response(200, "OK", &[("Cache-Control", "no-store")], &text, false)
}
