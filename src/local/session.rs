//! One connection of an app, from its target to its end. This is the spine: a dialect learns the target, the session
//! opens the connection to the server ([`Routes`] holds it while there is no gateway), carries the bytes both ways, and
//! replays what is safe to repeat when the gateway is lost.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::beside::Waiting;
use super::outcomes::{Outcomes, RECHECK, SILENCE, recheck_after};
use super::routes::{Routes, no_memory};
use super::server_connection::ServerConnection;
use crate::copy;
use crate::failure::Failure;
use crate::limited;
use crate::limits::lines::NOBODY;
use crate::link::client::LinkTunnel;
use crate::link::relay::{Broken, Progress, ReplayBuffer, is_link_lost, outcome, relay};
use crate::link::request::Transport;
use crate::memory::Account;
use crate::net;
use crate::peers::selection::Failing;
use crate::telemetry::record::Record;
use crate::telemetry::traffic::Moved;
use crate::wire::id::NodeId;
use crate::wire::replay;
use crate::wire::target::Target;

/// Maximum number of replays of one connection.
const MOST_REPLAYS: u32 = 8;

/// A connection of an app whose connection to the server is open.
pub struct Session {
    app: TcpStream,
    target: Target,
    /// Its id in the logs of this node and of the gateway.
    id: u64,
    server: ServerConnection,
    /// What the app has sent, for as long as it can be replayed; `None` where nothing may be repeated.
    replay: Option<ReplayBuffer>,
    record: Record,
    /// What it holds.
    account: Arc<Account>,
}

/// Why one tunnel of a session is not carried on.
enum Left {
    /// It ended, or broke for good.
    Ended(Result<(), Broken>),
    /// The link was lost, or (`moved`) another gateway is better; these bytes are to be sent again there.
    Replay { sent: Bytes, moved: bool },
    /// The bytes were sent again over another gateway, which answers now.
    Answered(ServerConnection),
}

impl Session {
    /// Opens the connection to the server for an app that has sent `early` already, ahead of the answer.
    ///
    /// # Errors
    /// The app's socket, to be told the failure, which the record has noted.
    pub async fn open(
        routes: &Routes,
        (app, account): (TcpStream, Arc<Account>),
        target: Target,
        id: u64,
        early: Bytes,
        mut record: Record,
    ) -> Result<Box<Self>, (TcpStream, Failure)> {
        record.aims_at(&target);
        match routes.open(&target, id, early.clone(), replay::is_safe(&early), &account).await {
            Ok(server) => {
                let replay = Some(ReplayBuffer::new(&early, &account));
                Ok(Self::new((app, account), target, id, server, replay, record))
            }
            Err(failure) => {
                record.failed(&failure);
                Err((app, failure))
            }
        }
    }

    /// A session over a connection to the server that is open already. `replay` has what was sent on it.
    pub fn new(
        (app, account): (TcpStream, Arc<Account>),
        target: Target,
        id: u64,
        server: ServerConnection,
        replay: Option<ReplayBuffer>,
        record: Record,
    ) -> Box<Self> {
        Box::new(Self { app, target, id, server, replay, record, account })
    }

    /// The app's socket.
    pub fn app(&self) -> &TcpStream {
        &self.app
    }

    /// Frees the box, which would otherwise last as long as what was moved out of it.
    fn unboxed(self: Box<Self>) -> Self {
        *self
    }

