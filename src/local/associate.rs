//! UDP ASSOCIATE (RFC 1928 §4, §7): a UDP socket for one app, until the TCP connection that requested it ends.

mod app_socket;
mod drops;
mod flow;
mod queue;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpStream;

use self::app_socket::AppSocket;
use self::drops::{DropReason, Drops};
use self::flow::Flow;
use self::queue::Queue;
use super::context::Local;
use super::endpoint::AppPeer;
use crate::link::datagrams::Usage;
use crate::telemetry::Telemetry;
use crate::telemetry::record::Record;
use crate::wire::socks_udp::{self, Unusable};
use crate::wire::target::Target;

/// Maximum number of destinations of one association; the least recently used one makes room for another.
pub const MOST_DESTINATIONS: usize = 256;
/// Maximum size of a datagram, in bytes.
const MAX_DATAGRAM: usize = 64 * 1024;
/// Maximum number of datagrams read before the flows run again.
const BURST: usize = 64;

/// One destination of the association.
struct Destination {
    queue: Arc<Queue>,
    usage: Arc<Usage>,
}

/// An association whose socket is bound.
pub struct Association {
    app: AppSocket,
    drops: Drops,
}

impl Association {
    /// Binds a socket for the app at the other end of `control`, on the address that the app reaches this node at. `port` is
    /// the port in the app's request. Dropped datagrams are counted in `telemetry`.
    ///
    /// # Errors
    /// The error of the system.
    pub async fn bind(control: &TcpStream, port: u16, telemetry: &Arc<Telemetry>) -> io::Result<Self> {
        let app = AppSocket::bind(control, port).await?;
        Ok(Self { app, drops: Drops::new(telemetry) })
    }

    /// The address to which the app sends its datagrams.
    ///
    /// # Errors
    /// The error of the system.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.app.socket.local_addr()
    }

    /// Carries the app's datagrams until `control` ends, or while the node drains, until no destination is in use.
    pub async fn serve(&self, local: &Local, control: TcpStream, peer: &AppPeer, record: &mut Record) {
        let mut known: HashMap<Target, Destination> = HashMap::new();
        let mut flows = FuturesUnordered::new();
        let mut hung_up = std::pin::pin!(hung_up(&control));
        let outcome = loop {
            tokio::select! {
                biased;
                () = &mut hung_up => break "closed",
                Some(queue) = flows.next(), if !flows.is_empty() => forget(&mut known, &queue),
                readable = self.app.socket.readable() => {
                    if readable.is_err() {
                        break "the UDP socket failed";
                    }
                    self.receive(|target, header, payload| {
                        if let Some(destination) = known.get(&target) {
                            return self.push(destination, payload);
                        }
                        if local.routes.memory.is_short() {
                            return self.drops.one(DropReason::Memory);
                        }
                        if known.len() >= MOST_DESTINATIONS {
                            forget_least_recent(&mut known);
                        }
                        let id = local.next_id();
                        let mut record = Record::of_app(&local.telemetry, id, "udp", peer.to_string());
                        record.aims_at(&target);
                        let queue = Arc::new(Queue::new(local.routes.memory.account()));
                        let usage = Arc::new(Usage::of(&record.traffic()));
                        let destination = Destination { queue: queue.clone(), usage: usage.clone() };
                        self.push(&destination, payload);
                        known.insert(target.clone(), destination);
                        // Answers do not repeat its reserved bytes.
                        let header = Bytes::from([&[0, 0][..], &header[2..]].concat());
                        let (app, drops) = (&self.app, &self.drops);
                        let flow = Flow { target, header, queue, usage, app, drops, id };
                        flows.push(flow.run(&local.routes, record));
                    });
                    tokio::task::consume_budget().await;
                }
                () = local.drain.cancelled(), if flows.is_empty() => break "closed: the node stops",
            }
        };
        known.values().for_each(|destination| destination.queue.close());
        while flows.next().await.is_some() {}
        record.ended(format!("{outcome}{}", self.drops));
    }

    /// Reads the datagrams that have arrived and calls `take` with target, header and payload of each, except those that
    /// are dropped.
    fn receive(&self, mut take: impl FnMut(Target, &[u8], &[u8])) {
        let mut buffer = Vec::with_capacity(MAX_DATAGRAM);
        for _ in 0..BURST {
            buffer.clear();
            // If the socket is broken and not just empty, the next wait fails.
            let Ok((_, from)) = self.app.socket.try_recv_buf_from(&mut buffer) else { return };
            let dropped = match socks_udp::parse(&buffer) {
                _ if !self.app.is_app(from) => DropReason::Foreign,
                Ok((target, header)) => {
                    self.app.learn_port(from.port());
                    take(target, &buffer[..header], &buffer[header..]);
                    continue;
                }
                Err(Unusable::Fragment) => DropReason::Fragment,
                Err(Unusable::Truncated) => DropReason::Truncated,
                Err(Unusable::Malformed) => DropReason::Malformed,
            };
            self.drops.one(dropped);
        }
    }

    fn push(&self, destination: &Destination, payload: &[u8]) {
        let dropped = destination.queue.push(Bytes::copy_from_slice(payload));
        self.drops.many(DropReason::Unsent, dropped);
    }
}

/// Waits until the app hangs up. What it sends meanwhile is ignored.
async fn hung_up(control: &TcpStream) {
    let mut ignored = [0; 512];
    loop {
        match control.try_read(&mut ignored) {
            Ok(0) => return,
            Ok(_) => tokio::task::consume_budget().await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if control.readable().await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

fn forget(known: &mut HashMap<Target, Destination>, ended: &Arc<Queue>) {
    known.retain(|_, destination| !Arc::ptr_eq(&destination.queue, ended));
}

fn forget_least_recent(known: &mut HashMap<Target, Destination>) {
    let oldest = known.iter().min_by_key(|(_, destination)| destination.usage.last());
    if let Some(target) = oldest.map(|(target, _)| target.clone())
        && let Some(destination) = known.remove(&target)
    {
        destination.queue.close();
    }
}
