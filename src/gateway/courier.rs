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

/// How many deliveries are under way at a time.
const MOST_ERRANDS: usize = 4;
/// After one, an address is let alone for so long; twice as long after each failure in a row.
const PAUSE: Duration = Duration::from_secs(5);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How many addresses are remembered.
const MOST_ADDRESSES: usize = 256;

/// Whether this node is the one to go now.
pub type IsDue = dyn Fn() -> bool + Send + Sync;

/// Delivers to whom `behind` names when `is_due`, and once to each of `known`, whatever they have: this node may be the
/// one that missed something. Ends never.
pub async fn run(
    credentials: Arc<Credentials>,
    known: Vec<SocketAddr>,
    mut behind: mpsc::Receiver<SocketAddr>,
    is_due: Box<IsDue>,
) {
    let mut pauses: HashMap<SocketAddr, (u32, Instant)> = HashMap::new();
    let mut errands = JoinSet::new();
    let mut known = known.into_iter();
    loop {
        while errands.len() < MOST_ERRANDS
            && let Some(address) = known.next()
        {
            errands.spawn(errand(address, credentials.clone()));
        }
        tokio::select! {
            Some(address) = behind.recv(), if errands.len() < MOST_ERRANDS => {
                let now = Instant::now();
                let resting = pauses.get(&address).is_some_and(|(_, until)| *until > now);
                if resting || !is_due() || !has_room(&mut pauses, address, now) {
                    continue;
                }
                // Until it is back, so that one address has one errand.
                pauses.entry(address).or_insert((0, now)).1 = now + LONGEST_PAUSE;
                errands.spawn(errand(address, credentials.clone()));
            }
            Some(ended) = errands.join_next() => match ended {
                Ok((address, delivered)) => {
                    let failures = pauses.get(&address).map_or(0, |(failures, _)| *failures);
                    let failures = if delivered { 0 } else { failures.saturating_add(1) };
                    let pause = PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE);
                    pauses.insert(address, (failures, Instant::now() + pause));
                }
                Err(error) => tracing::error!(%error, "a delivery of news failed"),
            },
            else => return std::future::pending().await,
        }
    }
}

fn has_room(pauses: &mut HashMap<SocketAddr, (u32, Instant)>, address: SocketAddr, now: Instant) -> bool {
    if pauses.len() >= MOST_ADDRESSES && !pauses.contains_key(&address) {
        pauses.retain(|_, (_, until)| *until > now);
    }
    pauses.len() < MOST_ADDRESSES || pauses.contains_key(&address)
}

async fn errand(address: SocketAddr, credentials: Arc<Credentials>) -> (SocketAddr, bool) {
    let tasks = TaskTracker::new();
    let delivered = async {
        let config = credentials.client()?;
        let board = credentials.board.clone();
        let link = Link::dial(address, None, config, board.clone(), &tasks).await?;
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
    (address, result.is_ok())
}
