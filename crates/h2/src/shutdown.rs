//! How a connection comes to its end: GOAWAY of either end (RFC 9113 §6.8), and what broke it.

use super::{Error, Reason};

/// The stages in which this end stops accepting streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Drain {
    #[default]
    No,
    /// GOAWAY was sent; streams that the peer opened before it has read that are still accepted.
    Announced,
    /// No stream is accepted.
    Done,
}

/// How far the connection has come to its end. No stage is ever undone.
#[derive(Debug, Default)]
pub(super) struct Shutdown {
    drain: Drain,
    /// The peer's GOAWAY: it accepts no more streams.
    peer_left: Option<Reason>,
    /// This end wants the connection to end with its last stream.
    is_retired: bool,
    /// The last GOAWAY was queued.
    is_farewell_said: bool,
    /// Why the connection is over.
    error: Option<Error>,
}

impl Shutdown {
    /// Begins to drain. False when it has begun already.
    pub(super) fn begin_drain(&mut self) -> bool {
        let begins = self.drain == Drain::No;
        if begins {
            self.drain = Drain::Announced;
        }
        begins
    }

    /// Notes that the peer has read that this end drains. False when this end does not drain.
    pub(super) fn finish_drain(&mut self) -> bool {
        let was_announced = self.drain == Drain::Announced;
        if was_announced {
            self.drain = Drain::Done;
        }
        was_announced
    }

    /// Whether no stream of the peer is accepted.
    pub(super) fn is_drained(&self) -> bool {
        self.drain == Drain::Done
    }

    /// Notes the peer's GOAWAY.
    pub(super) fn peer_leaves(&mut self, reason: Reason) {
        self.peer_left = Some(reason);
    }

    /// Notes that this end needs no more streams.
    pub(super) fn retire(&mut self) {
        self.is_retired = true;
    }

    /// Whether there will be no new stream in either direction, so that the connection ends with the last one.
    pub(super) fn ends_with_last_stream(&self) -> bool {
        self.is_retired || self.peer_left.is_some() || self.is_drained()
    }

    /// Notes that the last GOAWAY is queued. False when it was before.
    pub(super) fn say_farewell(&mut self) -> bool {
        !std::mem::replace(&mut self.is_farewell_said, true)
    }

    /// Notes why the connection is over. False when it was over before.
    pub(super) fn end(&mut self, error: &Error) -> bool {
        let ends = self.error.is_none();
        if ends {
            self.error = Some(error.clone());
        }
        ends
    }

    /// Why the connection is over.
    pub(super) fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Why this end can open no stream.
    pub(super) fn refusal(&self) -> Option<Error> {
        match (&self.error, self.peer_left) {
            (Some(error), _) => Some(error.clone()),
            (None, Some(reason)) => Some(Error::GoAway(reason)),
            (None, None) => self.is_farewell_said.then_some(Error::GoAway(Reason::NO_ERROR)),
        }
    }

    /// Whether no new stream can be opened, because of the peer or because the connection is over.
    pub(super) fn is_closing(&self) -> bool {
        self.peer_left.is_some() || self.error.is_some()
    }

    /// How the connection has ended, once nothing is left to do on it.
    pub(super) fn outcome(&self) -> Result<(), Error> {
        match self.peer_left {
            None | Some(Reason::NO_ERROR) => Ok(()),
            Some(reason) => Err(Error::GoAway(reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_has_two_steps_and_each_is_taken_once() {
        let mut shutdown = Shutdown::default();
        assert!(!shutdown.finish_drain(), "it has not begun");
        assert!(shutdown.begin_drain() && !shutdown.begin_drain());
        assert!(!shutdown.is_drained() && !shutdown.ends_with_last_stream());
        assert!(shutdown.finish_drain() && !shutdown.finish_drain());
        assert!(shutdown.is_drained() && shutdown.ends_with_last_stream());
        assert!(shutdown.refusal().is_none(), "this end may still open streams");
    }

    #[test]
    fn the_first_error_is_the_one_that_is_reported() {
        let mut shutdown = Shutdown::default();
        shutdown.peer_leaves(Reason::ENHANCE_YOUR_CALM);
        assert_eq!(shutdown.refusal().unwrap().reason(), Some(Reason::ENHANCE_YOUR_CALM));
        assert!(shutdown.end(&Error::GoAway(Reason::PROTOCOL_ERROR)));
        assert!(!shutdown.end(&Error::GoAway(Reason::NO_ERROR)));
        assert_eq!(shutdown.refusal().unwrap().reason(), Some(Reason::PROTOCOL_ERROR));
    }
}
