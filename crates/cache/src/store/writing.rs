//! How small responses get to the disk: storing one waits for nothing, and a thread writes it.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use laneway_limits::limited;
use laneway_limits::lines::NOBODY;

use super::hot::Copied;
use super::unwritten::{Chore, Unwritten, memory_of};
use super::{Store, layout};
use crate::stored::Stored;

/// The longest body that is kept in memory until it is written, in bytes.
pub(crate) const MAX_SMALL: usize = 256 * 1024;
/// How long the thread waits for more of them, so that it is not woken for each.
const GATHERING: Duration = Duration::from_millis(10);

/// Memory for a small response that is about to come.
#[derive(Debug)]
pub struct Room {
    store: Arc<Store>,
    bytes: usize,
}

impl Room {
    /// Moves its memory out.
    pub(crate) fn take(&mut self) -> Self {
        Self { store: self.store.clone(), bytes: std::mem::take(&mut self.bytes) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.store.unwritten().change(self.bytes, 0);
    }
}

impl Store {
    /// Takes memory for `stored`, with a body of `total` bytes if that is known. `None` when it is not small, or when too many
    /// are waiting to be written, or the disk hangs: then it is written as it comes.
    #[must_use]
    pub fn room(self: &Arc<Self>, stored: &Stored, total: Option<u64>) -> Option<Room> {
        let body = total.map_or(Some(MAX_SMALL), |total| usize::try_from(total).ok())?;
        let bytes = memory_of(stored, body);
        if body > MAX_SMALL || self.disk.is_hung() {
            return None;
        }
        let mut unwritten = self.unwritten();
        if !unwritten.admits(bytes) {
            return None;
        }
        unwritten.change(0, bytes);
        drop(unwritten);
        Some(Room { store: self.clone(), bytes })
    }

    /// Stores a whole response, for which memory was taken. It is on the disk later. Does not block.
    pub(crate) fn put(self: &Arc<Self>, id: u64, stored: &Stored, body: Bytes, mut room: Room) {
        let copied = Copied { id, stored: Arc::new(stored.clone()), body };
        self.unwritten().insert(copied, std::mem::take(&mut room.bytes));
        // From here on it is found.
        let (leaving, oldest) = self.enter(id, stored);
        let mut chores = VecDeque::from([Chore::Write(id)]);
        chores.extend(oldest.map(Chore::Release));
        for id in leaving {
            self.hot().forget(id);
            self.unwritten().forget(id);
            chores.push_back(Chore::Remove(id));
        }
        self.changes.fetch_add(1, Relaxed);
        let (is_first, has_time) = {
            let mut unwritten = self.unwritten();
            unwritten.chores.append(&mut chores);
            (!std::mem::replace(&mut unwritten.is_writing, true), unwritten.has_time())
        };
        if !is_first {
            // Waking the thread only for it to sleep again would cost more than the rest of this.
            if !has_time {
                self.hurry.notify_one();
            }
            return;
        }
        let writing = Writing { store: self.clone(), has_ended: false };
        self.disk.submit(move || writing.run());
    }

    /// Writes what is not on the disk yet. Whatever was stored before is there when this returns, unless the disk takes no more.
    pub fn flush(&self) {
        while self.do_chore() {
            // Each file takes a part of a millisecond, and somebody may wait for a response meanwhile.
            thread::yield_now();
        }
    }

    /// Does the first of the chores; false when there is none.
    fn do_chore(&self) -> bool {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(chore) = self.unwritten().chores.pop_front() else { return false };
        let _call = self.disk.call();
        match chore {
            Chore::Write(id) => self.write(id),
            Chore::Remove(id) => self.remove_files(id),
            Chore::Release(id) => self.release(id),
        }
        true
    }

    /// Writes the response `id`, if it is not on the disk yet.
    fn write(&self, id: u64) {
        let found = self.unwritten().get(id).cloned();
        let Some(copied) = found else { return };
        let written = self.write_small(id, &copied.stored, &copied.body);
        let mut unwritten = self.unwritten();
        let now = unwritten.get(id).map(|now| Arc::ptr_eq(&now.stored, &copied.stored));
        match (now, written) {
            (Some(true), Ok(())) => unwritten.forget(id),
            // Its metadata has changed: it is written again.
            (Some(false), _) => {}
            // It was removed meanwhile.
            (None, _) => {
                drop(unwritten);
                self.remove_files(id);
            }
            (Some(true), Err(error)) => {
                drop(unwritten);
                limited!(warn, NOBODY, uri = copied.stored.uri, %error, "a response is not stored");
                self.remove(id);
            }
        }
    }

    /// Writes a whole response into one file.
    pub(super) fn write_small(&self, id: u64, stored: &Stored, body: &[u8]) -> io::Result<()> {
        let written = self.replace(&layout::small(stored, body), &self.path(id, layout::SMALL));
        // Afterwards, so that a thread that copies the earlier content notices.
        self.hot().forget(id);
        written
    }

    pub(super) fn unwritten(&self) -> MutexGuard<'_, Unwritten> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The work of the thread that writes. When it is dropped before the work is done, another thread may do it.
struct Writing {
    store: Arc<Store>,
    has_ended: bool,
}

impl Writing {
    fn run(self) {
        let unwritten = self.store.unwritten();
        drop(self.store.hurry.wait_timeout_while(unwritten, GATHERING, |unwritten| unwritten.has_time()));
        self.finish();
    }

    fn finish(mut self) {
        loop {
            self.store.flush();
            let mut unwritten = self.store.unwritten();
            if unwritten.chores.is_empty() {
                unwritten.is_writing = false;
                self.has_ended = true;
                return;
            }
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.has_ended {
            self.store.unwritten().is_writing = false;
        }
    }
}
