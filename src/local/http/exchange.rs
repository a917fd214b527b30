//! The state of one exchange: a plain request and its response.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::filter::Filter;
use super::fronted::Fronted;
use crate::failure::Failure;
use crate::link::request::Transport;
use crate::local::context::{Local, until_given_up};
use crate::local::outcomes::RECHECK;
use crate::local::server_connection::ServerConnection;
use crate::memory::Account;
use crate::sys::broken::Break;
use crate::wire::http::{BodyLength, Malformed, RequestHead};
use crate::wire::id::NodeId;
use crate::wire::resume::Point;
use crate::wire::target::Target;

/// One exchange of an app.
// fields: what it is about, and what all steps of it note for those after them
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
    /// Whether any byte of the response has been passed on. Interim responses (1xx) do not count: after them a failure can still
    /// be told.
    pub(super) started: AtomicBool,
    /// Whether some of the request's body has not been sent to the server.
    pub(super) has_body_left: AtomicBool,
    /// Whether an interim response has been passed on.
    pub(super) has_interim: AtomicBool,
    /// How a write of the request's body to a socket of this machine failed.
    pub(super) broken: Break,
    /// Whether the app's connection ends with a reset from now on, because the app has a part of a body.
    pub(super) is_guarded: AtomicBool,
    /// Whether the connection to the server has or gets a login of the app. Nothing of the exchange is repeated or resumed
    /// on another connection then.
    pub(super) has_login: AtomicBool,
    /// The point from which the download can be resumed, and the number of bytes still to come; `None` if it cannot.
    point: Mutex<Option<(Point, u64)>>,
    /// The gateway that the response comes over.
    over: Mutex<Option<(NodeId, SocketAddr)>>,
    /// What a request to a front is about.
    pub(super) front: Option<&'a Fronted>,
    /// What happens to the body of its response.
    filter: Mutex<Option<Box<Filter>>>,
    /// How much of the body came over which gateway, if it came over several.
    shares: Mutex<Vec<Share>>,
}

/// How much of a body came over one of several gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) gateway: NodeId,
    pub(super) name: String,
    pub(super) bytes: u64,
}

/// Why an exchange failed.
pub(super) enum Trouble {
    /// No byte of a response has come.
    Silent {
        /// The link was lost, for which the server is not to blame.
        lost: bool,
        why: String,
    },
    /// No response: the gateway says that its way to the server is cut.
    Cut,
    /// The response is malformed; nothing of it has been passed on.
    Bad(Malformed),
    /// The body of the request is malformed; nothing has been answered.
    BadBody(Malformed),
    /// The registry redirects where nobody may be led; nothing of its response has been passed on.
    Astray(String),
    /// The registry asks for a token first; nothing of its response has been passed on.
    Challenged,
    /// The file is not the one that its index names; its last bytes have not been passed on.
    Poisoned(String),
    /// The response ended too early; some of it has been passed on.
    Truncated(String),
    /// The response was cut off: the link was lost.
    Lost(String),
    /// The response was cut off: the gateway says that its way to the server is cut.
    CutOff(String),
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
        Self {
            local,
            app,
            account,
            request,
            target,
            id,
            started,
            has_body_left: AtomicBool::new(!matches!(request.body, BodyLength::None | BodyLength::Exact(0))),
            has_interim: AtomicBool::new(false),
            broken: Break::default(),
            is_guarded: AtomicBool::new(false),
            has_login,
            point: Mutex::default(),
            over: Mutex::default(),
            front: None,
            filter: Mutex::default(),
            shares: Mutex::default(),
        }
    }

    /// An exchange for a request to a front.
    pub(super) fn of_front(
        local: &'a Local,
        app: (&'a TcpStream, &'a Arc<Account>),
        request: &'a RequestHead,
        target: &'a Target,
        id: u64,
        front: &'a Fronted,
    ) -> Self {
        Self { front: Some(front), ..Self::new(local, app, request, target, id) }
    }

    /// How the gateway is to speak to the server.
    pub(super) fn transport(&self) -> Transport {
        self.front.map_or(Transport::Http, Fronted::transport)
    }

    /// Opens a connection to the server for plain requests, and sends `head` on it.
    ///
    /// # Errors
    /// Those of [`crate::local::routes::Routes::open`].
    pub(super) async fn open(&self, head: Bytes, is_safe: bool) -> Result<ServerConnection, Failure> {
        let routes = &self.local.routes;
        routes.open_by(self.transport(), self.target, self.id, head, is_safe, self.account).await
    }

    /// Opens a connection to the server, for plain requests or as a tunnel, and sends `head` on it. `None` if the app gives up
    /// before there is one: it may have waited long for a gateway, and may repeat by itself what it has given up.
    ///
    /// # Errors
    /// Those of [`crate::local::routes::Routes::open`].
    pub(super) async fn open_unless_left(
        &self,
        head: Bytes,
        is_safe: bool,
        as_tunnel: bool,
    ) -> Result<Option<ServerConnection>, Failure> {
        let transport = if as_tunnel { Transport::Tcp } else { self.transport() };
        let routes = &self.local.routes;
        tokio::select! {
            biased;
            opened = routes.open_by(transport, self.target, self.id, head, is_safe, self.account) => opened.map(Some),
            () = until_given_up(self.app) => Ok(None),
        }
    }

    /// Notes that what has been passed on was an interim response.
    pub(super) fn has_passed_interim(&self) {
        self.has_interim.store(true, Relaxed);
        self.started.store(false, Relaxed);
    }

    /// Whether something has come from the server.
    pub(super) fn is_heard(&self) -> bool {
        self.started.load(Relaxed) || self.has_interim.load(Relaxed)
    }

    /// What happens to the body of the response.
    pub(super) fn filter(&self) -> MutexGuard<'_, Option<Box<Filter>>> {
        self.filter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much of the body came over which gateway, if it came over several.
    pub(super) fn shares(&self) -> MutexGuard<'_, Vec<Share>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The trouble with a malformed response, which depends on whether any of it has been passed on.
    pub(super) fn bad(&self, malformed: Malformed) -> Trouble {
        if self.started.load(Relaxed) {
            Trouble::Truncated(malformed.to_string())
        } else {
            Trouble::Bad(malformed)
        }
    }

    /// Notes over which gateway the response is to come.
    pub(super) fn comes_over(&self, server: &ServerConnection) {
        let over = server.gateway_id().zip(server.link().map(|(_, gateway)| gateway));
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = over;
    }

    /// The address of the gateway that the response comes over.
    pub(super) fn gateway(&self) -> Option<SocketAddr> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).map(|(_, address)| address)
    }

    /// Waits until the gateway that the response comes over has lost its way out, and another one can be asked.
    pub(super) async fn until_cut_off(&self) {
        loop {
            sleep(RECHECK).await;
            if self.is_cut_off() {
                return;
            }
        }
    }

    /// Whether `until_cut_off` would be ready now.
    pub(super) fn is_cut_off(&self) -> bool {
        let over = *self.over.lock().unwrap_or_else(PoisonError::into_inner);
        over.is_some_and(|(gateway, address)| self.local.routes.is_cut_off(gateway, address, self.target))
    }

    /// The point from which the download can be resumed, and the number of bytes still to come.
    pub(super) fn point(&self) -> MutexGuard<'_, Option<(Point, u64)>> {
        self.point.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
