//! One destination of an association: its stream, or on a gateway its socket. It is opened when there is something to
//! send, and again on the next gateway when that one fails; the app only notices lost datagrams.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::app_socket::AppSocket;
use super::drops::{DropReason, Drops};
use super::queue::Queue;
use crate::failure::Failure;
use crate::limited;
use crate::limits::lines::NOBODY;
use crate::link::client::LinkTunnel;
use crate::link::datagrams::{Broken, Datagrams, Usage, idle_limit, is_unreachable, readable};
use crate::link::http2;
use crate::link::relay::is_link_lost;
use crate::link::request::Transport;
use crate::link::tunnel::Outbox;
use crate::local::routes::Routes;
use crate::local::server_connection::ServerConnection;
use crate::net::is_too_long;
use crate::telemetry::record::Record;
use crate::wire::capsule::LONGEST_PAYLOAD;
use crate::wire::target::Target;

/// How long a destination is left alone after it was refused, or ended before it sent anything: an app that goes on
/// sending must not cost the gateway a new stream for each datagram.
const PAUSE: Duration = Duration::from_secs(1);

/// How long nothing may come back on a path before an app that sends again gets one over another gateway.
const UNANSWERED: Duration = Duration::from_secs(3);
/// How often a destination that never answers is moved so: there, and back.
const MOST_SILENT: u32 = 2;

/// One destination.
pub(super) struct Flow<'a> {
    /// The destination.
    pub(super) target: Target,
    /// The header of its datagrams, both of those to it and of those from it (RFC 1928 §7).
    pub(super) header: Bytes,
    /// The datagrams that wait to be sent.
    pub(super) queue: Arc<Queue>,
    /// The bytes that have passed, and when.
    pub(super) usage: Arc<Usage>,
    /// The app's socket.
    pub(super) app: &'a AppSocket,
    /// Counts the datagrams that are dropped.
    pub(super) drops: &'a Drops,
    /// Its id in the logs of this node and of the gateway.
    pub(super) id: u64,
}

/// The open path to the destination.
enum Path {
    /// Over a link, with the token that is cancelled once the link takes no new tunnels.
    Link(Box<LinkTunnel>, CancellationToken),
    /// From this machine.
    Direct(UdpSocket),
}

/// Why a path is not used any more.
enum End {
    /// The destination was forgotten: the app is gone, or other destinations needed the room.
    Closed,
    /// There is a better path for the next datagram.
    Moved,
    /// Nothing has ever come back over this gateway.
    Silent(SocketAddr),
    /// The gateway or its link has failed.
    Lost,
    /// It was ended at the other end.
    Ended(String),
}

