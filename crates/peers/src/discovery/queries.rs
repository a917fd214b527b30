//! The queries of this node that wait for offers.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use laneway_trust::random::random;
use laneway_wire::id::NodeId;

/// How long offers to a query are accepted.
const LIFETIME: Duration = Duration::from_secs(10);
/// Maximum queries that wait for offers.
const MAX_QUERIES: usize = 256;
/// Maximum offers to one query.
const MAX_OFFERS: usize = 4096;

/// The queries that wait for offers, by nonce.
#[derive(Default)]
pub(super) struct PendingQueries(HashMap<[u8; 16], Query>);

struct Query {
    sent: Instant,
    /// The gateways that have answered. A nonce is valid once for each address of a gateway, so a replayed offer is not
    /// accepted.
    answered: HashSet<(NodeId, SocketAddr)>,
}

impl PendingQueries {
    /// The nonce of a new query; `None` when too many wait.
    pub(super) fn begin(&mut self, now: Instant) -> Option<[u8; 16]> {
        self.0.retain(|_, query| now.duration_since(query.sent) < LIFETIME);
        if self.0.len() >= MAX_QUERIES {
            return None;
        }
        let nonce = random();
        self.insert(nonce, now);
        Some(nonce)
    }

    /// Adds a query that was sent at `now`.
    pub(super) fn insert(&mut self, nonce: [u8; 16], now: Instant) {
        self.0.insert(nonce, Query { sent: now, answered: HashSet::new() });
    }

    /// When the query with this nonce was sent, if it waits for an offer of `gateway` from the address `from`.
    pub(super) fn open(&self, nonce: &[u8; 16], gateway: NodeId, from: SocketAddr) -> Option<Instant> {
        let query = self.0.get(nonce)?;
        let waits = query.answered.len() < MAX_OFFERS && !query.answered.contains(&(gateway, from));
        waits.then_some(query.sent)
    }

    /// Notes the offer of `gateway` from the address `from`. `false` when it has been noted before.
    pub(super) fn answered(&mut self, nonce: &[u8; 16], gateway: NodeId, from: SocketAddr) -> bool {
        self.0.get_mut(nonce).is_some_and(|query| query.answered.insert((gateway, from)))
    }
}
