//! HTTP at the local port (RFC 9110, RFC 9112): CONNECT, and plain requests in absolute form.
//!
//! Requests are parsed strictly and written anew; the requests of one connection are served one after the other, so
//! pipelining works.

mod answers;
mod assembled;
mod assembly;
mod exchange;
mod filter;
mod forward;
mod front;
mod fronted;
mod kept;
mod received;
mod request_body;
mod response;
mod resume;
mod several;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Method;
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::answers::{answer_here, failed, login_required, plain, refusal_reason};
use self::exchange::Exchange;
use self::forward::Done;
use self::kept::IdleConnections;
use self::request_body::READ as MAX_BODY_READ;
use super::answer::send_last;
use super::context::{App, Local, log_hang_up};
use super::endpoint::AppPeer;
use super::server_connection::ServerConnection;
use super::session::Session;
use crate::failure::{Failure, Kind, Side};
use crate::limited;
use crate::limits::buffer_pool::detached;
use crate::limits::lines::NOBODY;
use crate::link::relay::ReplayBuffer;
use crate::memory::{Account, Tally};
use crate::net;
use crate::telemetry::record::Record;
use crate::telemetry::refusal::RefusalReason;
use crate::wire::http::{BodyLength, MAX_HEAD, Malformed, OWN_FIELDS, RequestHead, RequestTarget, head_end};
use crate::wire::replay;
use crate::wire::target::Target;

/// How long a connection may be idle between two requests.
const IDLE: Duration = Duration::from_secs(75);
/// The maximum of one read from the app, in bytes.
const READ: usize = 16 * 1024;
/// What a connection to the page holds at most, in bytes: a request and a response, or what follows them.
const PAGE: usize = 2 * MAX_HEAD;
/// Sent at an address that is not loopback, instead of the page.
pub(crate) const PAGE_IS_RESERVED: &str = "this is a proxy; its page is for users of its own machine";
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// What follows a request.
enum Next {
    /// Another request may come.
    Request,
    /// The connection ends in an orderly way, after this answer of our own, if any.
    Close(Bytes),
    /// The connection ends with a reset: what the app has received is incomplete.
    Reset,
    /// The connection has become a tunnel.
    Tunnel(Box<Established>),
    /// The request is for the node's own page, and so is the rest of the connection.
    Page,
}

/// What a session needs besides the app's socket.
struct Established {
    server: ServerConnection,
    target: Target,
    id: u64,
    /// What was sent to the server, if it may be repeated.
    replay: Option<ReplayBuffer>,
    record: Record,
}

/// Serves one app from its first request to its end, or until it has become a session.
pub async fn serve(local: &Local, app: App) -> Option<Box<Session>> {
    let App { socket, peer, mut handshake, account } = app;
    let mut buffer = BytesMut::new();
    // The memory of `buffer`, and of a request while it is served.
    let mut held = Tally::of(&account);
    let mut kept = IdleConnections::default();
    loop {
        let mut head = handshake.within(read_head(&socket, &mut buffer, &mut held)).await;
        drop(handshake);
        let next = match &mut head {
            Some(Ok(Some(head))) => match RequestHead::parse(head) {
                Ok(request) => {
                    held.set(buffer.capacity() + head.capacity() + memory_of(&request));
                    answer(local, (&socket, &account), &mut buffer, request, &mut kept, peer).await
                }
                Err(malformed) => refuse(local, malformed, peer),
            },
            Some(Ok(None)) => return None,
            Some(Err(HeadError::HungUp(error))) => {
                log_hang_up(error);
                return None;
            }
            Some(Err(HeadError::Malformed(malformed))) => refuse(local, *malformed, peer),
            None => {
                local.telemetry.refused.one(("http", RefusalReason::Late));
                Next::Close(plain(408, "the request head did not arrive in time"))
            }
        };
        match next {
            Next::Request => {}
            Next::Close(answer) => {
                send_last(socket, &answer).await;
                return None;
            }
            Next::Reset => {
                net::reset(socket);
                return None;
            }
            Next::Tunnel(established) => {
                let Established { server, target, id, replay, record } = *established;
                drop(held);
                return Some(Session::new((socket, account), target, id, server, replay, record));
            }
            Next::Page => {
                let mut received = head.and_then(Result::ok).flatten().unwrap_or_default();
                received.unsplit(buffer);
                held.set(PAGE);
                // Boxed, so that other connections do not hold its state.
                let page = Box::pin(local.page.serve(socket, received, &local.drain));
                if let Some(reason) = page.await {
                    local.telemetry.refused.one(("http", reason));
                }
                return None;
            }
        }
        if buffer.is_empty() && !wait_for_request(local, &socket, &mut buffer, &mut kept).await {
            kept.close();
            return None;
        }
        held.set(buffer.capacity());
        handshake = local.handshakes.begin();
    }
}

