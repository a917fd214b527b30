//! What a request to a front is about.

use std::sync::{Arc, Mutex, PoisonError};

use crate::cache::digest::Digest;
use crate::fronts::known::Known;
use crate::fronts::place::Place;
use crate::fronts::token::Challenge;
use crate::link::request::Transport;

/// What a request to a front is about.
pub(super) struct Fronted {
    pub(super) place: Place,
    /// The local port as the app calls it, `http://HOST:PORT`.
    pub(super) local: String,
    /// What the file must hash to; `None` also if the request is not for its content.
    pub(super) expected: Option<Digest>,
    /// What the file must hash to is known, whatever the method of the request.
    pub(super) is_named: bool,
    pub(super) known: Arc<Known>,
    /// An anonymous token may be asked for.
    pub(super) may_challenge: bool,
    pub(super) challenge: Mutex<Option<Challenge>>,
}

impl Fronted {
    pub(super) fn transport(&self) -> Transport {
        if self.place.url.is_secure { Transport::Https } else { Transport::Http }
    }

    /// The demand for a token that ended the exchange.
    pub(super) fn challenge(&self) -> Option<Challenge> {
        self.challenge.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
