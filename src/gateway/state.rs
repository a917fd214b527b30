//! What all links of one gateway share, and the two answers that each kind of request may need: admission and refusal.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cache::Cache;
use super::clients::{Admitted, Client, Clients, Measuring};
use super::egress::Egress;
use super::served::ServedLinks;
use super::swarms::Swarms;
use super::tls::ServerTls;
use crate::failure::{Failure, Kind, Side};
use crate::link::incoming::Incoming;
use crate::memory::Budget;
use crate::peers::candidate::{Activity, Announcement};
use crate::shared::Unused;
use crate::telemetry::Telemetry;
use crate::telemetry::record::Record;
use crate::trust::membership::Membership;
use crate::wire::id::NodeId;

/// What all links of this gateway share.
// fields: each belongs to another part of the gateway
pub struct Gateway {
    /// Connects to destinations.
    pub egress: Arc<Egress>,
    /// Counts the open tunnels.
    pub activity: Arc<Activity>,
    /// The limits of each client, and what it uses of them.
    pub clients: Clients,
    /// The links that are open now.
    pub served: ServedLinks,
    /// Counts connections and refusals.
    pub telemetry: Arc<Telemetry>,
    /// Bounds the memory of all tunnels together.
    pub memory: Arc<Budget>,
    /// The cache of plain requests, if this gateway has one.
    pub cache: Option<Arc<Cache>>,
    /// The directories in which this node cannot store anything.
    pub unused: Unused,
    /// Which members have the pieces of what the cache stores.
    pub swarms: Arc<Swarms>,
    /// Speaks TLS with the servers of fronts.
    pub tls: Arc<ServerTls>,
    /// The tasks of connections and links, which a drain waits for.
    pub tasks: TaskTracker,
    /// This node.
    pub id: NodeId,
    /// The name of this node in Proxy-Status fields.
    pub name: String,
    /// Cancelled when the node drains: links take no more tunnels and end with their last one.
    pub drain: CancellationToken,
    /// The group's state. Links of revoked members are closed.
    pub membership: Arc<Membership>,
    /// What this node announces to the LAN as a candidate.
    pub announced: watch::Receiver<Option<Announcement>>,
}

/// The refusal of a request for which there is no memory.
pub(super) fn no_memory() -> Failure {
    let sentence = "the gateway has no memory left for another connection of this client (--memory-limit)";
    Failure::new(Kind::LimitReached, Side::Gateway, sentence)
}

/// The refusal of a request while this gateway is in maintenance. Another gateway may serve it.
fn in_maintenance() -> Failure {
    let sentence = "the gateway is in maintenance ('laneway drain --undo' there ends it)";
    Failure::new(Kind::NoWayOut, Side::Gateway, sentence)
}

impl Gateway {
    /// Admits one more request of a link that was made while this gateway was in maintenance. Links from before are
    /// draining, and what arrives on them has been promised a place.
    pub(super) fn admit_late(&self, member: NodeId, client: &Arc<Client>) -> Result<Admitted, Failure> {
        if self.activity.is_in_maintenance() {
            return Err(in_maintenance());
        }
        self.admit(member, client)
    }

    /// Admits one more request of `client`. A gateway never forwards a tunnel over a link of its own, so a path is at
    /// most client, gateway and server. The only possible loop is a node that is its own client, which is refused here.
    pub(super) fn admit(&self, member: NodeId, client: &Arc<Client>) -> Result<Admitted, Failure> {
        if member == self.id {
            let sentence = "the connection came back to the gateway that sent it";
            return Err(Failure::new(Kind::Loop, Side::Gateway, sentence));
        }
        self.admit_own(client)
    }

    /// Admits a request that this gateway answers itself.
    pub(super) fn admit_own(&self, client: &Arc<Client>) -> Result<Admitted, Failure> {
        if !client.memory.admits() {
            return Err(no_memory());
        }
        self.clients.admit(client)
    }

    /// Admits one more measurement of `client`.
    pub(super) fn admit_measurement(&self, client: &Arc<Client>) -> Result<Measuring, Failure> {
        if !client.memory.admits() {
            return Err(no_memory());
        }
        self.clients.admit_measurement(client)
    }

    /// Ends a request that its client has given up, or that has to end because memory is short, and records which.
    pub(super) fn abandon(&self, incoming: Incoming, record: &mut Record) {
        if incoming.is_evicted() {
            self.refuse(incoming, &no_memory(), record);
        } else {
            record.ended("the client gave up");
        }
    }

    /// Refuses a request, and records why.
    pub(super) fn refuse(&self, incoming: Incoming, failure: &Failure, record: &mut Record) {
        record.failed(failure);
        incoming.refuse(failure, &self.name);
    }
}
