//! The same is asked over a second gateway when no answer comes over the first one, and the first answer is taken.
//!
//! Connections may be made over a gateway whose uplink carries nothing else, and a server may just take its time: nobody knows which it
//! is. So what waits goes on waiting, and nothing is asked a third time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::asking::NEXT_AFTER;
use super::outcomes::{Outcomes, SILENCE};
use super::routes::Routes;
use super::server_connection::ServerConnection;
use crate::limited;
use crate::link::client::Link;
use crate::link::request::Transport;
use crate::memory::Account;
use crate::peers::selection::Failing;
use crate::wire::id::NodeId;
use crate::wire::target::Target;

/// What was asked over one gateway and may be asked over another one.
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
    /// Waits until an answer comes over another gateway, once there has been none for some seconds since `since`, and gives that
    /// connection; the first gateway comes last for that destination then. `unanswered` gives what is to be sent again, as long as there
    /// is no answer.
    /// `is_asked` is true while an answer may come. Gives `None` when none comes from there. Never returns where there is no other
    /// gateway, or nothing that can be sent again.
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

/// Waits as long as an answer may take before it is asked for over another gateway as well: less long over one in doubt.
async fn out_of_patience(outcomes: &Outcomes, gateway: NodeId, since: Instant) {
    sleep_until(since + NEXT_AFTER).await;
    if !outcomes.doubts(gateway) {
        sleep_until(since + SILENCE).await;
    }
}
