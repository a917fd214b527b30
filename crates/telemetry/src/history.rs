//! The throughput of the last minutes, one sample per second: a page that is opened now has something to draw.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::snapshot::Rates;
use super::traffic::Traffic;

/// Number of samples, one per second.
const SECONDS: usize = 120;

/// The rates of the last two minutes.
#[derive(Debug, Default)]
pub struct History(Mutex<VecDeque<Rates>>);

impl History {
    /// The samples, oldest first, one second apart.
    pub fn samples(&self) -> Vec<Rates> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    fn add(&self, rates: Rates) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() >= SECONDS {
            samples.pop_front();
        }
        samples.push_back(rates);
    }
}

/// Takes a sample every second until it is dropped: of the bytes of this node's own apps, and of those that it serves to
/// others.
pub async fn run(history: Arc<History>, apps: Arc<Traffic>, served: Arc<Traffic>) {
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let counted = || [apps.sent(), apps.received(), served.sent(), served.received()];
    let (mut before, mut at) = (counted(), Instant::now());
    tick.tick().await;
    loop {
        tick.tick().await;
        let (now, passed) = (counted(), at.elapsed());
        at = Instant::now();
        let rate = |index: usize| per_second(now[index] - before[index], passed);
        let [apps_sent, apps_received, served_sent, served_received] = [0, 1, 2, 3].map(rate);
        history.add(Rates { apps_sent, apps_received, served_sent, served_received });
        before = now;
    }
}

fn per_second(bytes: u64, passed: Duration) -> u64 {
    let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1000) / millis
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_second_has_its_rate_and_two_minutes_are_kept() {
        let (history, apps) = (Arc::new(History::default()), Arc::new(Traffic::default()));
        let sampling = tokio::spawn(run(history.clone(), apps.clone(), Arc::default()));
        tokio::task::yield_now().await;
        for second in 0..SECONDS as u64 + 5 {
            apps.add_received(second * 1000);
            tokio::time::advance(Duration::from_secs(1)).await;
            tokio::task::yield_now().await;
        }
        sampling.abort();
        let samples = history.samples();
        assert_eq!(samples.len(), SECONDS);
        assert_eq!(samples.last().unwrap().apps_received, (SECONDS as u64 + 4) * 1000);
        assert_eq!(samples.last().unwrap().served_sent, 0);
    }
}
