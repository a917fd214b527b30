//! What all connections of apps share, and one such connection before its dialect is known.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::endpoint::AppPeer;
use super::handshakes::{Handshake, Handshakes};
use super::logins::Logins;
use super::members::Members;
use super::page::Page;
use super::routes::Routes;
use crate::fronts::known::Known;
use crate::fronts::place::Fronts;
use crate::memory::Account;
use crate::sys::closed::until_closed;
use crate::telemetry::Telemetry;

/// An app that closes its connection within this time does not wait for an answer.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How long it takes at most to see that an app has closed its connection.
const LOOK: Duration = Duration::from_millis(100);

/// The fronts of this node, and what it remembers of their indexes.
pub struct LocalFronts {
    /// The configured ones.
    pub configured: watch::Receiver<Arc<Fronts>>,
    /// What indexes name.
    pub known: Arc<Known>,
}

/// The state shared by all connections of apps.
// fields: each belongs to another part of the local port
pub struct Local {
    /// The ways out of this node.
    pub routes: Routes,
    /// The page that a browser gets.
    pub page: Page,
    /// The fronts of registries.
    pub fronts: LocalFronts,
    /// Other members that have pieces of bodies; none if this node takes nothing of them.
    pub members: Option<Members>,
    /// Counters and access records.
    pub telemetry: Arc<Telemetry>,
    /// This node's pseudonym in Via and Proxy-Status fields; a token (RFC 9110 §5.6.2).
    pub name: String,
    /// Cancelled when the node drains: idle connections are closed, and open ones take no further request.
    pub drain: CancellationToken,
    /// The tasks of the connections.
    pub tasks: TaskTracker,
    /// Who may use the local port.
    pub logins: Arc<Logins>,
    /// The id of the next connection.
    pub next_id: AtomicU64,
    /// Permits for connections, one each.
    pub places: Arc<Semaphore>,
    /// Apps that have not sent their request yet.
    pub handshakes: Arc<Handshakes>,
    /// Whether a redirected connection goes to the name in its first bytes rather than to the address.
    pub prefers_names: watch::Receiver<bool>,
}

/// An accepted connection of an app.
pub struct App {
    /// Its socket.
    pub socket: TcpStream,
    /// Its other end.
    pub peer: AppPeer,
    /// Bounds the time until its request is complete.
    pub handshake: Handshake,
    /// What the connection holds, with all that is opened for it.
    pub account: Arc<Account>,
}

impl Local {
    /// A new id for a connection or request, the same in the logs of this node and of the gateway.
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

/// Waits until an app that waits for an answer closes its connection. One that closes it at once waits for none, and what it has
/// sent must arrive.
pub(super) async fn until_given_up(app: &TcpStream) {
    sleep(AT_ONCE).await;
    if timeout(LOOK, until_closed(app)).await.is_ok() {
        std::future::pending().await
    }
    until_closed(app).await;
}

/// Logs that an app has hung up, which is not a failure.
pub(super) fn log_hang_up(error: &io::Error) {
    tracing::debug!(%error, "the app hung up");
}
