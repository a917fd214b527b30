//! One plain request, forwarded to its server: over a connection that is open already or a new one, again where it is
//! safe to repeat. The body goes up while the response comes down.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, sleep, sleep_until};

use super::answers::{plain, refusal_reason};
use super::exchange::{Exchange, Share, Trouble};
use super::fronted::Fronted;
use super::kept::{Idle, IdleConnections};
use super::request_body::{UploadError, send_body};
use super::response::Delivered;
use crate::cache::partial;
use crate::failure::{Failure, Kind, Side};
use crate::fronts::token::Challenge;
use crate::limited;
use crate::limits::lines::NOBODY;
use crate::link::alive::LinkState;
use crate::link::relay::Progress;
use crate::local::beside::Waiting;
use crate::local::context::log_hang_up;
use crate::local::outcomes::{RECHECK, SILENCE};
use crate::local::server_connection::{FromServer, ServerConnection, ServerError, ToServer};
use crate::peers::selection::Failing;
use crate::sys::closed::until_closed;
use crate::telemetry::journal::Happening;
use crate::telemetry::record::Record;
use crate::wire::http::BodyLength;
use crate::wire::id::NodeId;
use crate::wire::replay;

/// Maximum number of repetitions of one request.
const MOST_REPEATS: u32 = 8;
/// Why a request moves to another gateway.
const FELL_SILENT: &str = "the gateway fell silent";

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
    /// A registry asks for this token first.
    Challenged(Challenge),
}

/// Forwards one request. The connection of the last request is used again when it leads to the same server. A safe
/// request is repeated when there was no response because that connection had died (RFC 9112 §9.3.1) or the gateway was
/// lost; a download whose gateway is lost continues over the next one where that is safe. On a connection with a login
/// nothing is repeated: when it is lost, the app's connection is closed without an answer, as the server's was.
///
/// # Errors
/// When there is no response, and nothing has been sent to the app.
pub(super) async fn forward(
    exchange: &Exchange<'_>,
    buffer: &mut BytesMut,
    kept: &mut IdleConnections,
    record: &mut Record,
) -> Result<Done, Failure> {
    let Exchange { local, request, target, id, .. } = *exchange;
    let mut head = BytesMut::new();
    request.write_forward(&local.name, &mut head);
    let head = head.freeze();
    let logs_in = exchange.has_login.load(Relaxed);
    let repeatable = replay::is_safe_method(&request.method) && request.body == BodyLength::None && !logs_in;
    let mut open = kept.take((target, exchange.transport()), repeatable);
    let had_login = open.as_ref().is_some_and(|idle| idle.has_login);
    let repeatable = repeatable && !had_login;
    exchange.has_login.store(logs_in || had_login, Relaxed);
    if let Some(old) = &mut open
        && (old.server.is_stale() || old.server.halves().0.send(head.clone()).await.is_err())
    {
        if had_login {
            return Ok(login_lost(record));
        }
        open = None;
    }
    let mut reused = open.is_some();
    let mut open = open.map(|idle| idle.server);
    let mut repeats = 0;
    // A request moves away from a suspect gateway once.
    let mut moved = false;
    let mut is_repeated = false;
    loop {
        let mut server = match open.take() {
            Some(server) => server,
            None => {
                // A connection that is to become another one, or to hold a login, is the server's from end to end.
                let as_tunnel = request.upgrade.is_some() || logs_in;
                match exchange.open_unless_left(head.clone(), repeatable, as_tunnel).await? {
                    Some(server) => server,
                    None => return Ok(given_up(record)),
                }
            }
        };
        if std::mem::take(&mut is_repeated) {
            record.rescued("repeated");
        }
        record.gateway = server.gateway().to_owned();
        exchange.comes_over(&server);
        let over = server.gateway_id().zip(server.link().map(|(_, gateway)| gateway));
        let again = Again { head: (repeatable && !moved).then_some(&head), ..Again::default() };
        let (ended, moves) =
            attempt_or_move(exchange, buffer, &mut server, (head.len(), again), record).await;
        if let Some(to) = moves {
            (moved, open) = (true, to);
        }
        let has_login = exchange.has_login.load(Relaxed);
        let used = Idle { target: target.clone(), transport: exchange.transport(), server, has_login };
        match ended {
            Err(Trouble::Silent { .. } | Trouble::Cut) if had_login => return Ok(login_lost(record)),
            Err(trouble)
                if repeatable && repeats < MOST_REPEATS && is_no_answer(exchange, &trouble, reused, over) =>
            {
                (reused, repeats) = (false, repeats + 1);
                limited!(info, NOBODY, conn = format!("{id:016x}"), "request repeated: no answer came");
                is_repeated = true;
            }
            Err(Trouble::Lost(why)) => {
                let resumed = resume(exchange, why, record).await;
                let complete = Ended::Complete { again: request.keep_alive, reusable: false };
                return conclude(resumed.map(|()| complete), used, kept, record);
            }
            Err(Trouble::Challenged) => {
                let challenge = exchange.front.and_then(Fronted::challenge);
                return Ok(challenge.map_or(Done::Reset, Done::Challenged));
            }
            ended => return conclude(ended, used, kept, record),
        }
    }
}

