//! A body that is being fetched: one writer, and readers that each go at their own speed. What was read last is in memory,
//! everything before it in the file, so a slow reader holds up neither the writer nor the others.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use laneway_sys::files;
use tokio::sync::Notify;

use crate::store::{Draft, Store};
use crate::stored::Stored;
use laneway_limits::limited;
use laneway_limits::lines::NOBODY;

/// How many of the last bytes stay in memory.
const TAIL: u64 = 512 * 1024;
/// The most that one read takes from the file, in bytes.
const READ: u64 = 256 * 1024;

/// The body ended too early, or cannot be read any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body ended too early")]
pub struct Broken;

/// A body that is being fetched, and the response that it belongs to.
#[derive(Debug)]
pub struct Growing {
    /// The response; the length and the checksums of its body are not known yet.
    pub stored: Stored,
    /// The length of the body, if it is known.
    pub total: Option<u64>,
    store: Arc<Store>,
    file: Arc<std::fs::File>,
    state: Mutex<State>,
    /// More has come, or the end.
    grown: Notify,
    /// A reader has gone on or left.
    read: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The bytes so far.
    length: u64,
    /// The bytes of these that are in the file.
    written: u64,
    /// The last pieces, and the offset of the first of them.
    tail: VecDeque<Bytes>,
    tail_start: u64,
    end: Option<Result<(), Broken>>,
    /// The file takes no more: the readers have to keep up with the writer.
    is_full: bool,
    next_reader: u64,
    /// How far each reader is.
    readers: HashMap<u64, u64>,
}

impl Growing {
    /// An empty body, which `draft` stores.
    #[must_use]
    pub fn new(store: Arc<Store>, draft: &Draft, stored: Stored, total: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            stored,
            total,
            store,
            file: draft.file(),
            state: Mutex::default(),
            grown: Notify::new(),
            read: Notify::new(),
        })
    }

    /// A reader from `start` up to `end`; `None` when the beginning is gone.
    #[must_use]
    pub fn reader(self: &Arc<Self>, start: u64, end: u64) -> Option<Reader> {
        let mut state = self.state();
        if state.is_full {
            return None;
        }
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(id, start);
        drop(state);
        Some(Reader { body: self.clone(), id, at: start, end })
    }

    /// The number of readers.
    #[must_use]
    pub fn readers(&self) -> usize {
        self.state().readers.len()
    }

    /// The number of bytes so far.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.state().length
    }

    /// Waits until nobody reads.
    pub async fn abandoned(&self) {
        loop {
            let read = self.read.notified();
            if self.readers() == 0 {
                return;
            }
            read.await;
        }
    }

    /// Appends bytes, and stores them with `draft` unless that has failed before. Waits for the disk; when it takes no more,
    /// for the slowest reader.
    pub async fn push(&self, bytes: Bytes, draft: &mut Option<Draft>) {
        {
            let mut state = self.state();
            state.length += bytes.len() as u64;
            state.tail.push_back(bytes.clone());
        }
        self.grown.notify_waiters();
        if let Some(mut open) = draft.take() {
            let appended = self.store.blocking(move |_| open.append(&bytes).map(|()| open)).await;
            match appended.and_then(|appended| appended) {
                Ok(open) => *draft = Some(open),
                Err(error) => limited!(warn, NOBODY, %error, "a response is passed on without being stored"),
            }
        }
        let is_stored = draft.is_some();
        loop {
            let read = self.read.notified();
            if self.state().trim(is_stored) {
                return;
            }
            read.await;
        }
    }

    /// Appends the last bytes, which are stored already.
    pub fn finish(&self, last: Bytes) {
        {
            let mut state = self.state();
            state.length += last.len() as u64;
            if !last.is_empty() {
                state.tail.push_back(last);
            }
        }
        self.end(Ok(()));
    }

    /// Notes the end: everything has come, or nothing more will.
    pub fn end(&self, how: Result<(), Broken>) {
        self.state().end = Some(how);
        self.grown.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Drops what nobody needs in memory. False while more is there than may be.
    fn trim(&mut self, is_stored: bool) -> bool {
        if is_stored {
            self.written = self.length;
        } else {
            self.is_full = true;
        }
        let slowest = self.readers.values().copied().min().unwrap_or(self.length);
        while self.length - self.tail_start > TAIL {
            let Some(first) = self.tail.front() else { return true };
            let next = self.tail_start + first.len() as u64;
            if next > self.written && next > slowest {
                return false;
            }
            self.tail.pop_front();
            self.tail_start = next;
        }
        true
    }

    /// The bytes at `at` that are in memory.
    fn in_memory(&self, at: u64) -> Option<Bytes> {
        let mut start = self.tail_start;
        for piece in &self.tail {
            let end = start + piece.len() as u64;
            if (start..end).contains(&at) {
                return Some(piece.slice(usize::try_from(at - start).ok()?..));
            }
            start = end;
        }
        None
    }
}

