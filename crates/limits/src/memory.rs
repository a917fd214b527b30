//! The memory that tunnels hold, over the whole node. Each tunnel's window bounds what it can hold; this bounds what
//! all of them hold together, in three steps: windows shrink, new tunnels are refused, and at last the tunnels that
//! have stood still the longest are reset, so that the others go on.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Context;
use std::time::Instant;

use bytes::Bytes;
use futures_util::task::AtomicWaker;

/// What a tunnel costs in bytes besides what it has queued: its tasks, its stream, its buffers.
pub const TUNNEL: usize = 16 * 1024;
/// A queue of so many bytes is worth a reset.
const LARGE: usize = 64 * 1024;
/// Where the system does not say how much memory there is.
const UNKNOWN: u64 = 1 << 30;

/// What all tunnels of a node may hold.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    accounts: Mutex<HashMap<u64, Weak<Account>>>,
    next: AtomicU64,
    since: Instant,
}

/// What one tunnel holds.
#[derive(Debug)]
pub struct Account {
    budget: Arc<Budget>,
    id: u64,
    held: AtomicUsize,
    /// When something last left the queue, or came into an empty one, in milliseconds.
    moved: AtomicU64,
    condemned: AtomicBool,
    task: AtomicWaker,
}

/// Bytes that count until nobody has them any more.
struct Lent(Bytes, Arc<Account>);

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            used: AtomicUsize::new(0),
            accounts: Mutex::default(),
            next: AtomicU64::new(0),
            since: Instant::now(),
        })
    }

    /// Begins to count a tunnel.
    pub fn account(self: &Arc<Self>) -> Arc<Account> {
        let id = self.next.fetch_add(1, Relaxed);
        let account = Arc::new(Account {
            budget: self.clone(),
            id,
            held: AtomicUsize::new(0),
            moved: AtomicU64::new(self.now()),
            condemned: AtomicBool::new(false),
            task: AtomicWaker::new(),
        });
        self.lock().insert(id, Arc::downgrade(&account));
        self.used.fetch_add(TUNNEL, Relaxed);
        account
    }

    /// How many bytes are held now.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// How many bytes may be held.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// More than half of it is in use: windows should be small.
    pub fn is_tight(&self) -> bool {
        self.used() > self.limit / 2
    }

    /// More than three quarters of it are in use: no new tunnels.
    pub fn is_short(&self) -> bool {
        self.used() > self.limit / 4 * 3
    }

    /// Resets tunnels until new ones would be taken again: those first that have stood still the longest over a large
    /// queue, the small ones only if that is not enough.
    fn relieve(&self) {
        let mut accounts: Vec<_> = {
            // Who does not get the lock leaves it to the one who has it.
            let Ok(accounts) = self.accounts.try_lock() else { return };
            accounts.values().filter_map(Weak::upgrade).collect()
        };
        accounts.retain(|account| account.held.load(Relaxed) > 0);
        accounts.sort_by_key(|account| (account.held.load(Relaxed) < LARGE, account.moved.load(Relaxed)));
        let mut reset = 0;
        for account in accounts {
            if !self.is_short() {
                break;
            }
            account.condemn();
            reset += 1;
        }
        tracing::warn!(
            limit = self.limit,
            reset,
            "out of memory for tunnels: those that stood still are reset"
        );
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Weak<Account>>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// Counts `count` bytes more.
    pub fn hold(&self, count: usize) {
        if self.held.fetch_add(count, Relaxed) == 0 {
            self.moved.store(self.budget.now(), Relaxed);
        }
        if self.budget.used.fetch_add(count, Relaxed) + count > self.budget.limit {
            self.budget.relieve();
        }
    }

    /// Counts `count` bytes less.
    pub fn let_go(&self, count: usize) {
        self.moved.store(self.budget.now(), Relaxed);
        self.give_back(count);
    }

    /// What is queued for sending counts until it was sent.
    pub fn lend(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.hold(bytes.len());
        Bytes::from_owner(Lent(bytes, self.clone()))
    }

    /// Whether windows should be small.
    pub fn is_tight(&self) -> bool {
        self.budget.is_tight()
    }

    /// Whether this tunnel has to end.
    pub fn is_condemned(&self) -> bool {
        self.condemned.load(Relaxed)
    }

    /// The same; if it has not to, its task is woken once it has.
    pub fn poll_condemned(&self, cx: &Context<'_>) -> bool {
        self.task.register(cx.waker());
        self.is_condemned()
    }

    /// What it holds is as good as free, so that nobody else has to go for it.
    fn condemn(&self) {
        self.condemned.store(true, Relaxed);
        self.give_back(usize::MAX);
        self.task.wake();
    }

    fn give_back(&self, count: usize) {
        let before = self.held.fetch_update(Relaxed, Relaxed, |held| Some(held.saturating_sub(count)));
        let before = before.unwrap_or_else(|held| held);
        self.budget.used.fetch_sub(before.min(count), Relaxed);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.give_back(usize::MAX);
        self.budget.used.fetch_sub(TUNNEL, Relaxed);
        self.budget.lock().remove(&self.id);
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.1.let_go(self.0.len());
    }
}

