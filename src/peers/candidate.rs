//! This node as a candidate: what it says of itself, and whether it is active.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use tokio::sync::watch;

use super::directory::Directory;
use super::selection::{Candidate, rank};
use crate::wire::datagram::{Advert, MOST_PEERS, Peer, Reach, Standing, State};
use crate::wire::id::NodeId;

/// How often the facts are brought up to date. They travel with the next beacon.
const REFRESH: Duration = Duration::from_millis(500);
/// The tunnels that count as full load, 1000 permille: as many streams as one link carries.
const MOST_TUNNELS: u64 = 16_384;
/// How long the self-measurement of capacity lasts.
const MEASURE: Duration = Duration::from_millis(20);

/// What does not change while this node runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node.
    pub id: NodeId,
    /// The TCP port of its link.
    pub link_port: u16,
    /// Declared weight in percent.
    pub weight: u16,
    /// How many candidates are active at a time.
    pub active: usize,
    /// There are servers to probe: this node serves only while one of them answers.
    pub needs_server: bool,
    /// This node was told to be a gateway: it says so even before it has reached a server.
    pub declared: bool,
}

/// What this node is doing, counted by those who do it.
#[derive(Debug, Default)]
pub struct Activity {
    /// Tunnels that are open through this node for others.
    pub tunnels: std::sync::atomic::AtomicU32,
    /// Set once: this node is about to stop.
    pub draining: std::sync::atomic::AtomicBool,
}

/// Keeps this node's advert up to date until `adverts` has no receiver. `None` means that it is no
/// candidate and says nothing.
pub async fn run(
    options: Options,
    directory: Arc<Directory>,
    reach: watch::Receiver<Reach>,
    activity: Arc<Activity>,
    adverts: watch::Sender<Option<Advert>>,
) {
    let capacity = tokio::task::spawn_blocking(measure_capacity).await.unwrap_or(1);
    tracing::debug!(mbit_per_second = capacity, "capacity measured");
    let mut served = options.declared;
    let mut tick = tokio::time::interval(REFRESH);
    let mut reach_changed = reach.clone();
    while !adverts.is_closed() {
        tokio::select! {
            _ = tick.tick() => {}
            Ok(()) = reach_changed.changed() => {}
        }
        let reach = *reach.borrow();
        let able = match reach {
            Reach::Reachable => true,
            Reach::Unreachable => false,
            Reach::Unknown => !options.needs_server,
        };
        if !able && !served {
            continue;
        }
        served = true;
        let advert = advert(&options, &directory, reach, capacity, &activity, able, &adverts.borrow());
        let before = adverts.borrow().as_ref().map(|advert| advert.state);
        if before != Some(advert.state) {
            tracing::info!(state = advert.state.word(), reach = reach.word(), "this node's state");
        }
        adverts.send_if_modified(|now| {
            let changed = now.as_ref() != Some(&advert);
            *now = Some(advert);
            changed
        });
    }
}

fn advert(
    options: &Options,
    directory: &Directory,
    reach: Reach,
    capacity: u32,
    activity: &Activity,
    able: bool,
    before: &Option<Advert>,
) -> Advert {
    use std::sync::atomic::Ordering::Relaxed;
    let now = Instant::now();
    let mut candidates = vec![Candidate {
        id: options.id,
        capacity,
        weight: options.weight,
        incumbent: before.as_ref().is_some_and(|advert| advert.state == State::Active),
    }];
    let mut peers = Vec::new();
    for gateway in directory.ranked(now) {
        let (Some(id), Some(state), Some(advert)) = (gateway.id, gateway.state(now), &gateway.advert) else {
            continue;
        };
        if id == options.id {
            continue;
        }
        if matches!(state, State::Active | State::Standby) {
            let incumbent = state == State::Active;
            candidates.push(Candidate { id, capacity: advert.capacity, weight: advert.weight, incumbent });
        }
        if peers.len() < MOST_PEERS {
            peers.push(Peer { id, link: gateway.link, state });
        }
    }
    let ranked = rank(candidates);
    let selected = ranked.iter().take(options.active).any(|id| *id == options.id);
    let state = match (activity.draining.load(Relaxed), able, selected) {
        (true, _, _) => State::Draining,
        (_, false, _) => State::Withdrawn,
        (_, _, true) => State::Active,
        (_, _, false) => State::Standby,
    };
    let tunnels = activity.tunnels.load(Relaxed);
    let load = u16::try_from(u64::from(tunnels) * 1000 / MOST_TUNNELS).unwrap_or(u16::MAX);
    Advert {
        state,
        reach,
        link_port: options.link_port,
        weight: options.weight,
        load,
        capacity,
        tunnels,
        standing: Standing::default(),
        peers,
    }
}

/// What this machine can carry, in Mbit/s: how fast one core seals 16 KiB records with AES-128-GCM, times
/// the cores, halved because each byte is opened or sealed and copied besides.
fn measure_capacity() -> u32 {
    const RECORD: usize = 16 * 1024;
    let Ok(key) = UnboundKey::new(&AES_128_GCM, &[7; 16]) else { return 1 };
    let key = LessSafeKey::new(key);
    let mut record = vec![0_u8; RECORD];
    let start = Instant::now();
    let mut records = 0_u64;
    while start.elapsed() < MEASURE {
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        if key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut record).is_err() {
            return 1;
        }
        records += 1;
    }
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let bits = records * RECORD as u64 * 8 * cores / 2;
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
    u32::try_from(bits / micros).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_machine_has_some_capacity() {
        assert!(measure_capacity() > 10);
    }
}
