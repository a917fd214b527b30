//! HTTP CONNECT (RFC 9110 §9.3.6) with Basic credentials (RFC 7617).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use tokio::net::TcpStream;

use super::exchange::{UpstreamRefusal, read_exact};
use super::proxy::Login;
use crate::failure::Kind;
use crate::net;
use crate::wire::http::{MAX_HEAD, ResponseHead, head_end};
use crate::wire::target::Target;

/// Bytes peeked at a time. The head of a usual reply fits.
const PEEK_SIZE: usize = 4096;

/// Asks the proxy to connect to `target`, and reads its reply.
pub(super) async fn request(
    stream: &TcpStream,
    target: &Target,
    login: Option<&Login>,
) -> Result<(), UpstreamRefusal> {
    net::write_all(stream, head(target, login).as_bytes()).await?;
    loop {
        let head = read_head(stream).await?;
        let head = ResponseHead::parse(&head, &Method::CONNECT);
        let head = head.map_err(|error| UpstreamRefusal::Broken(error.to_string()))?;
        if head.is_interim() {
            continue;
        }
        return judge(&head);
    }
}

/// The head of the CONNECT request.
fn head(target: &Target, login: Option<&Login>) -> String {
    let authorization = login.map_or_else(String::new, |Login { user, password }| {
        format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
    });
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n")
}

/// Reads the head of the reply, and nothing beyond it.
async fn read_head(stream: &TcpStream) -> Result<Vec<u8>, UpstreamRefusal> {
    let (mut head, mut buffer) = (Vec::new(), vec![0; PEEK_SIZE]);
    loop {
        let seen = stream.peek(&mut buffer).await?;
        if seen == 0 {
            return Err(UpstreamRefusal::Broken("the connection ended before the reply".into()));
        }
        let before = head.len();
        head.extend_from_slice(&buffer[..seen]);
        let end = head_end(&head, before);
        let taken = end.map_or(seen, |end| end - before);
        read_exact(stream, &mut buffer[..taken]).await?;
        if let Some(end) = end {
            head.truncate(end);
            return Ok(head);
        }
        if head.len() >= MAX_HEAD {
            return Err(UpstreamRefusal::Broken("its reply exceeds the size limit".into()));
        }
    }
}

/// What the reply means. Squid adds a field of its own to the status, with the error and its `errno`.
fn judge(head: &ResponseHead) -> Result<(), UpstreamRefusal> {
    let squid = head.fields.get("x-squid-error").map(String::from_utf8_lossy).unwrap_or_default();
    let mut words = squid.split_ascii_whitespace();
    let kind = match (head.status, words.next(), words.next()) {
        (200..300, ..) => return Ok(()),
        (407, ..) => return Err(UpstreamRefusal::Login),
        (_, Some("ERR_DNS_FAIL"), _) => Kind::NameNotFound,
        (_, Some("ERR_CONNECT_FAIL"), Some("111")) => Kind::Refused,
        (_, Some("ERR_CONNECT_FAIL"), Some("110")) => Kind::ConnectTimeout,
        (_, Some("ERR_CONNECT_FAIL"), Some("101")) => Kind::NetworkUnreachable,
        (401 | 403 | 405 | 451, ..) => Kind::NameForbidden,
        (504, ..) => Kind::ConnectTimeout,
        (404 | 500..600, ..) => Kind::HostUnreachable,
        (status, ..) => {
            return Err(UpstreamRefusal::Broken(format!("it answered CONNECT with status {status}")));
        }
    };
    Err(UpstreamRefusal::Destination(kind))
}
