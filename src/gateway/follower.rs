//! Follows what a server answers on the connection of one tunnel, and tells the egress.

use std::net::SocketAddr;
use std::sync::OnceLock;

use tokio::net::TcpStream;

use super::egress::Egress;
use super::silence::{Facts, Reported, Speech};
use crate::link::unanswered::Seen;
use crate::net;
use crate::wire::target::Target;

/// Follows what a server answers on the connection of one tunnel.
pub(super) struct Follower<'a> {
    egress: &'a Egress,
    target: &'a Target,
    /// The server's address.
    from: Option<SocketAddr>,
    speech: OnceLock<Speech>,
    reported: Reported,
}

impl<'a> Follower<'a> {
    /// Of a connection on which nothing was sent.
    pub(super) fn new(egress: &'a Egress, target: &'a Target, socket: &TcpStream) -> Self {
        let from = socket.peer_addr().ok();
        Self { egress, target, from, speech: OnceLock::new(), reported: Reported::default() }
    }

    /// Notes what was seen. Gives whether the connection is given up.
    pub(super) fn sees(&self, seen: Seen<'_>) -> bool {
        match seen {
            Seen::First(bytes) => _ = self.speech.set(Speech::of(bytes)),
            Seen::Answer => self.answered(),
            Seen::Nothing(unanswered) => {
                let facts = Facts {
                    waited: unanswered.waited,
                    quiet: unanswered.quiet,
                    unacknowledged: net::unacknowledged(unanswered.socket),
                    has_answered: unanswered.has_answered,
                    is_lost: self.egress.is_lost(),
                };
                return self.egress.unanswered((self.target, self.speech()), facts, &self.reported);
            }
        }
        false
    }

    /// Notes that the server has answered.
    pub(super) fn answered(&self) {
        if let Some(from) = self.from {
            self.egress.answered(self.target, from, self.speech());
        }
    }

    fn speech(&self) -> Speech {
        self.speech.get().copied().unwrap_or(Speech::Other)
    }
}
