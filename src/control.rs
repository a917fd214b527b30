//! What the command line asks of the running node, and how it knows that one runs: through files in the state directory, which
//! only the node's own user and root can write.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::cache::store::Store;
use crate::failure::with_causes;
use crate::shared::Shared;
use crate::sys::state::{StateDir, StateError, StateLock, Watch};

/// Exists while the node is not to serve: `laneway drain`. It outlives restarts.
const MAINTENANCE: &str = "maintenance";
/// Exists while the node is to stop for good: `laneway leave`.
const LEAVING: &str = "leaving";
/// Locked by the node while it runs.
const RUNNING: &str = "running";
/// Where the local proxy of the node listens that runs, one endpoint on each line. It means nothing while none runs.
const PROXIES: &str = "proxies";

/// Exists until the node has followed what the files above ask: `laneway drain`, `laneway leave`.
const ASKED: &str = "asked";
/// Locked by the command that waits for that.
const ASKER: &str = "asker";

/// Lists the responses that a store is to remove, by id, and is removed once that is done: `laneway cache rm`.
const CACHE_REMOVE: &str = "cache-remove";
const PEER_CACHE_REMOVE: &str = "peer-cache-remove";
/// Exists until the cache has saved how its responses were used: `laneway cache ls`.
const CACHE_USES: &str = "cache-uses";
/// Locked by the command that asks one of the two.
const CACHE_ASKED: &str = "cache-asked";

/// Interval between two looks at the directory.
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
            // An earlier node's.
            if let Err(error) = state.remove(PROXIES) {
                tracing::warn!(
                    error = with_causes(&error),
                    "the state directory cannot be changed: what this node notes there is lost when it stops"
                );
            }
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

/// Notes where the local proxy of this running node listens: the commands with the same directory find it there, whatever the
/// configuration says.
///
/// # Errors
/// When the file cannot be written.
pub fn note_proxies(state: &StateDir, endpoints: &[String]) -> Result<(), StateError> {
    let lines: String = endpoints.iter().map(|endpoint| format!("{endpoint}\n")).collect();
    state.write(PROXIES, lines.as_bytes())
}

/// The TCP addresses at which the local proxy of the node listens that runs with this directory: nothing if on unix sockets only.
/// `None` when no node runs, as far as this user can tell.
pub fn running_proxies(directory: &Path) -> Option<Vec<SocketAddr>> {
    // Otherwise the directory would be made.
    directory.join(RUNNING).symlink_metadata().ok()?;
    let state = StateDir::open(directory).ok()?;
    if !is_running(&state).ok()? {
        return None;
    }
    Some(noted_proxies(&state)?.iter().filter_map(|line| line.parse().ok()).collect())
}

/// Where the local proxy of the node listens that runs with this directory, its unix sockets too, as far as it has noted that.
pub fn running_endpoints(state: &StateDir) -> Vec<String> {
    noted_proxies(state).unwrap_or_default()
}

fn noted_proxies(state: &StateDir) -> Option<Vec<String>> {
    let text = String::from_utf8(state.read(PROXIES).ok()??).ok()?;
    Some(text.lines().map(str::to_owned).collect())
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

/// Takes the request to leave back.
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

/// Waits until the node that runs with this directory has followed [`set_maintenance`] and [`ask_to_leave`], at most `most`;
/// false when it has not. Where it cannot be asked, as on a full disk, it counts as one that follows.
///
/// # Errors
/// When there can be no lock, or the question cannot be taken back.
pub fn follows(state: &StateDir, most: Duration) -> Result<bool, StateError> {
    let deadline = Instant::now() + most;
    let Some(_alone) = lock_by(state, ASKER, deadline)? else { return Ok(false) };
    if let Err(error) = state.write(ASKED, b"") {
        tracing::debug!(%error, "whether the node follows is not known");
        return Ok(true);
    }
    is_removed(state, ASKED, deadline)
}

/// Waits for the lock on this file; `None` when another command still holds it at the deadline.
fn lock_by(state: &StateDir, name: &str, deadline: Instant) -> Result<Option<StateLock>, StateError> {
    loop {
        match state.try_lock(name)? {
            Some(lock) => return Ok(Some(lock)),
            None if Instant::now() >= deadline => return Ok(None),
            None => std::thread::sleep(ATTEMPTS.1),
        }
    }
}

/// Waits until the node has removed this file; false when it has not by the deadline, after which it need not.
fn is_removed(state: &StateDir, name: &str, deadline: Instant) -> Result<bool, StateError> {
    while state.stamp(name).is_some() {
        if Instant::now() >= deadline {
            state.remove(name)?;
            return Ok(false);
        }
        std::thread::sleep(ATTEMPTS.1);
    }
    Ok(true)
}

/// Removes what this module keeps in the directory.
///
/// # Errors
/// When a file cannot be removed.
pub fn forget(state: &StateDir) -> Result<(), StateError> {
    let stores = [CACHE_REMOVE, PEER_CACHE_REMOVE, CACHE_USES, CACHE_ASKED];
    let node = [MAINTENANCE, LEAVING, RUNNING, PROXIES, ASKED, ASKER];
    node.into_iter().chain(stores).try_for_each(|file| state.remove(file))
}

/// A store of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stores {
    /// What a gateway has fetched for its clients.
    Cache,
    /// What is kept for other members.
    PeerCache,
}

