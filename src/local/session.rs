//! The spine: from a target to an upstream. A connection is held while there is no way out; a gateway that
//! fails is left for the next. Nowhere else.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::links::Links;
use super::upstream::Upstream;
use crate::failure::{Failure, Kind, Side};
use crate::link::client::Link;
use crate::wire::target::Target;

/// Connects from this machine itself, under the gateway's rules.
pub type Direct = dyn Fn(Target) -> BoxFuture<'static, Result<TcpStream, Failure>> + Send + Sync;

/// The ways out of this node.
pub struct Routes {
    /// The links to gateways.
    pub links: Arc<Links>,
    /// The direct way.
    pub direct: Box<Direct>,
    /// Whether this node is a gateway now, and goes the direct way.
    pub is_gateway: watch::Receiver<bool>,
    /// How long a connection is held while there is no way out.
    pub hold: Duration,
}

enum Way {
    Direct,
    Link(Link),
}

impl Routes {
    /// Opens a way to `target`. `first` goes to the server with it; it may be sent again on another gateway when
    /// it is empty or `repeatable`.
    ///
    /// # Errors
    /// Why there is no way; never later than the hold time for want of a gateway.
    pub async fn open(
        &self,
        target: &Target,
        connection_id: u64,
        first: Bytes,
        repeatable: bool,
    ) -> Result<Upstream, Failure> {
        let deadline = Instant::now() + self.hold;
        loop {
            let link = match timeout_at(deadline, self.way()).await {
                Ok(Way::Direct) => {
                    let mut upstream = Upstream::Direct((self.direct)(target.clone()).await?);
                    return match upstream.halves().0.send(first).await {
                        Ok(()) => Ok(upstream),
                        Err(error) => Err(Failure::new(Kind::Terminated, Side::Server, error.to_string())),
                    };
                }
                Ok(Way::Link(link)) => link,
                Err(_) => return Err(self.no_gateway()),
            };
            match link.open(target, connection_id, first.clone()).await {
                Ok(tunnel) => return Ok(Upstream::Link(tunnel, link.gateway.id.short())),
                Err(failure) if failure.blames_gateway() => {
                    link.give_up();
                    tracing::info!(reason = %failure, "the gateway failed an open");
                    if !(first.is_empty() || repeatable) || Instant::now() >= deadline {
                        return Err(failure);
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Waits for a way out.
    async fn way(&self) -> Way {
        let mut is_gateway = self.is_gateway.clone();
        let mut current = self.links.current();
        loop {
            if *is_gateway.borrow_and_update() {
                return Way::Direct;
            }
            if let Some(link) = current.borrow_and_update().as_ref().filter(|link| link.is_usable()) {
                return Way::Link(link.clone());
            }
            tokio::select! {
                changed = is_gateway.changed() => if changed.is_err() { std::future::pending::<()>().await },
                changed = current.changed() => if changed.is_err() { std::future::pending::<()>().await },
            }
        }
    }

    fn no_gateway(&self) -> Failure {
        let held = self.hold.as_secs_f32();
        let sentence = match self.links.trouble() {
            Some(trouble) => format!("no gateway could be used within {held} s: {trouble}"),
            None => format!("no gateway answered within {held} s: run 'laneway discover' to see why"),
        };
        Failure::new(Kind::NoGateway, Side::Local, sentence)
    }
}