    /// Carries the bytes both ways until the end. Until the server has sent anything, the session survives the loss of
    /// its gateway if what the app has sent is safe to repeat; from a suspect gateway it moves to a better one, once.
    pub async fn carry(self: Box<Self>, routes: &Routes) {
        let Self { app, target, id, mut server, replay, mut record, account } = self.unboxed();
        let traffic = record.traffic();
        let progress = Progress::of_app(&traffic).with_urgent(net::keep_urgent(&app, target.port));
        let (mut replays, mut has_moved) = (0, false);
        let result = loop {
            record.gateway = server.gateway().to_owned();
            let tunnel = match server {
                ServerConnection::Link(tunnel, _) => tunnel,
                ServerConnection::Direct(server) => {
                    return tokio::select! {
                        () = Box::pin(carry_directly((app, server), target.port, &account, &mut record)) => {}
                        () = account.evicted() => {}
                    };
                }
                ServerConnection::Own(_) => {
                    net::reset(app);
                    return record.ended("a stream of requests became no session");
                }
            };
            let replay = replay.as_ref().filter(|_| replays < MOST_REPLAYS);
            let id_of_gateway = tunnel.id;
            let may_move = !has_moved;
            let waiting = (&target, id, &account);
            let left = carry_over_link(routes, &app, tunnel, waiting, &progress, replay, may_move).await;
            note(&routes.links.outcomes, id_of_gateway, &target, &left, progress.moved());
            replays += 1;
            let sent = match left {
                Left::Ended(result) => break result,
                Left::Answered(next) => {
                    record.rescued("replayed");
                    (server, has_moved) = (next, true);
                    continue;
                }
                Left::Replay { sent, moved } => {
                    has_moved |= moved;
                    sent
                }
            };
            let (conn, bytes) = (format!("{id:016x}"), sent.len());
            limited!(info, NOBODY, conn, bytes, "replayed on the next gateway");
            let opened = tokio::select! {
                opened = Box::pin(routes.open(&target, id, sent, true, &account)) => opened,
                () = account.evicted() => Err(no_memory()),
            };
            match opened {
                Ok(next) => {
                    record.rescued("replayed");
                    server = next;
                }
                Err(failure) => {
                    net::reset(app);
                    return record.failed(&failure);
                }
            }
        };
        record.moved(progress.moved());
        record.ended(outcome(&result));
        note_cut(&record, &result);
        match result {
            Ok(()) => {}
            // The server answered before the app had sent everything: its answer must not be lost with the rest.
            Err(Broken::Unwanted(_)) => {
                net::linger(&app).await;
                net::end_orderly(&app);
            }
            Err(_) => net::reset(app),
        }
    }
}

/// Notes what a session met over its gateway.
fn note(outcomes: &Outcomes, gateway: NodeId, target: &Target, left: &Left, moved: Moved) {
    match left {
        _ if moved.received > 0 => outcomes.answered(gateway, target),
        Left::Ended(Err(Broken::Tunnel(error))) if !is_link_lost(error) => {
            outcomes.failed(gateway, target, Failing::Ended);
        }
        Left::Ended(Ok(())) if moved.sent > 0 => outcomes.failed(gateway, target, Failing::Ended),
        _ => {}
    }
}

/// Notes that a session was reset because of its gateway.
fn note_cut(record: &Record, result: &Result<(), Broken>) {
    let gateway = &record.gateway;
    match result {
        Err(broken) if broken.is_link_lost() => {
            let why = format!(
                "the link to the gateway {gateway} broke, and only the app can repeat what it has sent"
            );
            record.cut("gateway", gateway, &why);
        }
        Err(broken) if broken.is_cut() => {
            let why = format!("nothing comes from the server over the gateway {gateway} any more");
            record.cut("way-out", gateway, &why);
        }
        _ => {}
    }
}

