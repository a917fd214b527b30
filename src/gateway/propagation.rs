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

/// How often another gateway is asked, since nobody tells a node that it was itself removed. Gateways that have removed it are no
/// longer heard, so it asks the silent ones; with the group's key, which others may hold too, it asks all in turn.
const ASKING: Duration = Duration::from_secs(5);
/// Maximum number of gateways that are remembered to be asked.
const MAX_ASKED: usize = 16;

/// Whether this node is the one that delivers now.
pub type IsDue = dyn Fn() -> bool + Send + Sync;
/// The gateways that are heard now, and whether they are asked too.
pub type Heard = dyn Fn() -> (Vec<SocketAddr>, bool) + Send + Sync;

/// The earliest time of the next delivery to each gateway, with its number of failures in a row.
#[derive(Default)]
struct Pauses(HashMap<NodeId, (u32, Instant)>);

/// Delivers updates to each gateway that `behind` reports, while `is_due` holds. At the start it also exchanges updates once with
/// each of `known`, because this node may be the one that missed something. Later it asks in turn the gateways that it has
/// `heard` but that are silent now. Never returns.
pub async fn run(
    credentials: Arc<Credentials>,
    known: Vec<SocketAddr>,
    mut behind: mpsc::Receiver<(NodeId, SocketAddr)>,
    is_due: Box<IsDue>,
    heard: Box<Heard>,
) {
    let mut asked = GatewaysInTurn(known.iter().copied().take(MAX_ASKED).collect());
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
                let (heard, includes_heard) = heard();
                let is_removed = credentials.membership.is_removed();
                if let Some(address) = asked.next(&heard, includes_heard).filter(|_| !is_removed) {
                    deliveries.spawn(deliver(None, address, credentials.clone()));
                }
            }
        }
    }
}

/// The gateways that are asked in turn.
struct GatewaysInTurn(VecDeque<SocketAddr>);

impl GatewaysInTurn {
    /// The next one of those that were heard before, or are `heard` now if that is to be included.
    fn next(&mut self, heard: &[SocketAddr], includes_heard: bool) -> Option<SocketAddr> {
        for address in heard {
            if !self.0.contains(address) {
                self.0.push_front(*address);
                self.0.truncate(MAX_ASKED);
            }
        }
        let is_next = |address: &SocketAddr| includes_heard || !heard.contains(address);
        let next = self.0.iter().position(is_next).and_then(|place| self.0.remove(place))?;
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
        let mut asked = GatewaysInTurn(VecDeque::from([at(1)]));
        let mut next = |heard: &[SocketAddr]| asked.next(heard, true);
        assert_eq!(next(&[at(2)]), Some(at(2)));
        assert_eq!([next(&[]), next(&[at(1)]), next(&[])], [at(1), at(2), at(1)].map(Some));
        let many: Vec<_> = (3..100).map(at).collect();
        assert_eq!(next(&many), Some(at(99)));
        assert_eq!(asked.0.len(), MAX_ASKED);
        assert_eq!(GatewaysInTurn(VecDeque::new()).next(&[], true), None);
    }

    #[test]
    fn without_the_key_only_gateways_that_have_become_silent_are_asked() {
        let at = |number: u8| SocketAddr::from(([10, 0, 0, number], 7420));
        let mut asked = GatewaysInTurn(VecDeque::new());
        assert_eq!(asked.next(&[at(1), at(2), at(3)], false), None);
        assert_eq!(asked.next(&[at(1), at(3)], false), Some(at(2)));
        assert_eq!([asked.next(&[at(3)], false), asked.next(&[at(3)], false)], [at(1), at(2)].map(Some));
        assert_eq!(asked.next(&[at(1), at(2), at(3)], false), None);
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
