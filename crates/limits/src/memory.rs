//! The memory that all tunnels of a node hold together. The window of a tunnel bounds what it can hold alone; this bounds the
//! sum, in three steps: windows shrink, new tunnels are refused, and in the end the tunnels that have stalled longest are
//! reset, so that the others go on.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Context;
use std::time::Instant;

use bytes::Bytes;
use futures_util::task::AtomicWaker;

/// What a tunnel costs besides the bytes it has queued, in bytes: its tasks, its stream, its buffers.
pub const TUNNEL: usize = 16 * 1024;
/// Tunnels that hold at least this many bytes are reset before smaller ones.
const LARGE: usize = 64 * 1024;
/// The assumed memory of a machine that does not report it, in bytes.
const ASSUMED: u64 = 1 << 30;

/// The bytes that all tunnels of a node may hold.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    accounts: Mutex<HashMap<u64, Weak<Account>>>,
    next: AtomicU64,
    since: Instant,
}

/// The bytes that one tunnel holds.
#[derive(Debug)]
pub struct Account {
    budget: Arc<Budget>,
    id: u64,
    held: AtomicUsize,
    /// When something last left the queue, or entered an empty one, in milliseconds since the budget was made.
    moved: AtomicU64,
    evicted: AtomicBool,
    task: AtomicWaker,
}

