//! One destination of an association: its stream, or on a gateway its socket, opened when there is something to send, and
//! opened anew on the next gateway when that one fails. The app notices nothing but datagrams that were lost.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::UdpSocket;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::App;
use super::drops::{Drops, Why};
use super::queue::Queue;
use crate::failure::Failure;
use crate::link::client::LinkTunnel;
use crate::link::datagrams::{Broken, Datagrams, Usage, idle_limit, is_unreachable, readable};
use crate::link::http2;
use crate::link::relay::is_link_lost;
use crate::link::request::Transport;
use crate::link::tunnel::Outbox;
use crate::local::routes::Routes;
use crate::telemetry::record::Record;
use crate::wire::capsule::LONGEST_PAYLOAD;
use crate::wire::target::Target;

/// A destination that was refused, or hung up before it said anything, is left alone for so long: an app that goes on
/// sending should not cost the gateway one new stream for each datagram.
const PAUSE: Duration = Duration::from_secs(1);

/// One destination.
pub(super) struct Flow<'a> {
    /// Where its datagrams go.
    pub(super) target: Target,
    /// What the app puts before them, and finds before what comes back (RFC 1928 §7).
    pub(super) header: Bytes,
    /// What waits to be sent.
    pub(super) queue: Arc<Queue>,
    /// What has passed.
    pub(super) traffic: Arc<Usage>,
    /// Who gets what comes back.
    pub(super) app: &'a App,
    /// What was lost on the way.
    pub(super) drops: &'a Drops,
    /// Its id in the logs.
    pub(super) id: u64,
}

/// The way to the destination.
enum Way {
    /// Over a link, until that takes nothing new.
    Link(Box<LinkTunnel>, CancellationToken),
    Direct(UdpSocket),
}

/// Why a way is not used any more.
enum End {
    /// The destination is forgotten: the app is gone, or others have taken its place.
    Closed,
    /// There is a better way for what is to be sent next.
    Moved,
    /// The gateway or its link has failed.
    Lost,
    /// It was ended at the other end.
    Ended(String),
}

impl Flow<'_> {
    /// Carries datagrams until the queue is closed or nothing has passed for long enough; `record` is the access line.
    /// Gives the queue.
    pub(super) async fn run(self, routes: &Routes, mut record: Record) -> Arc<Queue> {
        let idle = {
            let mut carried = std::pin::pin!(self.carry(routes, &mut record));
            tokio::select! {
                () = &mut carried => false,
                () = self.traffic.idle(idle_limit(&self.target)) => {
                    self.queue.close();
                    carried.await;
                    true
                }
            }
        };
        self.drops.many(Why::Unsent, self.queue.clear());
        record.moved(self.traffic.moved());
        if !record.has_failed() {
            record.ended(if idle { "idle" } else { "closed" });
        }
        self.queue
    }

    async fn carry(&self, routes: &Routes, record: &mut Record) {
        // What is reset for want of memory stays so.
        while self.queue.ready().await && !self.queue.account().is_evicted() {
            let opened = tokio::select! {
                opened = self.open(routes, record) => opened,
                () = self.queue.closed() => return,
            };
            let received = self.traffic.moved().received;
            let end = match opened {
                Ok(Way::Link(tunnel, end_of_use)) => {
                    Box::pin(self.over_link(routes, *tunnel, &end_of_use)).await
                }
                Ok(Way::Direct(socket)) => self.directly(routes, &socket).await,
                Err(failure) => {
                    record.failed(&failure);
                    self.drops.many(Why::Unsent, self.queue.clear());
                    self.pause().await;
                    continue;
                }
            };
            match end {
                End::Closed => return,
                End::Moved => tracing::info!(target = %self.target, "UDP moves on to the next gateway"),
                End::Lost => {}
                End::Ended(why) => {
                    tracing::debug!(target = %self.target, why, "UDP ended");
                    if self.traffic.moved().received == received {
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

    /// A way to the destination. While there is no gateway, it is waited for; the queue drops what is too old then.
    async fn open(&self, routes: &Routes, record: &mut Record) -> Result<Way, Failure> {
        routes.admit(&self.target)?;
        let way = match routes.open_tunnel(Transport::Udp, &self.target, self.id, &Bytes::new()).await? {
            Some((mut tunnel, link)) => {
                tunnel.stream.charge_to(self.queue.account());
                record.gateway = link.gateway.id.short();
                Way::Link(Box::new(tunnel), link.end_of_use())
            }
            None => {
                let socket = (routes.direct_udp)(self.target.clone()).await?;
                record.gateway = "direct".to_owned();
                Way::Direct(socket)
            }
        };
        record.ended("open");
        Ok(way)
    }

    async fn over_link(&self, routes: &Routes, tunnel: LinkTunnel, end_of_use: &CancellationToken) -> End {
        let LinkTunnel { stream: tunnel, gateway } = tunnel;
        let pulse = tunnel.pulse().clone();
        let (mut outbox, mut datagrams) = (tunnel.outbox, Datagrams::new(tunnel.inbox));
        let send = async {
            while self.queue.ready().await {
                // Only now: what comes back still comes this way.
                if routes.has_better(&pulse, gateway, end_of_use) {
                    return End::Moved;
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
        // What was sent already still goes out; fails only on a stream that has ended anyway.
        let _ = outbox.finish();
        end
    }

    async fn send(&self, outbox: &mut Outbox) -> Result<(), http2::Error> {
        let batch = self.queue.batch();
        self.traffic.sent(batch.payload);
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
                    Ok(_) => self.traffic.sent(payload.len()),
                    Err(error) if is_unreachable(&error) => return End::Ended(error.to_string()),
                    Err(_) => self.drops.one(Why::Unsent),
                }
                tokio::task::consume_budget().await;
            }
            End::Closed
        };
        let receive = async {
            loop {
                if let Err(error) = readable(socket).await
                    && is_unreachable(&error)
                {
                    return End::Ended(error.to_string());
                }
                // Held only as long as there is something in it.
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
        self.traffic.received(payload.len());
        if !self.app.tell(&self.header, payload) {
            self.drops.one(Why::Undelivered);
        }
    }
}

fn broken(error: Broken) -> End {
    match error {
        Broken::Tunnel(error) if is_link_lost(&error) => End::Lost,
        Broken::Tunnel(error) => End::Ended(format!("reset at the other end: {error}")),
        Broken::Capsule(error) => End::Ended(format!("the gateway broke the protocol: {error}")),
    }
}