/// What the running node is asked to do with what it stores.
#[derive(Clone, Copy, Debug)]
pub enum Ask<'a> {
    /// To remove these responses of a store.
    Remove(Stores, &'a [u64]),
    /// To save how its responses were used.
    SaveUses,
}

/// Asks the node, and waits until it has done so, at most `most`; false when it does not.
///
/// # Errors
/// When the question cannot be written.
pub fn ask(state: &StateDir, what: Ask<'_>, most: Duration) -> Result<bool, StateError> {
    let deadline = Instant::now() + most;
    let Some(_alone) = lock_by(state, CACHE_ASKED, deadline)? else { return Ok(false) };
    let (name, text) = match what {
        Ask::Remove(store, ids) => {
            let name = if store == Stores::Cache { CACHE_REMOVE } else { PEER_CACHE_REMOVE };
            (name, ids.iter().map(|id| format!("{id:016x}\n")).collect::<String>())
        }
        Ask::SaveUses => (CACHE_USES, String::new()),
    };
    state.write(name, text.as_bytes())?;
    is_removed(state, name, deadline)
}

/// Removes what a command has listed in the file `name`.
async fn remove_listed(state: &StateDir, store: &Arc<Store>, name: &str) -> Result<(), StateError> {
    if state.stamp(name).is_some() {
        let text = state.read(name)?.unwrap_or_default();
        let remove = move |store: &Arc<Store>| {
            let lines = text.split(|byte| *byte == b'\n').filter_map(|line| str::from_utf8(line).ok());
            let ids = lines.filter_map(|line| u64::from_str_radix(line, 16).ok());
            ids.map(|id| store.remove(id)).count()
        };
        // Fails when the disk hangs.
        if let Ok(count) = store.slowly(remove).await {
            tracing::info!(count, "stored responses removed by 'laneway cache'");
        }
        state.remove(name)?;
    }
    Ok(())
}

/// Does what commands ask of the cache.
async fn obey(state: &StateDir, store: &Arc<Store>) -> Result<(), StateError> {
    remove_listed(state, store, CACHE_REMOVE).await?;
    if state.stamp(CACHE_USES).is_some() {
        save_uses(store).await;
        state.remove(CACHE_USES)?;
    }
    Ok(())
}

/// Writes what commands read: what is not on the disk yet, and how it was used.
async fn save_uses(store: &Arc<Store>) {
    let save = |store: &Arc<Store>| {
        store.flush();
        store.save_uses()
    };
    if let Err(error) = store.slowly(save).await.and_then(|saved| saved) {
        tracing::debug!(%error, "how the cache was used is not saved");
    }
}

/// Follows the files: sets whether the node serves, and cancels `leave` when it is to stop for good. Never returns.
pub async fn follow(state: StateDir, shared: Shared, leave: CancellationToken) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::new(state.clone());
    let mut is_saved = false;
    loop {
        ticks.tick().await;
        if let Some(store) = &shared.cache
            && shared.drain.is_cancelled()
            && !is_saved
        {
            is_saved = true;
            save_uses(store).await;
        }
        if watch.may_have_changed(Instant::now()) {
            follow_once(&state, &shared, &leave).await;
        }
    }
}

/// Does what the files ask.
async fn follow_once(state: &StateDir, shared: &Shared, leave: &CancellationToken) {
    if let Some(store) = &shared.cache
        && let Err(error) = obey(state, store).await
    {
        tracing::debug!(%error, "a command's request to the cache cannot be read");
    }
    if let Some(holdings) = &shared.holdings
        && let Err(error) = remove_listed(state, holdings.store(), PEER_CACHE_REMOVE).await
    {
        tracing::debug!(%error, "a command's request to the peer cache cannot be read");
    }
    let wanted = is_in_maintenance(state);
    if shared.activity.set_maintenance(wanted) {
        match wanted {
            true => {
                tracing::info!("in maintenance: this node serves no clients until 'laneway drain --undo'")
            }
            false => tracing::info!("the maintenance is over: this node may be a gateway again"),
        }
    }
    if is_leaving(state) && !leave.is_cancelled() {
        tracing::info!("this machine leaves the group: the node stops");
        leave.cancel();
    }
    // Last: it says that all of the above is followed.
    if state.stamp(ASKED).is_some()
        && let Err(error) = state.remove(ASKED)
    {
        tracing::debug!(%error, "a command is not told that this node has followed it");
    }
}
