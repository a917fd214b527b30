//! HTTP at the local port (RFC 9110, RFC 9112): CONNECT, and plain requests in absolute form.
//!
//! Requests are parsed strictly and written anew; the requests of one connection are served in turn, so
//! pipelining works.

mod exchange;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::listener::{App, HANDSHAKE, Local, quiet};
use super::page;
use super::upstream::Upstream;
use crate::failure::{Failure, Kind, Side};
use crate::net;
use crate::telemetry::record::Record;
use crate::wire::http::{MAX_HEAD, Malformed, RequestHead, RequestTarget, head_end, simple_response};
use crate::wire::target::Target;
use exchange::Kept;

/// How long a connection may be idle between two requests.
const IDLE: Duration = Duration::from_secs(75);
/// One read of the app's bytes.
const READ: usize = 16 * 1024;
/// After an answer that ends the connection, what the app still sends is read for so long: closing at once would
/// reset the connection and could take the answer with it (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(1);
/// And at most so many bytes of it.
const LINGER_BYTES: usize = 1024 * 1024;

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// What follows a request.
enum Next {
    /// Another request may come.
    Request,
    /// The connection ends orderly, after this answer of our own, if any.
    Close(Bytes),
    /// The connection ends with a reset: what the app got is not the whole.
    Reset,
    /// The connection has become a tunnel; these bytes go to the server first.
    Tunnel(Box<Upstream>, Bytes),
}

/// Serves one app from its first request to its end.
pub async fn serve(local: &Local, app: App) {
    let App { socket, peer, mut deadline } = app;
    let peer = peer.to_string();
    let mut buffer = BytesMut::new();
    let mut kept = None;
    loop {
        let next = match timeout_at(deadline, read_head(&socket, &mut buffer)).await {
            Ok(Ok(Some(head))) => match RequestHead::parse(&head) {
                Ok(request) => answer(local, &socket, &mut buffer, request, &mut kept, &peer).await,
                Err(malformed) => (refuse(malformed, &peer), None),
            },
            Ok(Ok(None)) => return,
            Ok(Err(HeadError::Gone(error))) => return quiet(&error),
            Ok(Err(HeadError::Refused(malformed))) => (refuse(malformed, &peer), None),
            Err(_) => (Next::Close(plain(408, "the request head did not arrive in time")), None),
        };
        match next {
            (Next::Request, _) => {}
            (Next::Close(answer), _) => return close(socket, answer).await,
            (Next::Reset, _) => return net::reset(socket),
            (Next::Tunnel(upstream, first), Some(mut record)) => {
                return upstream.relay(socket, first, &mut record).await;
            }
            (Next::Tunnel(..), None) => unreachable!("a tunnel has a record"),
        }
        if buffer.is_empty() {
            let more = tokio::select! {
                more = timeout(IDLE, net::read_some(&socket, &mut buffer, READ)) => more,
                () = local.drain.cancelled() => return,
            };
            if !matches!(more, Ok(Ok(1..))) {
                return;
            }
        }
        deadline = Instant::now() + HANDSHAKE;
    }
}

enum HeadError {
    Gone(std::io::Error),
    Refused(Malformed),
}

/// Reads up to the end of the next request head. `None` when the app ends the connection before one begins.
async fn read_head(socket: &TcpStream, buffer: &mut BytesMut) -> Result<Option<BytesMut>, HeadError> {
    let mut searched = 0;
    loop {
        if let Some(end) = head_end(buffer, searched) {
            return Ok(Some(buffer.split_to(end)));
        }
        // TLS, or another protocol of bytes: its sender waits for an answer, not for the end of a head.
        if buffer.first().is_some_and(|byte| !byte.is_ascii_graphic() && !b"\r\n".contains(byte)) {
            return Err(HeadError::Refused(Malformed::Method));
        }
        searched = buffer.len();
        if searched >= MAX_HEAD {
            return Err(HeadError::Refused(Malformed::HeadTooLarge));
        }
        match net::read_some(socket, buffer, READ).await.map_err(HeadError::Gone)? {
            0 if buffer.is_empty() => return Ok(None),
            0 => return Err(HeadError::Refused(Malformed::Unfinished)),
            _ => {}
        }
    }
}

