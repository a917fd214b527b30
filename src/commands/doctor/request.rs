//! A real request to a server, sent the way an app's would be.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::gateways::{Linked, cause, hint_for};
use super::report::{Finding, Layer};
use crate::failure::{Failure, Kind, Side, printable};
use crate::link::http2;
use crate::mark;
use crate::net;
use crate::wire::target::{Host, Target};

/// The deadline of the whole request. A node may hold it for ten seconds while there is no gateway.
const DEADLINE: Duration = Duration::from_secs(15);
/// The deadline of a connection from this machine itself.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// The port on which an HTTP request is sent; on others the connection alone is tested.
const HTTP: u16 = 80;
/// The deadline of the server's response over a link.
const RESPONSE_DEADLINE: Duration = Duration::from_secs(5);
/// Maximum bytes of a response head that are read.
const MAX_HEAD: usize = 16 * 1024;

/// The route of a request.
pub(super) enum Route<'a> {
    /// Through the local port of the node that runs here.
    LocalPort {
        /// The address of the port.
        proxy: SocketAddr,
        /// Basic credentials (RFC 7617), if any.
        login: Option<String>,
        /// The name of the gateway that the node uses; `None` while it goes direct.
        gateway: Option<String>,
    },
    /// Over the doctor's own link to a gateway.
    Link(&'a Linked),
    /// From this machine directly.
    Direct,
}

/// Sends a request to `server`.
pub(super) async fn send(route: &Route<'_>, server: &Target) -> Finding {
    judge(route, server, outcome(route, server).await)
}

/// What comes of a request to `server`.
pub(super) async fn outcome(route: &Route<'_>, server: &Target) -> Result<String, Failure> {
    let sent = async {
        match route {
            Route::LocalPort { proxy, login, .. } => by_local_port(*proxy, login.as_deref(), server).await,
            Route::Link(gateway) => by_link(gateway, server).await,
            Route::Direct => directly(server).await,
        }
    };
    let late = || Failure::new(Kind::ConnectTimeout, Side::Link, "there was no answer in time");
    timeout(DEADLINE, sent).await.unwrap_or_else(|_late| Err(late()))
}

/// The finding about what came of a request to `server`.
pub(super) fn judge(route: &Route<'_>, server: &Target, outcome: Result<String, Failure>) -> Finding {
    let name = match route {
        Route::LocalPort { proxy, .. } => format!("through the node on {proxy}"),
        Route::Link(gateway) => format!("over a link to {}", gateway.name()),
        Route::Direct => "from this machine itself".into(),
    };
    match outcome {
        Ok(answer) => Finding::ok(Layer::Request, format!("{server} {name}: {answer}")),
        Err(Failure { kind: Kind::Unsupported, side: Side::Local, sentence }) => {
            Finding::skipped(Layer::Request, sentence)
        }
        Err(failure) => {
            let finding = Finding::wrong(Layer::Request, format!("{server} is not reached {name}"));
            let hint = match (route, failure.kind) {
                (Route::LocalPort { .. }, Kind::NoGateway) => {
                    "this command reaches a gateway, but the node that runs here does not. Its log says why; start it \
                     again, so that it asks anew"
                        .into()
                }
                // It may have asked another gateway than the first.
                (Route::LocalPort { gateway, .. }, _) => {
                    hint_for(&failure, server, failure.reporter().or(gateway.as_deref()))
                }
                (Route::Link(gateway), _) => hint_for(&failure, server, Some(&gateway.link.gateway.name)),
                (Route::Direct, _) => hint_for(&failure, server, None),
            };
            let is_here = match route {
                Route::LocalPort { gateway, .. } => gateway.is_none(),
                Route::Link(_) => false,
                Route::Direct => true,
            };
            finding.because(cause(&failure, is_here)).hint(hint)
        }
    }
}

/// Asks the local port for a tunnel by CONNECT, as an app does.
async fn by_local_port(proxy: SocketAddr, login: Option<&str>, server: &Target) -> Result<String, Failure> {
    let broken = |error: io::Error| Failure::new(Kind::Terminated, Side::Local, format!("{proxy}: {error}"));
    let mut stream = TcpStream::connect(proxy).await.map_err(broken)?;
    let login = login.map_or_else(String::new, |login| format!("Proxy-Authorization: Basic {login}\r\n"));
    let request =
        format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: laneway-doctor\r\n{login}\r\n");
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    let head = read_head(&mut stream).await;
    let status = status(&head);
    if status == Some(200) {
        return probe(stream, server).await;
    }
    if status == Some(407) {
        let sentence = format!(
            "{proxy} requires a login, and the configuration that this command has read has none (proxy-logins)"
        );
        return Err(Failure::new(Kind::Unsupported, Side::Local, sentence));
    }
    Err(failure_in(&head).unwrap_or_else(|| unexpected(proxy, &head)))
}

/// The failure that a response of the node tells of.
fn failure_in(head: &str) -> Option<Failure> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("proxy-status").then(|| Failure::from_proxy_status(value.trim()))?
    })
}

fn unexpected(proxy: SocketAddr, head: &str) -> Failure {
    let line = printable(head.lines().next().unwrap_or("an empty response"));
    Failure::new(Kind::BadResponse, Side::Local, format!("{proxy} answers: {line}"))
}

