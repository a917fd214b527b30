//! The memory that a node holds for the connections that it carries.
//!
//! There are three levels. The [`Budget`] of the node bounds the sum. A [`Holder`] is a member of the group, or this node's
//! own apps: what is refused and what is cut is decided by what each holder has. An [`Account`] is one tunnel, one request or
//! one link, and can be told to end. What holds bytes has a [`Tally`] of an account: bytes are counted when they are
//! taken in, and until their memory is really free.
//!
//! The sum is bounded in four steps. Above a quarter of the limit, what is read at a time gets smaller. Above half of it,
//! windows shrink. Above three quarters, holders with more than a fair share get nothing new. Above all of it, those that hold
//! most are cut until three quarters are left.

mod tally;

pub use tally::Tally;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use tokio::time::timeout;

/// What a tunnel or a request costs besides the bytes that it has queued, in bytes: its tasks, its stream, its socket's state.
pub const TUNNEL: usize = 16 * 1024;
/// What a link costs besides its buffers and queues, in bytes: its task, its keys, the state of HTTP/2.
pub const LINK: usize = 32 * 1024;
/// Accounts that hold at least this many bytes are evicted before smaller ones.
const LARGE: usize = 64 * 1024;
/// How long a task that is about to take memory waits for evicted accounts to end.
const PATIENCE: Duration = Duration::from_secs(1);
/// The bit of [`Account::state`] that says that the account was evicted; the others are the bytes that it holds.
const EVICTED: usize = 1 << (usize::BITS - 1);

/// The bytes that a node may hold.
#[derive(Debug)]
pub struct Budget {
    total: Arc<Total>,
    apps: Arc<Holder>,
}

/// What all holders of one budget share.
#[derive(Debug)]
struct Total {
    limit: usize,
    used: AtomicUsize,
    /// How many of the used bytes belong to evicted accounts, and will be free soon.
    leaving: AtomicUsize,
    /// How many holders have accounts.
    active: AtomicUsize,
    holders: Mutex<HashMap<u64, Weak<Holder>>>,
    /// Wakes one task that waits until no more is held than the limit; that task wakes the next.
    room: Notify,
    next: AtomicU64,
    since: Instant,
}

/// The bytes of one member of the group, over all its links; or of this node's own apps.
#[derive(Debug)]
pub struct Holder {
    total: Arc<Total>,
    id: u64,
    used: AtomicUsize,
    leaving: AtomicUsize,
    accounts: Mutex<HashMap<u64, Weak<Account>>>,
}

/// What an account is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A tunnel, or another request with its answer.
    Tunnel,
    /// A link. It is evicted after all tunnels of its holder, because it takes its tunnels along.
    Link,
}

/// Bytes of the budget that belong to no holder. By default they are not counted at all.
#[derive(Debug, Default)]
pub struct Reserve {
    total: Option<Arc<Total>>,
    bytes: usize,
}

/// The bytes of one tunnel, request or link.
#[derive(Debug)]
pub struct Account {
    holder: Arc<Holder>,
    id: u64,
    kind: Kind,
    /// The bytes that it holds with its fixed cost, and [`EVICTED`].
    state: AtomicUsize,
    /// When something last left it, or entered it while it was empty, in milliseconds since the budget was made.
    moved: AtomicU64,
    task: AtomicWaker,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        let total = Arc::new(Total {
            // The highest bit is needed for a flag, and no machine has so much.
            limit: usize::try_from(limit).unwrap_or(usize::MAX).min(!EVICTED),
            used: AtomicUsize::new(0),
            leaving: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            holders: Mutex::default(),
            room: Notify::new(),
            next: AtomicU64::new(0),
            since: Instant::now(),
        });
        let apps = total.holder();
        Arc::new(Self { total, apps })
    }

    /// A new holder: a member of the group.
    pub fn holder(&self) -> Arc<Holder> {
        self.total.holder()
    }

    /// Opens an account of a connection of this node's own apps.
    pub fn account(&self) -> Arc<Account> {
        self.apps.account(Kind::Tunnel)
    }

    /// Counts bytes that no connection holds, and that nobody can be asked to give back. They have a bound of their own.
    pub fn reserve(&self) -> Reserve {
        Reserve { total: Some(self.total.clone()), bytes: 0 }
    }

    /// Whether a new connection of this node's own apps has to be refused.
    pub fn is_short(&self) -> bool {
        !self.apps.admits()
    }

    /// How many bytes are held.
    pub fn used(&self) -> usize {
        self.total.used.load(Relaxed)
    }

    /// How many bytes may be held.
    pub fn limit(&self) -> usize {
        self.total.limit
    }

    /// The bytes of the holder that has most.
    pub fn largest(&self) -> usize {
        let holders: Vec<_> = lock(&self.total.holders).values().filter_map(Weak::upgrade).collect();
        holders.iter().map(|holder| holder.used()).max().unwrap_or(0)
    }
}

