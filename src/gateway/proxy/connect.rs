//! HTTP CONNECT (RFC 9110 §9.3.6) with Basic credentials (RFC 7617).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use tokio::net::TcpStream;

use super::{Login, Refusal, read_exact, write};
use crate::failure::Kind;
use crate::wire::http::{MAX_HEAD, ResponseHead, head_end};
use crate::wire::target::Target;

/// So much is looked at at a time: the head of a usual answer fits.
const LOOK: usize = 4096;

pub(super) async fn ask(stream: &TcpStream, target: &Target, login: Option<&Login>) -> Result<(), Refusal> {
    write(stream, request(target, login).as_bytes()).await?;
    loop {
        let head = read_head(stream).await?;
        let head = ResponseHead::parse(&head, &Method::CONNECT);
        let head = head.map_err(|error| Refusal::Broken(error.to_string()))?;
        if head.is_interim() {
            continue;
        }
        return judge(&head);
    }
}

fn request(target: &Target, login: Option<&Login>) -> String {
    let authorization = login.map_or_else(String::new, |Login { user, password }| {
        format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
    });
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n")
}

/// Reads a head and not a byte more.
async fn read_head(stream: &TcpStream) -> Result<Vec<u8>, Refusal> {
    let (mut head, mut buffer) = (Vec::new(), vec![0; LOOK]);
    loop {
        let seen = stream.peek(&mut buffer).await?;
        if seen == 0 {
            return Err(Refusal::Broken("the connection ended before the answer".into()));
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
            return Err(Refusal::Broken("its answer has no end".into()));
        }
    }
}

/// What the answer means. Beyond the status, Squid says more in a field of its own: the error and its `errno`.
fn judge(head: &ResponseHead) -> Result<(), Refusal> {
    let said = head.fields.get("x-squid-error").map(String::from_utf8_lossy).unwrap_or_default();
    let mut words = said.split_ascii_whitespace();
    let kind = match (head.status, words.next(), words.next()) {
        (200..300, ..) => return Ok(()),
        (407, ..) => return Err(Refusal::Login),
        (_, Some("ERR_DNS_FAIL"), _) => Kind::NameNotFound,
        (_, Some("ERR_CONNECT_FAIL"), Some("111")) => Kind::Refused,
        (_, Some("ERR_CONNECT_FAIL"), Some("110")) => Kind::ConnectTimeout,
        (_, Some("ERR_CONNECT_FAIL"), Some("101")) => Kind::NetworkUnreachable,
        (401 | 403 | 405 | 451, ..) => Kind::NameForbidden,
        (504, ..) => Kind::ConnectTimeout,
        (404 | 500..600, ..) => Kind::HostUnreachable,
        (status, ..) => return Err(Refusal::Broken(format!("it answered CONNECT with status {status}"))),
    };
    Err(Refusal::Destination(kind))
}
