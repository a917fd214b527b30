//! Follows what a server answers on the connection of one tunnel, and tells the egress.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::egress::Egress;
use super::silence::{Facts, Reported, Speech};
use crate::link::unanswered::Seen;
use crate::net;
use crate::wire::id::NodeId;
use crate::wire::target::Target;

/// How long an answer is news.
const RECENT: Duration = Duration::from_secs(5);

/// Follows what a server answers on the connection of one tunnel.
pub(super) struct Follower<'a> {
    egress: &'a Egress,
    target: &'a Target,
    by: NodeId,
    /// The server's address.
    from: SocketAddr,
    begun: Instant,
    speech: OnceLock<Speech>,
    reported: Reported,
}

impl<'a> Follower<'a> {
    /// A follower of a member's connection to `from` on which nothing has been sent.
    pub(super) fn new(egress: &'a Egress, target: &'a Target, by: NodeId, from: SocketAddr) -> Self {
        let (begun, speech, reported) = (Instant::now(), OnceLock::new(), Reported::default());
        Self { egress, target, by, from, begun, speech, reported }
    }

    /// Notes what was seen. Returns whether to give the connection up.
    pub(super) fn sees(&self, seen: Seen<'_>) -> bool {
        match seen {
            Seen::First(bytes) => _ = self.speech.set(Speech::of(bytes)),
            Seen::Answer => self.answered(),
            Seen::Nothing(unanswered) => {
                let facts = Facts {
                    waited: unanswered.waited,
                    quiet: unanswered.quiet,
                    unacknowledged: net::unacknowledged(unanswered.socket),
                    has_worked: unanswered.has_answered || net::acknowledged(unanswered.socket) > 0,
                    is_lost: self.egress.is_lost(),
                };
                return self.egress.unanswered((self.target, self.by), self.speech(), facts, &self.reported);
            }
        }
        false
    }

    /// Notes the end of a connection over which the server has answered at some time.
    pub(super) fn ended(&self, socket: &TcpStream) {
        // Most connections are short, and need no system call.
        if self.begun.elapsed() < RECENT || net::unheard(socket).is_none_or(|unheard| unheard < RECENT) {
            self.answered();
        }
    }

    fn answered(&self) {
        self.egress.answered((self.target, self.by), self.from, self.speech());
    }

    fn speech(&self) -> Speech {
        self.speech.get().copied().unwrap_or(Speech::Other)
    }
}
