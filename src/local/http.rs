//! HTTP at the local port (RFC 9110, RFC 9112): CONNECT, and plain requests in absolute form.
//!
//! Requests are parsed strictly and written anew; the requests of one connection are served in turn, so
//! pipelining works.

mod exchange;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::endpoint::Peer;
use super::handshakes::HANDSHAKE;
use super::listener::{App, Local, quiet};
use super::session::Tunnelled;
use super::upstream::Upstream;
use crate::failure::{Failure, Kind, Side};
use crate::link::relay::ReplayBuffer;
use crate::net;
use crate::telemetry::record::Record;
use crate::telemetry::refusal::Refusal;
use crate::wire::http::{
    MAX_HEAD, Malformed, RequestHead, RequestTarget, head_end, simple_response, trace_response,
};
use crate::wire::replay;
use crate::wire::target::Target;
use exchange::Reusable;

/// How long a connection may be idle between two requests.
const IDLE: Duration = Duration::from_secs(75);
/// One read of the app's bytes.
const READ: usize = 16 * 1024;
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// What follows a request.
enum Next {
    /// Another request may come.
    Request,
    /// The connection ends orderly, after this answer of our own, if any.
    Close(Bytes),
    /// The connection ends with a reset: what the app got is not the whole.
    Reset,
    /// The connection has become a tunnel.
    Tunnel(Box<Established>),
    /// The request is for the node's own page, and so is the rest of the connection.
    Page,
}

/// How one request ended.
enum Done {
    /// Whole; another may follow.
    Request,
    /// The connection ends orderly, after this answer of our own, if any.
    Close(Bytes),
    /// The connection ends with a reset.
    Reset,
    /// The server takes what comes from now on.
    Tunnel(Box<Upstream>, Option<ReplayBuffer>),
}

/// What a tunnel needs but the app's socket.
struct Established {
    upstream: Upstream,
    target: Target,
    id: u64,
    kept: Option<ReplayBuffer>,
    record: Record,
}

