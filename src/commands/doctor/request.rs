//! A real request, from an app's place to a server and back.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::gateways::{Linked, fix};
use super::report::{Finding, Layer};
use crate::failure::{Failure, Kind, Side, printable};
use crate::link::http2;
use crate::wire::target::Target;

/// How long all of it may take: a node holds a request for ten seconds while there is no gateway.
const PATIENCE: Duration = Duration::from_secs(15);
/// The port of what is asked for something, and not only connected to.
const HTTP: u16 = 80;
/// How long a server may take for its answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The longest head of an answer that is read, in bytes.
const LONGEST: usize = 16 * 1024;

/// The way that a request takes.
pub(super) enum Way<'a> {
    /// Through the local port of the node that runs here, with this login in HTTP's Basic scheme where there is one.
    Local(SocketAddr, Option<String>),
    /// Over a link of the doctor's own.
    Link(&'a Linked),
    /// From this machine itself.
    Direct,
}

/// Sends one.
pub(super) async fn send(way: &Way<'_>, server: &Target) -> Finding {
    let name = match way {
        Way::Local(proxy, _) => format!("through the node on {proxy}"),
        Way::Link(gateway) => format!("over a link to {}", gateway.link.address),
        Way::Direct => "from this machine itself".into(),
    };
    let sent = async {
        match way {
            Way::Local(proxy, login) => by_local_port(*proxy, login.as_deref(), server).await,
            Way::Link(gateway) => by_link(gateway, server).await,
            Way::Direct => directly(server).await,
        }
    };
    let late = || Failure::new(Kind::ConnectTimeout, Side::Link, "there is no answer in time");
    match timeout(PATIENCE, sent).await.unwrap_or_else(|_late| Err(late())) {
        Ok(answer) => Finding::ok(Layer::Request, format!("{server} {name}: {answer}")),
        Err(Failure { kind: Kind::Unsupported, side: Side::Local, sentence }) => {
            Finding::skipped(Layer::Request, sentence)
        }
        Err(failure) => {
            let finding = Finding::wrong(Layer::Request, format!("{server} is not reached {name}"));
            let hint = match (way, failure.kind) {
                (Way::Local(..), Kind::NoGateway) => {
                    "'laneway status' shows the gateways that the node sees".into()
                }
                (Way::Local(..), _) => fix(&failure, server, Some("the gateway")),
                (Way::Link(gateway), _) => {
                    fix(&failure, server, Some(&gateway.link.address.ip().to_string()))
                }
                (Way::Direct, _) => fix(&failure, server, None),
            };
            finding.because(failure.sentence).hint(hint)
        }
    }
}

/// By CONNECT, like an app that wants a tunnel.
async fn by_local_port(proxy: SocketAddr, login: Option<&str>, server: &Target) -> Result<String, Failure> {
    let broken = |error: io::Error| Failure::new(Kind::Terminated, Side::Local, format!("{proxy}: {error}"));
    let mut stream = TcpStream::connect(proxy).await.map_err(broken)?;
    let login = login.map_or_else(String::new, |login| format!("Proxy-Authorization: Basic {login}\r\n"));
    let question =
        format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: laneway-doctor\r\n{login}\r\n");
    stream.write_all(question.as_bytes()).await.map_err(broken)?;
    let head = head(&mut stream).await;
    let status = status(&head);
    if status == Some(200) {
        return over(stream, server).await;
    }
    if status == Some(407) {
        let sentence =
            format!("{proxy} asks for a login that this configuration does not have: --proxy-logins");
        return Err(Failure::new(Kind::Unsupported, Side::Local, sentence));
    }
    let told = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("proxy-status").then(|| Failure::from_proxy_status(value.trim()))?
    });
    Err(told.unwrap_or_else(|| {
        let line = head.lines().next().unwrap_or("nothing");
        Failure::new(Kind::BadResponse, Side::Local, format!("{proxy} answers: {line}"))
    }))
}

async fn directly(server: &Target) -> Result<String, Failure> {
    let connected = TcpStream::connect(server.to_string()).await;
    let stream = connected.map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => Kind::Refused,
            io::ErrorKind::NetworkUnreachable => Kind::NetworkUnreachable,
            io::ErrorKind::HostUnreachable => Kind::HostUnreachable,
            io::ErrorKind::TimedOut => Kind::ConnectTimeout,
            // What is left is a name that is not found.
            _ => Kind::NameNotFound,
        };
        Failure::new(kind, Side::Server, error.to_string())
    })?;
    over(stream, server).await
}

async fn over(mut stream: TcpStream, server: &Target) -> Result<String, Failure> {
    if server.port != HTTP {
        return Ok("connected".into());
    }
    let broken = |error: io::Error| Failure::new(Kind::Terminated, Side::Server, error.to_string());
    stream.write_all(question(server).as_bytes()).await.map_err(broken)?;
    Ok(answered(&head(&mut stream).await))
}

async fn by_link(gateway: &Linked, server: &Target) -> Result<String, Failure> {
    let mut tunnel = gateway.link.open(server, 0, Bytes::new()).await?.tunnel;
    if server.port != HTTP {
        return Ok("connected".into());
    }
    let broken = |error: http2::Error| Failure::new(Kind::Terminated, Side::Link, error.to_string());
    tunnel.outbox.send(Bytes::from(question(server))).await.map_err(broken)?;
    let mut head = BytesMut::new();
    let reading = async {
        while let Some(piece) = tunnel.inbox.next().await? {
            head.extend_from_slice(&piece[..piece.len().min(LONGEST)]);
            if head.len() >= LONGEST || head.windows(4).any(|end| end == b"\r\n\r\n") {
                break;
            }
        }
        Ok(())
    };
    timeout(ANSWER, reading).await.unwrap_or(Ok(())).map_err(broken)?;
    Ok(answered(&String::from_utf8_lossy(&head)))
}

fn question(server: &Target) -> String {
    format!("HEAD / HTTP/1.1\r\nHost: {server}\r\nUser-Agent: laneway-doctor\r\nConnection: close\r\n\r\n")
}

/// What comes until the end of a head, or until nothing more does.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = BytesMut::new();
    let reading = async {
        while head.len() < LONGEST && !head.windows(4).any(|end| end == b"\r\n\r\n") {
            if !stream.read_buf(&mut head).await.is_ok_and(|count| count > 0) {
                return;
            }
        }
    };
    // Late is as good as never; a local port that holds the request is waited for by the caller.
    let _ = timeout(PATIENCE, reading).await;
    String::from_utf8_lossy(&head).into_owned()
}

fn status(head: &str) -> Option<u16> {
    head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.trim().parse().ok()
}

fn answered(head: &str) -> String {
    match head.lines().next() {
        Some(line) if status(head).is_some() => format!("it answers {}", printable(line)),
        _ => "connected, and what listens there does not answer HTTP".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whatever_it_is() {
        assert_eq!(status("HTTP/1.1 204 No Content\r\n\r\n"), Some(204));
        for nonsense in ["", "HTTP/1.", "HTTP/1.1", "HTTP/1.1 x", "SSH-2.0-x\r\n", "HTTP/2 200"] {
            assert_eq!(status(nonsense), None, "{nonsense:?}");
        }
        assert_eq!(answered("HTTP/1.0 200 \x1b[2J\r\n"), "it answers HTTP/1.0 200 ?[2J");
    }
}
