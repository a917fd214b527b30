//! The capacity of this machine as a gateway, and its load.

use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use laneway_sys::machine::{self, ProcessorTime};

/// Duration of the measurement.
const MEASURE: Duration = Duration::from_millis(20);
/// Interval between two samples of the traffic.
const SAMPLE: Duration = Duration::from_secs(1);
/// Time after which the best rate counts half, unless it is reached again.
const HALF_LIFE: Duration = Duration::from_secs(600);
/// Number of tunnels that counts as full load: the streams that one link carries.
const FULL_LOAD_TUNNELS: u64 = 16_384;
/// Weight of the newest sample in the load, in percent, so that a peak of one second changes no selection.
const NEWEST: u32 = 30;

/// The capacity of this machine, in Mbit/s: how fast one core seals 16 KiB records with AES-128-GCM, times the cores, halved
/// because each byte is also copied; at most the speed that its fastest network interface reports.
pub fn measure() -> u32 {
    sealing().min(machine::fastest_interface().unwrap_or(u32::MAX)).max(1)
}

fn sealing() -> u32 {
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

/// Measures the traffic through this node.
#[derive(Debug)]
pub struct Meter {
    measured: u32,
    best: f64,
    best_at: Instant,
    bytes: u64,
    sampled: Instant,
    cpu: Option<ProcessorTime>,
    load: u16,
}

impl Meter {
    /// A meter of a machine with this measured capacity, in Mbit/s.
    pub fn new(measured: u32, now: Instant) -> Self {
        Self {
            measured,
            best: 0.0,
            best_at: now,
            bytes: 0,
            sampled: now,
            cpu: machine::processor_time(),
            load: 0,
        }
    }

    /// Takes a sample if the last one is a second old. `bytes` are those carried since the start, in both directions;
    /// `tunnels` those open now.
    pub fn sample(&mut self, bytes: u64, tunnels: u32, now: Instant) {
        let elapsed = now.saturating_duration_since(self.sampled);
        if elapsed < SAMPLE {
            return;
        }
        let cpu = machine::processor_time();
        let busy = self.cpu.zip(cpu).map_or(0, |(before, now)| now.busy_since(before));
        self.cpu = cpu;
        self.take(bytes, tunnels, busy, elapsed, now);
    }

    fn take(&mut self, bytes: u64, tunnels: u32, busy: u16, elapsed: Duration, now: Instant) {
        let passed = bytes.saturating_sub(self.bytes);
        (self.bytes, self.sampled) = (bytes, now);
        let rate = passed as f64 * 8.0 / 1e6 / elapsed.as_secs_f64().max(1e-3);
        if rate >= self.best(now) {
            (self.best, self.best_at) = (rate, now);
        }
        let of_tunnels = u64::from(tunnels) * 1000 / FULL_LOAD_TUNNELS;
        let of_capacity = whole(rate * 1000.0 / f64::from(self.capacity(now)));
        let load = of_tunnels.max(of_capacity.into()).max(busy.into()).min(1000);
        let newest = u32::try_from(load).unwrap_or(1000);
        let smooth = (newest * NEWEST + u32::from(self.load) * (100 - NEWEST)) / 100;
        self.load = u16::try_from(smooth).unwrap_or(1000);
    }

    /// The capacity, in Mbit/s: the measured one, or the best rate carried so far if that is higher.
    pub fn capacity(&self, now: Instant) -> u32 {
        self.measured.max(whole(self.best(now)))
    }

    /// The load, in permille: of tunnels, of capacity or of processors, whichever is highest.
    pub fn load(&self) -> u16 {
        self.load
    }

    fn best(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.best_at).as_secs_f64();
        self.best * 0.5_f64.powf(age / HALF_LIFE.as_secs_f64())
    }
}

/// A rate without its fraction, limited to the range of the wire format.
fn whole(rate: f64) -> u32 {
    // The cast of a float saturates.
    #[expect(clippy::cast_possible_truncation, reason = "clamped to what fits")]
    let whole = rate.clamp(0.0, f64::from(u32::MAX)) as u32;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_machine_has_some_capacity() {
        assert!(sealing() > 10);
        assert!(measure() > 0);
    }

    #[test]
    fn what_was_carried_counts_and_is_forgotten_slowly() {
        let start = Instant::now();
        let mut meter = Meter::new(100, start);
        let second = |n: u64| start + Duration::from_secs(n);
        meter.take(50_000_000, 1, 0, SAMPLE, second(1));
        assert_eq!(meter.capacity(second(1)), 400);
        meter.take(50_000_000, 1, 0, SAMPLE, second(2));
        assert_eq!(meter.capacity(second(601)), 200);
        assert_eq!(meter.capacity(second(6001)), 100);
    }

    #[test]
    fn the_load_is_that_of_what_is_most_in_use_and_follows_in_seconds() {
        let start = Instant::now();
        let mut meter = Meter::new(800, start);
        for n in 1..=20 {
            meter.take(n * 50_000_000, 10, 100, SAMPLE, start + SAMPLE * u32::try_from(n).unwrap());
        }
        assert!((480..=500).contains(&meter.load()), "{}", meter.load());
        meter.take(20 * 50_000_000, 0, 1000, SAMPLE, start + SAMPLE * 21);
        assert!((600..=700).contains(&meter.load()), "{}", meter.load());
    }
}
