//! Threads for work that blocks. Those of a tokio runtime end while they are idle, and it panics where the system permits no new
//! one then. Here one thread stays in reserve, and does the work for which none can be started.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::Builder;
use std::time::Duration;

use tokio::sync::oneshot;

/// Maximum number of threads of one kind of work, beside the reserve. Each keeps memory of its own, about half a MiB. Further
/// work waits.
const MOST_THREADS: usize = 8;
/// How long a thread waits for more to do. The allocator returns what is free to the system when a thread ends, and hardly ever
/// while it is idle.
const KEPT: Duration = Duration::from_secs(2);

static WORK: Pool = Pool::new(Builder::new);
static STATE: Pool = Pool::new(Builder::new);

/// Work for a thread.
type Job = Box<dyn FnOnce() + Send>;

/// Work under way, which goes on if this is dropped. It completes with the result.
#[derive(Debug)]
pub struct Running<T>(oneshot::Receiver<T>);

impl<T> Future for Running<T> {
    type Output = io::Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let failed = |_gone| io::Error::other("a thread failed, or none could be started");
        Pin::new(&mut self.0).poll(context).map_err(failed)
    }
}

/// Starts the reserve. Without it, work fails while no thread can be started.
///
/// # Errors
/// When the system permits no thread.
pub fn start() -> io::Result<()> {
    WORK.start_reserve()?;
    STATE.start_reserve()
}

/// Runs `work` on a thread. The result is an error if it panics.
pub fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Running<T> {
    WORK.run(work)
}

/// As [`run`], for work with the state directory: its disk may hang, and nothing else waits for it.
pub fn run_with_state<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Running<T> {
    STATE.run(work)
}

/// The threads of one kind of work.
struct Pool {
    new_thread: fn() -> Builder,
    inside: Mutex<Inside>,
    /// There is work for an idle thread.
    more: Condvar,
    /// There is work for the reserve.
    short: Condvar,
}

struct Inside {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    has_reserve: bool,
    /// A thread could not be started, and the reserve does what waits.
    is_short: bool,
}

impl Pool {
    const fn new(new_thread: fn() -> Builder) -> Self {
        let inside =
            Inside { jobs: VecDeque::new(), threads: 0, idle: 0, has_reserve: false, is_short: false };
        Self { new_thread, inside: Mutex::new(inside), more: Condvar::new(), short: Condvar::new() }
    }

    fn start_reserve(&'static self) -> io::Result<()> {
        let mut inside = self.lock();
        if !inside.has_reserve {
            Builder::new().name("reserve".to_owned()).spawn(|| self.stand_by())?;
            inside.has_reserve = true;
        }
        Ok(())
    }

    fn run<T: Send + 'static>(&'static self, work: impl FnOnce() -> T + Send + 'static) -> Running<T> {
        let (give, given) = oneshot::channel();
        self.submit(Box::new(move || {
            // Nobody may wait for it.
            let _ = give.send(work());
        }));
        Running(given)
    }

    fn submit(&'static self, job: Job) {
        let mut inside = self.lock();
        let has_thread = inside.idle > inside.jobs.len();
        inside.jobs.push_back(job);
        if has_thread {
            self.more.notify_one();
        } else if inside.threads < MOST_THREADS {
            inside.threads += 1;
            drop(inside);
            if (self.new_thread)().name("blocking".to_owned()).spawn(|| self.work()).is_err() {
                self.has_no_thread();
            }
        }
    }

    /// Notes that a thread cannot be started. Without any, all work is dropped.
    fn has_no_thread(&self) {
        let mut inside = self.lock();
        inside.threads -= 1;
        if inside.has_reserve {
            inside.is_short = true;
            self.short.notify_one();
        } else if inside.threads == 0 {
            let jobs = std::mem::take(&mut inside.jobs);
            drop(inside);
            drop(jobs);
        }
    }

    /// Does work until there was none for a while.
    fn work(&self) {
        while let Some(job) = self.next() {
            // Whoever waits for the job notices a panic.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    fn next(&self) -> Option<Job> {
        let mut inside = self.lock();
        if inside.jobs.is_empty() {
            inside.idle += 1;
            let waited = self.more.wait_timeout_while(inside, KEPT, |inside| inside.jobs.is_empty());
            (inside, _) = waited.unwrap_or_else(PoisonError::into_inner);
            inside.idle -= 1;
        }
        let next = inside.jobs.pop_front();
        inside.threads -= usize::from(next.is_none());
        next
    }

    /// Does the work for which no thread can be started, for as long as the process runs.
    fn stand_by(&self) {
        loop {
            let waited = self.short.wait_while(self.lock(), |inside| !inside.is_short);
            let mut inside = waited.unwrap_or_else(PoisonError::into_inner);
            let job = inside.jobs.pop_front();
            inside.is_short = job.is_some();
            drop(inside);
            if let Some(job) = job {
                let _ = catch_unwind(AssertUnwindSafe(job));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use tokio::time::timeout;

    use super::*;

    /// A step that does not come is a failure of the test.
    const DEADLINE: Duration = Duration::from_secs(60);

    fn pool(new_thread: fn() -> Builder) -> &'static Pool {
        Box::leak(Box::new(Pool::new(new_thread)))
    }

    /// No machine has so much memory.
    fn refused() -> Builder {
        Builder::new().stack_size(1 << 60)
    }

    /// A runtime panicked instead, which ended the node.
    #[tokio::test]
    async fn while_no_thread_can_be_started_the_reserve_does_the_work_and_without_it_the_work_fails() {
        let pool = pool(refused);
        assert!(timeout(DEADLINE, pool.run(|| 1)).await.unwrap().is_err());
        pool.start_reserve().unwrap();
        pool.start_reserve().unwrap();
        for round in 0..3 {
            let running: Vec<_> = (0..50).map(|number| pool.run(move || round + number)).collect();
            for (number, running) in running.into_iter().enumerate() {
                assert_eq!(timeout(DEADLINE, running).await.unwrap().unwrap(), round + number);
            }
        }
        assert_eq!(pool.lock().threads, 0);
    }

    #[tokio::test]
    async fn all_work_is_done_by_a_bounded_number_of_threads_also_after_a_panic() {
        let pool = pool(Builder::new);
        let panics = pool.run(|| assert_eq!(std::hint::black_box(1), 2, "a test"));
        assert!(timeout(DEADLINE, panics).await.unwrap().is_err());
        let (began, begun) = channel();
        let (open, gate) = channel::<()>();
        let gate = std::sync::Arc::new(Mutex::new(gate));
        let works = (0..3 * MOST_THREADS).map(|_| {
            let (gate, began) = (gate.clone(), began.clone());
            pool.run(move || {
                began.send(()).unwrap();
                gate.lock().unwrap().recv().unwrap_err();
            })
        });
        let works: Vec<_> = works.collect();
        (0..MOST_THREADS).for_each(|_| begun.recv_timeout(DEADLINE).unwrap());
        assert_eq!(pool.lock().threads, MOST_THREADS);
        assert!(begun.try_recv().is_err());
        drop(open);
        for work in works {
            timeout(DEADLINE, work).await.unwrap().unwrap();
        }
    }
}
