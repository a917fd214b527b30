//! The spine: from a target to an upstream, and from there to the end. A connection is held while there is no way
//! out; a gateway that fails is left for the next; what is safe to repeat is repeated. Nowhere else.

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
use super::upstream::Upstream;
use crate::copy;
use crate::failure::{Failure, Kind, Side};
use crate::link::alive::Pulse;
use crate::link::client::{Link, LinkTunnel};
use crate::link::relay::{Broken, Progress, ReplayBuffer, outcome, relay};
use crate::link::request::Transport;
use crate::memory::Budget;
use crate::net;
use crate::own::Own;
use crate::telemetry::record::Record;
use crate::wire::replay;
use crate::wire::target::Target;

/// How many gateways one connection, or one question, may wear out.
pub(super) const MOST_ATTEMPTS: u32 = 8;

/// Connects from this machine itself, under the gateway's rules.
pub type Direct = dyn Fn(Target) -> BoxFuture<'static, Result<TcpStream, Failure>> + Send + Sync;

/// The same for UDP: the socket is connected.
pub type DirectUdp = dyn Fn(Target) -> BoxFuture<'static, Result<UdpSocket, Failure>> + Send + Sync;

/// The ways out of this node.
pub struct Routes {
    /// The links to gateways.
    pub links: Arc<Links>,
    /// The direct way.
    pub direct: Box<Direct>,
    /// The direct way of UDP.
    pub direct_udp: Box<DirectUdp>,
    /// Whether this node is a gateway now, and goes the direct way.
    pub is_gateway: watch::Receiver<bool>,
    /// How long a connection is held while there is no way out.
    pub hold: watch::Receiver<Duration>,
    /// What all tunnels may hold.
    pub memory: Arc<Budget>,
    /// What this node is itself: nothing to go to.
    pub own: Arc<Own>,
}

/// A connection of an app that is a tunnel from now on.
pub struct Tunnelled {
    /// The app's socket.
    pub app: TcpStream,
    /// Where it goes.
    pub target: Target,
    /// Its id in the logs.
    pub id: u64,
    /// The way there.
    pub upstream: Upstream,
    /// What went along with the open; none where nothing may be repeated.
    pub kept: Option<ReplayBuffer>,
    /// Its access line.
    pub record: Record,
}

/// A way out.
pub(super) enum Way {
    /// From this machine.
    Direct,
    /// Over this link.
    Link(Link),
}

impl Routes {
    /// Opens a way to `target`, and sends `first` along it: with the question if that is `safe` to repeat on another
    /// gateway, else once the connection stands.
    ///
    /// # Errors
    /// Why there is no way; for want of a gateway never later than the hold time.
    pub async fn open(
        &self,
        target: &Target,
        id: u64,
        first: Bytes,
        safe: bool,
    ) -> Result<Upstream, Failure> {
        self.admit(target)?;
        let (early, late) = if safe { (first, Bytes::new()) } else { (Bytes::new(), first) };
        let mut upstream = self.way_to(target, id, early).await?;
        match upstream.halves().0.send(late).await {
            Ok(()) => Ok(upstream),
            Err(error) => {
                let sentence = format!("the connection to {target} broke at once: {error}");
                Err(Failure::new(Kind::Terminated, Side::Link, sentence))
            }
        }
    }

    async fn way_to(&self, target: &Target, id: u64, early: Bytes) -> Result<Upstream, Failure> {
        let Some((mut tunnel, link)) = self.ask(Transport::Tcp, target, id, &early).await? else {
            let mut upstream = Upstream::Direct((self.direct)(target.clone()).await?);
            return match upstream.halves().0.send(early).await {
                Ok(()) => Ok(upstream),
                Err(error) => Err(Failure::new(Kind::Terminated, Side::Server, error.to_string())),
            };
        };
        tunnel.stream.charge_to(&self.memory.account());
        Ok(Upstream::Link(Box::new(tunnel), link.gateway.id.short()))
    }

