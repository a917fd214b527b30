//! Accepts the apps' connections and finds out which dialect each of them speaks, by its first byte.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::endpoint::Peer;
use super::handshakes::{Handshake, Handshakes};
use super::logins::Logins;
use super::page::Page;
use super::port::Port;
use super::session::{Routes, Tunnelled};
use super::{http, socks, socks4, transparent};
use crate::telemetry::Telemetry;
use crate::wire;

/// How many connections of apps are served at a time; more wait in the listen queue.
pub const MOST_CONNECTIONS: usize = 16_384;
/// How many of them may not have said yet what they want.
pub const MOST_HANDSHAKES: usize = 2048;

/// What all local connections share.
pub struct Local {
    /// The ways out.
    pub routes: Routes,
    /// What a browser gets.
    pub page: Page,
    /// Where its connections are counted.
    pub telemetry: Arc<Telemetry>,
    /// This node's pseudonym in Via and Proxy-Status fields; a token.
    pub name: String,
    /// When it is cancelled, idle connections are closed and no request follows on one that is served.
    pub drain: CancellationToken,
    /// The tasks of the connections.
    pub tasks: TaskTracker,
    /// Who may use the local port.
    pub logins: Arc<Logins>,
    /// The id of the next connection.
    pub next_id: AtomicU64,
    /// Places for connections.
    pub places: Arc<Semaphore>,
    /// Apps that have not said yet what they want.
    pub handshakes: Arc<Handshakes>,
}

/// What the apps of a port know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apps {
    /// That they speak to a proxy: one of its dialects.
    Proxied,
    /// Nothing: the system leads them here. With `by_name` they go where their first bytes say.
    Led {
        /// The name in their first bytes comes before the address.
        by_name: bool,
    },
}

/// One connection of an app.
pub struct App {
    /// Its socket.
    pub socket: TcpStream,
    /// Who it is.
    pub peer: Peer,
    /// Bounds what it may take to say what it wants.
    pub handshake: Handshake,
}

/// Serves `port` until the node drains.
pub async fn run(local: Arc<Local>, port: Port, apps: Apps) {
    loop {
        let accepted = async {
            let place = local.places.clone().acquire_owned().await.expect("the semaphore is never closed");
            (place, port.accept().await)
        };
        let (place, (socket, peer)) = tokio::select! {
            accepted = accepted => accepted,
            () = local.drain.cancelled() => return,
        };
        let app = App { socket, peer, handshake: local.handshakes.begin() };
        let local = local.clone();
        let served = local.clone();
        local.tasks.spawn(async move {
            // Boxed one by one, so that an idle tunnel holds nothing of how it was opened.
            if let Some(tunnelled) = Box::pin(served.meet(app, apps)).await {
                Box::pin(served.routes.carry(tunnelled)).await;
            }
            drop(place);
        });
    }
}

impl Local {
    /// Finds out what the app speaks, and serves it until it is a tunnel, or its end.
    async fn meet(&self, app: App, apps: Apps) -> Option<Box<Tunnelled>> {
        if let Apps::Led { by_name } = apps {
            return transparent::serve(self, app, by_name).await;
        }
        let mut first = [0];
        let peeked = tokio::select! {
            peeked = app.handshake.within(app.socket.peek(&mut first)) => peeked,
            () = self.drain.cancelled() => return None,
        };
        match (peeked, first[0]) {
            (Some(Ok(1)), socks::VERSION) => return socks::serve(self, app).await,
            (Some(Ok(1)), wire::socks4::VERSION) => return socks4::serve(self, app).await,
            (Some(Ok(1)), _) => return http::serve(self, app).await,
            (Some(Ok(_)), _) => {}
            (Some(Err(error)), _) => quiet(&error),
            (None, _) => tracing::debug!(peer = %app.peer, "the app said nothing"),
        }
        None
    }

    /// An id for one connection or request, the same in this node's and the gateway's logs.
    pub fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

/// An app that hangs up is no event.
pub(super) fn quiet(error: &io::Error) {
    tracing::debug!(%error, "the app hung up");
}
