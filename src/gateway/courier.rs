//! Takes the group's news to gateways that missed them. Clients exchange news over their links; gateways have no links
//! among each other, so the active one, and the one that holds the authority, dial those that are behind.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::link::client::Link;
use crate::link::news;
use crate::link::tls::Credentials;
use crate::net::Segments;
use crate::wire::id::NodeId;

/// How many deliveries are under way at a time.
const MOST_ERRANDS: usize = 4;
/// After one, a gateway is let alone for so long; twice as long after each failure in a row.
const PAUSE: Duration = Duration::from_secs(5);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How many gateways are remembered.
const MOST_GATEWAYS: usize = 256;

/// Whether this node is the one to go now.
pub type IsDue = dyn Fn() -> bool + Send + Sync;

/// When each gateway is gone to again, and how often in a row it was in vain.
#[derive(Default)]
struct Pauses(HashMap<NodeId, (u32, Instant)>);

/// Delivers to whom `behind` names when `is_due`, and once to each of `known`, whatever they have: this node may be the
/// one that missed something. Ends never.
pub async fn run(
    credentials: Arc<Credentials>,
    known: Vec<SocketAddr>,
    mut behind: mpsc::Receiver<(NodeId, SocketAddr)>,
    is_due: Box<IsDue>,
) {
    let mut pauses = Pauses::default();
    let mut errands = JoinSet::new();
    let mut known = known.into_iter();
    loop {
        while errands.len() < MOST_ERRANDS
            && let Some(address) = known.next()
        {
            errands.spawn(errand(None, address, credentials.clone()));
        }
        tokio::select! {
            Some((id, address)) = behind.recv(), if errands.len() < MOST_ERRANDS => {
                if is_due() && pauses.begin(id, Instant::now()) {
                    errands.spawn(errand(Some(id), address, credentials.clone()));
                }
            }
            Some(ended) = errands.join_next() => match ended {
                Ok((Some(id), delivered)) => pauses.end(id, delivered, Instant::now()),
                Ok((None, _)) => {}
                Err(error) => tracing::error!(%error, "a delivery of news failed"),
            },
            else => return std::future::pending().await,
        }
    }
}

impl Pauses {
    /// Whether to go now; if so, nobody else goes until [`Pauses::end`].
    fn begin(&mut self, id: NodeId, now: Instant) -> bool {
        if self.0.len() >= MOST_GATEWAYS {
            self.0.retain(|_, (_, until)| *until > now);
        }
        let Some((_, until)) = self.0.get_mut(&id) else {
            return self.0.len() < MOST_GATEWAYS && self.0.insert(id, (0, now + LONGEST_PAUSE)).is_none();
        };
        let goes = *until <= now;
        if goes {
            *until = now + LONGEST_PAUSE;
        }
        goes
    }

    fn end(&mut self, id: NodeId, delivered: bool, now: Instant) {
        let (failures, until) = self.0.entry(id).or_insert((0, now));
        *failures = if delivered { 0 } else { failures.saturating_add(1) };
        *until = now + PAUSE.saturating_mul(1 << (*failures).min(10)).min(LONGEST_PAUSE);
    }
}

async fn errand(
    id: Option<NodeId>,
    address: SocketAddr,
    credentials: Arc<Credentials>,
) -> (Option<NodeId>, bool) {
    let tasks = TaskTracker::new();
    let delivered = async {
        let config = credentials.client()?;
        let board = credentials.board.clone();
        // It is little that is said, and small segments pass everywhere.
        let link = Link::dial_with(address, id, Segments::Small, config, board.clone(), &tasks).await?;
        let delivered = news::deliver(&link, &board).await;
        link.retire();
        let gateway = link.gateway.id.short();
        drop(link);
        delivered?;
        tracing::info!(gateway, %address, epoch = board.group().news.epoch(), "the group's news are the same there");
        Ok::<_, anyhow::Error>(())
    };
    let result = delivered.await;
    if let Err(error) = &result {
        tracing::debug!(%address, reason = format!("{error:#}"), "news not delivered");
    }
    // The link ends by itself, and soon: nothing is open on it.
    tasks.close();
    tasks.wait().await;
    (id, result.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_gone_to_once_at_a_time_and_more_rarely_when_it_is_in_vain() {
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
        assert!(pauses.begin(id, now + PAUSE));
        for number in 0..2 * MOST_GATEWAYS as u128 {
            pauses.begin(NodeId(number.to_be_bytes()), now);
        }
        assert!(pauses.0.len() <= MOST_GATEWAYS);
    }
}
