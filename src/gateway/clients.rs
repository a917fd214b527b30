//! The limits of each client of this gateway. A client is a certificate: all its links count together.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Kind, Side};
use crate::limits::Bucket;
use crate::memory::{Budget, Holder};
use crate::pace::Pace;
use crate::telemetry::report::counted;
use crate::wire::id::NodeId;

/// Number of entries from which idle clients are forgotten. Until then their limits are remembered, so that a new link
/// does not bring a new allowance.
const PRUNE_FROM: usize = 1024;

/// Maximum links of one client at a time. A node needs one, two while it replaces one, and may have several addresses; beyond
/// that the oldest one is closed, because the newest is the one that somebody has just made.
pub const MAX_LINKS: usize = 8;

/// All clients share what the system permits this node: one may have this many times as many tunnels as are left for others.
const OF_THE_REST: u32 = 3;

/// What permits fewer connections than the options.
pub const OPEN_FILES: &str = "the limit on its open files";

/// Maximum measurements in progress for one client. They are diagnostics and carry nothing for an app.
const MAX_MEASUREMENTS: u32 = 4;

/// The limits of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum open tunnels.
    pub tunnels: u32,
    /// Maximum tunnels opened per second, which is also the burst.
    pub opens: u32,
    /// Bytes per second, both directions together; 0 for no limit. Excess bytes wait and are not refused.
    pub rate: u64,
}

/// All clients of this gateway.
pub struct Clients {
    limits: RwLock<Limits>,
    /// Maximum open tunnels of all clients together.
    most: u32,
    all: Arc<AtomicU32>,
    known: Mutex<HashMap<NodeId, Arc<Client>>>,
}

/// One client, however many links it has.
pub struct Client {
    /// Which member it is.
    pub id: NodeId,
    tunnels: AtomicU32,
    /// The tunnels of all clients.
    all: Arc<AtomicU32>,
    measurements: AtomicU32,
    opens: Mutex<Bucket>,
    /// Its links, the oldest first. A token is cancelled when its link has to end.
    links: Mutex<VecDeque<(u64, CancellationToken)>>,
    next_link: AtomicU64,
    /// Its rate limit in bytes.
    pub pace: Pace,
    /// What it holds of this node's memory.
    pub memory: Arc<Holder>,
}

/// One link of a client; dropping it frees its place.
pub struct LinkPlace {
    client: Arc<Client>,
    number: u64,
    superseded: CancellationToken,
}

/// One open tunnel of a client; dropping it frees its place.
pub struct Admitted(Arc<Client>);

/// One measurement of a client in progress; dropping it frees its place.
pub struct Measuring(Admitted);

impl Clients {
    /// An empty table, for clients that may have `most` tunnels together.
    pub fn new(limits: Limits, most: u32) -> Self {
        Self { limits: RwLock::new(limits), most, all: Arc::default(), known: Mutex::default() }
    }

    /// How many tunnels one client may have while no other has any, where that is less than the limits say.
    pub fn fewer(&self) -> Option<u32> {
        let most = self.most / (OF_THE_REST + 1) * OF_THE_REST;
        (self.most != u32::MAX && most < self.limits().tunnels).then_some(most)
    }

    /// Changes the limits of every client. Open tunnels stay open.
    pub fn change(&self, limits: Limits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().for_each(|client| client.pace.set(limits.rate));
    }

