//! Propagates group updates to gateways that lag behind. Clients exchange updates over their links. Gateways have no
//! links among each other, so the active gateway, and the node that holds the authority's key, dial the ones behind.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::task::TaskTracker;

use crate::limited;
use crate::limits::lines::NOBODY;
use crate::link::client::{DialError, Link};
use crate::link::tls::Credentials;
use crate::link::updates;
use crate::net::Segments;
use crate::wire::id::NodeId;

/// Maximum deliveries in progress.
const MAX_DELIVERIES: usize = 4;
/// Minimum time between two deliveries to one gateway. It doubles with each failure in a row.
const MIN_PAUSE: Duration = Duration::from_secs(5);
/// Maximum time between two deliveries to one gateway.
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// Maximum gateways whose pauses are remembered.
const MAX_GATEWAYS: usize = 256;

/// How often a machine with the group's key asks another gateway: nobody tells it that it was removed itself.
const ASKING: Duration = Duration::from_secs(5);
/// Maximum number of gateways that it remembers for that. Those that have removed it are not heard any more.
const MAX_ASKED: usize = 16;

/// Whether this node is the one that delivers now.
pub type IsDue = dyn Fn() -> bool + Send + Sync;
/// The gateways that are heard now, if this machine holds the group's key.
pub type Heard = dyn Fn() -> Option<Vec<SocketAddr>> + Send + Sync;

/// The earliest time of the next delivery to each gateway, with its number of failures in a row.
#[derive(Default)]
struct Pauses(HashMap<NodeId, (u32, Instant)>);