/// A quarter of the memory that this process may use, in bytes: of the machine's, or of the smallest limit of the
/// control groups that it is in.
pub fn share_of_machine() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let group = std::fs::read_to_string("/proc/self/cgroup").ok();
    let group = group.and_then(|text| group_limit(&text, Path::new("/sys/fs/cgroup")));
    [machine, group].into_iter().flatten().min().map_or(UNKNOWN, |bytes| bytes / 4)
}

/// `MemTotal` of /proc/meminfo, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The smallest limit of the control groups that /proc/self/cgroup names: of version 2, or of the memory controller
/// of version 1, and of every group above.
fn group_limit(cgroup: &str, root: &Path) -> Option<u64> {
    let limits = cgroup.lines().filter_map(|line| {
        let (hierarchy, path) = line.split_once(':')?.1.split_once(':')?;
        let (root, file) = match hierarchy {
            "" => (root.to_owned(), "memory.max"),
            controllers if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let group = root.join(path.trim_start_matches('/'));
        let above = group.ancestors().take_while(|group| group.starts_with(&root));
        let limit = |group: &Path| std::fs::read_to_string(group.join(file)).ok()?.trim().parse().ok();
        above.filter_map(limit).min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_given_back_once() {
        let budget = Budget::new(1 << 20);
        let account = budget.account();
        account.hold(1000);
        let lent = account.lend(Bytes::from(vec![0; 500]));
        assert_eq!(budget.used(), TUNNEL + 1500);
        account.let_go(400);
        drop(account);
        assert_eq!(budget.used(), TUNNEL + 1100, "what is lent keeps the account");
        drop(lent);
        assert_eq!(budget.used(), 0);
        assert!(budget.lock().is_empty());
    }

    #[test]
    fn the_steps_come_one_after_the_other() {
        let budget = Budget::new(1 << 20);
        let account = budget.account();
        account.hold((1 << 19) - TUNNEL);
        assert!(!budget.is_tight());
        account.hold(1);
        assert!(budget.is_tight() && !budget.is_short());
        account.hold(1 << 18);
        assert!(budget.is_short() && !account.is_condemned());
        account.hold(1 << 18);
        assert!(account.is_condemned() && !budget.is_short());
    }

    #[test]
    fn those_go_that_stood_still_the_longest_and_no_more_than_need_be() {
        let budget = Budget::new(4 << 20);
        let [old, small, idle, moving, newest] = [0; 5].map(|_| budget.account());
        for (account, count) in [(&old, 2 << 20), (&small, 10), (&moving, 1 << 20)] {
            account.hold(count);
        }
        newest.hold((1 << 20) - 6 * TUNNEL);
        for (at, account) in [&small, &old, &newest, &moving].into_iter().enumerate() {
            account.moved.store(at as u64, Relaxed);
        }
        assert!([&old, &small, &idle, &moving, &newest].iter().all(|account| !account.is_condemned()));
        moving.hold(2 * TUNNEL);
        assert!(old.is_condemned());
        assert!([&small, &idle, &moving, &newest].iter().all(|account| !account.is_condemned()));
        assert!(!budget.is_short());
    }

    #[test]
    fn the_machines_memory_is_read() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       24576 kB\n"), Some(24576 * 1024));
        assert_eq!(total("nonsense"), None);
        assert!(share_of_machine() > 0);
    }

    #[test]
    fn the_smallest_limit_of_the_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let file = root.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        write("a/memory.max", "1000\n");
        write("a/b/memory.max", "max\n");
        write("memory/c/memory.limit_in_bytes", "500\n");
        assert_eq!(group_limit("0::/a/b\n", root.path()), Some(1000));
        assert_eq!(group_limit("0::/\n", root.path()), None);
        assert_eq!(group_limit("5:cpu,memory:/c/d\n1:name=x:/\n0::/a\n", root.path()), Some(500));
        assert_eq!(group_limit("nonsense", root.path()), None);
    }
}