async fn answer(
    local: &Local,
    socket: &TcpStream,
    buffer: &mut BytesMut,
    request: RequestHead,
    kept: &mut Option<Kept>,
    peer: &str,
) -> (Next, Option<Record>) {
    let (dialect, host, port) = match &request.target {
        RequestTarget::Authority { host, port } => ("connect", host, *port),
        RequestTarget::Absolute { host, port, .. } => ("http", host, *port),
        RequestTarget::Origin { .. } => return (Next::Close(page::answer(local, &request)), None),
        RequestTarget::Asterisk => {
            return (Next::Close(plain(400, "this is a proxy; ask it for a server")), None);
        }
    };
    let id = local.id();
    let mut record = Record::new(id, dialect, peer.to_owned());
    let target = match Target::new(host, port) {
        Ok(target) => target,
        Err(error) => {
            record.ended(error.to_string());
            return (Next::Close(plain(400, &error.to_string())), None);
        }
    };
    record.target = target.to_string();
    let result = if request.method == Method::CONNECT {
        connect(local, socket, buffer, &target, id).await
    } else if request.via_names(&local.name) {
        let sentence = format!("the request for {target} came back to the proxy that sent it");
        Err(Failure::new(Kind::Loop, Side::Local, sentence))
    } else {
        exchange::run(local, socket, buffer, &request, target, id, kept, &mut record).await
    };
    let next = result.unwrap_or_else(|failure| {
        record.failed(&failure);
        Next::Close(tell(&failure, &local.name, request.method == Method::HEAD))
    });
    (next, Some(record))
}

/// CONNECT (RFC 9110 §9.3.6). What the app sent already, without waiting for the answer, travels along.
async fn connect(
    local: &Local,
    socket: &TcpStream,
    buffer: &mut BytesMut,
    target: &Target,
    id: u64,
) -> Result<Next, Failure> {
    let upstream = local.routes.open(target, id, buffer.split().freeze(), false).await?;
    match net::write_all(socket, ESTABLISHED).await {
        Ok(()) => Ok(Next::Tunnel(Box::new(upstream), Bytes::new())),
        Err(error) => {
            quiet(&error);
            Ok(Next::Reset)
        }
    }
}

/// Says why there is no way to the server, in a field and in the body: not every app shows both.
fn tell(failure: &Failure, name: &str, head: bool) -> Bytes {
    let status = failure.http_status();
    let proxy_status = failure.proxy_status(name);
    let mut fields = vec![("Proxy-Status", proxy_status.as_str())];
    if status == 503 {
        fields.push(("Retry-After", "5"));
    }
    let body = if head { String::new() } else { format!("{}\n", failure.sentence) };
    simple_response(status, reason(status), &fields, &body, false)
}

fn refuse(malformed: Malformed, peer: &str) -> Next {
    tracing::info!(peer, reason = %malformed, "request refused");
    Next::Close(plain(malformed.status(), &malformed.to_string()))
}

fn plain(status: u16, sentence: &str) -> Bytes {
    simple_response(status, reason(status), &[], &format!("{sentence}\n"), false)
}

fn reason(status: u16) -> &'static str {
    StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error")
}

/// Sends the last answer of a connection, and sees to it that it arrives.
async fn close(socket: TcpStream, answer: Bytes) {
    let finish = async {
        net::write_all(&socket, &answer).await?;
        net::shutdown_write(&socket)?;
        let mut rest = BytesMut::new();
        let mut left = LINGER_BYTES;
        while left > 0 {
            match net::read_some(&socket, &mut rest, READ).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
            rest.clear();
        }
        Ok::<_, std::io::Error>(())
    };
    if let Ok(Err(error)) = timeout(LINGER, finish).await {
        quiet(&error);
    }
}
