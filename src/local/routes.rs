//! How connections leave this node: over the best link, or from this machine itself while it is a gateway.
//!
//! Choosing a gateway, holding a connection while there is none, and moving to the next one happen here; `Search`
//! bounds both the time and the number of gateways.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::links::Links;
use super::server_connection::ServerConnection;
use crate::failure::{Failure, Kind, Side};
use crate::link::alive::LinkState;
use crate::link::client::Link;
use crate::link::pipe::Pipe;
use crate::link::request::Transport;
use crate::memory::{Account, Budget};
use crate::own_addresses::OwnAddresses;
use crate::peers::selection::Failing;
use crate::wire::id::NodeId;
use crate::wire::target::Target;

/// Maximum number of gateways that one search tries.
const MOST_ATTEMPTS: u32 = 8;

/// Pause of a search after a gateway has reported that it cannot reach the outside.
const REST: Duration = Duration::from_millis(300);

/// Connects from this machine, under the gateway's access rules.
pub type Connect = dyn Fn(Target) -> BoxFuture<'static, Result<TcpStream, Failure>> + Send + Sync;

/// As `Connect`, for UDP; the socket is connected.
pub type ConnectUdp = dyn Fn(Target) -> BoxFuture<'static, Result<UdpSocket, Failure>> + Send + Sync;

/// Why this machine has no way out itself, as a sentence that begins with "it".
pub type Fault = dyn Fn() -> Option<String> + Send + Sync;

/// Opens a stream of plain requests to a target, over TLS if the flag says so, at this node's own gateway, with the first bytes
/// that are safe to repeat; `None` when that has no cache.
pub type OwnRequests = dyn Fn((Target, bool), Bytes, Arc<Account>) -> BoxFuture<'static, Option<Result<Pipe, Failure>>>
    + Send
    + Sync;

/// All routes out of this node.
pub struct Routes {
    /// The links to gateways.
    pub links: Arc<Links>,
    /// Connects from this machine by TCP.
    pub direct: Box<Connect>,
    /// Connects from this machine by UDP.
    pub direct_udp: Box<ConnectUdp>,
    /// Why this machine cannot be a gateway now, if it was to be one.
    pub fault: Box<Fault>,
    /// Has the gateway of this node answer plain requests.
    pub own_requests: Box<OwnRequests>,
    /// Whether this node is a gateway now and connects from this machine.
    pub is_gateway: watch::Receiver<bool>,
    /// How long a connection is held while there is no gateway.
    pub hold: watch::Receiver<Duration>,
    /// The memory budget of all tunnels.
    pub memory: Arc<Budget>,
    /// Whether a large download comes over several gateways.
    pub spreads: bool,
    /// The addresses at which this node listens; connections to them are refused as loops.
    pub own: Arc<OwnAddresses>,
}

/// One route out of this node.
pub(super) enum Route {
    /// From this machine.
    Direct,
    /// Over this link.
    Link(Link),
}

/// The search of one connection for a gateway. It has one deadline, however many gateways fail meanwhile, and a
/// maximum number of attempts, however each of them ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    held_until: Instant,
    attempts: u32,
}

impl Search {
    /// A search that holds its connection for at most `hold` in all.
    pub(super) fn begin(hold: Duration) -> Self {
        Self { held_until: Instant::now() + hold, attempts: 0 }
    }

    /// Waits for `route`, and counts an attempt. `None` once the hold time is over.
    pub(super) async fn next<T>(&mut self, route: impl Future<Output = T>) -> Option<T> {
        self.count();
        timeout_at(self.held_until, route).await.ok()
    }

    /// Counts an attempt.
    pub(super) fn count(&mut self) {
        self.attempts += 1;
    }

    /// Lets a moment pass after all gateways that were asked have reported that they cannot reach the outside. `false` when
    /// the hold time is over.
    pub(super) async fn rest(&self) -> bool {
        let until = Instant::now() + REST;
        tokio::time::sleep_until(until.min(self.held_until)).await;
        until < self.held_until
    }

    /// Whether there may be another attempt after this one.
    pub(super) fn may_move_on(&self) -> bool {
        self.attempts < MOST_ATTEMPTS
    }
}

impl Routes {
    /// Opens a connection to `target` and sends `first` on it: together with the request to open if `first` is safe to
    /// repeat on another gateway, else after the connection is established. The connection is charged to `account`.
    ///
    /// # Errors
    /// Why there is no connection, or no gateway within the hold time.
    pub async fn open(
        &self,
        target: &Target,
        id: u64,
        first: Bytes,
        is_safe: bool,
        account: &Arc<Account>,
    ) -> Result<ServerConnection, Failure> {
        self.open_by(Transport::Tcp, target, id, first, is_safe, account).await
    }

