//! UDP ASSOCIATE (RFC 1928 §4, §7): a UDP socket for one app, as long as the TCP connection stands that asked for it.

mod drops;
mod flow;
mod queue;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::{TcpStream, UdpSocket};

use self::drops::{Drops, Why};
use self::flow::Flow;
use self::queue::Queue;
use super::context::Local;
use super::endpoint::AppPeer;
use crate::link::datagrams::Usage;
use crate::net;
use crate::telemetry::Telemetry;
use crate::telemetry::record::Record;
use crate::wire::socks_udp::{self, Unusable};
use crate::wire::target::Target;

/// Destinations of one association; the one that was used the longest ago gives way to another.
pub const MOST_DESTINATIONS: usize = 256;
/// No datagram is longer.
const LONGEST: usize = 64 * 1024;
/// So many are read before the destinations get to run.
const BURST: usize = 64;

/// The app's end of an association.
struct App {
    socket: UdpSocket,
    /// The other end of its TCP connection: nobody else is heard.
    ip: IpAddr,
    /// Its UDP port, once it is known: the one that it named, or else the one that spoke first.
    port: OnceLock<u16>,
}

/// What is known of one destination.
struct Destination {
    queue: Arc<Queue>,
    traffic: Arc<Usage>,
}

/// An association whose socket is bound.
pub struct Association {
    app: App,
    drops: Drops,
}

impl Association {
    /// Binds a socket for the app at the other end of `control`, on the address that the app knows this node by. `port` is
    /// the app's UDP port, 0 if it does not know it yet. What is dropped counts in `telemetry`.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(control: &TcpStream, port: u16, telemetry: &Arc<Telemetry>) -> io::Result<Self> {
        let (here, there) = (net::plain(control.local_addr()?), net::plain(control.peer_addr()?));
        let socket = UdpSocket::bind(SocketAddr::new(here.ip(), 0)).await?;
        socket.writable().await?;
        net::keep_alive(control);
        let known = if port == 0 { OnceLock::new() } else { OnceLock::from(port) };
        Ok(Self { app: App { socket, ip: there.ip(), port: known }, drops: Drops::new(telemetry) })
    }

    /// Where the app has to send its datagrams.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.app.socket.local_addr()
    }

    /// Carries the app's datagrams until `control` ends. When the node drains, until no destination is in use any more.
    pub async fn serve(&self, local: &Local, control: TcpStream, peer: &AppPeer, record: &mut Record) {
        let mut known: HashMap<Target, Destination> = HashMap::new();
        let mut flows = FuturesUnordered::new();
        let mut end = std::pin::pin!(end(&control));
        let outcome = loop {
            tokio::select! {
                biased;
                () = &mut end => break "closed",
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
                            return self.drops.one(Why::Memory);
                        }
                        if known.len() >= MOST_DESTINATIONS {
                            forget_oldest(&mut known);
                        }
                        let id = local.next_id();
                        let mut record = Record::of_app(&local.telemetry, id, "udp", peer.to_string());
                        record.aims_at(&target);
                        let queue = Arc::new(Queue::new(local.routes.memory.account()));
                        let traffic = Arc::new(Usage::of(&record.traffic()));
                        let destination = Destination { queue: queue.clone(), traffic: traffic.clone() };
                        self.push(&destination, payload);
                        known.insert(target.clone(), destination);
                        let (app, drops, header) = (&self.app, &self.drops, Bytes::copy_from_slice(header));
                        let flow = Flow { target, header, queue, traffic, app, drops, id };
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

    /// Takes what has arrived from the app, but for what has to be dropped.
    fn receive(&self, mut take: impl FnMut(Target, &[u8], &[u8])) {
        let mut buffer = Vec::with_capacity(LONGEST);
        for _ in 0..BURST {
            buffer.clear();
            // What is wrong with the socket, if it is not just empty, shows when it is waited for.
            let Ok((_, from)) = self.app.socket.try_recv_buf_from(&mut buffer) else { return };
            let dropped = match socks_udp::parse(&buffer) {
                _ if !self.app.is(from) => Why::Foreign,
                Ok((target, header)) => {
                    self.app.port.get_or_init(|| from.port());
                    take(target, &buffer[..header], &buffer[header..]);
                    continue;
                }
                Err(Unusable::Fragment) => Why::Fragment,
                Err(Unusable::Truncated) => Why::Truncated,
                Err(Unusable::Malformed) => Why::Malformed,
            };
            self.drops.one(dropped);
        }
    }

    fn push(&self, destination: &Destination, payload: &[u8]) {
        let dropped = destination.queue.push(Bytes::copy_from_slice(payload));
        self.drops.many(Why::Unsent, dropped);
    }
}

impl App {
    fn is(&self, from: SocketAddr) -> bool {
        let from = net::plain(from);
        from.ip() == self.ip && self.port.get().is_none_or(|port| *port == from.port())
    }

    /// Sends a datagram to the app; false if it could not be sent at once.
    fn tell(&self, header: &[u8], payload: &[u8]) -> bool {
        let Some(port) = self.port.get() else { return false };
        let to = SocketAddr::new(self.ip, *port);
        self.socket.try_send_to(&[header, payload].concat(), to).is_ok()
    }
}

/// Waits until the app hangs up. What it says meanwhile means nothing.
async fn end(control: &TcpStream) {
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

fn forget_oldest(known: &mut HashMap<Target, Destination>) {
    let oldest = known.iter().min_by_key(|(_, destination)| destination.traffic.last());
    if let Some(target) = oldest.map(|(target, _)| target.clone())
        && let Some(destination) = known.remove(&target)
    {
        destination.queue.close();
    }
}
