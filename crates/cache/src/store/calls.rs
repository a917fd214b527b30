//! Calls to the store that wait for its disk, from tasks, which must not. A disk may hang: then nobody waits for it longer than a
//! second, and those who come later do not wait at all, until it answers again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use laneway_limits::buffer_pool;
use tokio::sync::oneshot::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::Store;
pub use super::disk::{is_hung, says_nothing};

/// How long a caller waits for the disk before it goes on without it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a caller waits that cannot go on without it.
const MOST_PATIENCE: Duration = Duration::from_secs(10);
/// A wait that ends this much too late says nothing about the disk: the whole process stood still (SIGSTOP, a suspended
/// machine).
const STOOD_STILL: Duration = Duration::from_millis(500);
/// How long the work for a command may take.
const COMMAND: Duration = Duration::from_secs(10);

/// How long to wait for the next bytes of a body: an app gets the rest elsewhere only if that `can_go_on`.
#[must_use]
pub fn patience(can_go_on: bool) -> Duration {
    if can_go_on { PATIENCE } else { MOST_PATIENCE }
}

/// A thread has failed, or none could be started, which says nothing of what is stored ([`says_nothing`]).
fn undone(_gone: RecvError) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no thread has done it")
}

fn hung() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer")
}

impl Store {
    /// Whether the disk hangs: then nothing is stored, and nothing stored is used.
    #[must_use]
    pub fn is_hung(&self) -> bool {
        self.disk.is_hung()
    }