/// Delivers updates to each gateway that `behind` reports, while `is_due` holds. At the start it also exchanges updates
/// once with each of `known`, because this node may be the one that missed something. While this machine holds the group's key, it
/// asks those that it has `heard` in turn. Never returns.
pub async fn run(
    credentials: Arc<Credentials>,
    known: Vec<SocketAddr>,
    mut behind: mpsc::Receiver<(NodeId, SocketAddr)>,
    is_due: Box<IsDue>,
    heard: Box<Heard>,
) {
    let mut asked = Asked(known.iter().copied().take(MAX_ASKED).collect());
    let mut ticks = tokio::time::interval(ASKING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    let mut pauses = Pauses::default();
    let mut deliveries = JoinSet::new();
    let mut known = known.into_iter();
    loop {
        while deliveries.len() < MAX_DELIVERIES
            && let Some(address) = known.next()
        {
            deliveries.spawn(deliver(None, address, credentials.clone()));
        }
        tokio::select! {
            Some((id, address)) = behind.recv(), if deliveries.len() < MAX_DELIVERIES => {
                if is_due() && pauses.begin(id, Instant::now()) {
                    deliveries.spawn(deliver(Some(id), address, credentials.clone()));
                }
            }
            Some(ended) = deliveries.join_next() => match ended {
                Ok((Some(id), delivered)) => pauses.end(id, delivered, Instant::now()),
                Ok((None, _)) => {}
                Err(error) => tracing::error!(%error, "the task of a delivery failed"),
            },
            _ = ticks.tick(), if deliveries.len() < MAX_DELIVERIES => {
                if let Some(address) = heard().and_then(|heard| asked.next(&heard)) {
                    deliveries.spawn(deliver(None, address, credentials.clone()));
                }
            }
        }
    }
}

/// The gateways that are asked in turn.
struct Asked(VecDeque<SocketAddr>);

impl Asked {
    /// The next one, of those that were `heard` now or before.
    fn next(&mut self, heard: &[SocketAddr]) -> Option<SocketAddr> {
        for address in heard {
            if !self.0.contains(address) {
                self.0.push_front(*address);
                self.0.truncate(MAX_ASKED);
            }
        }
        let next = self.0.pop_front()?;
        self.0.push_back(next);
        Some(next)
    }
}

impl Pauses {
    /// Whether a delivery to `id` may begin now. If so, no other begins until [`Pauses::end`].
    fn begin(&mut self, id: NodeId, now: Instant) -> bool {
        if self.0.len() >= MAX_GATEWAYS {
            self.0.retain(|_, (_, until)| *until > now);
        }
        let Some((_, until)) = self.0.get_mut(&id) else {
            return self.0.len() < MAX_GATEWAYS && self.0.insert(id, (0, now + MAX_PAUSE)).is_none();
        };
        let may_begin = *until <= now;
        if may_begin {
            *until = now + MAX_PAUSE;
        }
        may_begin
    }

    /// Notes how the delivery to `id` ended.
    fn end(&mut self, id: NodeId, delivered: bool, now: Instant) {
        let (failures, until) = self.0.entry(id).or_insert((0, now));
        *failures = if delivered { 0 } else { failures.saturating_add(1) };
        *until = now + MIN_PAUSE.saturating_mul(1 << (*failures).min(10)).min(MAX_PAUSE);
    }
}

/// Links to the gateway at `address`, and exchanges updates until both have the same. Returns whether it succeeded.
async fn deliver(
    id: Option<NodeId>,
    address: SocketAddr,
    credentials: Arc<Credentials>,
) -> (Option<NodeId>, bool) {
    let tasks = TaskTracker::new();
    let delivered = async {
        let config = credentials.client()?;
        let membership = credentials.membership.clone();
        // An exchange is short, and small segments pass on every path.
        let link = Link::dial_with(address, id, Segments::Small, config, membership.clone(), &tasks).await?;
        let delivered = updates::synchronize(&link, &membership).await;
        link.retire();
        let (gateway, link_id) = (link.gateway.name.clone(), link.gateway.id);
        drop(link);
        delivered?;
        limited!(info, link_id, gateway = &*gateway, %address, "gateway has the same group state");
        Ok::<_, anyhow::Error>(())
    };
    let result = delivered.await;
    if let Err(error) = &result {
        if let Some(DialError::Removed(_)) = error.downcast_ref() {
            limited!(error, NOBODY, %address, "this machine was removed from the group, as a gateway proves: no member accepts its links");
        }
        tracing::debug!(%address, reason = format!("{error:#}"), "group update not delivered");
    }
    // Nothing is open on the retired link, so its task ends soon.
    tasks.close();
    tasks.wait().await;
    (id, result.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_asked_in_turn_those_that_were_just_heard_first_and_few_are_remembered() {
        let at = |number: u8| SocketAddr::from(([10, 0, 0, number], 7420));
        let mut asked = Asked(VecDeque::from([at(1)]));
        assert_eq!(asked.next(&[at(2)]), Some(at(2)));
        assert_eq!([asked.next(&[]), asked.next(&[at(1)]), asked.next(&[])], [at(1), at(2), at(1)].map(Some));
        let many: Vec<_> = (3..100).map(at).collect();
        assert_eq!(asked.next(&many), Some(at(99)));
        assert_eq!(asked.0.len(), MAX_ASKED);
        assert_eq!(Asked(VecDeque::new()).next(&[]), None);
    }

    #[test]
    fn one_delivery_at_a_time_to_a_gateway_and_longer_pauses_after_failures() {
        let mut pauses = Pauses::default();
        let (id, mut now) = (NodeId([1; 16]), Instant::now());
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            assert!(pauses.begin(id, now) && !pauses.begin(id, now));
            pauses.end(id, false, now);
            let pause = Duration::from_secs(expected);
            assert!(!pauses.begin(id, now + pause - Duration::from_millis(1)));
            now += pause;
        }
        assert!(pauses.begin(id, now));
        pauses.end(id, true, now);
        assert!(pauses.begin(id, now + MIN_PAUSE));
        for number in 0..2 * MAX_GATEWAYS as u128 {
            pauses.begin(NodeId(number.to_be_bytes()), now);
        }
        assert!(pauses.0.len() <= MAX_GATEWAYS);
    }
}
