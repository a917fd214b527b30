//! The threads of a store, which wait for its disk, and whether the disk answers. A call to a disk that hangs does not return,
//! as with a frozen file system, a file server that is gone, or a drive that resets itself. The threads are the store's own, so
//! that such a disk takes none from a runtime, which other work waits for too.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use laneway_sys::net;
use tokio::sync::Semaphore;

/// Maximum number of threads that wait for the disk at a time.
pub(super) const MOST_THREADS: usize = 4;
/// The disk counts as hung once a call, or the wait for a thread, takes longer than this: a little less than any caller waits, so
/// that each caller finds out.
const LATE: Duration = Duration::from_millis(950);
/// How long a thread waits for more work before it ends. The allocator returns what is free to the system when a thread ends.
const IDLE: Duration = Duration::from_secs(2);

/// Whether this error says that the disk did not answer in time, which says nothing of what is stored.
#[must_use]
pub fn is_hung(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut
}

/// Whether this error says nothing about what is stored: the disk hangs ([`is_hung`]), or the system has run out of descriptors
/// or memory for now.
#[must_use]
pub fn says_nothing(error: &io::Error) -> bool {
    is_hung(error) || net::is_local_shortage(error)
}

/// Work for a thread.
type Job = Box<dyn FnOnce() + Send>;

/// The threads.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    /// Callers wait for a permit here, so that those that gave up are not served.
    pub(super) places: Arc<Semaphore>,
    state: Mutex<State>,
    /// There is work for another thread.
    more: Condvar,
}

#[derive(Default)]
struct State {
    /// Work that waits, and since when.
    jobs: VecDeque<(Instant, Job)>,
    threads: usize,
    idle: usize,
    /// When each call that has not returned began.
    calls: HashMap<u64, Instant>,
    next_call: u64,
    /// The log says that the disk hangs.
    is_said: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { jobs, threads, idle, calls, .. } = self;
        write!(f, "{} waiting, {} running, {threads} threads, {idle} idle", jobs.len(), calls.len())
    }
}

impl State {
    /// Whether anything has been under way for too long.
    fn is_late(&self) -> bool {
        let waiting = self.jobs.front().map(|(since, _)| since);
        self.calls.values().chain(waiting).any(|since| since.elapsed() >= LATE)
    }
}

/// A call to the disk, from here until this is dropped.
#[derive(Debug)]
pub(super) struct Call<'a> {
    disk: &'a Disk,
    number: u64,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        state.calls.remove(&self.number);
        if state.is_said && !state.is_late() {
            state.is_said = false;
            drop(state);
            tracing::info!(directory = %self.disk.directory.display(), "the disk answers again");
        }
    }
}

impl Disk {
    /// The threads of the store in this directory.
    pub(super) fn new(directory: PathBuf) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(MOST_THREADS));
        Arc::new(Self { directory, places, state: Mutex::default(), more: Condvar::new() })
    }

    /// Whether the disk does not answer: then nobody should begin to wait for it.
    pub(super) fn is_hung(&self) -> bool {
        let mut state = self.state();
        let is_hung = state.is_late();
        if is_hung && !std::mem::replace(&mut state.is_said, true) {
            drop(state);
            let directory = self.directory.display();
            tracing::warn!(%directory, "the disk does not answer: until it does, nothing is stored, or used of what is stored");
        }
        is_hung
    }

    /// Notes a call that begins now.
    pub(super) fn call(&self) -> Call<'_> {
        let mut state = self.state();
        let number = state.next_call;
        state.next_call += 1;
        state.calls.insert(number, Instant::now());
        Call { disk: self, number }
    }

    /// Gives `job` to a thread. It is dropped if no thread can be made.
    pub(super) fn submit(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        let has_thread = state.idle > state.jobs.len();
        let is_new = !has_thread && state.threads < MOST_THREADS;
        state.jobs.push_back((Instant::now(), Box::new(job)));
        if has_thread {
            self.more.notify_one();
        } else if is_new {
            state.threads += 1;
            drop(state);
            let disk = self.clone();
            if Builder::new().name("disk".into()).spawn(move || disk.work()).is_err() {
                self.has_no_thread();
            }
        }
    }

    /// Notes that a thread cannot be made. Without any thread, all work is dropped.
    fn has_no_thread(&self) {
        let mut state = self.state();
        state.threads -= 1;
        if state.threads == 0 {
            let jobs = std::mem::take(&mut state.jobs);
            drop(state);
            drop(jobs);
        }
    }

    /// Does all work that comes.
    fn work(&self) {
        while let Some(job) = self.next() {
            // The job's caller notices a panic; the thread goes on with the next job.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; `None` when there was none for a while: then the thread no longer counts.
    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        if state.jobs.is_empty() {
            state.idle += 1;
            let (waited, _) = self
                .more
                .wait_timeout_while(state, IDLE, |state| state.jobs.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            state = waited;
            state.idle -= 1;
        }
        let next = state.jobs.pop_front().map(|(_, job)| job);
        state.threads -= usize::from(next.is_none());
        next
    }
}