    fn limits(&self) -> Limits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry of the client that has just made a link, which holds memory of this budget.
    pub fn client(&self, id: NodeId, memory: &Budget) -> Arc<Client> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= PRUNE_FROM {
            let now = Instant::now();
            known.retain(|_, client| Arc::strong_count(client) > 1 || !client.is_quiet(now));
        }
        let client =
            known.entry(id).or_insert_with(|| Client::new(id, self.all.clone(), memory.holder())).clone();
        client.pace.set(self.limits().rate);
        client
    }

    /// Admits one more tunnel of `client`.
    ///
    /// # Errors
    /// [`Kind::LimitReached`].
    pub fn admit(&self, client: &Arc<Client>) -> Result<Admitted, Failure> {
        let limits = self.limits();
        let refused = |sentence: String| Failure::new(Kind::LimitReached, Side::Gateway, sentence);
        {
            let mut opens = client.opens.lock().unwrap_or_else(PoisonError::into_inner);
            let (now, second) = (Instant::now(), Duration::from_secs(1));
            let cost = second / limits.opens.max(1);
            if opens.ahead(now.into_std()) + cost > second {
                let max = limits.opens;
                return Err(refused(format!(
                    "the gateway opens at most {} per second for one client (--client-opens)",
                    counted(max.into(), "connection")
                )));
            }
            opens.take(cost, now.into_std());
        }
        let own = client.tunnels.fetch_add(1, Relaxed);
        let left = self.most.saturating_sub(client.all.fetch_add(1, Relaxed));
        // From here on, dropping it takes the counts back.
        let admitted = Admitted(client.clone());
        if own >= limits.tunnels {
            return Err(refused(format!(
                "the gateway keeps at most {} open for one client (--client-tunnels)",
                counted(limits.tunnels.into(), "connection")
            )));
        }
        if own >= left.saturating_mul(OF_THE_REST) {
            return Err(refused(format!(
                "the gateway keeps at most {} open for all clients, as {OPEN_FILES} permits (LimitNOFILE=, ulimit -n)",
                counted(self.most.into(), "connection")
            )));
        }
        Ok(admitted)
    }

    /// Admits one more measurement of `client`. It counts as a tunnel, too.
    ///
    /// # Errors
    /// [`Kind::LimitReached`].
    pub fn admit_measurement(&self, client: &Arc<Client>) -> Result<Measuring, Failure> {
        let admitted = self.admit(client)?;
        client.measurements.fetch_add(1, Relaxed);
        // From here on, dropping it takes the count back.
        let measuring = Measuring(admitted);
        if client.measurements.load(Relaxed) > MAX_MEASUREMENTS {
            let sentence =
                format!("the gateway serves at most {MAX_MEASUREMENTS} measurements of one client at a time");
            return Err(Failure::new(Kind::LimitReached, Side::Gateway, sentence));
        }
        Ok(measuring)
    }
}

impl Drop for Measuring {
    fn drop(&mut self) {
        self.0.0.measurements.fetch_sub(1, Relaxed);
    }
}

impl Client {
    fn new(id: NodeId, all: Arc<AtomicU32>, memory: Arc<Holder>) -> Arc<Self> {
        Arc::new(Self {
            id,
            tunnels: AtomicU32::new(0),
            all,
            measurements: AtomicU32::new(0),
            opens: Mutex::default(),
            links: Mutex::default(),
            next_link: AtomicU64::new(0),
            pace: Pace::default(),
            memory,
        })
    }

    /// Takes a place for one more link. If there are too many, the oldest one has to end.
    pub fn enter(self: &Arc<Self>) -> LinkPlace {
        let number = self.next_link.fetch_add(1, Relaxed);
        let superseded = CancellationToken::new();
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.push_back((number, superseded.clone()));
        if links.len() > MAX_LINKS
            && let Some((_, oldest)) = links.pop_front()
        {
            oldest.cancel();
        }
        LinkPlace { client: self.clone(), number, superseded }
    }

    fn is_quiet(&self, now: Instant) -> bool {
        self.opens.lock().unwrap_or_else(PoisonError::into_inner).ahead(now.into_std()).is_zero()
    }
}

impl LinkPlace {
    /// Waits until the link has to end for a newer one.
    pub async fn superseded(&self) {
        self.superseded.cancelled().await;
    }
}