impl Total {
    fn holder(self: &Arc<Self>) -> Arc<Holder> {
        let id = self.next.fetch_add(1, Relaxed);
        let holder = Arc::new(Holder {
            total: self.clone(),
            id,
            used: AtomicUsize::new(0),
            leaving: AtomicUsize::new(0),
            accounts: Mutex::default(),
        });
        lock(&self.holders).insert(id, Arc::downgrade(&holder));
        holder
    }

    /// The bytes up to which new tunnels are accepted, and to which the sum is cut.
    fn comfortable(&self) -> usize {
        self.limit / 4 * 3
    }

    /// The bytes that stay used once all evicted accounts have ended.
    fn staying(&self) -> usize {
        staying(&self.used, &self.leaving)
    }

    /// Evicts accounts of the holders that hold most, until the sum is comfortable.
    fn relieve(&self) {
        let mut holders: Vec<_> = {
            // Another thread that has the lock does this already, or opens or closes a holder.
            let Ok(holders) = self.holders.try_lock() else { return };
            holders.values().filter_map(Weak::upgrade).collect()
        };
        let mut evicted = 0;
        while self.staying() > self.comfortable() {
            holders.sort_by_key(|holder| holder.staying());
            let Some(largest) = holders.pop() else { break };
            let next = holders.last().map_or(0, |holder| holder.staying());
            let before = evicted;
            for account in largest.accounts_to_evict() {
                if self.staying() <= self.comfortable() || largest.staying() < next {
                    break;
                }
                evicted += usize::from(account.evict());
            }
            if evicted > before {
                holders.push(largest);
            }
        }
        if evicted > 0 {
            // Evicted accounts may be among those that wait.
            self.room.notify_waiters();
            tracing::warn!(
                limit = self.limit,
                evicted,
                "the memory limit is reached: connections of whoever holds most are reset"
            );
        }
    }

    /// Whether more is held than may be.
    fn is_exceeded(&self) -> bool {
        self.used.load(Relaxed) > self.limit
    }