/// Bytes that are charged to an account until they are dropped.
struct Charged(Bytes, Arc<Account>);

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

    /// Opens the account of a tunnel.
    pub fn account(self: &Arc<Self>) -> Arc<Account> {
        let id = self.next.fetch_add(1, Relaxed);
        let account = Arc::new(Account {
            budget: self.clone(),
            id,
            held: AtomicUsize::new(0),
            moved: AtomicU64::new(self.now()),
            evicted: AtomicBool::new(false),
            task: AtomicWaker::new(),
        });
        self.lock().insert(id, Arc::downgrade(&account));
        self.used.fetch_add(TUNNEL, Relaxed);
        account
    }

    /// How many bytes are held.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// How many bytes may be held.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether more than half of it is used, so that windows have to be small.
    pub fn is_tight(&self) -> bool {
        self.used() > self.limit / 2
    }

    /// Whether more than three quarters of it are used, so that new tunnels have to be refused.
    pub fn is_short(&self) -> bool {
        self.used() > self.limit / 4 * 3
    }

    /// Evicts tunnels until new ones would be accepted again: first those with large queues, the longest stalled before the
    /// others, and the small ones only if that is not enough.
    fn relieve(&self) {
        let mut accounts: Vec<_> = {
            // Another thread that has the lock is opening or closing an account, or does this already.
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
            account.evict();
            reset += 1;
        }
        tracing::warn!(
            limit = self.limit,
            reset,
            "out of memory for tunnels: those that have stalled are reset"
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
    pub fn charge(&self, count: usize) {
        if self.held.fetch_add(count, Relaxed) == 0 {
            self.moved.store(self.budget.now(), Relaxed);
        }
        if self.budget.used.fetch_add(count, Relaxed) + count > self.budget.limit {
            self.budget.relieve();
        }
    }

    /// Counts `count` bytes less, because they moved on.
    pub fn release(&self, count: usize) {
        self.moved.store(self.budget.now(), Relaxed);
        self.give_back(count);
    }

    /// Charges `bytes` until they are dropped.
    pub fn charge_while_alive(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.charge(bytes.len());
        Bytes::from_owner(Charged(bytes, self.clone()))
    }

    /// Whether windows have to be small.
    pub fn is_tight(&self) -> bool {
        self.budget.is_tight()
    }

    /// Whether this tunnel has to end.
    pub fn is_evicted(&self) -> bool {
        self.evicted.load(Relaxed)
    }

    /// The same. If it may go on, the current task is woken once it has to end.
    pub fn poll_evicted(&self, cx: &Context<'_>) -> bool {
        self.task.register(cx.waker());
        self.is_evicted()
    }

    /// Has the tunnel end. What it holds counts as free at once, so that no other has to end for it.
    fn evict(&self) {
        self.evicted.store(true, Relaxed);
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

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.1.release(self.0.len());
    }
}

/// A quarter of the memory that this process may use, in bytes: of the machine's, or of the smallest limit of its control
/// groups.
pub fn share_of_machine() -> u64 {
    share(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
}

/// The same, where the file systems of the kernel are.
fn share(proc: &Path, groups: &Path) -> u64 {
    let machine = std::fs::read_to_string(proc.join("meminfo")).ok().and_then(|text| total(&text));
    let group = std::fs::read_to_string(proc.join("self/cgroup")).ok();
    let group = group.and_then(|text| group_limit(&text, groups));
    [machine, group].into_iter().flatten().min().unwrap_or(ASSUMED) / 4
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
    fn every_byte_is_released_once() {
        let budget = Budget::new(1 << 20);
        let account = budget.account();
        account.charge(1000);
        let charged = account.charge_while_alive(Bytes::from(vec![0; 500]));
        assert_eq!(budget.used(), TUNNEL + 1500);
        account.release(400);
        drop(account);
        assert_eq!(budget.used(), TUNNEL + 1100, "what is charged keeps the account");
        drop(charged);
        assert_eq!(budget.used(), 0);
        assert!(budget.lock().is_empty());
    }

    #[test]
    fn windows_shrink_then_tunnels_are_refused_then_evicted() {
        let budget = Budget::new(1 << 20);
        let account = budget.account();
        account.charge((1 << 19) - TUNNEL);
        assert!(!budget.is_tight());
        account.charge(1);
        assert!(budget.is_tight() && !budget.is_short());
        account.charge(1 << 18);
        assert!(budget.is_short() && !account.is_evicted());
        account.charge(1 << 18);
        assert!(account.is_evicted() && !budget.is_short());
    }

    #[test]
    fn the_longest_stalled_tunnels_are_evicted_and_no_more_than_necessary() {
        let budget = Budget::new(4 << 20);
        let [old, small, idle, moving, newest] = [0; 5].map(|_| budget.account());
        for (account, count) in [(&old, 2 << 20), (&small, 10), (&moving, 1 << 20)] {
            account.charge(count);
        }
        newest.charge((1 << 20) - 6 * TUNNEL);
        for (at, account) in [&small, &old, &newest, &moving].into_iter().enumerate() {
            account.moved.store(at as u64, Relaxed);
        }
        assert!([&old, &small, &idle, &moving, &newest].iter().all(|account| !account.is_evicted()));
        moving.charge(2 * TUNNEL);
        assert!(old.is_evicted());
        assert!([&small, &idle, &moving, &newest].iter().all(|account| !account.is_evicted()));
        assert!(!budget.is_short());
    }

    #[test]
    fn the_machines_memory_is_read() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       24576 kB\n"), Some(24576 * 1024));
        assert_eq!(total("nonsense"), None);
    }

    #[test]
    fn the_share_is_a_quarter_of_what_the_process_may_use() {
        let root = tempfile::tempdir().unwrap();
        let (proc, groups) = (root.path().join("proc"), root.path().join("groups"));
        let write = |path: std::path::PathBuf, text: &str| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(share(&proc, &groups), ASSUMED / 4, "nothing is known");
        write(proc.join("meminfo"), "MemTotal: 4096 kB\n");
        assert_eq!(share(&proc, &groups), 1024 * 1024);
        write(proc.join("self/cgroup"), "0::/a\n");
        write(groups.join("a/memory.max"), "max\n");
        assert_eq!(share(&proc, &groups), 1024 * 1024, "the group has no limit");
        write(groups.join("a/memory.max"), "8000\n");
        assert_eq!(share(&proc, &groups), 2000, "the limit of the group is smaller");
        write(groups.join("a/memory.max"), "80000000\n");
        assert_eq!(share(&proc, &groups), 1024 * 1024, "the machine is smaller");
        // The machine that runs this reports its memory.
        let reported = total(&std::fs::read_to_string("/proc/meminfo").unwrap()).unwrap();
        assert!(share_of_machine() <= reported / 4);
    }

    #[test]
    fn the_smallest_limit_of_the_control_groups_counts() {
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