/// What serving a request holds at most, in bytes: its fields as received and as they are sent on, and what is read of its
/// body before that is sent on.
fn memory_of(request: &RequestHead) -> usize {
    let body = if request.body == BodyLength::None { 0 } else { MAX_BODY_READ };
    2 * request.fields.memory() + body
}

/// Waits for the first bytes of the next request; false when none come, or when the app has lost a login with a
/// connection to a server, which it must notice.
async fn wait_for_request(
    local: &Local,
    socket: &TcpStream,
    buffer: &mut BytesMut,
    kept: &mut IdleConnections,
) -> bool {
    let mut more = std::pin::pin!(timeout(IDLE, net::read_some(socket, buffer, READ)));
    loop {
        tokio::select! {
            more = &mut more => return matches!(more, Ok(Ok(1..))),
            () = local.drain.cancelled() => return false,
            has_lost_login = kept.lost_login() => if has_lost_login { return false },
        }
    }
}

enum HeadError {
    HungUp(std::io::Error),
    Malformed(Malformed),
}

/// Reads up to the end of the next request head. `None` when the app ends the connection before one begins.
async fn read_head(
    socket: &TcpStream,
    buffer: &mut BytesMut,
    held: &mut Tally,
) -> Result<Option<BytesMut>, HeadError> {
    let mut searched = 0;
    loop {
        if let Some(end) = head_end(buffer, searched) {
            return Ok(Some(buffer.split_to(end)));
        }
        // TLS or another binary protocol: its sender waits for an answer and never ends a head.
        if buffer.first().is_some_and(|byte| !byte.is_ascii_graphic() && !b"\r\n".contains(byte)) {
            return Err(HeadError::Malformed(Malformed::Method));
        }
        searched = buffer.len();
        if searched >= MAX_HEAD {
            let in_target = !buffer.contains(&b'\n');
            let malformed = if in_target { Malformed::TargetTooLong } else { Malformed::HeadTooLarge };
            return Err(HeadError::Malformed(malformed));
        }
        socket.readable().await.map_err(HeadError::HungUp)?;
        // Thousands of apps may send at the same time.
        if let Some(account) = held.account() {
            account.may_take().await;
        }
        match net::read_some(socket, buffer, READ).await.map_err(HeadError::HungUp)? {
            0 if buffer.is_empty() => return Ok(None),
            0 => return Err(HeadError::Malformed(Malformed::Unfinished)),
            _ => held.set(buffer.capacity()),
        }
    }
}