    /// Whether anything may be opened to `target`, as far as this node can tell.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn admit(&self, target: &Target) -> Result<(), Failure> {
        if target.address().is_some_and(|address| self.own.is_this_node(address)) {
            let sentence = format!("{target} is a port of this node itself");
            return Err(Failure::new(Kind::Loop, Side::Local, sentence));
        }
        if self.memory.is_short() {
            let sentence = "this node has no memory left for another connection";
            return Err(Failure::new(Kind::LimitReached, Side::Local, sentence));
        }
        Ok(())
    }

    /// Asks one gateway after the other for a tunnel, and sends `first` along with the question. None when this node
    /// goes the direct way.
    ///
    /// # Errors
    /// Why there is none; for want of a gateway never later than the hold time.
    pub(super) async fn ask(
        &self,
        transport: Transport,
        target: &Target,
        id: u64,
        first: &Bytes,
    ) -> Result<Option<(LinkTunnel, Link)>, Failure> {
        let mut attempts = 0;
        loop {
            let held_until = Instant::now() + *self.hold.borrow();
            let link = match timeout_at(held_until, self.way()).await {
                Ok(Way::Direct) => return Ok(None),
                Ok(Way::Link(link)) => link,
                Err(_) => return Err(self.no_gateway()),
            };
            attempts += 1;
            let opened = tokio::select! {
                biased;
                opened = link.open_by(transport, target, id, first.clone()) => opened,
                () = self.better_than(&link.pulse, link.address) => {
                    tracing::info!(gateway = link.gateway.id.short(), "no answer: the connection moves on");
                    continue;
                }
            };
            match opened {
                Ok(tunnel) => return Ok(Some((tunnel, link))),
                Err(failure) if failure.blames_gateway() && attempts < MOST_ATTEMPTS => {
                    link.retire();
                    tracing::info!(reason = %failure, "the gateway failed an open");
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Whether what goes over a link would now rather go over another one: that one's gateway is suspect, or, since
    /// `end_of_use`, takes nothing new.
    pub(super) fn has_better(
        &self,
        pulse: &Pulse,
        address: SocketAddr,
        end_of_use: &CancellationToken,
    ) -> bool {
        let standing = self.links.standing();
        let links = standing.borrow();
        match best(&links) {
            Some(_) if end_of_use.is_cancelled() => true,
            // It has become a gateway itself.
            None if end_of_use.is_cancelled() => *self.is_gateway.borrow(),
            Some(other) => *pulse.suspect().borrow() && other.address != address && !other.is_suspect(),
            None => false,
        }
    }

    /// Whether this node is no gateway any more, and has one.
    pub(super) fn has_gateway(&self) -> bool {
        !*self.is_gateway.borrow() && best(&self.links.standing().borrow()).is_some()
    }

    /// Waits for a way out.
    pub(super) async fn way(&self) -> Way {
        let mut is_gateway = self.is_gateway.clone();
        let mut links = self.links.standing();
        loop {
            if *is_gateway.borrow_and_update() {
                return Way::Direct;
            }
            if let Some(link) = best(&links.borrow_and_update()) {
                return Way::Link(link.clone());
            }
            tokio::select! {
                changed = is_gateway.changed() => if changed.is_err() { std::future::pending::<()>().await },
                changed = links.changed() => if changed.is_err() { std::future::pending::<()>().await },
            }
        }
    }

    /// Waits until the link with this `pulse`, to the gateway at `address`, is suspect and another one is not.
    pub(super) async fn better_than(&self, pulse: &Pulse, address: SocketAddr) {
        pulse.suspected().await;
        let mut links = self.links.standing();
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

    /// Carries a connection of an app to its end. With `kept`, and as long as nothing has come back from the
    /// server, it survives the loss of its gateway if what the app has sent is safe to send again; and when the
    /// gateway is but suspect, it moves to a better one, once.
    pub async fn carry(&self, tunnelled: Box<Tunnelled>) {
        let Tunnelled { app, target, id, mut upstream, kept, mut record } = *tunnelled;
        let traffic = record.traffic();
        let progress = Progress::of_app(&traffic);
        let replayable = || {
            let sent = kept.as_ref().filter(|_| progress.moved().received == 0)?.all()?;
            replay::is_safe(&sent).then_some(sent)
        };
        let mut moved = false;
        let result = loop {
            record.gateway = upstream.gateway().to_owned();
            let LinkTunnel { stream: tunnel, gateway } = match upstream {
                Upstream::Link(tunnel, _) => *tunnel,
                Upstream::Direct(server) => return Box::pin(carry_directly(app, server, &mut record)).await,
            };
            let pulse = tunnel.pulse().clone();
            let better = async {
                self.better_than(&pulse, gateway).await;
                match replayable() {
                    Some(again) if !moved => again,
                    _ => std::future::pending().await,
                }
            };
            let ended = tokio::select! {
                biased;
                result = relay(&app, tunnel, &progress, kept.as_ref()) => Ok(result),
                again = better => Err(again),
            };
            let again = match ended {
                Ok(result) => match replayable() {
                    Some(again) if result.as_ref().is_err_and(Broken::is_link_lost) => again,
                    _ => break result,
                },
                Err(again) => {
                    moved = true;
                    again
                }
            };
            tracing::info!(conn = format!("{id:016x}"), bytes = again.len(), "replayed on the next gateway");
            record.rescued("replayed");
            match Box::pin(self.open(&target, id, again, true)).await {
                Ok(next) => upstream = next,
                Err(failure) => {
                    net::reset(app);
                    return record.failed(&failure);
                }
            }
        };
        record.moved(progress.moved());
        record.ended(outcome(&result));
        match result {
            Ok(()) => {}
            // The server has answered before the app had sent everything: the answer must not be lost with the rest.
            Err(Broken::Unheard(_)) => {
                net::linger(&app).await;
                net::end_orderly(&app);
            }
            Err(_) => net::reset(app),
        }
    }

    /// Why nothing goes out, once it was waited for as long as connections are held.
    pub(super) fn no_gateway(&self) -> Failure {
        let held = self.hold.borrow().as_secs_f32();
        let sentence = match self.links.trouble() {
            Some(trouble) => format!("no gateway could be used within {held} s: {trouble}"),
            None => format!("no gateway answered within {held} s: run 'laneway discover' to see why"),
        };
        Failure::new(Kind::NoGateway, Side::Local, sentence)
    }
}

/// The link for a new tunnel: the first that is not suspect, else the first.
fn best(links: &[Link]) -> Option<&Link> {
    let usable = || links.iter().filter(|link| link.is_usable());
    usable().find(|link| !link.is_suspect()).or_else(|| usable().next())
}

async fn carry_directly(app: TcpStream, server: TcpStream, record: &mut Record) {
    let (mut moved, traffic) = (copy::Moved::default(), record.traffic());
    match copy::between(app, server, &mut moved, &traffic).await {
        Ok(()) => record.ended("closed"),
        Err(error) => record.ended(format!("a connection broke: {error}")),
    }
    record.moved(moved);
}
