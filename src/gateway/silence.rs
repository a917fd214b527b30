//! A server that accepts a connection and then answers nothing: what is reported of it, and when its connection is given up.
//!
//! The server may be slow, or an uplink may carry nothing but handshakes. What tells is whether the server's machine acknowledges
//! what was sent. If the system does not say that, or answers alone are lost on their way back, only other silent servers tell.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::wire::first::may_be_http;
use crate::wire::hello::HANDSHAKE_RECORD;

/// What status and page show of a server that accepts connections and answers nothing.
pub const NOTHING: &str = "it accepts connections, and then nothing comes back";
/// How long the server's machine may acknowledge nothing before it counts as silent. In this time a segment is sent five times,
/// unless the path is very long.
pub(super) const UNACKNOWLEDGED: Duration = Duration::from_secs(4);
/// How long an answer may take after everything was acknowledged before the server counts as silent: most answer sooner, and the
/// silence of one alone does not count.
const UNANSWERED: Duration = Duration::from_secs(8);
/// How long a connection over which nothing ever came, not even an acknowledgement of data, is kept: short outages pass. Nobody
/// but the app can repeat what was sent on it.
pub(super) const GIVE_UP: Duration = Duration::from_secs(10);
/// Minimum time between two reports of one connection.
const AGAIN: Duration = Duration::from_secs(10);

/// The protocol spoken with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// HTTP/1.
    Http,
    /// TLS.
    Tls,
    /// Another one.
    Other,
}

/// What was seen of a server that has not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// Time since it was first sent something that it has not answered.
    pub(super) waited: Duration,
    /// Time since it was last sent something.
    pub(super) quiet: Duration,
    /// For how long its machine has acknowledged nothing.
    pub(super) unacknowledged: Option<Duration>,
    /// It has answered before, or its machine has acknowledged some of what was sent.
    pub(super) has_worked: bool,
    /// This gateway has lost its way out.
    pub(super) is_lost: bool,
}

/// Whether the silence of one connection is to be reported.
#[derive(Debug, Default)]
pub(super) struct Reported(Mutex<Option<Instant>>);

impl Speech {
    /// The protocol of a connection that begins with these bytes.
    pub(super) fn of(first: &[u8]) -> Self {
        match first {
            [HANDSHAKE_RECORD, 3, ..] => Self::Tls,
            _ if may_be_http(first) => Self::Http,
            _ => Self::Other,
        }
    }

    /// The usual protocol at this port.
    pub(super) fn at(port: u16) -> Self {
        match port {
            443 | 8443 => Self::Tls,
            80 | 3128 | 8000 | 8080 => Self::Http,
            _ => Self::Other,
        }
    }
}

impl Facts {
    fn unacknowledged(&self) -> Duration {
        // Before it was sent anything, there was nothing to acknowledge.
        self.unacknowledged.unwrap_or_default().min(self.waited)
    }

    /// Whether the server counts as silent, and if so, whether its machine has acknowledged everything.
    pub(super) fn silence(&self) -> Option<bool> {
        let is_acknowledged = self.unacknowledged() < UNACKNOWLEDGED;
        (!is_acknowledged || self.quiet >= UNANSWERED).then_some(is_acknowledged)
    }

    /// Whether to give the connection up: never while the server's machine acknowledges what it is sent, whatever other servers
    /// do. A slow server is waited for as long as the app waits. One that has answered, or taken part of an upload, may do so
    /// again after an outage.
    pub(super) fn gives_up(&self) -> bool {
        self.unacknowledged() >= GIVE_UP && (!self.has_worked || self.is_lost)
    }
}

impl Reported {
    /// Whether to report the silence now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now >= last + AGAIN);
        *last = if is_due { Some(now) } else { *last };
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(waited: u64, unacknowledged: Option<u64>) -> Facts {
        let waited = Duration::from_secs(waited);
        Facts {
            waited,
            quiet: waited,
            unacknowledged: unacknowledged.map(Duration::from_secs),
            has_worked: false,
            is_lost: false,
        }
    }

    #[test]
    fn a_slow_server_is_waited_for_and_one_whose_machine_acknowledges_nothing_is_not() {
        for waited in [4, 40, 4000] {
            assert!(!facts(waited, None).gives_up(), "{waited}");
        }
        assert_eq!(facts(4, None).silence(), None);
        assert_eq!(facts(8, None).silence(), Some(true));
        assert_eq!(facts(4, Some(4)).silence(), Some(false));
        assert!(!facts(9, Some(9)).gives_up() && facts(10, Some(10)).gives_up());
        // It was idle for an hour, and was sent something a moment ago.
        let idle = facts(1, Some(3600));
        assert!(idle.silence().is_none() && !idle.gives_up());
    }

    #[test]
    fn a_lost_way_out_ends_what_has_answered_before_and_nothing_that_is_acknowledged() {
        let lost = |facts| Facts { is_lost: true, ..facts };
        let used = |facts| Facts { has_worked: true, ..facts };
        assert!(!lost(facts(9, Some(9))).gives_up() && lost(facts(10, Some(10))).gives_up());
        assert!(!lost(facts(4000, None)).gives_up(), "a slow server");
        assert!(!used(facts(100, Some(100))).gives_up(), "an outage that may pass");
        assert!(!used(lost(facts(100, None))).gives_up(), "it waits for the next event");
        assert!(!used(lost(facts(9, Some(9)))).gives_up() && used(lost(facts(10, Some(10)))).gives_up());
    }

    #[test]
    fn the_first_bytes_tell_the_protocol() {
        for (first, speech) in [
            (&b"GET / HT"[..], Speech::Http),
            (b"OPTIONS ", Speech::Http),
            (b"PROPFIND /a HTTP/1.1\r\n", Speech::Http),
            (b"MKCALENDAR /a HTTP/1.1\r\n", Speech::Http),
            (b"EHLO me\r\n", Speech::Other),
            (b"PRI * HTTP/2.0\r\n", Speech::Other),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01", Speech::Tls),
            (b"\x16", Speech::Other),
            (b"SSH-2.0-", Speech::Other),
            (b"", Speech::Other),
        ] {
            assert_eq!(Speech::of(first), speech, "{first:?}");
        }
    }

    #[test]
    fn a_connection_is_reported_once_in_a_while() {
        let (reported, now) = (Reported::default(), Instant::now());
        assert!(reported.is_due(now) && !reported.is_due(now + AGAIN / 2) && reported.is_due(now + AGAIN));
    }
}