/// Serves one app from its first request to its end, or until it is a tunnel.
pub async fn serve(local: &Local, app: App) -> Option<Box<Tunnelled>> {
    let App { socket, peer, mut handshake } = app;
    let mut buffer = BytesMut::new();
    let mut reusable = None;
    loop {
        let mut head = handshake.within(read_head(&socket, &mut buffer)).await;
        drop(handshake);
        let next = match &mut head {
            Some(Ok(Some(head))) => match RequestHead::parse(head) {
                Ok(request) => answer(local, &socket, &mut buffer, request, &mut reusable, peer).await,
                Err(malformed) => refuse(local, malformed, peer),
            },
            Some(Ok(None)) => return None,
            Some(Err(HeadError::Gone(error))) => {
                quiet(error);
                return None;
            }
            Some(Err(HeadError::Refused(malformed))) => refuse(local, *malformed, peer),
            None => {
                local.telemetry.refused.one(("http", Refusal::Late));
                Next::Close(plain(408, "the request head did not arrive in time"))
            }
        };
        match next {
            Next::Request => {}
            Next::Close(answer) => {
                close(socket, answer).await;
                return None;
            }
            Next::Reset => {
                net::reset(socket);
                return None;
            }
            Next::Tunnel(established) => {
                let Established { upstream, target, id, kept, record } = *established;
                return Some(Box::new(Tunnelled { app: socket, target, id, upstream, kept, record }));
            }
            Next::Page => {
                let mut received = head.and_then(Result::ok).flatten().unwrap_or_default();
                received.unsplit(buffer);
                // Boxed, so that other connections do not hold its state.
                let page = Box::pin(local.page.serve(socket, received, &local.drain));
                if let Some(reason) = page.await {
                    local.telemetry.refused.one(("http", reason));
                }
                return None;
            }
        }
        if buffer.is_empty() {
            let more = {
                let more = timeout(IDLE, net::read_some(&socket, &mut buffer, READ));
                let mut more = std::pin::pin!(more);
                loop {
                    tokio::select! {
                        more = &mut more => break more,
                        () = local.drain.cancelled() => break Ok(Ok(0)),
                        () = exchange::until_stale(&mut reusable), if reusable.is_some() => reusable = None,
                    }
                }
            };
            if !matches!(more, Ok(Ok(1..))) {
                exchange::end(reusable);
                return None;
            }
        }
        handshake = local.handshakes.begin();
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
    reusable: &mut Option<Reusable>,
    peer: Peer,
) -> Next {
    let (dialect, host, port) = match &request.target {
        RequestTarget::Authority { host, port } => ("connect", host, *port),
        RequestTarget::Absolute { host, port, .. } => ("http", host, *port),
        RequestTarget::Origin { .. } if !peer.is_of_this_machine() => {
            local.telemetry.refused.one(("http", Refusal::Destination));
            return Next::Close(plain(403, "this is a proxy; its page is for users of its own machine"));
        }
        RequestTarget::Origin { .. } => return Next::Page,
        RequestTarget::Asterisk => {
            local.telemetry.refused.one(("http", Refusal::Destination));
            return Next::Close(plain(400, "this is a proxy; ask it for a server"));
        }
    };
    let id = local.id();
    let mut record = Record::of_app(&local.telemetry, id, dialect, peer.to_string());
    let target = match Target::new(host, port) {
        Ok(target) => target,
        Err(error) => {
            record.refused(Refusal::Destination, error.to_string());
            return Next::Close(plain(400, &error.to_string()));
        }
    };
    record.aims_at(&target);
    let login = request.fields.get("proxy-authorization");
    if local.logins.are_needed() && !local.logins.admit_basic(peer.source(), login) {
        let reason = if login.is_some() { Refusal::WrongLogin } else { Refusal::NoLogin };
        record.refused(reason, "no login, or a wrong one");
        return Next::Close(ask_for_login(request.method == Method::HEAD));
    }
    if request.max_forwards() == Some(0) {
        record.ended("answered here: Max-Forwards is 0");
        return Next::Close(answer_here(&request));
    }
    let result = if request.via_names(&local.name) {
        let sentence = format!("the request for {target} came back to the proxy that sent it");
        Err(Failure::new(Kind::Loop, Side::Local, sentence))
    } else if request.method == Method::CONNECT {
        connect(local, socket, buffer, &target, id).await
    } else {
        exchange::run(local, socket, buffer, &request, &target, id, reusable, &mut record).await
    };
    match result {
        Ok(Done::Tunnel(upstream, kept)) => {
            Next::Tunnel(Box::new(Established { upstream: *upstream, target, id, kept, record }))
        }
        Ok(Done::Request) => Next::Request,
        Ok(Done::Close(answer)) => Next::Close(answer),
        Ok(Done::Reset) => Next::Reset,
        Err(failure) => {
            record.failed(&failure);
            Next::Close(tell(&failure, &local.name, request.method == Method::HEAD))
        }
    }
}

/// CONNECT (RFC 9110 §9.3.6). What the app sent already, without waiting for the answer, goes along.
async fn connect(
    local: &Local,
    socket: &TcpStream,
    buffer: &mut BytesMut,
    target: &Target,
    id: u64,
) -> Result<Done, Failure> {
    let first = buffer.split().freeze();
    let upstream = local.routes.open(target, id, first.clone(), replay::is_safe(&first)).await?;
    match net::write_all(socket, ESTABLISHED).await {
        Ok(()) => Ok(Done::Tunnel(Box::new(upstream), Some(ReplayBuffer::new(&first)))),
        Err(error) => {
            quiet(&error);
            Ok(Done::Reset)
        }
    }
}

/// The answer of a proxy that is the last recipient (RFC 9110 §7.6.2): what it can do, or what it got (§9.3.8).
fn answer_here(request: &RequestHead) -> Bytes {
    if request.method == Method::TRACE {
        return trace_response(&request.trace());
    }
    simple_response(
        200,
        "OK",
        &[("Allow", "CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, TRACE")],
        "",
        false,
    )
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

fn refuse(local: &Local, malformed: Malformed, peer: Peer) -> Next {
    tracing::info!(%peer, reason = %malformed, "request refused");
    local.telemetry.refused.one(("http", refusal(malformed)));
    Next::Close(plain(malformed.status(), &malformed.to_string()))
}

fn refusal(malformed: Malformed) -> Refusal {
    match (malformed, malformed.status()) {
        (Malformed::Unfinished, _) => Refusal::Unfinished,
        (Malformed::HttpsInAbsoluteForm | Malformed::Scheme, _) | (_, 501) => Refusal::Unsupported,
        (Malformed::Host | Malformed::Port, _) => Refusal::Destination,
        (_, 431) => Refusal::TooLong,
        (_, 505) => Refusal::Version,
        _ => Refusal::Malformed,
    }
}

/// RFC 9110 §11.7.1, RFC 7617 §2.1.
fn ask_for_login(head: bool) -> Bytes {
    let challenge = ("Proxy-Authenticate", "Basic realm=\"laneway\", charset=\"UTF-8\"");
    let body = if head { "" } else { "this proxy asks for a login\n" };
    simple_response(407, reason(407), &[challenge], body, false)
}

fn plain(status: u16, sentence: &str) -> Bytes {
    simple_response(status, reason(status), &[], &format!("{sentence}\n"), false)
}

fn reason(status: u16) -> &'static str {
    StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error")
}

/// Sends the last answer of a connection, and sees to it that it arrives.
async fn close(socket: TcpStream, answer: Bytes) {
    match timeout(HANDSHAKE, net::write_all(&socket, &answer)).await {
        Ok(Ok(())) => net::linger(&socket).await,
        Ok(Err(error)) => quiet(&error),
        Err(_) => tracing::debug!("the app does not read its answer"),
    }
}