/// One reader.
#[derive(Debug)]
pub struct Reader {
    body: Arc<Growing>,
    id: u64,
    at: u64,
    end: u64,
}

/// Where the next bytes of a reader are.
enum Next {
    Here(Bytes),
    File(u64),
    Nowhere(Result<(), Broken>),
}

impl Reader {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// [`Broken`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.at >= self.end {
            return Ok(None);
        }
        let mut bytes = match self.place().await {
            Next::Here(bytes) => bytes,
            Next::Nowhere(end) => return end.map(|()| None),
            Next::File(count) => {
                let (file, at) = (self.body.file.clone(), self.at);
                let read = self.body.store.blocking(move |_| read(&file, at, count)).await;
                read.and_then(|read| read).map_err(|error| {
                    limited!(warn, NOBODY, %error, "what was just stored cannot be read");
                    Broken
                })?
            }
        };
        bytes.truncate(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        self.at += bytes.len() as u64;
        self.body.state().readers.insert(self.id, self.at);
        self.body.read.notify_waiters();
        Ok(Some(bytes))
    }

    async fn place(&self) -> Next {
        loop {
            let grown = self.body.grown.notified();
            {
                let state = self.body.state();
                if let Some(bytes) = state.in_memory(self.at) {
                    return Next::Here(bytes);
                }
                if self.at < state.tail_start {
                    return Next::File((state.tail_start - self.at).min(READ));
                }
                if let Some(end) = state.end {
                    return Next::Nowhere(end);
                }
            }
            grown.await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.body.state().readers.remove(&self.id);
        self.body.read.notify_waiters();
    }
}

fn read(file: &std::fs::File, at: u64, count: u64) -> io::Result<Bytes> {
    let mut bytes = BytesMut::zeroed(usize::try_from(count).map_err(io::Error::other)?);
    files::read_exact_at(file, &mut bytes, at)?;
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::tests::example;

    fn piece(number: u64) -> Bytes {
        Bytes::from(vec![u8::try_from(number % 251).unwrap(); 100_000])
    }

    async fn whole(mut reader: Reader) -> Result<Vec<u8>, Broken> {
        let mut all = Vec::new();
        while let Some(bytes) = reader.next().await? {
            all.extend(bytes);
        }
        Ok(all)
    }

    fn all(pieces: u64) -> Vec<u8> {
        (0..pieces).flat_map(|number| piece(number).to_vec()).collect()
    }

    #[tokio::test]
    async fn readers_that_come_early_or_late_get_everything_and_a_slow_one_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("cache"), 1 << 30).unwrap();
        let mut draft = Some(store.draft().unwrap());
        let body = Growing::new(store.clone(), draft.as_ref().unwrap(), example(), None);
        let slow = body.reader(0, u64::MAX).unwrap();
        let early = tokio::spawn(whole(body.reader(0, u64::MAX).unwrap()));
        for number in 0..20 {
            body.push(piece(number), &mut draft).await;
        }
        let late = tokio::spawn(whole(body.reader(150_000, 450_000).unwrap()));
        body.end(Ok(()));
        assert_eq!(early.await.unwrap().unwrap(), all(20));
        assert_eq!(late.await.unwrap().unwrap(), all(20)[150_000..450_000]);
        assert_eq!(whole(slow).await.unwrap(), all(20));
        body.abandoned().await;
    }

    #[tokio::test]
    async fn a_body_that_ends_too_early_is_broken_for_all_readers() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("cache"), 1 << 30).unwrap();
        let mut draft = Some(store.draft().unwrap());
        let body = Growing::new(store, draft.as_ref().unwrap(), example(), None);
        let mut reader = body.reader(0, u64::MAX).unwrap();
        body.push(piece(0), &mut draft).await;
        body.end(Err(Broken));
        assert_eq!(reader.next().await.unwrap().unwrap(), piece(0));
        assert_eq!(reader.next().await, Err(Broken));
    }

    #[tokio::test]
    async fn a_full_disk_makes_the_writer_wait_for_its_readers_and_takes_no_more_of_them() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("cache"), 250_000).unwrap();
        let mut draft = Some(store.draft().unwrap());
        let body = Growing::new(store, draft.as_ref().unwrap(), example(), None);
        let reader = tokio::spawn(whole(body.reader(0, u64::MAX).unwrap()));
        for number in 0..20 {
            body.push(piece(number), &mut draft).await;
        }
        assert!(draft.is_none() && body.reader(0, u64::MAX).is_none());
        body.end(Ok(()));
        assert_eq!(reader.await.unwrap().unwrap(), all(20));
    }
}
