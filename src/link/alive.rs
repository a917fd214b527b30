//! Proof that the peer of a link lives: PING and its answer (RFC 9113 §6.7), each with a deadline. A process
//! that is stopped still accepts TCP connections; only an answer of the application proves anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, sleep, timeout};

/// Between two pings, and how long the answer may take, while tunnels are open.
const UNDER_TRAFFIC: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));
/// The same of a link without tunnels.
const IDLE: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(15));

/// The open tunnels of one link, and the last round trip.
#[derive(Debug, Default)]
pub struct Pulse {
    tunnels: AtomicU32,
    round_trip_micros: AtomicU32,
}

/// Counts one tunnel as open until it is dropped.
#[derive(Debug)]
pub struct OpenTunnel(Arc<Pulse>);

impl Pulse {
    /// Notes one more open tunnel.
    pub fn tunnel(self: &Arc<Self>) -> OpenTunnel {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        OpenTunnel(self.clone())
    }

    /// How many tunnels are open.
    pub fn tunnels(&self) -> u32 {
        self.tunnels.load(Ordering::Relaxed)
    }

    /// The last measured round trip; zero before the first.
    pub fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip_micros.load(Ordering::Relaxed).into())
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Pings until an answer is late, which is when it returns.
pub async fn until_dead(mut ping: PingPong, pulse: Arc<Pulse>) {
    loop {
        let (pause, deadline) = if pulse.tunnels() > 0 { UNDER_TRAFFIC } else { IDLE };
        let sent = Instant::now();
        match timeout(deadline, ping.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {
                let micros = u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX);
                pulse.round_trip_micros.store(micros, Ordering::Relaxed);
            }
            // The connection itself reports why it ended.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
        sleep(pause).await;
    }
}
