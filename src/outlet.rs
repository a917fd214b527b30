//! The way out of a command's own network (`laneway run --all`): a process outside of it that accepts what the command connects
//! to, and passes that to the node's local proxy, like any other app.
//!
//! `streams` are connections, `datagrams` everything by UDP, `names` the questions to the only name server.

mod datagrams;
mod known;
mod names;
mod shared;
mod socks;
mod streams;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use self::datagrams::Datagrams;
use self::known::Names;
use self::shared::Outlet;
use crate::sys::namespace::{Given, Sockets};

pub use self::socks::{Refused, greet};

/// Interval between two checks whether the network is still in use.
const LOOK: Duration = Duration::from_secs(1);
/// Interval between two checks whether everything that the last process sent was taken.
const PAUSE: Duration = Duration::from_millis(20);
/// How long connections may take to end after the last process that could use them has ended.
const REST: Duration = Duration::from_secs(60);
/// Maximum number of connections at a time; further ones wait in the listen queue.
const MOST_CONNECTIONS: usize = 4096;
/// Maximum number of questions at a time; further ones are not read meanwhile.
const MOST_QUESTIONS: usize = 256;

/// Serves a network until no process is on it, and the rest of its connections have ended.
///
/// # Errors
/// When the sockets cannot be used.
pub async fn serve(node: SocketAddr, given: Given) -> io::Result<()> {
    let Given { sockets, network } = given;
    let unread = sockets.unread()?;
    let Sockets { streams, datagrams, packets, dns_streams, dns_datagrams, proxy } = sockets;
    let outlet = Arc::new(Outlet {
        node,
        names: Names::default(),
        places: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
        questions: Arc::new(Semaphore::new(MOST_QUESTIONS)),
        sent: TaskTracker::new(),
    });
    let tasks = TaskTracker::new();
    for listener in streams {
        tasks.spawn(streams::run(outlet.clone(), asynchronous(listener)?));
    }
    if let Some(listener) = proxy {
        tasks.spawn(streams::run_to_proxy(outlet.clone(), asynchronous(listener)?));
    }
    for socket in datagrams {
        let packets = packets.iter().map(socket2::Socket::try_clone).collect::<io::Result<_>>()?;
        tasks.spawn(Datagrams::new(&outlet, packets)?.run(asynchronous_udp(socket)?));
    }
    tasks.spawn(names::run_datagrams(outlet.clone(), asynchronous_udp(dns_datagrams)?));
    tasks.spawn(names::run_streams(outlet.clone(), asynchronous(dns_streams)?));

    while network.is_used() {
        sleep(LOOK).await;
    }
    // What a process sent just before its end arrives.
    let _ = timeout(REST, async {
        while !unread.is_empty() {
            sleep(PAUSE).await;
        }
        outlet.sent.close();
        outlet.sent.wait().await;
    })
    .await;
    // The others are cut off.
    Ok(())
}

fn asynchronous(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn asynchronous_udp(socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}