/// Answers one request, whose body and successors may be in `buffer`.
async fn answer(
    local: &Local,
    (socket, account): (&TcpStream, &Arc<Account>),
    buffer: &mut BytesMut,
    mut request: RequestHead,
    kept: &mut IdleConnections,
    peer: AppPeer,
) -> Next {
    // With these fields an app could speak for this node at the gateway.
    request.fields.remove_beginning(OWN_FIELDS);
    let (dialect, host, port) = match &request.target {
        RequestTarget::Authority { host, port } => ("connect", host, *port),
        RequestTarget::Absolute { host, port, .. } => ("http", host, *port),
        RequestTarget::Origin { .. } if !peer.is_of_this_machine() => {
            local.telemetry.refused.one(("http", RefusalReason::Destination));
            return Next::Close(plain(403, PAGE_IS_RESERVED));
        }
        RequestTarget::Origin { path } if front::is_for_front(path) => {
            let done = front::answer(local, (socket, account), buffer, request, kept, peer);
            return match Box::pin(done).await {
                Done::Complete => Next::Request,
                Done::Close(answer) => Next::Close(answer),
                Done::Reset | Done::Challenged(_) | Done::Upgraded(_) => Next::Reset,
            };
        }
        RequestTarget::Origin { .. } => return Next::Page,
        RequestTarget::Asterisk => {
            local.telemetry.refused.one(("http", RefusalReason::Destination));
            return Next::Close(plain(400, "this is a proxy; ask it for a server"));
        }
    };
    let id = local.next_id();
    let mut record = Record::of_app(&local.telemetry, id, dialect, peer.to_string());
    let target = match Target::new(host, port) {
        Ok(target) => target,
        Err(error) => {
            record.refused(RefusalReason::Destination, error.to_string());
            return Next::Close(plain(400, &error.to_string()));
        }
    };
    record.aims_at(&target);
    let login = request.fields.get("proxy-authorization");
    let source = || peer.login_source(socket.local_addr().ok());
    if local.logins.are_needed() && !local.logins.admit_basic(source(), login) {
        let reason = if login.is_some() { RefusalReason::WrongLogin } else { RefusalReason::NoLogin };
        record.refused(reason, "no login, or a wrong one");
        return Next::Close(login_required(request.method == Method::HEAD));
    }
    if request.max_forwards() == Some(0) {
        record.ended("answered here: Max-Forwards is 0");
        return Next::Close(answer_here(&request));
    }
    let result = if request.via_names(&local.name) {
        let sentence = format!("the request for {target} came back to the proxy that sent it");
        Err(Failure::new(Kind::Loop, Side::Local, sentence))
    } else if request.method == Method::CONNECT {
        return connect(local, (socket, account), buffer, target, id, record).await;
    } else {
        let exchange = Exchange::new(local, (socket, account), &request, &target, id);
        forward::forward(&exchange, buffer, kept, &mut record).await
    };
    match result {
        Ok(Done::Upgraded(server)) => {
            Next::Tunnel(Box::new(Established { server: *server, target, id, replay: None, record }))
        }
        Ok(Done::Complete) => Next::Request,
        Ok(Done::Close(answer)) => Next::Close(answer),
        Ok(Done::Reset | Done::Challenged(_)) => Next::Reset,
        Err(failure) => {
            record.failed(&failure);
            Next::Close(failed(&failure, &local.name, request.method == Method::HEAD))
        }
    }
}

/// CONNECT (RFC 9110 §9.3.6). What the app has sent already, without waiting for the answer, is sent to the server.
async fn connect(
    local: &Local,
    (socket, account): (&TcpStream, &Arc<Account>),
    buffer: &mut BytesMut,
    target: Target,
    id: u64,
    mut record: Record,
) -> Next {
    // Kept for a replay, without the head that it was received with.
    let first = detached(buffer.split().freeze(), READ);
    match local.routes.open(&target, id, first.clone(), replay::is_safe(&first), account).await {
        Ok(server) => match net::write_all(socket, ESTABLISHED).await {
            Ok(()) => {
                let replay = Some(ReplayBuffer::new(&first, account));
                Next::Tunnel(Box::new(Established { server, target, id, replay, record }))
            }
            Err(error) => {
                log_hang_up(&error);
                Next::Reset
            }
        },
        Err(failure) => {
            record.failed(&failure);
            Next::Close(failed(&failure, &local.name, false))
        }
    }
}

fn refuse(local: &Local, malformed: Malformed, peer: AppPeer) -> Next {
    limited!(info, NOBODY, %peer, reason = %malformed, "request refused");
    local.telemetry.refused.one(("http", refusal_reason(malformed)));
    Next::Close(plain(malformed.status(), &malformed.to_string()))
}