    /// As `open`, for any transport of streams.
    ///
    /// # Errors
    /// Those of [`Routes::open`].
    pub(super) async fn open_by(
        &self,
        transport: Transport,
        target: &Target,
        id: u64,
        first: Bytes,
        is_safe: bool,
        account: &Arc<Account>,
    ) -> Result<ServerConnection, Failure> {
        self.admit(target)?;
        let (early, late) = if is_safe { (first, Bytes::new()) } else { (Bytes::new(), first) };
        let mut server = self.connect(transport, target, id, early, account).await?;
        match server.halves().0.send(late).await {
            Ok(()) => Ok(server),
            Err(error) => {
                let sentence = format!("the connection to {target} broke at once: {error}");
                Err(Failure::new(Kind::Terminated, Side::Link, sentence))
            }
        }
    }

    /// Opens a connection to `target` over this link and no other one, beside one that is open. `first` is safe to repeat.
    ///
    /// # Errors
    /// Why there is no connection.
    pub(super) async fn open_over(
        &self,
        link: &Link,
        (transport, target): (Transport, &Target),
        id: u64,
        first: Bytes,
        account: &Arc<Account>,
    ) -> Result<ServerConnection, Failure> {
        self.admit(target)?;
        let asked = self.links.outcomes.ask(link.gateway.id, target);
        let opened = link.open_by(transport, target, id, first).await;
        asked.end(opened.as_ref().err().and_then(failing));
        match opened {
            Ok(mut tunnel) => {
                self.links.has_way_out(&link.gateway);
                tunnel.stream.charge_to(account);
                Ok(ServerConnection::Link(Box::new(tunnel), link.gateway.name.to_string()))
            }
            Err(failure) => {
                if failure.kind == Kind::NoWayOut {
                    self.links.leave_alone(link, &failure.sentence);
                } else if failure.blames_gateway() {
                    link.retire();
                }
                Err(failure)
            }
        }
    }

    /// Connects over a link or from this machine, and the other way once the gateway, or this machine as one, has lost its way
    /// out.
    async fn connect(
        &self,
        transport: Transport,
        target: &Target,
        id: u64,
        early: Bytes,
        account: &Arc<Account>,
    ) -> Result<ServerConnection, Failure> {
        let search = Search::begin(self.hold());
        loop {
            if let Some((mut tunnel, link)) = self.open_tunnel(transport, target, id, &early).await? {
                tunnel.stream.charge_to(account);
                return Ok(ServerConnection::Link(Box::new(tunnel), link.gateway.name.to_string()));
            }
            match self.connect_here_or_beside(transport, target, id, early.clone(), account).await {
                // Other gateways are asked once this node is no longer one.
                Err(failure) if failure.kind == Kind::NoWayOut => {
                    if !search.rest().await {
                        return Err(failure);
                    }
                }
                connected => return connected,
            }
        }
    }

    /// Connects from this machine, as this node's own gateway does for clients.
    pub(super) async fn connect_from_here(
        &self,
        transport: Transport,
        target: &Target,
        early: Bytes,
        account: &Arc<Account>,
    ) -> Result<ServerConnection, Failure> {
        if matches!(transport, Transport::Http | Transport::Https) {
            let asked = (target.clone(), transport == Transport::Https);
            let opened = (self.own_requests)(asked, early.clone(), account.clone()).await;
            if let Some(opened) = opened {
                return opened.map(ServerConnection::Own);
            }
        }
        if transport == Transport::Https {
            let sentence = "this node is a gateway itself, and has no cache, which fronts need: because of --no-cache, or 'laneway doctor' says \
                 why its directory cannot be used";
            return Err(Failure::new(Kind::Unsupported, Side::Local, sentence));
        }
        let mut server = ServerConnection::Direct((self.direct)(target.clone()).await?);
        match server.halves().0.send(early).await {
            Ok(()) => Ok(server),
            Err(error) => Err(Failure::new(Kind::Terminated, Side::Server, error.to_string())),
        }
    }