impl Flow<'_> {
    /// Carries datagrams until the queue is closed or the destination has been idle for its limit. Returns the queue.
    pub(super) async fn run(self, routes: &Routes, mut record: Record) -> Arc<Queue> {
        let idle = {
            let mut carried = std::pin::pin!(self.carry(routes, &mut record));
            tokio::select! {
                () = &mut carried => false,
                () = self.usage.idle(idle_limit(&self.target)) => {
                    self.queue.close();
                    carried.await;
                    true
                }
            }
        };
        self.drops.many(DropReason::Unsent, self.queue.clear());
        record.moved(self.usage.moved());
        if !record.has_failed() {
            record.ended(if idle { "idle" } else { "closed" });
        }
        self.queue
    }

    async fn carry(&self, routes: &Routes, record: &mut Record) {
        // Some destinations never answer: they get all but a few seconds' datagrams over the best gateway.
        let (mut may_move, mut silent) = (MOST_SILENT, None);
        // A flow that was reset for lack of memory stays closed.
        while self.queue.ready().await && !self.queue.account().is_evicted() {
            let opened = tokio::select! {
                opened = self.open(routes, silent.take(), record) => opened,
                () = self.queue.closed() => return,
            };
            let received = self.usage.moved().received;
            let end = match opened {
                Ok(Path::Link(tunnel, end_of_use)) => {
                    Box::pin(self.over_link(routes, *tunnel, &end_of_use, may_move > 0)).await
                }
                Ok(Path::Direct(socket)) => self.directly(routes, &socket).await,
                Err(failure) => {
                    record.failed(&failure);
                    self.drops.many(DropReason::Unsent, self.queue.clear());
                    self.pause().await;
                    continue;
                }
            };
            match end {
                End::Closed => return,
                End::Moved => {
                    limited!(info, NOBODY, target = %self.target, "UDP moves on to the next gateway")
                }
                End::Silent(gateway) => {
                    limited!(info, NOBODY, target = %self.target, "no answer: UDP tries another gateway");
                    silent = Some(gateway).filter(|_| may_move == MOST_SILENT);
                    may_move -= 1;
                }
                End::Lost => {}
                End::Ended(why) => {
                    tracing::debug!(target = %self.target, why, "UDP ended");
                    if self.usage.moved().received == received {
                        self.pause().await;
                    }
                }
            }
        }
    }

    async fn pause(&self) {
        tokio::select! {
            () = sleep(PAUSE) => {}
            () = self.queue.closed() => {}
        }
    }

    /// Opens a path to the destination. While there is no gateway the flow is held, and a full queue drops its oldest
    /// datagrams. It goes over another gateway than the `silent` one.
    async fn open(
        &self,
        routes: &Routes,
        silent: Option<SocketAddr>,
        record: &mut Record,
    ) -> Result<Path, Failure> {
        routes.admit(&self.target)?;
        let other = silent.and_then(|silent| routes.other_link(silent, &self.target));
        if let Some(link) = other {
            let (asked, account) = ((Transport::Udp, &self.target), self.queue.account());
            let opened = routes.open_over(&link, asked, self.id, Bytes::new(), account).await;
            if let Ok(ServerConnection::Link(tunnel, gateway)) = opened {
                record.gateway = gateway;
                record.ended("open");
                return Ok(Path::Link(tunnel, link.end_of_use()));
            }
        }
        let path = match routes.open_tunnel(Transport::Udp, &self.target, self.id, &Bytes::new()).await? {
            Some((mut tunnel, link)) => {
                tunnel.stream.charge_to(self.queue.account());
                record.gateway = link.gateway.name.to_string();
                Path::Link(Box::new(tunnel), link.end_of_use())
            }
            None => {
                let socket = (routes.direct_udp)(self.target.clone()).await?;
                record.gateway = "direct".to_owned();
                Path::Direct(socket)
            }
        };
        record.ended("open");
        Ok(path)
    }

    async fn over_link(
        &self,
        routes: &Routes,
        tunnel: LinkTunnel,
        end_of_use: &CancellationToken,
        may_move: bool,
    ) -> End {
        let LinkTunnel { stream: tunnel, gateway, id } = tunnel;
        let link_state = tunnel.link_state().clone();
        let (mut outbox, mut datagrams) = (tunnel.outbox, Datagrams::new(tunnel.inbox));
        let begun = Instant::now();
        let send = async {
            while self.queue.ready().await {
                // Only when there is something to send: until then answers still arrive on this path.
                if routes.has_better(&link_state, (id, gateway), end_of_use) {
                    return End::Moved;
                }
                let is_silent = self.usage.moved().received == 0 && begun.elapsed() >= UNANSWERED;
                if is_silent && may_move && routes.has_other(gateway, &self.target) {
                    return End::Silent(gateway);
                }
                if let Err(error) = self.send(&mut outbox).await {
                    return broken(error.into());
                }
            }
            End::Closed
        };
        let receive = async {
            loop {
                match datagrams.next().await {
                    Ok(Some(payload)) => self.deliver(&payload),
                    Ok(None) => return End::Ended("ended at the other end".to_owned()),
                    Err(error) => return broken(error),
                }
                tokio::task::consume_budget().await;
            }
        };
        let end = tokio::select! {
            end = send => end,
            end = receive => end,
            // Even while the link does not move.
            () = self.queue.closed() => End::Closed,
        };
        // What was sent is still delivered. Fails only on a stream that has ended already.
        let _ = outbox.finish();
        end
    }

    async fn send(&self, outbox: &mut Outbox) -> Result<(), http2::Error> {
        let batch = self.queue.batch();
        self.usage.sent(batch.payload);
        outbox.send(batch.capsules).await?;
        tokio::task::consume_budget().await;
        Ok(())
    }

    async fn directly(&self, routes: &Routes, socket: &UdpSocket) -> End {
        let send = async {
            while self.queue.ready().await {
                if routes.has_gateway() {
                    return End::Moved;
                }
                let Some(payload) = self.queue.pop() else { continue };
                match socket.try_send(&payload) {
                    Ok(_) => self.usage.sent(payload.len()),
                    Err(error) if is_unreachable(&error) => return End::Ended(error.to_string()),
                    Err(error) => self.drops.one(drop_reason(&error)),
                }
                tokio::task::consume_budget().await;
            }
            End::Closed
        };
        let receive = async {
            loop {
                match readable(socket).await {
                    Err(error) if is_unreachable(&error) => return End::Ended(error.to_string()),
                    // What ICMP reports of a datagram that was sent.
                    Err(error) => self.drops.one(drop_reason(&error)),
                    Ok(()) => {}
                }
                // Allocated only once a datagram has arrived.
                let mut payload = BytesMut::with_capacity(LONGEST_PAYLOAD);
                match socket.try_recv_buf(&mut payload) {
                    Ok(_) => self.deliver(&payload),
                    Err(error) if is_unreachable(&error) => return End::Ended(error.to_string()),
                    Err(_) => {}
                }
                tokio::task::consume_budget().await;
            }
        };
        tokio::select! {
            end = send => end,
            end = receive => end,
        }
    }

    fn deliver(&self, payload: &[u8]) {
        self.usage.received(payload.len());
        if !self.app.send(&self.header, payload) {
            self.drops.one(DropReason::Undelivered);
        }
    }
}

fn drop_reason(error: &io::Error) -> DropReason {
    if is_too_long(error) { DropReason::TooLong } else { DropReason::Unsent }
}

fn broken(error: Broken) -> End {
    match error {
        Broken::Tunnel(error) if is_link_lost(&error) => End::Lost,
        Broken::Tunnel(error) => End::Ended(format!("reset at the other end: {error}")),
        Broken::Capsule(error) => End::Ended(format!("the gateway broke the protocol: {error}")),
    }
}
