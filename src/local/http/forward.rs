//! One plain request, forwarded to its server: over a connection that is open already or a new one, again where it is
//! safe to repeat. The body goes up while the response comes down.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::answers::{plain, refusal_reason};
use super::exchange::{Exchange, Trouble};
use super::request_body::{UploadError, send_body};
use super::response::Delivered;
use crate::failure::{Failure, Kind, Side};
use crate::link::alive::Pulse;
use crate::link::relay::Progress;
use crate::local::context::log_hang_up;
use crate::local::server_connection::{FromServer, ServerConnection, ToServer};
use crate::telemetry::record::Record;
use crate::wire::http::BodyLength;
use crate::wire::replay;
use crate::wire::target::Target;

/// How long an app that has ended its own direction waits for a response to begin.
const HALF_CLOSED: Duration = Duration::from_secs(30);
/// Maximum number of repetitions of one request.
const MOST_REPEATS: u32 = 8;

/// How one request ended.
pub(super) enum Done {
    /// The response is complete; another request may follow.
    Complete,
    /// The connection ends in an orderly way, after this answer of our own, if any.
    Close(Bytes),
    /// The connection ends with a reset: what the app has received is incomplete.
    Reset,
    /// The server has changed protocols: from now on bytes go both ways.
    Upgraded(Box<ServerConnection>),
}

/// An idle connection to a server, kept for the next request of the same app to the same server.
pub(super) struct Reusable {
    target: Target,
    server: ServerConnection,
}

/// Waits until the idle connection cannot be reused any more.
pub(super) async fn until_stale(reusable: &mut Option<Reusable>) {
    match reusable {
        Some(reusable) => reusable.server.until_stale().await,
        None => std::future::pending().await,
    }
}

/// Closes an idle connection in an orderly way.
pub(super) fn close(reusable: Option<Reusable>) {
    if let Some(reusable) = reusable {
        reusable.server.close();
    }
}

/// Forwards one request. The connection of the last request is used again when it leads to the same server. A safe
/// request is repeated when there was no response because that connection had died (RFC 9112 §9.3.1) or the gateway was
/// lost; a download whose gateway is lost continues over the next one where that is safe.
///
/// # Errors
/// When there is no response, and nothing has been sent to the app.
pub(super) async fn forward(
    exchange: &Exchange<'_>,
    buffer: &mut BytesMut,
    reusable: &mut Option<Reusable>,
    record: &mut Record,
) -> Result<Done, Failure> {
    let Exchange { local, request, target, id, .. } = *exchange;
    let mut head = BytesMut::new();
    request.write_forward(&local.name, &mut head);
    let head = head.freeze();
    let repeatable = replay::is_safe_method(&request.method) && request.body == BodyLength::None;
    // Any other request gets a connection of its own: if an old one died under it, nobody could say whether the request
    // was served.
    let mut open = reusable.take().filter(|old| old.target == *target && repeatable).map(|old| old.server);
    if let Some(old) = &mut open
        && (old.is_stale() || old.halves().0.send(head.clone()).await.is_err())
    {
        open = None;
    }
    let mut reused = open.is_some();
    let mut repeats = 0;
    // A request moves away from a suspect gateway once.
    let mut moved = false;
    loop {
        let mut server = match open.take() {
            Some(server) => server,
            None => local.routes.open(target, id, head.clone(), repeatable).await?,
        };
        record.gateway = server.gateway().to_owned();
        let link = server.link().filter(|_| repeatable && !moved);
        let ended = tokio::select! {
            biased;
            ended = attempt(exchange, buffer, &mut server, head.len(), record) => ended,
            () = until_better(exchange, link) => {
                moved = true;
                Err(Trouble::Silent { lost: true, why: "the gateway fell silent".into() })
            }
        };
        let used = Reusable { target: target.clone(), server };
        match ended {
            Err(Trouble::Silent { lost, .. }) if repeatable && (lost || reused) && repeats < MOST_REPEATS => {
                (reused, repeats) = (false, repeats + 1);
                tracing::info!(conn = format!("{id:016x}"), "request repeated: no answer came");
                record.rescued("repeated");
            }
            Err(Trouble::Lost(why)) => {
                let resumed = exchange.resume(why, record).await;
                let complete = Ended::Complete { again: request.keep_alive, reusable: false };
                return conclude(resumed.map(|()| complete), used, reusable, record);
            }
            ended => return conclude(ended, used, reusable, record),
        }
    }
}

/// How one attempt ended.
enum Ended {
    /// The response was passed on completely.
    Complete {
        /// The app may send another request.
        again: bool,
        /// The server takes another request.
        reusable: bool,
    },
    /// The server has changed protocols.
    Upgraded,
}