/// Asks the front called `name` of the local port for the first page of its registry. Any answer of the registry will do.
pub(super) async fn by_front(proxy: SocketAddr, name: &str) -> Result<String, Failure> {
    let broken = |error: io::Error| Failure::new(Kind::Terminated, Side::Local, format!("{proxy}: {error}"));
    let mut stream = TcpStream::connect(proxy).await.map_err(broken)?;
    let request = format!(
        "HEAD /{name}/ HTTP/1.1\r\nHost: localhost:{}\r\nUser-Agent: laneway-doctor\r\nConnection: close\r\n\r\n",
        proxy.port()
    );
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    let head = read_head(&mut stream).await;
    match (failure_in(&head), status(&head)) {
        (Some(failure), _) => Err(failure),
        (None, Some(_)) => Ok(describe(&head)),
        (None, None) => Err(unexpected(proxy, &head)),
    }
}

/// Sends a request from this machine itself.
pub(super) async fn directly(server: &Target) -> Result<String, Failure> {
    if let Host::Name(name) = &server.host {
        let found = timeout(CONNECT_DEADLINE, net::lookup(&server.to_string())).await;
        match found {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                return Err(Failure::new(Kind::NameNotFound, Side::Server, format!("{name}: {error}")));
            }
            Err(_late) => {
                let sentence = format!("no name server answers for {name}");
                return Err(Failure::new(Kind::DnsTimeout, Side::Server, sentence));
            }
        }
    }
    let connected = timeout(CONNECT_DEADLINE, mark::connect_to(&server.to_string())).await;
    let connected = connected.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()));
    let stream = connected.map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => Kind::Refused,
            io::ErrorKind::NetworkUnreachable => Kind::NetworkUnreachable,
            io::ErrorKind::HostUnreachable => Kind::HostUnreachable,
            io::ErrorKind::TimedOut => Kind::ConnectTimeout,
            // A firewall of this machine, or a route that prohibits it.
            io::ErrorKind::PermissionDenied => Kind::NetworkUnreachable,
            // Remaining errors are those of the name lookup.
            _ => Kind::NameNotFound,
        };
        Failure::new(kind, Side::Server, error.to_string())
    })?;
    probe(stream, server).await
}

/// Sends an HTTP request to the server behind `stream`, if its port is that of HTTP.
async fn probe(mut stream: TcpStream, server: &Target) -> Result<String, Failure> {
    if server.port != HTTP {
        return Ok("connected".into());
    }
    let broken = |error: io::Error| Failure::new(Kind::Terminated, Side::Server, error.to_string());
    stream.write_all(head_request(server).as_bytes()).await.map_err(broken)?;
    Ok(describe(&read_head(&mut stream).await))
}

async fn by_link(gateway: &Linked, server: &Target) -> Result<String, Failure> {
    let mut tunnel = gateway.link.open(server, 0, Bytes::new()).await?.stream;
    if server.port != HTTP {
        return Ok("connected".into());
    }
    let broken = |error: http2::Error| Failure::new(Kind::Terminated, Side::Link, error.to_string());
    tunnel.outbox.send(Bytes::from(head_request(server))).await.map_err(broken)?;
    let mut head = BytesMut::new();
    let reading = async {
        while let Some(piece) = tunnel.inbox.next().await? {
            head.extend_from_slice(&piece[..piece.len().min(MAX_HEAD)]);
            if head.len() >= MAX_HEAD || head.windows(4).any(|end| end == b"\r\n\r\n") {
                break;
            }
        }
        Ok(())
    };
    timeout(RESPONSE_DEADLINE, reading).await.unwrap_or(Ok(())).map_err(broken)?;
    Ok(describe(&String::from_utf8_lossy(&head)))
}

fn head_request(server: &Target) -> String {
    format!("HEAD / HTTP/1.1\r\nHost: {server}\r\nUser-Agent: laneway-doctor\r\nConnection: close\r\n\r\n")
}

/// Reads to the end of the response head, or to the end of the stream.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = BytesMut::new();
    let reading = async {
        while head.len() < MAX_HEAD && !head.windows(4).any(|end| end == b"\r\n\r\n") {
            if !stream.read_buf(&mut head).await.is_ok_and(|count| count > 0) {
                return;
            }
        }
    };
    // After the deadline what has been read counts. The caller bounds the time that a node holds the request.
    let _ = timeout(DEADLINE, reading).await;
    String::from_utf8_lossy(&head).into_owned()
}

fn status(head: &str) -> Option<u16> {
    head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.trim().parse().ok()
}

fn describe(head: &str) -> String {
    match head.lines().next() {
        Some(line) if status(head).is_some() => format!("it answers {}", printable(line)),
        _ => "connected, but the server does not answer with HTTP".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_response_is_described() {
        assert_eq!(status("HTTP/1.1 204 No Content\r\n\r\n"), Some(204));
        for nonsense in ["", "HTTP/1.", "HTTP/1.1", "HTTP/1.1 x", "SSH-2.0-x\r\n", "HTTP/2 200"] {
            assert_eq!(status(nonsense), None, "{nonsense:?}");
        }
        assert_eq!(describe("HTTP/1.0 200 \x1b[2J\r\n"), "it answers HTTP/1.0 200 ?[2J");
    }
}
