//! The gateway's end of a link: accepts it, and takes the client's requests.

use std::future::poll_fn;
use std::sync::Arc;

use tokio::time::timeout;

use super::alive::{LinkState, until_dead};
use super::connection::Connection;
use super::handshake::Proved;
use super::incoming::Incoming;
use super::secure::Secure;
use super::settings::{self, HANDSHAKE_TIMEOUT};
use super::tls::PeerIdentity;
use laneway_h2 as http2;
use laneway_limits::memory::Account;

/// Why a connection did not become a link.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The HTTP/2 preface did not arrive in time.
    #[error("the client sends nothing")]
    Late,
    /// It does not speak HTTP/2.
    #[error("the client does not speak the link's protocol")]
    Protocol(#[source] http2::Error),
}

/// A link, at the gateway.
pub struct ServerLink {
    connection: Connection<Secure>,
    state: Arc<LinkState>,
    dead: futures_util::future::BoxFuture<'static, ()>,
    /// Who the client is, by its certificate.
    pub client: PeerIdentity,
}

impl ServerLink {
    /// Makes a link of a connection whose TLS handshake is done. What it holds is charged to `account`, unless it belongs
    /// to a tunnel with an account of its own.
    ///
    /// # Errors
    /// [`AcceptError`].
    pub async fn accept(
        proved: Proved,
        client: PeerIdentity,
        account: &Arc<Account>,
    ) -> Result<Self, AcceptError> {
        let queue = proved.stream.queue().clone();
        let mut connection = Connection::server(proved.stream, settings::config());
        connection.charge_to(account);
        let greeted = timeout(HANDSHAKE_TIMEOUT, poll_fn(|cx| connection.poll_greeted(cx)));
        let greeted = greeted.await.map_err(|_late: tokio::time::error::Elapsed| AcceptError::Late)?;
        greeted.map_err(AcceptError::Protocol)?;
        let ping = connection.ping_pong();
        // The client pings as often as its tunnels need it. This end only has to notice a dead client eventually.
        let link_state = Arc::new(LinkState::patient(queue));
        let dead = Box::pin(until_dead(ping, link_state.clone()));
        Ok(Self { connection, state: link_state, dead, client })
    }

    /// The link's tunnels and traffic.
    pub fn state(&self) -> &Arc<LinkState> {
        &self.state
    }

    /// Drives the link until the next request arrives. `None` when the link has ended in good order; the error says why
    /// it ended otherwise.
    pub async fn next(&mut self) -> Option<Result<Incoming, String>> {
        let Self { connection, state: link_state, dead, .. } = self;
        let accepted = poll_fn(|cx| {
            if let Some(size) = link_state.flow().to_announce(link_state.tunnels())
                // Refused while the last one is not acknowledged; tried again with the next poll.
                && connection.announce_window(size)
            {
                link_state.flow().announce(size);
            }
            let accepted = connection.poll_accept(cx);
            if accepted.is_pending() {
                link_state.queue().idle();
            }
            accepted
        });
        tokio::select! {
            accepted = accepted => match accepted? {
                Ok((request, respond)) => Some(Ok(Incoming::new(request, respond, link_state))),
                Err(error) => Some(Err(error.to_string())),
            },
            () = dead => Some(Err("no answer to a ping".into())),
        }
    }

    /// Accepts no more requests (GOAWAY, RFC 9113 §6.8). [`ServerLink::next`] gives `None` once the open tunnels have
    /// ended.
    pub fn drain(&mut self) {
        self.connection.drain();
    }
}