/// Resumes a download whose link was lost, and counts the one that cannot be.
async fn resume(exchange: &Exchange<'_>, lost: String, record: &mut Record) -> Result<(), Trouble> {
    let gateway = record.gateway.clone();
    let is_resumable = exchange.point().is_some();
    let resumed = exchange.resume(lost.clone(), record).await;
    if let Err(Trouble::Truncated(why)) = &resumed {
        let and = match is_resumable {
            false if partial::has_several(exchange.request) => {
                ", and of several parts of a file only the app can ask for the rest".to_owned()
            }
            false => {
                ", and the rest cannot be asked for: the server has not said which version of how many bytes it sends \
                 (Content-Length, with ETag or an older Last-Modified)"
                    .to_owned()
            }
            true if *why == lost => ", and no other gateway could continue the download".into(),
            true => format!(", and no other gateway could continue the download: {why}"),
        };
        let why = lost + &and;
        record.cut("gateway", &gateway, &why);
    }
    resumed
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

/// The app's connection ends without an answer, because its login has ended with the server's connection. The app sees what
/// it would see without a proxy, and can log in again on a new connection.
fn login_lost(record: &mut Record) -> Done {
    record.ended("the server closed the connection that the app had logged in on");
    Done::Reset
}

/// The app has closed its connection before the request was sent, and nobody will send it.
fn given_up(record: &mut Record) -> Done {
    record.ended("the app closed its connection before there was one to the server");
    Done::Reset
}

fn conclude(
    ended: Result<Ended, Trouble>,
    used: Idle,
    kept: &mut IdleConnections,
    record: &mut Record,
) -> Result<Done, Failure> {
    record.ended("closed");
    match ended {
        Ok(Ended::Complete { again, reusable: is_reusable }) => {
            match is_reusable {
                true => kept.keep(used),
                false => used.server.close(),
            }
            Ok(if again { Done::Complete } else { Done::Close(Bytes::new()) })
        }
        Ok(Ended::Upgraded) => Ok(Done::Upgraded(Box::new(used.server))),
        Err(Trouble::Silent { lost: true, .. }) if used.server.gateway_id().is_some() => {
            let (target, gateway) = (&used.target, used.server.gateway());
            let sentence = format!(
                "the link to the gateway {gateway} broke before {target} had answered; whether it has the request is not known"
            );
            Err(Failure::new(Kind::Terminated, Side::Link, sentence))
        }
        Err(Trouble::Silent { why, .. }) => {
            let sentence = format!("{} ended the connection without a whole answer: {why}", used.target);
            Err(Failure::new(Kind::Terminated, Side::Server, sentence))
        }
        Err(Trouble::Cut) => {
            let (target, gateway) = (&used.target, used.server.gateway());
            let sentence = format!(
                "{target} accepted the connection over the gateway {gateway}, and then nothing came back; whether it has the \
                 request is not known"
            );
            Err(Failure::new(Kind::ConnectTimeout, Side::Server, sentence))
        }
        Err(Trouble::Bad(malformed)) => {
            let sentence = format!("the answer of {} cannot be passed on: {malformed}", used.target);
            Err(Failure::new(Kind::BadResponse, Side::Server, sentence))
        }
        Err(Trouble::Astray(sentence)) => Err(Failure::new(Kind::BadResponse, Side::Server, sentence)),
        Err(Trouble::BadBody(malformed)) => {
            record.refused(refusal_reason(malformed), malformed.to_string());
            Ok(Done::Close(plain(malformed.status(), &malformed.to_string())))
        }
        Err(Trouble::CutOff(why)) => {
            record.cut("way-out", &record.gateway, &why);
            record.ended(why);
            Ok(Done::Reset)
        }
        Err(Trouble::Truncated(why) | Trouble::Lost(why) | Trouble::Poisoned(why)) => {
            record.ended(why);
            Ok(Done::Reset)
        }
        Err(Trouble::Challenged) => Ok(Done::Reset),
        Err(Trouble::Left) => {
            record.ended("the app closed its connection before the end of the answer");
            // The server has the whole request, as it would without a proxy.
            used.server.close();
            Ok(Done::Reset)
        }
        Err(Trouble::App(error)) => {
            record.ended("the app hung up");
            log_hang_up(&error);
            Ok(Done::Reset)
        }
    }
}

/// An attempt that is given up once there is a better one. Also returns the connection over which the better one was answered, if
/// it was.
async fn attempt_or_move(
    exchange: &Exchange<'_>,
    buffer: &mut BytesMut,
    server: &mut ServerConnection,
    (head, again): (usize, Again<'_>),
    record: &mut Record,
) -> (Result<Ended, Trouble>, Option<Option<ServerConnection>>) {
    let over = server.gateway_id().zip(server.link().map(|(_, gateway)| gateway));
    let mut moves = pin!(until_moved(exchange, server.link(), over, &again));
    let mut ended = tokio::select! {
        biased;
        ended = attempt(exchange, buffer, server, head, record) => Ok(ended),
        moved = &mut moves => Err(moved),
    };
    // What was asked over another gateway meanwhile may still be answered.
    if matches!(ended, Ok(Err(Trouble::Silent { .. } | Trouble::Cut))) && again.is_asked.load(Relaxed) {
        again.is_ended.store(true, Relaxed);
        ended = tokio::select! {
            moved = &mut moves => Err(moved),
            () = until_closed(exchange.app) => Ok(Err(Trouble::Left)),
        };
    }
    match ended {
        Ok(ended) => (ended, None),
        Err((to, why)) => (Err(Trouble::Silent { lost: true, why: why.into() }), Some(to)),
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
    let gateway = server.gateway_id();
    let (mut to_server, mut from_server) = server.halves();
    let traffic = record.traffic();
    let progress = Progress::of_app(&traffic);
    progress.add_sent(head);
    let exchanged = both_ways(exchange, buffer, &mut to_server, &mut from_server, &progress).await;
    record.moved(progress.moved());
    let shares = std::mem::take(&mut *exchange.shares());
    if shares.len() > 1 {
        record.came_over(shares.iter().map(|share| (&*share.name, share.bytes)));
    }
    let outcomes = &exchange.local.routes.links.outcomes;
    match gateway {
        Some(_) if shares.len() > 1 && matches!(exchanged, Err(Trouble::Poisoned(_))) => {
            // Nobody knows which of them sent the wrong bytes. When the app asks again, the file comes over one.
            let (telemetry, names) = (&exchange.local.telemetry, names(&shares));
            let why = format!("a file that came over {names} is not the one in its index");
            telemetry.note_about(&names, Happening::Poisoned, "", why);
        }
        Some(gateway) if matches!(exchanged, Err(Trouble::Poisoned(_))) => {
            outcomes.failed(gateway, exchange.target, Failing::Wrong);
            let (telemetry, why) =
                (&exchange.local.telemetry, "a file that came over it is not the one in its index");
            telemetry.note_about(gateway, Happening::Poisoned, telemetry.names.of(gateway), why);
        }
        Some(gateway) if exchange.is_heard() => outcomes.answered(gateway, exchange.target),
        Some(gateway)
            if matches!(
                exchanged,
                Err(Trouble::Silent { lost: false, .. } | Trouble::Cut | Trouble::Bad(_))
            ) =>
        {
            outcomes.failed(gateway, exchange.target, Failing::Ended);
        }
        _ => {}
    }
    let (delivered, uploaded) = exchanged?;
    if delivered.upgraded {
        let early = buffer.split().freeze();
        return match to_server.send(early).await {
            Ok(()) => Ok(Ended::Upgraded),
            Err(error) => Err(Trouble::Truncated(error.to_string())),
        };
    }
    Ok(Ended::Complete { again: uploaded && delivered.again, reusable: uploaded && delivered.reusable })
}

/// The names of gateways, as a sentence lists them.
fn names(shares: &[Share]) -> String {
    shares.iter().map(|share| &*share.name).collect::<Vec<_>>().join(", ")
}

/// Sends the body of the request and passes on the response, until the response has ended. Returns whether the body was
/// sent completely by then, too.
async fn both_ways(
    exchange: &Exchange<'_>,
    buffer: &mut BytesMut,
    to_server: &mut ToServer<'_>,
    from_server: &mut FromServer<'_>,
    progress: &Progress<'_>,
) -> Result<(Delivered, bool), Trouble> {
    let mut uploaded = exchange.request.body == BodyLength::None;
    // Without a body to send, that direction tells the gateway about pieces.
    let (body_to, pieces_to) = if uploaded { (None, Some(to_server)) } else { (Some(to_server), None) };
    let mut upload = pin!(async {
        match body_to {
            Some(to_server) => send_body(exchange.request, exchange.app, buffer, to_server, progress).await,
            None => Ok(()),
        }
    });
    let mut delivery = pin!(exchange.deliver((pieces_to, from_server), progress));
    // An app that has only ended its own direction still reads, and waits for as long as it likes.
    let mut closed = pin!(until_closed(exchange.app));
    let mut uploading = !uploaded;
    loop {
        tokio::select! {
            biased;
            delivered = &mut delivery => return Ok((delivered?, !exchange.has_body_left.load(Relaxed))),
            () = &mut closed, if uploaded => {
                return Err(Trouble::Left);
            }
            result = &mut upload, if uploading => {
                uploading = false;
                match result {
                    Ok(()) => {
                        uploaded = true;
                        exchange.has_body_left.store(false, Relaxed);
                    }
                    // The server may have answered before it stopped reading.
                    Err(UploadError::Server(error)) => {
                        if let ServerError::Socket(error) = &error {
                            exchange.broken.note(error);
                        }
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

/// Whether a repeatable request got no usable answer, so that another connection or gateway may bring one. A malformed answer may
/// be due to the gateway as well as to the server.
fn is_no_answer(
    exchange: &Exchange<'_>,
    trouble: &Trouble,
    is_reused: bool,
    over: Option<(NodeId, SocketAddr)>,
) -> bool {
    match trouble {
        Trouble::Silent { lost, .. } => *lost || is_reused || has_other(exchange, over),
        Trouble::Cut => has_other(exchange, over),
        Trouble::Bad(_) => !exchange.started.load(Relaxed) && has_other(exchange, over),
        _ => false,
    }
}

/// Whether another gateway can be asked for the same, once one, or this node after losing its way out, has ended the connection
/// without an answer.
fn has_other(exchange: &Exchange<'_>, over: Option<(NodeId, SocketAddr)>) -> bool {
    let routes = &exchange.local.routes;
    match over {
        Some((_, gateway)) => routes.has_other(gateway, exchange.target),
        None => (routes.fault)().is_some(),
    }
}

/// The repetition of a request that waits for an answer.
#[derive(Default)]
struct Again<'a> {
    /// The head to send again, if it may be repeated.
    head: Option<&'a Bytes>,
    /// Another gateway has been asked, and may answer.
    is_asked: AtomicBool,
    /// The first attempt has ended without an answer.
    is_ended: AtomicBool,
}

/// Waits until the request is to be repeated over another gateway, if it may be, or has been answered over one. Returns the
/// connection with the answer, if any, and the reason.
async fn until_moved(
    exchange: &Exchange<'_>,
    link: Option<(Arc<LinkState>, SocketAddr)>,
    over: Option<(NodeId, SocketAddr)>,
    again: &Again<'_>,
) -> (Option<ServerConnection>, &'static str) {
    let begun = Instant::now();
    let better = || until_better(exchange, link.clone().filter(|_| again.head.is_some()));
    tokio::select! {
        biased;
        () = better() => return (None, FELL_SILENT),
        () = sleep(RECHECK) => {}
    }
    let cut_off = async {
        if !exchange.is_cut_off() {
            exchange.until_cut_off().await;
        }
        if exchange.started.load(Relaxed) {
            std::future::pending().await
        }
    };
    let noted = async {
        note_silence(exchange, over, begun).await;
        std::future::pending::<()>().await;
    };
    // Boxed, because nearly every request has been answered by now.
    Box::pin(async {
        tokio::select! {
            biased;
            () = better() => (None, FELL_SILENT),
            server = until_answered_beside(exchange, over, again, begun) => {
                (server, "an answer came over another gateway")
            }
            () = cut_off, if again.head.is_some() => (None, "the gateway has lost its way out"),
            () = noted => (None, ""),
        }
    })
    .await
}

/// Waits until the request has been answered over another gateway; `None` once neither will.
async fn until_answered_beside(
    exchange: &Exchange<'_>,
    over: Option<(NodeId, SocketAddr)>,
    again: &Again<'_>,
    since: Instant,
) -> Option<ServerConnection> {
    let Some((head, over)) = again.head.zip(over) else { return std::future::pending().await };
    let Exchange { local, target, id, account, .. } = *exchange;
    let waiting = Waiting { target, transport: exchange.transport(), over, id, account };
    let unanswered = || (!exchange.started.load(Relaxed)).then(|| head.clone());
    let server = local.routes.answered_beside(waiting, since, unanswered, &again.is_asked).await;
    while server.is_none() && !again.is_ended.load(Relaxed) {
        sleep(RECHECK).await;
    }
    server
}

/// Notes once nothing has come over a gateway for a while since `begun`.
async fn note_silence(exchange: &Exchange<'_>, over: Option<(NodeId, SocketAddr)>, begun: Instant) {
    sleep_until(begun + SILENCE).await;
    let is_silent = !exchange.is_heard() && exchange.request.body == BodyLength::None;
    if let Some((gateway, _)) = over.filter(|_| is_silent) {
        exchange.local.routes.links.outcomes.failed(gateway, exchange.target, Failing::Silent);
    }
}

/// Waits until there is a better gateway than that of `link`, while no response has begun.
async fn until_better(exchange: &Exchange<'_>, link: Option<(Arc<LinkState>, SocketAddr)>) {
    let Some((link_state, gateway)) = link else { return std::future::pending().await };
    exchange.local.routes.until_better(&link_state, gateway).await;
    if exchange.started.load(Relaxed) {
        std::future::pending().await
    }
}
