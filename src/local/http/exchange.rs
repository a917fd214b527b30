//! The state of one exchange: a plain request and its response.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpStream;

use crate::local::context::Local;
use crate::memory::Account;
use crate::wire::http::{Malformed, RequestHead};
use crate::wire::resume::Point;
use crate::wire::target::Target;

/// One exchange of an app.
pub(super) struct Exchange<'a> {
    pub(super) local: &'a Local,
    /// The app's socket.
    pub(super) app: &'a TcpStream,
    /// What the app's connection holds.
    pub(super) account: &'a Arc<Account>,
    pub(super) request: &'a RequestHead,
    pub(super) target: &'a Target,
    /// Its id in the logs of this node and of the gateway.
    pub(super) id: u64,
    /// Whether any byte of a response has been passed on.
    pub(super) started: AtomicBool,
    /// Whether the connection to the server has or gets a login of the app. Nothing of the exchange is repeated or resumed
    /// on another connection then.
    pub(super) has_login: AtomicBool,
    /// The point from which the download can be resumed, and the number of bytes still to come; `None` if it cannot.
    point: Mutex<Option<(Point, u64)>>,
}

/// Why an exchange failed.
pub(super) enum Trouble {
    /// No byte of a response.
    Silent {
        /// The link was lost, for which the server is not to blame.
        lost: bool,
        why: String,
    },
    /// The response is malformed; nothing of it has been passed on.
    Bad(Malformed),
    /// The body of the request is malformed; nothing has been answered.
    BadBody(Malformed),
    /// The response ended too early; some of it has been passed on.
    Truncated(String),
    /// The same, because the link was lost.
    Lost(String),
    /// The app has closed its connection after its request.
    Left,
    /// The app has hung up.
    App(io::Error),
}

impl<'a> Exchange<'a> {
    /// An exchange in which nothing has been sent.
    pub(super) fn new(
        local: &'a Local,
        (app, account): (&'a TcpStream, &'a Arc<Account>),
        request: &'a RequestHead,
        target: &'a Target,
        id: u64,
    ) -> Self {
        let (started, has_login) = (AtomicBool::new(false), AtomicBool::new(request.logs_in_connection()));
        Self { local, app, account, request, target, id, started, has_login, point: Mutex::default() }
    }

    /// The trouble with a malformed response, which depends on whether any of it has been passed on.
    pub(super) fn bad(&self, malformed: Malformed) -> Trouble {
        if self.started.load(Relaxed) {
            Trouble::Truncated(malformed.to_string())
        } else {
            Trouble::Bad(malformed)
        }
    }

    /// The point from which the download can be resumed, and the number of bytes still to come.
    pub(super) fn point(&self) -> MutexGuard<'_, Option<(Point, u64)>> {
        self.point.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