/// Carries a session over one tunnel until it ends or is to be replayed elsewhere.
async fn carry_over_link(
    routes: &Routes,
    app: &TcpStream,
    mut tunnel: Box<LinkTunnel>,
    (target, conn, account): (&Target, u64, &Arc<Account>),
    progress: &Progress<'_>,
    replay: Option<&ReplayBuffer>,
    may_move: bool,
) -> Left {
    let replayable = || {
        let sent = replay.filter(|_| progress.moved().received == 0)?.all()?;
        replay::is_safe(&sent).then_some(sent)
    };
    let LinkTunnel { gateway, id, .. } = *tunnel;
    let link_state = tunnel.stream.link_state().clone();
    let better = async {
        routes.until_better(&link_state, gateway).await;
        match replayable() {
            Some(sent) if may_move => sent,
            _ => std::future::pending().await,
        }
    };
    let waiting = Waiting { target, transport: Transport::Tcp, over: (id, gateway), id: conn, account };
    // Boxed, and dropped once there is an answer: an idle session does not keep its room.
    let mut silence = Some(Box::pin(async {
        let (begun, sent) = (Instant::now(), progress.moved().sent);
        sleep(RECHECK).await;
        let moved = progress.moved();
        if moved.received > 0 {
            return None;
        }
        let since = if moved.sent == sent { begun } else { Instant::now() };
        // Boxed once more: nearly every session has its answer by now.
        Box::pin(async {
            tokio::select! {
                biased;
                server = answered_beside(routes, waiting, since, &replayable), if may_move => Some(Left::Answered(server)),
                left = until_cut_off(routes, (id, gateway), target, progress, begun) => {
                    replayable().filter(|_| left && may_move).map(|sent| Left::Replay { sent, moved: true })
                }
            }
        })
        .await
    }));
    let (mut relay, mut better) = (pin!(relay(app, &mut tunnel.stream, progress, replay)), pin!(better));
    loop {
        tokio::select! {
            biased;
            result = &mut relay => return match replayable() {
                Some(sent) if result.as_ref().is_err_and(Broken::is_link_lost) => {
                    Left::Replay { sent, moved: false }
                }
                // The gateway says that the server has reset it at once.
                Some(sent) if matches!(result, Err(Broken::Tunnel(_))) && may_move && routes.has_other(gateway, target) => {
                    routes.links.outcomes.failed(id, target, Failing::Ended);
                    Left::Replay { sent, moved: true }
                }
                _ => Left::Ended(result),
            },
            sent = &mut better => return Left::Replay { sent, moved: true },
            left = async { silence.as_mut().expect("it is awaited only while there").await },
                if silence.is_some() =>
            {
                match left {
                    Some(left) => return left,
                    None => silence = None,
                }
            }
        }
    }
}

/// Waits for an answer over another gateway. The wait began at `since`, and begins anew whenever the app sends something; if that
/// cannot be repeated, no gateway is asked.
async fn answered_beside(
    routes: &Routes,
    waiting: Waiting<'_>,
    mut since: Instant,
    replayable: &impl Fn() -> Option<Bytes>,
) -> ServerConnection {
    loop {
        let sent = replayable();
        // Many apps open a connection before they need it.
        let idles = if sent.as_ref().is_some_and(Bytes::is_empty) { SILENCE } else { Duration::ZERO };
        let is_asked = AtomicBool::default();
        let answered = routes.answered_beside(waiting, since + idles, replayable, &is_asked);
        let changed = async {
            while replayable() == sent {
                sleep(recheck_after(since.elapsed())).await;
            }
        };
        tokio::select! {
            biased;
            Some(server) = answered => return server,
            () = changed => since = Instant::now(),
        }
    }
}

/// Waits until the gateway has lost its way out and another one can be asked; false once there is an answer. Notes its silence
/// some time after `begun`.
async fn until_cut_off(
    routes: &Routes,
    (id, gateway): (NodeId, SocketAddr),
    target: &Target,
    progress: &Progress<'_>,
    begun: Instant,
) -> bool {
    let mut is_silent = false;
    while progress.moved().received == 0 {
        let moved = progress.moved();
        if moved.received == 0
            && moved.sent > 0
            && begun.elapsed() >= SILENCE
            && !std::mem::replace(&mut is_silent, true)
        {
            routes.links.outcomes.failed(id, target, Failing::Silent);
        }
        if moved.received == 0 && routes.is_cut_off(id, gateway, target) {
            return true;
        }
        sleep(recheck_after(begun.elapsed())).await;
    }
    false
}

/// Carries a session over a socket of this machine.
async fn carry_directly(
    sockets: (TcpStream, TcpStream),
    port: u16,
    account: &Arc<Account>,
    record: &mut Record,
) {
    let (mut moved, traffic) = (Moved::default(), record.traffic());
    match copy::between(sockets, port, &mut moved, &traffic, account).await {
        Ok(()) => record.ended("closed"),
        Err(error) => record.ended(format!("a connection broke: {error}")),
    }
    record.moved(moved);
}