impl Drop for LinkPlace {
    fn drop(&mut self) {
        let mut links = self.client.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|(number, _)| *number != self.number);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Relaxed);
        self.0.all.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { tunnels: 3, opens: 4, rate: 0 };

    #[tokio::test(start_paused = true)]
    async fn all_links_of_a_client_count_together_and_other_clients_apart() {
        let (memory, clients) = (Budget::new(1 << 30), Clients::new(LIMITS, u32::MAX));
        let (one, again, other) = (NodeId([1; 16]), NodeId([1; 16]), NodeId([2; 16]));
        let links = [clients.client(one, &memory), clients.client(again, &memory)];
        let mut open: Vec<_> =
            links.iter().cycle().take(3).map(|link| clients.admit(link).unwrap()).collect();
        let failure = clients.admit(&links[1]).err().unwrap();
        assert_eq!((failure.kind, failure.side), (Kind::LimitReached, Side::Gateway));
        assert!(!failure.blames_gateway(), "another gateway is not asked instead");
        assert!(clients.admit(&clients.client(other, &memory)).is_ok());

        open.pop();
        assert!(clients.admit(&links[0]).is_err(), "four a second, refused ones too");
        tokio::time::advance(Duration::from_millis(250)).await;
        assert!(clients.admit(&links[0]).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn measurements_of_one_client_are_limited() {
        let (memory, clients) =
            (Budget::new(1 << 30), Clients::new(Limits { tunnels: 100, opens: 100, rate: 0 }, u32::MAX));
        let client = clients.client(NodeId([1; 16]), &memory);
        let mut measuring: Vec<_> = (0..4).map(|_| clients.admit_measurement(&client).unwrap()).collect();
        for _ in 0..3 {
            assert_eq!(clients.admit_measurement(&client).err().unwrap().kind, Kind::LimitReached);
        }
        assert!(clients.admit_measurement(&clients.client(NodeId([2; 16]), &memory)).is_ok());
        measuring.pop();
        assert!(clients.admit_measurement(&client).is_ok());
        drop(measuring);
        assert_eq!(client.tunnels.load(Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_share_what_the_system_permits_and_one_alone_leaves_room_for_others() {
        let limits = Limits { tunnels: 1000, opens: 10_000, rate: 0 };
        let (memory, clients) = (Budget::new(1 << 30), Clients::new(limits, 80));
        assert_eq!(clients.fewer(), Some(60));
        let take = |id: u8| {
            let client = clients.client(NodeId([id; 16]), &memory);
            std::iter::from_fn(|| clients.admit(&client).ok()).collect::<Vec<_>>()
        };
        let first = take(1);
        assert_eq!(first.len(), 60);
        let second = take(2);
        assert_eq!(second.len(), 15);
        assert!(!take(3).is_empty() && take(1).is_empty());
        drop(first);
        let again = take(1);
        assert!(again.len() > second.len() && again.len() + second.len() < 80, "{}", again.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_link_brings_no_new_allowance() {
        let (memory, clients) = (Budget::new(1 << 30), Clients::new(LIMITS, u32::MAX));
        for _ in 0..4 {
            drop(clients.admit(&clients.client(NodeId([1; 16]), &memory)).unwrap());
        }
        for number in 0..2 * PRUNE_FROM {
            clients.client(NodeId((number as u128).to_be_bytes()), &memory);
        }
        assert!(clients.admit(&clients.client(NodeId([1; 16]), &memory)).is_err());
        assert!(clients.known.lock().unwrap().len() <= PRUNE_FROM + 1, "and the table is bounded");
    }

    #[tokio::test(start_paused = true)]
    async fn changed_limits_apply_at_once() {
        let (memory, clients) = (Budget::new(1 << 30), Clients::new(LIMITS, u32::MAX));
        let client = clients.client(NodeId([1; 16]), &memory);
        clients.change(Limits { tunnels: 0, opens: 100, rate: 7 });
        assert!(clients.admit(&client).is_err());
        assert!(client.pace.passed(1000).is_some());
    }
}
