//! Repeats a request over a second gateway when no answer comes over the first one, and takes the first answer. A gateway's own
//! apps get their connections from another gateway if that one makes them first.
//!
//! A gateway whose uplink is failing may still make connections and then carry nothing, and a server may just be slow; the two
//! look alike. So the first request goes on waiting, and nothing is asked a third time.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until};

use super::asking::{NEXT_AFTER, PATIENCE, is_unanswered};
use super::outcomes::{Outcomes, SILENCE};
use super::routes::Routes;
use super::server_connection::ServerConnection;
use crate::failure::Failure;
use crate::limited;
use crate::link::client::Link;
use crate::link::request::Transport;
use crate::memory::Account;
use crate::peers::selection::Failing;
use crate::wire::id::NodeId;
use crate::wire::target::Target;

/// A request that waits at one gateway and may be repeated over another one.
#[derive(Clone, Copy)]
pub(super) struct Waiting<'a> {
    pub(super) target: &'a Target,
    pub(super) transport: Transport,
    /// The gateway, and the address at which it accepts links.
    pub(super) over: (NodeId, SocketAddr),
    /// The id of the app's connection in the logs of this node and of the gateways.
    pub(super) id: u64,
    pub(super) account: &'a Arc<Account>,
}

impl Routes {
    /// Asks another gateway once there has been no answer for some seconds after `since`, and returns its connection if the
    /// answer comes there first; the first gateway then comes last for that destination. `unanswered` returns what to send again
    /// while there is no answer. `is_asked` is true while the other gateway may still answer; if it does not, returns `None`.
    /// Never returns if there is no other gateway, or nothing that can be sent again.
    pub(super) async fn answered_beside(
        &self,
        waiting: Waiting<'_>,
        since: Instant,
        unanswered: impl Fn() -> Option<Bytes>,
        is_asked: &AtomicBool,
    ) -> Option<ServerConnection> {
        let Waiting { target, transport, over: (gateway, address), id, account } = waiting;
        out_of_patience(&self.links.outcomes, gateway, since).await;
        let Some(sent) = unanswered() else { return std::future::pending().await };
        let Some(other) = self.other_than(address, target).await else { return std::future::pending().await };
        let conn = format!("{id:016x}");
        limited!(info, gateway, conn, %target, also = &*other.gateway.name, "no answer: another gateway is asked, too");
        is_asked.store(true, Relaxed);
        let opened = self.open_over(&other, (transport, target), id, sent.clone(), account).await;
        if let Ok(mut server) = opened
            && server.until_answer().await
            && unanswered().is_some_and(|now| now == sent)
        {
            self.links.outcomes.failed(gateway, target, Failing::Overtaken);
            return Some(server);
        }
        is_asked.store(false, Relaxed);
        None
    }

    /// Connects from this machine. If that takes long, or ends without an answer of the destination, other gateways are asked as
    /// well: this machine's uplink may drop what is sent. A gateway has no links until then.
    ///
    /// # Errors
    /// Why there is no connection from this machine, and no other gateway has made one in time.
    pub(super) async fn connect_here_or_beside(
        &self,
        transport: Transport,
        target: &Target,
        id: u64,
        early: Bytes,
        account: &Arc<Account>,
    ) -> Result<ServerConnection, Failure> {
        let mut here = pin!(self.connect_from_here(transport, target, early.clone(), account));
        let failed = tokio::select! {
            biased;
            connected = &mut here => match connected {
                Err(failure) if is_unanswered(&failure) => Some(failure),
                connected => return connected,
            },
            () = sleep(NEXT_AFTER) => None,
        };
        // Boxed, because nearly every destination has answered by now.
        Box::pin(async {
            let mut beside = pin!(self.connect_beside(transport, target, id, early, account));
            let patience = Instant::now() + PATIENCE;
            let failure = match failed {
                Some(failure) => failure,
                None => tokio::select! {
                    biased;
                    connected = &mut here => match connected {
                        Err(failure) if is_unanswered(&failure) => failure,
                        connected => return connected,
                    },
                    server = &mut beside => return Ok(server),
                },
            };
            if !self.links.has_any() {
                return Err(failure);
            }
            tokio::select! {
                biased;
                server = beside => Ok(server),
                () = sleep_until(patience) => Err(failure),
            }
        })
        .await
    }

    /// Connects over a link, asking one gateway after another. Never returns if none of them connects.
    async fn connect_beside(
        &self,
        transport: Transport,
        target: &Target,
        id: u64,
        early: Bytes,
        account: &Arc<Account>,
    ) -> ServerConnection {
        let (mut up, mut asked) = (self.links.up(), Vec::new());
        if self.links.has_any() {
            self.links.want_beside();
        }
        loop {
            let is_new =
                |link: &&Link| link.is_usable() && !link.is_suspect() && !asked.contains(&link.gateway.id);
            let link = up.borrow_and_update().iter().find(is_new).cloned();
            let Some(link) = link else {
                if up.changed().await.is_err() {
                    return std::future::pending().await;
                }
                continue;
            };
            let (gateway, name) = (link.gateway.id, &*link.gateway.name);
            asked.push(gateway);
            limited!(info, gateway, %target, also = name, "no answer from here: another gateway is asked, too");
            if let Ok(server) = self.open_over(&link, (transport, target), id, early.clone(), account).await {
                return server;
            }
        }
    }

    /// Waits for another gateway than the one at `address` that can be asked for `target`, and has not failed it lately.
    async fn other_than(&self, address: SocketAddr, target: &Target) -> Option<Link> {
        let mut up = self.links.up();
        loop {
            up.borrow_and_update();
            if let Some(other) = self.other_link(address, target) {
                return Some(other);
            }
            up.changed().await.ok()?;
        }
    }
}

/// Waits until a missing answer is reason to ask another gateway as well: less long if this one is in doubt.
async fn out_of_patience(outcomes: &Outcomes, gateway: NodeId, since: Instant) {
    sleep_until(since + NEXT_AFTER).await;
    if !outcomes.doubts(gateway) {
        sleep_until(since + SILENCE).await;
    }
}
