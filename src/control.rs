//! What the command line asks of the running node, and how it knows that one runs: through files in the state directory, which
//! only the node's own user and root can write.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;
use crate::sys::state::{StateDir, StateError, StateLock};

/// Exists while the node is not to serve: `laneway drain`. It outlives restarts.
const MAINTENANCE: &str = "maintenance";
/// Exists while the node is to stop for good: `laneway leave`.
const LEAVING: &str = "leaving";
/// Locked by the node while it runs.
const RUNNING: &str = "running";

/// Interval between two looks at the files.
const INTERVAL: Duration = Duration::from_millis(250);
/// How often and how long a node waits for a command that looks at the lock.
const ATTEMPTS: (u32, Duration) = (20, Duration::from_millis(10));

/// Marks this node as running until it is dropped; `None` where another one runs with the same directory.
///
/// # Errors
/// When the file cannot be created.
pub fn mark_running(state: &StateDir) -> Result<Option<StateLock>, StateError> {
    for _ in 0..ATTEMPTS.0 {
        if let Some(lock) = state.try_lock(RUNNING)? {
            return Ok(Some(lock));
        }
        std::thread::sleep(ATTEMPTS.1);
    }
    Ok(None)
}

/// Whether a node runs with this directory.
///
/// # Errors
/// When the file cannot be opened.
pub fn is_running(state: &StateDir) -> Result<bool, StateError> {
    if state.stamp(RUNNING).is_none() {
        return Ok(false);
    }
    Ok(state.try_lock(RUNNING)?.is_none())
}

/// Whether the node is asked not to serve.
pub fn is_in_maintenance(state: &StateDir) -> bool {
    state.stamp(MAINTENANCE).is_some()
}

/// Asks the node not to serve, or to serve again.
///
/// # Errors
/// When the file cannot be written or removed.
pub fn set_maintenance(state: &StateDir, wanted: bool) -> Result<(), StateError> {
    if wanted { state.write(MAINTENANCE, b"") } else { state.remove(MAINTENANCE) }
}

/// Asks the node to stop and not to start again.
///
/// # Errors
/// When the file cannot be written.
pub fn ask_to_leave(state: &StateDir) -> Result<(), StateError> {
    state.write(LEAVING, b"")
}

/// Takes that back.
///
/// # Errors
/// When the file cannot be removed.
pub fn stay(state: &StateDir) -> Result<(), StateError> {
    state.remove(LEAVING)
}

/// Whether the node is asked to leave.
pub fn is_leaving(state: &StateDir) -> bool {
    state.stamp(LEAVING).is_some()
}

/// Removes what this module keeps in the directory.
///
/// # Errors
/// When a file cannot be removed.
pub fn forget(state: &StateDir) -> Result<(), StateError> {
    [MAINTENANCE, LEAVING, RUNNING].into_iter().try_for_each(|file| state.remove(file))
}

/// Follows the files: sets whether the node serves, and cancels `leave` when it is to stop for good. Never returns.
pub async fn follow(state: StateDir, shared: Shared, leave: CancellationToken) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let wanted = is_in_maintenance(&state);
        if shared.activity.set_maintenance(wanted) {
            match wanted {
                true => {
                    tracing::info!("in maintenance: this node serves no clients until 'laneway drain --undo'")
                }
                false => tracing::info!("the maintenance is over: this node may be a gateway again"),
            }
        }
        if is_leaving(&state) && !leave.is_cancelled() {
            tracing::info!("this machine leaves the group: the node stops");
            leave.cancel();
        }
    }
}
