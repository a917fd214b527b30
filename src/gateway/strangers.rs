//! What the link port remembers of those who have not proved to be members, in bounded memory.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::handshake_slots::HandshakeSlots;
use crate::limits::Bucket;
use crate::limits::rate::{PerSource, Rate, network_of};
use crate::link::tls::words;
use crate::memory::Budget;
use crate::trust::join::MAX_DELAY;

/// Wrong proofs of one source that are answered at once. Each one beyond that is answered after [`SLOWED`]. Neither sources nor
/// invites are locked: the 128 bits of a secret cannot be guessed, and a right proof never waits.
const WRONG_PROOFS: Rate = Rate::new(3, Duration::from_secs(60));
/// How long a source with too many wrong proofs waits for its answer to the next one.
const SLOWED: Duration = MAX_DELAY;
/// How many joiners are admitted at once. They write the same files one after the other, so more would only occupy some of the
/// bounded number of threads that may wait for the disk.
const AT_ONCE: usize = 2;
/// Lines about strangers in the log: anybody on the LAN can cause them, and they must neither fill a disk nor hide other
/// lines.
const LINES: Rate = Rate::new(10, Duration::from_secs(10));

/// The state that all connections of strangers share.
pub(super) struct Strangers {
    pub(super) slots: Arc<HandshakeSlots>,
    pub(super) wrong_proofs: WrongProofs,
    pub(super) admissions: Admissions,
    pub(super) log: StrangerLog,
}

impl Strangers {
    /// Nobody yet. There are places for at most `handshakes` at a time; what they hold counts for `memory`.
    pub(super) fn new(handshakes: usize, memory: &Budget) -> Self {
        Self {
            slots: Arc::new(HandshakeSlots::new(handshakes, memory)),
            wrong_proofs: WrongProofs::default(),
            admissions: Admissions::default(),
            log: StrangerLog::default(),
        }
    }
}

/// The turns of those who join.
pub(super) struct Admissions(Semaphore);

impl Default for Admissions {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

impl Deref for Admissions {
    type Target = Semaphore;

    fn deref(&self) -> &Semaphore {
        &self.0
    }
}

/// The wrong proofs of each source: an IPv4 address or an IPv6 /64.
pub(super) struct WrongProofs(Mutex<PerSource>);

/// Log lines about strangers, limited in all.
#[derive(Default)]
pub(super) struct StrangerLog(Mutex<Lines>);

#[derive(Default)]
struct Lines {
    used: Bucket,
    left_out: u64,
}

impl WrongProofs {
    /// Counts a wrong proof. Returns how long its answer is delayed.
    pub(super) fn delay(&self, source: IpAddr) -> Duration {
        let mut wrong = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.take(network_of(source), Instant::now()) { Duration::ZERO } else { SLOWED }
    }
}

impl Default for WrongProofs {
    fn default() -> Self {
        Self(Mutex::new(PerSource::new(WRONG_PROOFS)))
    }
}

impl StrangerLog {
    /// Logs a handshake that failed before the other end was authenticated.
    pub(super) fn handshake_failed(&self, address: SocketAddr, error: &io::Error) {
        let error = words::in_words(error);
        match self.permit(Instant::now()) {
            Some(left_out) => tracing::info!(%address, error, left_out, "TLS handshake failed"),
            None => tracing::debug!(%address, error, "TLS handshake failed"),
        }
    }

    /// Logs a joiner that was refused.
    pub(super) fn not_admitted(&self, address: SocketAddr, reason: &str) {
        match self.permit(Instant::now()) {
            Some(left_out) => tracing::info!(%address, reason, left_out, "member not admitted"),
            None => tracing::debug!(%address, reason, "member not admitted"),
        }
    }

    /// Whether a line may be logged; if so, how many were left out before it.
    fn permit(&self, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if LINES.take(&mut lines.used, now) {
            return Some(std::mem::take(&mut lines.left_out));
        }
        lines.left_out += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_with_too_many_wrong_proofs_is_slowed_and_others_are_not() {
        let wrong = WrongProofs::default();
        let delay = |from: &str| wrong.delay(from.parse().unwrap());
        assert_eq!(
            [(); 4].map(|()| delay("192.0.2.7")),
            [Duration::ZERO, Duration::ZERO, Duration::ZERO, SLOWED]
        );
        assert_eq!(delay("192.0.2.8"), Duration::ZERO);
        (1..=3).for_each(|host| assert_eq!(delay(&format!("2001:db8::{host}")), Duration::ZERO));
        assert_eq!((delay("2001:db8::4"), delay("2001:db8:0:1::4")), (SLOWED, Duration::ZERO));
    }

    #[test]
    fn wrong_proofs_from_ten_thousand_addresses_slow_no_other_address() {
        let wrong = WrongProofs::default();
        let guess = |n: u32| (0..4).map(|_| wrong.delay(n.to_be_bytes().into())).max();
        (0..10_000).for_each(|n| assert_eq!(guess(n), Some(SLOWED)));
        assert_eq!(wrong.delay([192, 0, 2, 7].into()), Duration::ZERO);
    }

    #[test]
    fn strangers_cannot_flood_the_log_and_the_lines_left_out_are_counted() {
        let (log, start) = (StrangerLog::default(), Instant::now());
        let logged = (0..10_000).filter(|_| log.permit(start).is_some()).count();
        assert_eq!(logged, 10);
        assert_eq!(log.permit(start + Duration::from_secs(10)), Some(9_990));
        assert_eq!(log.permit(start + Duration::from_secs(10)), None);
    }
}
