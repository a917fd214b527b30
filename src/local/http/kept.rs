//! The idle connections to servers that are kept for the next requests of one app.

use futures_util::future::select_all;

use crate::link::request::Transport;
use crate::local::server_connection::ServerConnection;
use crate::wire::target::Target;

/// Maximum number of connections that one app has logged in on. Beyond it the login on the oldest one is lost.
const MOST_LOGINS: usize = 4;

/// An idle connection to a server.
pub(super) struct Idle {
    pub(super) target: Target,
    /// How the gateway speaks to the server.
    pub(super) transport: Transport,
    pub(super) server: ServerConnection,
    /// The app has logged in to the server for as long as this connection lasts (RFC 4559 §6), or has been asked to.
    pub(super) has_login: bool,
}

/// The idle connections of one app. No other app ever gets one of them: a server may take all requests on a connection for those
/// of the user who has logged in on it.
#[derive(Default)]
pub(super) struct IdleConnections {
    /// Those with a login, the oldest first. Each is for all requests to its server.
    logins: Vec<Idle>,
    /// That of the last request, if it has no login.
    last: Option<Idle>,
}

impl IdleConnections {
    /// The connection for a request to `target`. Without a login, only a `repeatable` request gets one: if a connection died
    /// under any other request, nobody could say whether that was served.
    pub(super) fn take(
        &mut self,
        (target, transport): (&Target, Transport),
        repeatable: bool,
    ) -> Option<Idle> {
        let is_there = |idle: &Idle| idle.target == *target && idle.transport == transport;
        if let Some(at) = self.logins.iter().position(is_there) {
            return Some(self.logins.remove(at));
        }
        self.last.take().filter(|idle| is_there(idle) && repeatable)
    }

    /// Keeps a connection after a complete exchange.
    pub(super) fn keep(&mut self, idle: Idle) {
        if !idle.has_login {
            self.last = Some(idle);
            return;
        }
        if self.logins.len() == MOST_LOGINS {
            self.logins.remove(0).server.close();
        }
        self.logins.push(idle);
    }

    /// Waits until an idle connection cannot be used again, and drops it. Returns whether the app has lost a login with it.
    pub(super) async fn lost_login(&mut self) -> bool {
        let last = async {
            match &mut self.last {
                Some(idle) => idle.server.until_stale().await,
                None => std::future::pending().await,
            }
        };
        let login = async {
            match self.logins.is_empty() {
                true => std::future::pending().await,
                false => drop(
                    select_all(self.logins.iter_mut().map(|idle| Box::pin(idle.server.until_stale()))).await,
                ),
            }
        };
        tokio::select! {
            () = last => {}
            () = login => return true,
        }
        self.last = None;
        false
    }

    /// Closes all connections in an orderly way.
    pub(super) fn close(self) {
        self.logins.into_iter().chain(self.last).for_each(|idle| idle.server.close());
    }
}