    /// Counts `count` bytes less.
    fn shrink(&self, count: usize) {
        let before = self.used.fetch_sub(count, Relaxed);
        // While nothing waits, this costs two comparisons.
        if before > self.limit && before - count <= self.limit {
            self.room.notify_one();
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Holder {
    /// Opens an account.
    pub fn account(self: &Arc<Self>, kind: Kind) -> Arc<Account> {
        let id = self.total.next.fetch_add(1, Relaxed);
        let account = Arc::new(Account {
            holder: self.clone(),
            id,
            kind,
            state: AtomicUsize::new(kind.cost()),
            moved: AtomicU64::new(self.total.now()),
            task: AtomicWaker::new(),
        });
        {
            let mut accounts = lock(&self.accounts);
            if accounts.is_empty() {
                self.total.active.fetch_add(1, Relaxed);
            }
            accounts.insert(id, Arc::downgrade(&account));
        }
        self.grow(kind.cost());
        account
    }

    /// Whether one more tunnel is to be accepted: there is memory left, or this holder has less than a fair share of it.
    pub fn admits(&self) -> bool {
        self.total.used.load(Relaxed) + TUNNEL <= self.total.comfortable()
            || self.used() + TUNNEL <= self.fair_share()
    }

    /// How many bytes this holder has.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// What each holder may have when all of them want as much as they can get.
    fn fair_share(&self) -> usize {
        self.total.comfortable() / self.total.active.load(Relaxed).max(1)
    }

    fn staying(&self) -> usize {
        staying(&self.used, &self.leaving)
    }

    /// The accounts that can be evicted, in the order of eviction: large ones, then small ones, then those that hold no
    /// bytes; the longest stalled first.
    fn accounts_to_evict(&self) -> Vec<Arc<Account>> {
        let accounts: Vec<_> = lock(&self.accounts).values().filter_map(Weak::upgrade).collect();
        let order = |account: &Account| {
            let held = account.held();
            (account.kind, held < LARGE, held == 0, account.moved.load(Relaxed), Reverse(held))
        };
        let mut accounts: Vec<_> = accounts
            .into_iter()
            .filter(|account| !account.is_evicted())
            .map(|one| (order(&one), one))
            .collect();
        accounts.sort_by_key(|(order, _)| *order);
        accounts.into_iter().map(|(_, account)| account).collect()
    }

    fn grow(&self, count: usize) {
        self.used.fetch_add(count, Relaxed);
        if self.total.used.fetch_add(count, Relaxed) + count > self.total.limit
            && self.total.staying() > self.total.limit
        {
            self.total.relieve();
        }
    }

    fn shrink(&self, count: usize) {
        self.used.fetch_sub(count, Relaxed);
        self.total.shrink(count);
    }

    fn leaves(&self, count: usize) {
        self.leaving.fetch_add(count, Relaxed);
        self.total.leaving.fetch_add(count, Relaxed);
    }

    fn left(&self, count: usize) {
        self.leaving.fetch_sub(count, Relaxed);
        self.total.leaving.fetch_sub(count, Relaxed);
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        lock(&self.total.holders).remove(&self.id);
    }
}

impl Kind {
    /// What an account of this kind costs besides its bytes.
    fn cost(self) -> usize {
        match self {
            Self::Tunnel => TUNNEL,
            Self::Link => LINK,
        }
    }
}

impl Account {
    /// Counts `count` bytes more.
    pub fn charge(&self, count: usize) {
        let before = self.state.fetch_add(count, Relaxed);
        if before & EVICTED != 0 {
            self.holder.leaves(count);
        } else if before == self.kind.cost() {
            self.moved.store(self.holder.total.now(), Relaxed);
        }
        self.holder.grow(count);
    }

    /// Counts `count` bytes less, because they moved on; no more than were charged.
    pub fn release(&self, count: usize) {
        self.moved.store(self.holder.total.now(), Relaxed);
        let before = self.state.fetch_sub(count, Relaxed);
        debug_assert!(before & !EVICTED >= count, "no more is released than was charged");
        self.holder.shrink(count);
        if before & EVICTED != 0 {
            self.holder.left(count);
        }
    }

    /// How many bytes are charged to it, without its fixed cost.
    pub fn held(&self) -> usize {
        (self.state.load(Relaxed) & !EVICTED) - self.kind.cost()
    }

    /// Whether there is room for large reads. Their buffers stay when memory gets tight, so large reads stop long
    /// before that.
    pub fn is_roomy(&self) -> bool {
        self.holder.total.used.load(Relaxed) <= self.holder.total.limit / 4
    }

    /// Whether windows have to be small.
    pub fn is_tight(&self) -> bool {
        self.holder.total.used.load(Relaxed) > self.holder.total.limit / 2
    }

    /// How much all may hold together, in bytes.
    pub fn limit(&self) -> usize {
        self.holder.total.limit
    }

    /// Whose account this is.
    pub fn holder(&self) -> &Arc<Holder> {
        &self.holder
    }

    /// Whether this tunnel, request or link has to end.
    pub fn is_evicted(&self) -> bool {
        self.state.load(Relaxed) & EVICTED != 0
    }

    /// As [`Account::is_evicted`]. If it may continue, the current task is woken once it has to end.
    pub fn poll_evicted(&self, cx: &Context<'_>) -> bool {
        self.task.register(cx.waker());
        self.is_evicted()
    }

    /// Waits until it has to end.
    pub async fn evicted(&self) {
        std::future::poll_fn(|cx| if self.poll_evicted(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Waits, for a moment at most, while more is held than the limit, so that evicted tasks run and give back what they have.
    /// Otherwise hundreds of tasks would each take more before the first evicted one gets its turn. False when this account has
    /// to end, too.
    pub async fn may_take(&self) -> bool {
        if self.holder.total.is_exceeded() && !self.is_evicted() {
            // Boxed, because this is rare. After such a long wait the memory is taken all the same.
            let _ = Box::pin(timeout(PATIENCE, self.room())).await;
        }
        !self.is_evicted()
    }

    /// Waits until no more is held than the limit, or this account has to end.
    async fn room(&self) {
        let total = &self.holder.total;
        loop {
            // Made before the check, so that nothing in between is missed.
            let given_back = total.room.notified();
            if !total.is_exceeded() {
                // Wakes the next one that waits: whatever this one takes, there is room by now.
                return total.room.notify_one();
            }
            if self.is_evicted() {
                return;
            }
            given_back.await;
        }
    }

    /// Makes the tunnel end. Its memory counts until it is free, but no other account is evicted because of it. False when it was
    /// evicted before.
    fn evict(&self) -> bool {
        let before = self.state.fetch_or(EVICTED, Relaxed);
        if before & EVICTED != 0 {
            return false;
        }
        self.holder.leaves(before);
        self.task.wake();
        true
    }
}

impl Reserve {
    /// Another reserve of the same budget, of no bytes yet.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { total: self.total.clone(), bytes: 0 }
    }

    /// Notes how many bytes there are now.
    pub fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        let Some(total) = &self.total else { return };
        if bytes >= before {
            total.used.fetch_add(bytes - before, Relaxed);
        } else {
            total.shrink(before - bytes);
        }
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let state = *self.state.get_mut();
        let held = state & !EVICTED;
        debug_assert_eq!(held, self.kind.cost(), "what holds bytes keeps their account");
        self.holder.shrink(held);
        if state & EVICTED != 0 {
            self.holder.left(held);
        }
        let mut accounts = lock(&self.holder.accounts);
        accounts.remove(&self.id);
        if accounts.is_empty() {
            self.holder.total.active.fetch_sub(1, Relaxed);
        }
    }
}

/// Another thread may be between the two counters, so that one of them is ahead.
fn staying(used: &AtomicUsize, leaving: &AtomicUsize) -> usize {
    let leaving = leaving.load(Relaxed);
    used.load(Relaxed).saturating_sub(if leaving & EVICTED == 0 { leaving } else { 0 })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