    /// Runs `work` on a thread of the store, a call to the disk that takes less than a second. The returned future may be left
    /// unpolled meanwhile.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when the disk hangs: at once when that is known ([`is_hung`]). `work` may still be done later.
    pub async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> T + Send + 'static,
    ) -> io::Result<T> {
        self.prepared(|| (), move |store, ()| work(store)).await
    }

    /// As [`Store::blocking`], with what `prepare` makes, as in [`Store::blocking_with`].
    ///
    /// # Errors
    /// Those of [`Store::blocking`].
    pub async fn prepared<P: Send + 'static, T: Send + 'static>(
        self: &Arc<Self>,
        prepare: impl FnOnce() -> P + Send + 'static,
        work: impl FnOnce(&Arc<Self>, P) -> T + Send + 'static,
    ) -> io::Result<T> {
        match self.is_hung() {
            true => Err(hung()),
            false => self.blocking_with(PATIENCE, prepare, work).await,
        }
    }

    /// As [`Store::blocking`], for work that continues something begun: it is tried for as long as `patience` even if the disk
    /// hangs. `prepare` makes what the work needs, on the caller's thread, once it is the caller's turn: memory that is taken
    /// and returned on one thread is free at once, not only when the other thread takes memory again.
    ///
    /// # Errors
    /// Those of [`Store::blocking`].
    pub async fn blocking_with<P: Send + 'static, T: Send + 'static>(
        self: &Arc<Self>,
        patience: Duration,
        prepare: impl FnOnce() -> P + Send + 'static,
        work: impl FnOnce(&Arc<Self>, P) -> T + Send + 'static,
    ) -> io::Result<T> {
        let call = |store: &Arc<Self>, prepared: P| {
            let _call = store.disk.call();
            work(store, prepared)
        };
        self.run(patience, prepare, call).await
    }

    /// As [`Store::blocking`], for the many calls to the disk that a command may need.
    ///
    /// # Errors
    /// Those of [`Store::blocking`].
    pub async fn slowly<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> T + Send + 'static,
    ) -> io::Result<T> {
        self.run(COMMAND, || (), move |store, ()| work(store)).await
    }

    /// Does `work` on a thread of the store, whenever one has the time. Does not block.
    pub fn later(self: &Arc<Self>, work: impl FnOnce(&Arc<Self>) + Send + 'static) {
        let store = self.clone();
        self.disk.submit(move || work(&store));
    }

    async fn run<P: Send + 'static, T: Send + 'static>(
        self: &Arc<Self>,
        patience: Duration,
        prepare: impl FnOnce() -> P + Send + 'static,
        work: impl FnOnce(&Arc<Self>, P) -> T + Send + 'static,
    ) -> io::Result<T> {
        let store = self.clone();
        let begin = move |place: OwnedSemaphorePermit| {
            let (prepared, disk, (give, got)) = (prepare(), store.disk.clone(), oneshot::channel());
            disk.submit(move || {
                // A result whose caller has gone is dropped on this thread.
                buffer_pool::keep_none();
                let done = work(&store, prepared);
                // Before the result, which may not be fetched for a while.
                drop((place, store));
                // The caller may have gone.
                let _ = give.send(done);
            });
            got
        };
        let mut turn = std::pin::pin!(self.turn(begin));
        loop {
            let begun = Instant::now();
            match timeout(patience, &mut turn).await {
                Ok(done) => return done,
                Err(_elapsed) if begun.elapsed() > patience + STOOD_STILL => {}
                Err(_elapsed) if self.disk.is_hung() => return Err(hung()),
                // The disk is only busy.
                Err(_elapsed) => {}
            }
        }
    }

    /// Waits for a turn, begins the work, and waits for its result.
    async fn turn<T: Send + 'static>(
        &self,
        begin: impl FnOnce(OwnedSemaphorePermit) -> oneshot::Receiver<T> + Send + 'static,
    ) -> io::Result<T> {
        if let Ok(place) = self.disk.places.clone().try_acquire_owned() {
            return begin(place).await.map_err(undone);
        }
        // In a task of its own: a permit is reserved for the next waiter in the queue, which would never take it while not
        // polled.
        let (places, mut waiting) = (self.disk.places.clone(), JoinSet::new());
        waiting.spawn(async move {
            let place = places.acquire_owned().await.map_err(io::Error::other)?;
            begin(place).await.map_err(undone)
        });
        waiting.join_next().await.ok_or(io::ErrorKind::NotFound)?.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::draft::Draft;
    use crate::store::disk::MOST_THREADS;
    use crate::store::hot;
    use crate::store::tests::{store, use_twice};
    use crate::stored::Stored;
    use crate::stored::tests::example;

    /// A step that takes longer than this fails the test.
    const DEADLINE: Duration = Duration::from_secs(60);

    /// Begins this many calls to the disk, which return once the sender is dropped. Nobody waits for them.
    fn hang(store: &Arc<Store>, calls: usize) -> Sender<()> {
        let (open, gate) = channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        for _ in 0..calls {
            let gate = gate.clone();
            let mut call = Box::pin(store.blocking(move |_| gate.lock().unwrap().recv().is_err()));
            assert!(poll(&mut call).is_pending());
        }
        open
    }

    fn poll<T>(future: &mut std::pin::Pin<Box<impl Future<Output = T>>>) -> Poll<T> {
        future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    async fn answers(store: &Arc<Store>) {
        while !matches!(store.blocking(|_| 7).await, Ok(7)) {
            tokio::task::yield_now().await;
        }
    }

    /// Requests for anything that may be stored waited forever.
    #[tokio::test]
    async fn a_disk_that_hangs_is_waited_for_once_and_used_when_it_answers_again() {
        for calls in [1, MOST_THREADS, 5 * MOST_THREADS] {
            let directory = tempfile::tempdir().unwrap();
            let store = store(&directory, 1 << 30);
            let open = hang(&store, calls);
            let late = async {
                while !store.is_hung() {
                    let _ = store.blocking(|_| ()).await;
                }
            };
            tokio::time::timeout(DEADLINE, late).await.unwrap();
            let stored = Stored { total: 10, ..example() };
            assert!(store.room(&stored, Some(10)).is_none());
            let mut next = Box::pin(store.blocking(|_| ()));
            assert!(matches!(poll(&mut next), Poll::Ready(Err(error)) if is_hung(&error)), "{calls}");
            drop(open);
            tokio::time::timeout(DEADLINE, answers(&store)).await.unwrap();
            assert!(!store.is_hung() && store.room(&stored, Some(10)).is_some());
        }
    }

    /// Downloads were cut when a gateway had been suspended.
    #[tokio::test(start_paused = true)]
    async fn a_disk_is_not_blamed_for_the_time_in_which_the_process_stood_still() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory, 1 << 30);
        let (open, gate) = channel::<()>();
        let mut call = Box::pin(store.blocking(move |_| gate.recv().is_err()));
        assert!(poll(&mut call).is_pending());
        while !store.is_hung() {
            std::thread::yield_now();
        }
        tokio::time::advance(PATIENCE * 3).await;
        assert!(poll(&mut call).is_pending());
        tokio::time::resume();
        drop(open);
        assert!(call.await.unwrap());
    }

    /// It took all blocking threads of each runtime, so all other blocking work waited too.
    #[test]
    fn a_disk_that_hangs_takes_no_thread_of_a_runtime() {
        let runtime = laneway_sys::net::runtime().unwrap();
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let stores = directories.each_ref().map(|directory| store(directory, 1 << 30));
        runtime.block_on(async {
            let _hung = stores.each_ref().map(|store| hang(store, 20));
            let other = tokio::time::timeout(DEADLINE, laneway_sys::blocking::run(|| 7));
            assert_eq!(other.await.unwrap().unwrap(), 7);
        });
    }

    #[tokio::test(start_paused = true)]
    async fn copies_in_memory_are_used_whatever_their_age_while_the_disk_hangs() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory, 1 << 30);
        let mut draft = Draft::new(&store).unwrap();
        draft.append(b"abc").unwrap();
        let (id, _) = draft.store(Stored { uri: "http://h/f".into(), total: 3, ..example() }).unwrap();
        use_twice(&store, id);
        tokio::time::advance(hot::UNREAD).await;
        assert!(store.copies("http://h/f").is_none());
        let open = hang(&store, 1);
        while !store.is_hung() {
            std::thread::yield_now();
        }
        assert_eq!(store.copies("http://h/f").unwrap()[0].body, "abc");
        drop(open);
    }

    #[tokio::test]
    async fn what_is_withdrawn_while_the_disk_hangs_is_found_by_nobody_and_not_stored_later() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory, 1 << 30);
        let put = |mut draft: Draft| {
            draft.append(b"abc").unwrap();
            draft.store(Stored { uri: "http://h/f".into(), total: 3, ..example() })
        };
        let (id, _) = put(Draft::new(&store).unwrap()).unwrap();
        let begun = Draft::new(&store).unwrap();
        let open = hang(&store, MOST_THREADS);
        store.withdraw("http://h/f");
        assert!(store.find("http://h/f").is_empty());
        assert!(put(begun).is_err());
        drop(open);
        tokio::time::timeout(DEADLINE, answers(&store)).await.unwrap();
        assert!(store.stored(id).is_none() && !store.may_have("http://h/f"));
        put(Draft::new(&store).unwrap()).unwrap();
        assert_eq!(store.find("http://h/f").len(), 1);
    }
}