fn conclude(
    ended: Result<Ended, Trouble>,
    used: Reusable,
    reusable: &mut Option<Reusable>,
    record: &mut Record,
) -> Result<Done, Failure> {
    record.ended("closed");
    match ended {
        Ok(Ended::Complete { again, reusable: is_reusable }) => {
            match is_reusable {
                true => *reusable = Some(used),
                false => used.server.close(),
            }
            Ok(if again { Done::Complete } else { Done::Close(Bytes::new()) })
        }
        Ok(Ended::Upgraded) => Ok(Done::Upgraded(Box::new(used.server))),
        Err(Trouble::Silent { why, .. }) => {
            let sentence = format!("{} ended the connection without an answer: {why}", used.target);
            Err(Failure::new(Kind::Terminated, Side::Server, sentence))
        }
        Err(Trouble::Bad(malformed)) => {
            let sentence = format!("the answer of {} cannot be passed on: {malformed}", used.target);
            Err(Failure::new(Kind::BadResponse, Side::Server, sentence))
        }
        Err(Trouble::BadBody(malformed)) => {
            record.refused(refusal_reason(malformed), malformed.to_string());
            Ok(Done::Close(plain(malformed.status(), &malformed.to_string())))
        }
        Err(Trouble::Truncated(why) | Trouble::Lost(why)) => {
            record.ended(why);
            Ok(Done::Reset)
        }
        Err(Trouble::App(error)) => {
            record.ended("the app hung up");
            log_hang_up(&error);
            Ok(Done::Reset)
        }
    }
}

/// One attempt over `server`, to which the head of the request, of `head` bytes, has been sent already.
async fn attempt(
    exchange: &Exchange<'_>,
    buffer: &mut BytesMut,
    server: &mut ServerConnection,
    head: usize,
    record: &mut Record,
) -> Result<Ended, Trouble> {
    let (mut to_server, mut from_server) = server.halves();
    let traffic = record.traffic();
    let progress = Progress::of_app(&traffic);
    progress.add_sent(head);
    let exchanged = both_ways(exchange, buffer, &mut to_server, &mut from_server, &progress).await;
    record.moved(progress.moved());
    let (delivered, uploaded) = exchanged?;
    if delivered.upgraded {
        let early = buffer.split().freeze();
        return match to_server.send(early).await {
            Ok(()) => Ok(Ended::Upgraded),
            Err(error) => Err(Trouble::Truncated(error.to_string())),
        };
    }
    Ok(Ended::Complete {
        again: uploaded && delivered.framed && exchange.request.keep_alive,
        reusable: uploaded && delivered.reusable,
    })
}

/// Sends the body of the request and passes on the response, until the response has ended. Gives whether the body was
/// sent completely by then, too.
async fn both_ways(
    exchange: &Exchange<'_>,
    buffer: &mut BytesMut,
    to_server: &mut ToServer<'_>,
    from_server: &mut FromServer<'_>,
    progress: &Progress<'_>,
) -> Result<(Delivered, bool), Trouble> {
    let mut uploaded = exchange.request.body == BodyLength::None;
    let mut upload = std::pin::pin!(send_body(exchange.request, exchange.app, buffer, to_server, progress));
    let mut delivery = std::pin::pin!(exchange.deliver(from_server, progress));
    let mut uploading = !uploaded;
    loop {
        tokio::select! {
            biased;
            delivered = &mut delivery => return Ok((delivered?, uploaded)),
            () = app_gone(exchange), if uploaded => {
                return Err(Trouble::App(io::ErrorKind::ConnectionAborted.into()));
            }
            result = &mut upload, if uploading => {
                uploading = false;
                match result {
                    Ok(()) => uploaded = true,
                    // The server may have answered before it stopped reading.
                    Err(UploadError::Server(error)) => {
                        tracing::debug!(%error, "the server stopped reading the request");
                    }
                    Err(UploadError::App(error)) => return Err(Trouble::App(error)),
                    Err(UploadError::Malformed(malformed)) if exchange.started.load(Relaxed) => {
                        return Err(Trouble::Truncated(malformed.to_string()));
                    }
                    Err(UploadError::Malformed(malformed)) => return Err(Trouble::BadBody(malformed)),
                }
            }
        }
    }
}

/// Waits until the response cannot reach the app any more. An app that has only ended its own direction may still read,
/// and is given some time.
async fn app_gone(exchange: &Exchange<'_>) {
    let app: &TcpStream = exchange.app;
    match app.peek(&mut [0]).await {
        Ok(0) => {
            tokio::time::sleep(HALF_CLOSED).await;
            if exchange.started.load(Relaxed) {
                // From now on the writes show whether the app reads.
                std::future::pending().await
            }
        }
        Ok(_) => drop(app.ready(Interest::ERROR).await),
        Err(_) => {}
    }
}

/// Waits until there is a better gateway than that of `link`, while no response has begun.
async fn until_better(exchange: &Exchange<'_>, link: Option<(Arc<Pulse>, SocketAddr)>) {
    let Some((pulse, gateway)) = link else { return std::future::pending().await };
    exchange.local.routes.until_better(&pulse, gateway).await;
    if exchange.started.load(Relaxed) {
        std::future::pending().await
    }
}
