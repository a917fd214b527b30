//! The number of this run of the node, which orders its beacons after those of all earlier runs.
//!
//! It is kept in the state directory and only grows. Milliseconds since 1970 are its lower bound where the clock is
//! plausible, so that it also grows while the disk is full, and after the state directory was restored from a backup. A
//! machine with neither a clock nor a disk that can be written starts with the number of its previous run: other nodes
//! accept it once it has answered a query of theirs.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use laneway_sys::state::StateDir;
use laneway_trust::clock::CLOCK_FLOOR;
use laneway_wire::failure::with_causes;

/// The file in the state directory.
pub const FILE: &str = "boot";
/// A clock that is further ahead of this program's release is not plausible: 50 years. The number would stay that large.
const MAX_AHEAD: Duration = Duration::from_secs(50 * 365 * 24 * 3600);

/// The number of this run.
#[derive(Debug)]
pub struct Boot {
    number: AtomicU64,
    state: Option<StateDir>,
}

impl Boot {
    /// Begins a new run of the node with this state directory. A full or read-only disk is only logged.
    pub fn begin(state: &StateDir) -> Self {
        Self::begin_at(state, SystemTime::now())
    }

    fn begin_at(state: &StateDir, time: SystemTime) -> Self {
        let stored = match state.read(FILE) {
            Ok(bytes) => bytes.map_or(0, |bytes| number_in(&bytes)),
            Err(error) => {
                tracing::warn!(error = with_causes(&error), "the number of the previous run is not known");
                0
            }
        };
        let number = stored.saturating_add(1).max(plausible_millis(time));
        save(state, number);
        Self { number: AtomicU64::new(number), state: Some(state.clone()) }
    }

    /// The run of a process that announces nothing.
    pub fn observer() -> Self {
        Self { number: AtomicU64::new(0), state: None }
    }

    /// The number.
    pub fn number(&self) -> u64 {
        self.number.load(Relaxed)
    }

    /// Raises the number above that of another run of this node. Blocks while the number is saved.
    pub fn rise_above(&self, other: u64) {
        let number = other.saturating_add(1);
        if number > self.number.fetch_max(number, Relaxed)
            && let Some(state) = &self.state
        {
            save(state, number);
        }
    }
}

fn save(state: &StateDir, number: u64) {
    if let Err(error) = state.write(FILE, format!("{number}\n").as_bytes()) {
        tracing::warn!(error = with_causes(&error), number, "the number of this run cannot be saved");
    }
}

/// The number in the file; 0 if it is damaged.
fn number_in(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_else(|| {
        tracing::warn!(file = FILE, "the number of the previous run is damaged");
        0
    })
}

/// Milliseconds since 1970; 0 if the clock cannot be right.
fn plausible_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let is_plausible = since > CLOCK_FLOOR && since < CLOCK_FLOOR + MAX_AHEAD;
    if is_plausible { u64::try_from(since.as_millis()).unwrap_or_default() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNSET: SystemTime = UNIX_EPOCH;

    fn state() -> (tempfile::TempDir, StateDir) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        (directory, state)
    }

    fn clock(after_release: u64) -> SystemTime {
        UNIX_EPOCH + CLOCK_FLOOR + Duration::from_secs(after_release)
    }

    #[test]
    fn each_run_has_a_larger_number_with_or_without_a_clock() {
        let (_directory, state) = state();
        let clocks = [UNSET, UNSET, clock(1), clock(1), UNSET, clock(0), clock(100)];
        let numbers = clocks.map(|time| Boot::begin_at(&state, time).number());
        assert_eq!(numbers[..2], [1, 2]);
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    }

    #[test]
    fn a_restored_backup_does_not_take_the_number_back_where_there_is_a_clock() {
        let (_directory, state) = state();
        let backup = Boot::begin_at(&state, clock(1)).number();
        let last = (2..10).map(|second| Boot::begin_at(&state, clock(second)).number()).max();
        state.write(FILE, format!("{backup}\n").as_bytes()).unwrap();
        assert!(Some(Boot::begin_at(&state, clock(11)).number()) > last);
    }

    #[test]
    fn a_damaged_file_or_an_absurd_clock_does_not_stop_the_node() {
        let (_directory, state) = state();
        state.write(FILE, b"nonsense").unwrap();
        assert_eq!(Boot::begin_at(&state, UNSET).number(), 1);
        assert_eq!(Boot::begin_at(&state, clock(MAX_AHEAD.as_secs())).number(), 2);
        state.write(FILE, format!("{}", u64::MAX).as_bytes()).unwrap();
        assert_eq!(Boot::begin_at(&state, UNSET).number(), u64::MAX);
    }

    #[test]
    fn a_node_whose_disk_cannot_be_written_starts_and_its_clock_orders_its_runs() {
        let (_directory, state) = state();
        // A directory in place of the file fails for every user that runs the test.
        std::fs::create_dir(state.file(FILE)).unwrap();
        let numbers = [1, 2, 3].map(|second| Boot::begin_at(&state, clock(second)).number());
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    }

    #[test]
    fn a_node_that_hears_of_a_later_run_of_its_own_rises_above_it_for_good() {
        let (_directory, state) = state();
        let boot = Boot::begin_at(&state, UNSET);
        boot.rise_above(70);
        boot.rise_above(5);
        assert_eq!(boot.number(), 71);
        assert_eq!(Boot::begin_at(&state, UNSET).number(), 72);
    }
}