    /// Checks that `target` is not this node itself and that there is memory for another connection.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn admit(&self, target: &Target) -> Result<(), Failure> {
        if target.address().is_some_and(|address| self.own.is_this_node(address)) {
            let sentence = format!("{target} is a port of this node itself");
            return Err(Failure::new(Kind::Loop, Side::Local, sentence));
        }
        if self.memory.is_short() {
            return Err(no_memory());
        }
        Ok(())
    }

    /// Whether another gateway than the one at `address` can be asked for `target`, and has not failed it lately.
    pub(super) fn has_other(&self, address: SocketAddr, target: &Target) -> bool {
        self.other_link(address, target).is_some()
    }

    /// The link of such a gateway.
    pub(super) fn other_link(&self, address: SocketAddr, target: &Target) -> Option<Link> {
        let up = self.links.up();
        let links = up.borrow();
        self.links.outcomes.untried(&links, target).find(|other| other.address != address).cloned()
    }

    /// Waits for a route to `target`: a gateway that has failed it lately comes last.
    pub(super) async fn route_to(&self, target: Option<&Target>) -> Route {
        match (self.route().await, target) {
            (Route::Direct, _) => Route::Direct,
            (link, None) => link,
            (Route::Link(best), Some(target)) => {
                let up = self.links.up();
                let links = up.borrow();
                Route::Link(self.links.outcomes.untried(&links, target).next().cloned().unwrap_or(best))
            }
        }
    }

    /// Waits for a route.
    pub(super) async fn route(&self) -> Route {
        let mut is_gateway = self.is_gateway.clone();
        let mut links = self.links.up();
        loop {
            if *is_gateway.borrow_and_update() {
                return Route::Direct;
            }
            if let Some(link) = best(&links.borrow_and_update()) {
                return Route::Link(link.clone());
            }
            tokio::select! {
                changed = is_gateway.changed() => if changed.is_err() { std::future::pending::<()>().await },
                changed = links.changed() => if changed.is_err() { std::future::pending::<()>().await },
            }
        }
    }

    /// Waits until the link with this state, to the gateway at `address`, is suspect and another one is not.
    pub(super) async fn until_better(&self, link_state: &LinkState, address: SocketAddr) {
        link_state.suspected().await;
        let mut links = self.links.up();
        loop {
            let other = best(&links.borrow_and_update())
                .is_some_and(|other| other.address != address && !other.is_suspect());
            if other {
                return;
            }
            if links.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Whether the gateway `id` at `address` has no way out any more, and another one can be asked for `target`.
    pub(super) fn is_cut_off(&self, id: NodeId, address: SocketAddr, target: &Target) -> bool {
        self.links.has_lost_way_out(id, address) && self.has_other(address, target)
    }

    /// Whether a flow on a link should move to another route: the link's gateway `id` at `address` is suspect or
    /// has lost its way out and another one is not, or the link takes no new tunnels, which `end_of_use` says.
    pub(super) fn has_better(
        &self,
        link_state: &LinkState,
        (id, address): (NodeId, SocketAddr),
        end_of_use: &CancellationToken,
    ) -> bool {
        let up = self.links.up();
        let links = up.borrow();
        match best(&links) {
            Some(_) if end_of_use.is_cancelled() => true,
            // This node has become a gateway itself.
            None if end_of_use.is_cancelled() => *self.is_gateway.borrow(),
            Some(other) => {
                let is_other = other.address != address && !other.is_suspect();
                is_other && (*link_state.suspect().borrow() || self.links.has_lost_way_out(id, address))
            }
            None => false,
        }
    }

    /// Whether this node is not a gateway any more, and has a link to one.
    pub(super) fn has_gateway(&self) -> bool {
        !*self.is_gateway.borrow() && best(&self.links.up().borrow()).is_some()
    }

    /// How long a connection waits for a gateway.
    pub(super) fn hold(&self) -> Duration {
        if self.links.is_removed() { Duration::ZERO } else { *self.hold.borrow() }
    }

    /// The failure of a connection whose hold time is over. `lost` is what the last gateway without a way out said.
    pub(super) fn no_gateway(&self, lost: Option<String>) -> Failure {
        let held = self.hold().as_secs_f32();
        let itself = (self.fault)().map(|fault| format!("; this machine has no way out itself: {fault}"));
        let itself = itself.unwrap_or_default();
        let sentence = match self.links.trouble().or(lost) {
            Some(trouble) if held == 0.0 => format!("no gateway can be used: {trouble}{itself}"),
            Some(trouble) => format!("no gateway could be used within {held} s: {trouble}{itself}"),
            None if !itself.is_empty() => format!("no other gateway answered within {held} s{itself}"),
            None => format!("no gateway answered within {held} s: run 'laneway discover' to see why"),
        };
        Failure::new(Kind::NoGateway, Side::Local, sentence)
    }
}

/// What a failure means for the gateway that reports it. `None` for the link's own failures, and those of this node.
pub(super) fn failing(failure: &Failure) -> Option<Failing> {
    match (failure.side, failure.kind) {
        (Side::Local | Side::Link, _) | (_, Kind::NoWayOut) => None,
        // It answers pings, and never answered this.
        (Side::Gateway, Kind::ConnectTimeout) => Some(Failing::Silent),
        (Side::Gateway, _) => Some(Failing::ByRule),
        (Side::Server, _) => Some(Failing::Ended),
    }
}

/// The failure of a connection for which there is no memory.
pub(super) fn no_memory() -> Failure {
    let sentence = "this node has no memory left for another connection";
    Failure::new(Kind::LimitReached, Side::Local, sentence)
}

/// The link for a new tunnel: the first one that is not suspect, else the first one.
fn best(links: &[Link]) -> Option<&Link> {
    let usable = || links.iter().filter(|link| link.is_usable());
    usable().find(|link| !link.is_suspect()).or_else(|| usable().next())
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_attempts_of_a_search_share_one_hold_time() {
        let (start, hold) = (Instant::now(), Duration::from_secs(10));
        let mut search = Search::begin(hold);
        assert_eq!(search.next(ready(1)).await, Some(1));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(search.next(pending::<()>()).await, None);
        assert_eq!(start.elapsed(), hold);
        assert_eq!(search.next(ready(2)).await, Some(2), "a gateway that is there already needs no hold");
    }

    #[tokio::test]
    async fn a_search_tries_a_limited_number_of_gateways() {
        let mut search = Search::begin(Duration::from_secs(10));
        let mut tried = 0;
        while search.may_move_on() {
            search.next(ready(())).await;
            tried += 1;
        }
        assert_eq!(tried, MOST_ATTEMPTS);
    }
}
