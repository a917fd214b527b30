//! Datagrams that leave the network, and those that come back: one association with the local proxy (RFC 1928 §7) for each
//! socket that sends.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::shared::Outlet;
use super::socks;
use crate::net;
use crate::sys::namespace;
use crate::wire::packet;
use crate::wire::socks_udp;
use crate::wire::target::Host;

/// Maximum number of sockets that may send at a time; the one that is silent longest makes room.
const MOST_SOURCES: usize = 512;
/// After how long without datagrams an association ends: a NAT may take two minutes (RFC 4787 §4.3).
const IDLE: Duration = Duration::from_secs(300);
/// Number of datagrams that may wait for an association; further ones are dropped.
const WAITING: usize = 128;
/// Maximum size of a datagram with its header, in bytes.
const MAX_DATAGRAM: usize = 64 * 1024;
/// How long the node may take to read a datagram: it drops those that it has not read when their association ends.
const READ: Duration = Duration::from_secs(1);
/// Pause after a failed read, which only a shortage of the system causes.
const PAUSE: Duration = Duration::from_millis(20);

/// A datagram on its way to the node.
struct Sent {
    /// With the header that the local proxy reads.
    framed: Vec<u8>,
    way: TaskTrackerToken,
}

/// The sockets that have sent, by their addresses.
type Sources = Arc<Mutex<HashMap<SocketAddr, Source>>>;

/// A socket that has sent.
struct Source {
    queue: mpsc::Sender<Sent>,
    task: AbortHandle,
    last: Instant,
}

/// All that leaves by UDP.
pub(super) struct Datagrams {
    node: SocketAddr,
    /// Takes the packets that come back, for each family.
    packets: Arc<[socket2::Socket]>,
    sources: Sources,
    /// Those on their way to the node.
    sent: TaskTracker,
}

impl Datagrams {
    /// What comes back is sent by `packets`, of which the first is for IPv4.
    pub(super) fn new(outlet: &Outlet, packets: Vec<socket2::Socket>) -> io::Result<Self> {
        packets.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
        let (node, sent) = (outlet.node, outlet.sent.clone());
        Ok(Self { node, packets: packets.into(), sources: Sources::default(), sent })
    }

    /// Takes what leaves by this socket.
    pub(super) async fn run(self, socket: UdpSocket) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            if socket.readable().await.is_err() {
                sleep(PAUSE).await;
                continue;
            }
            match namespace::receive(&socket, &mut buffer) {
                // Datagrams to loopback were sent to this port itself.
                Ok((length, from, to)) if !to.ip().is_loopback() => self.leaves(from, to, &buffer[..length]),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => sleep(PAUSE).await,
                _ => tokio::task::consume_budget().await,
            }
        }
    }

    /// Passes a datagram on, or drops it.
    fn leaves(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let mut framed = vec![0, 0, 0];
        framed.extend(socks::address(&net::plain(to).into()));
        framed.extend(payload);
        let mut sources = lock(&self.sources);
        if !sources.contains_key(&from) {
            if sources.len() >= MOST_SOURCES {
                evict(&mut sources);
            }
            sources.insert(from, self.start(from));
        }
        if let Some(source) = sources.get_mut(&from) {
            source.last = Instant::now();
            // Best effort, as UDP is.
            let _ = source.queue.try_send(Sent { framed, way: self.sent.token() });
        }
    }

    fn start(&self, from: SocketAddr) -> Source {
        let (queue, waiting) = mpsc::channel(WAITING);
        let association = Association { node: self.node, packets: self.packets.clone(), app: from };
        let sources = self.sources.clone();
        let task = tokio::spawn(async move {
            // What fails is tried again with the next datagram.
            let _ = association.carry(waiting).await;
            lock(&sources).remove(&from);
        });
        Source { queue, task: task.abort_handle(), last: Instant::now() }
    }
}

fn lock(sources: &Sources) -> MutexGuard<'_, HashMap<SocketAddr, Source>> {
    sources.lock().unwrap_or_else(PoisonError::into_inner)
}

fn evict(sources: &mut HashMap<SocketAddr, Source>) {
    let oldest = sources.iter().min_by_key(|(_, source)| source.last).map(|(address, _)| *address);
    if let Some(source) = oldest.and_then(|address| sources.remove(&address)) {
        source.task.abort();
    }
}

/// The association of one socket.
struct Association {
    node: SocketAddr,
    packets: Arc<[socket2::Socket]>,
    app: SocketAddr,
}

impl Association {
    /// Carries datagrams both ways until it is idle, or the node ends it.
    async fn carry(&self, mut waiting: mpsc::Receiver<Sent>) -> io::Result<()> {
        let (mut control, relay) = socks::associate(self.node).await.map_err(io::Error::other)?;
        let any: IpAddr =
            if relay.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(relay).await?;
        let (mut buffer, mut nothing) = (vec![0; MAX_DATAGRAM], [0]);
        let mut until = Instant::now() + IDLE;
        let (mut unread, mut read) = (None, until);
        loop {
            tokio::select! {
                sent = waiting.recv() => match sent {
                    Some(Sent { framed, way }) => {
                        // Too long for the path, or refused: dropped.
                        let _ = socket.send(&framed).await;
                        (unread, read) = (Some(way), Instant::now() + READ);
                    }
                    None => return Ok(()),
                },
                () = sleep_until(read), if unread.is_some() => {
                    unread = None;
                    continue;
                }
                received = socket.recv(&mut buffer) => self.comes_back(&buffer[..received?]),
                // The node sends nothing on it, and ends it when it stops.
                _ = control.read(&mut nothing) => return Ok(()),
                () = sleep_until(until) => return Ok(()),
            }
            until = Instant::now() + IDLE;
        }
    }

    /// Gives a datagram to the socket that it is for.
    fn comes_back(&self, framed: &[u8]) {
        let Ok((from, header)) = socks_udp::parse(framed) else { return };
        let Host::Address(ip) = from.host else { return };
        let Some(packet) = packet::udp(SocketAddr::new(ip, from.port), self.app, &framed[header..]) else {
            return;
        };
        let socket = if self.app.is_ipv4() { self.packets.first() } else { self.packets.get(1) };
        if let Some(socket) = socket {
            // The packet holds the port, so it must not be given here. What finds no room is dropped.
            let _ = socket.send_to(&packet, &SocketAddr::new(self.app.ip(), 0).into());
        }
    }
}
