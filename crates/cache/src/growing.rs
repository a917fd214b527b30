//! A body that is being fetched: one writer, and readers that each go at their own speed. The bytes received last are in
//! memory, all before them in the file, so a slow reader holds up neither the writer nor the others.

mod speed;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use laneway_limits::buffer_pool::{PooledBuffer, detached, memory_of};
use laneway_limits::limited;
use laneway_limits::lines::NOBODY;
use laneway_limits::memory::{Account, Holder, Tally};
use laneway_wire::resume::Point;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::draft::Draft;
use crate::pieces::Listed;
use crate::store::{self, Store, read_into};
use crate::stored::{BLOCK, BodyPart, Stored};
use speed::Speed;

/// How many of the last bytes stay in memory, while there is enough of it.
const TAIL: u64 = 512 * 1024;
/// How many blocks one read takes from the file at most, while there is enough memory.
const BLOCKS: usize = 4;
/// How long a reader may stand still while the writer has to wait for it.
const STALLED: Duration = Duration::from_secs(10);
/// Interval at which those who wait for a body check the speed of its fetch.
const LOOK: Duration = Duration::from_millis(250);

/// The body ended too early, or can no longer be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body ended too early")]
pub struct Broken;

/// A body that is being fetched, and the response that it belongs to.
#[derive(Debug)]
pub struct Growing {
    /// The response; which parts of its body are stored is not known yet.
    pub stored: Stored,
    /// The length of the body, if it is known.
    pub total: Option<u64>,
    /// The id under which it will be stored.
    pub id: u64,
    /// The bytes of the body that readers can get: the first one, and the one after the last.
    range: (u64, u64),
    /// Whether the server sends all of it.
    is_whole: bool,
    /// How long a reader waits for the disk.
    patience: Duration,
    store: Arc<Store>,
    /// The file with the bytes that are no longer in memory. `None` while all of them are.
    file: OnceLock<Arc<File>>,
    state: Mutex<State>,
    /// Wakes when more bytes, or the end, have arrived.
    grown: Notify,
    /// Wakes when a reader has advanced or left.
    read: Notify,
}

#[derive(Debug)]
// fields: what has come and where it is, who reads it, and how it ends
struct State {
    /// The offset after the last byte received.
    end: u64,
    speed: Speed,
    /// What can be read from the file, and verified.
    parts: Vec<BodyPart>,
    /// The hashes of pieces that are known, the earliest known first.
    listed: Vec<Listed>,
    /// How many of these hashes the draft has made.
    hashed: usize,
    /// The last reads with the memory that they take, and the offset of the first of them.
    tail: VecDeque<(Bytes, usize)>,
    tail_start: u64,
    /// The memory of the tail, and of the response.
    memory: Tally,
    how: Option<Result<(), Broken>>,
    /// Nothing more can be written to the file, so the writer waits for the readers.
    is_full: bool,
    /// The fetch is ending early and accepts no more readers.
    is_ending: bool,
    next_reader: u64,
    readers: HashMap<u64, Place>,
    /// How many waiters could ask the server themselves: now, and in all so far.
    followers: usize,
    followed: u64,
}

/// The position of a reader, if it has begun to read, and the holder that it reads for.
#[derive(Debug)]
struct Place {
    at: Option<u64>,
    holder: Arc<Holder>,
}

impl Growing {
    /// A body that `draft` stores. Readers can get the bytes of `range`, those before `end` at once. Its memory is charged
    /// to `account`.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        draft: &Draft,
        (stored, total): (Stored, Option<u64>),
        (range, end): ((u64, u64), u64),
        account: &Arc<Account>,
    ) -> Arc<Self> {
        let (parts, mut memory) = (draft.before().to_vec(), Tally::of(account));
        memory.add(stored.memory());
        let listed = stored.pieces.clone();
        let is_whole = end == 0 && total == Some(range.1);
        let state = State {
            end,
            speed: Speed::new(end),
            parts,
            listed,
            hashed: 0,
            tail: VecDeque::new(),
            tail_start: end,
            memory,
            how: None,
            is_full: false,
            is_ending: false,
            next_reader: 0,
            readers: HashMap::new(),
            followers: 0,
            followed: 0,
        };
        let file = draft.file().map_or_else(OnceLock::new, |file| OnceLock::from(file.clone()));
        let point = total.and_then(|total| Point::of_fields(&stored.fields, total));
        Arc::new(Self {
            patience: store::calls::patience(point.is_some()),
            stored,
            total,
            id: draft.id(),
            range,
            is_whole,
            store,
            file,
            state: Mutex::new(state),
            grown: Notify::new(),
            read: Notify::new(),
        })
    }

    /// Whether the server sends all of it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Whether it will be stored, as far as the last writes tell.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        !self.state().is_full && self.store.takes_more()
    }

    /// Whether it is fetched up to its end.
    #[must_use]
    pub fn is_to_the_end(&self) -> bool {
        self.total == Some(self.range.1)
    }

    /// Whether the rest can be fetched over another connection if this one stops: it is certain to be of the same content, or can
    /// be compared with the bytes received so far.
    #[must_use]
    pub fn can_go_on(&self) -> bool {
        self.is_whole
            || self.total.is_some_and(|total| Point::of_fields(&self.stored.fields, total).is_some())
    }

    /// Whether the fetch is expected to reach `offset` within this time.
    #[must_use]
    pub fn reaches(&self, offset: u64, within: Duration) -> bool {
        let state = self.state();
        state.how.is_some() || state.speed.reaches(state.end, offset, within)
    }

    /// Whether the fetch is so slow that the server might send the rest sooner when asked again.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        let state = self.state();
        state.how.is_none() && state.speed.is_slow(state.end)
    }

    /// Waits until the fetch is no longer expected to reach `offset` within this time.
    pub async fn out_of_reach(&self, offset: u64, within: Duration) {
        while self.reaches(offset, within) {
            sleep(LOOK).await;
        }
    }

    /// Notes a waiter that could ask the server itself, until the returned value is dropped.
    #[must_use]
    pub fn follow(self: &Arc<Self>) -> Follower {
        let mut state = self.state();
        state.followers += 1;
        state.followed += 1;
        drop(state);
        self.read.notify_waiters();
        Follower(self.clone())
    }

    /// Waits until the fetch is slow and has a follower. Returns the number of followers in all so far.
    pub async fn keeps_followers_waiting(&self) -> u64 {
        loop {
            let read = self.read.notified();
            let (followers, followed) = {
                let state = self.state();
                (state.followers, state.followed)
            };
            match followers {
                0 => read.await,
                _ if self.is_slow() => return followed,
                _ => sleep(LOOK).await,
            }
        }
    }

    /// A reader from `start` up to `end`, whose reads are charged to `account`; `None` when the body has no such bytes, the
    /// fetch is ending, or the byte at `start` is gone. An empty range, as for a head alone, is in any body.
    #[must_use]
    pub fn reader(self: &Arc<Self>, start: u64, end: u64, account: &Arc<Account>) -> Option<Reader> {
        let is_there = self.range.0 <= start && (end <= self.range.1 || self.total.is_none());
        self.add(Some(start).filter(|_| is_there || start == end)?, end, account)
    }

    /// Keeps the fetch running until there is a reader.
    #[must_use]
    pub fn hold(self: &Arc<Self>, account: &Arc<Account>) -> Reader {
        let id = self.state().add(None, account.holder());
        Reader { body: self.clone(), id, at: 0, end: 0, account: account.clone() }
    }

    fn add(self: &Arc<Self>, start: u64, end: u64, account: &Arc<Account>) -> Option<Reader> {
        let mut state = self.state();
        let at = (start < end).then_some(start);
        if state.is_ending || state.is_full && at.is_some_and(|at| at < state.tail_start) {
            return None;
        }
        let id = state.add(at, account.holder());
        drop(state);
        Some(Reader { body: self.clone(), id, at: start, end, account: account.clone() })
    }

    /// The number of readers.
    #[must_use]
    pub fn readers(&self) -> usize {
        self.state().readers.len()
    }

    /// The number of readers in all so far.
    #[must_use]
    pub fn joined(&self) -> u64 {
        self.state().next_reader
    }

    /// Accepts no more readers, because the fetch ends early; false when there have been more than `joined`.
    #[must_use]
    pub fn end_early(&self, joined: u64) -> bool {
        let mut state = self.state();
        state.is_ending |= state.next_reader <= joined;
        state.is_ending
    }

    /// Accepts no more readers, because the fetch ends unread; false when a reader has come meanwhile.
    #[must_use]
    pub fn end_unread(&self) -> bool {
        let mut state = self.state();
        state.is_ending |= state.readers.is_empty();
        state.is_ending
    }

    /// Waits until a fetch that ends early has ended, and its bytes are stored.
    pub async fn ended(&self) {
        loop {
            let grown = self.grown.notified();
            {
                let state = self.state();
                if state.how.is_some() || !state.is_ending {
                    return;
                }
            }
            grown.await;
        }
    }

    /// The holders other than `holder` that read this body.
    #[must_use]
    pub fn other_holder(&self, holder: &Arc<Holder>) -> Option<Arc<Holder>> {
        let state = self.state();
        state.readers.values().map(|place| &place.holder).find(|other| !Arc::ptr_eq(other, holder)).cloned()
    }

    /// The hashes of pieces that are known, without the first `known` of them. Waits until there are any; none when there will be
    /// no more.
    pub async fn listed(&self, known: usize) -> Vec<Listed> {
        loop {
            let grown = self.grown.notified();
            {
                let state = self.state();
                let more = state.listed.get(known..).unwrap_or_default();
                if !more.is_empty() || state.how.is_some() || state.is_full {
                    return more.to_vec();
                }
            }
            grown.await;
        }
    }

    /// Adds the hashes of a list that are not known yet.
    pub fn list(&self, all: &[Listed]) {
        let mut state = self.state();
        let known: HashSet<u32> = state.listed.iter().map(|listed| listed.index).collect();
        state.listed.extend(all.iter().filter(|listed| !known.contains(&listed.index)));
        drop(state);
        self.grown.notify_waiters();
    }

    /// The offset after the last byte that has come.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.state().end
    }

    /// Waits until fewer than `least` bytes have arrived within a `window` of time, although the fetch has not ended.
    pub async fn too_slow(&self, window: Duration, least: u64) {
        loop {
            let (before, until) = (self.end(), Instant::now() + window);
            loop {
                let grown = self.grown.notified();
                if self.state().how.is_some() {
                    return std::future::pending().await;
                }
                if timeout_at(until, grown).await.is_err() {
                    break;
                }
            }
            if self.end().saturating_sub(before) < least {
                return;
            }
        }
    }

    /// Charges the memory of the body to another account.
    pub fn charge_to(&self, account: &Arc<Account>) {
        self.state().memory.charge_to(account);
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

    /// Appends bytes that take `memory`, and stores them with `draft` unless that has failed before. Waits for the disk; when it
    /// takes no more, for the slowest reader.
    pub async fn push(&self, bytes: Bytes, memory: usize, draft: &mut Option<Draft>) {
        self.state().append(bytes.clone(), memory);
        self.grown.notify_waiters();
        if let Some(mut open) = draft.take() {
            let appended = match open.has_memory_for(bytes.len()) {
                true => Ok(open.append(&bytes).map(|()| open)),
                false => self.store.blocking(move |_| open.append(&bytes).map(|()| open)).await,
            };
            match appended.and_then(|appended| appended) {
                Ok(open) => {
                    if let Some(file) = open.file() {
                        self.file.get_or_init(|| file.clone());
                        if self.state().note(&open) {
                            self.grown.notify_waiters();
                        }
                    }
                    *draft = Some(open);
                }
                Err(error) => limited!(warn, NOBODY, %error, "a response is passed on without being stored"),
            }
        }
        if draft.as_ref().is_some_and(|draft| draft.file().is_none()) {
            return;
        }
        let is_stored = draft.is_some();
        loop {
            let read = self.read.notified();
            if self.state().trim(is_stored) {
                return;
            }
            if timeout(STALLED, read).await.is_err() {
                self.state().cut();
                self.grown.notify_waiters();
            }
        }
    }

    /// Notes that the bytes up to `end` are stored already; `draft` continues there. False when the bytes before them are
    /// not stored, so that no reader could go on.
    pub fn skip(&self, end: u64, draft: &mut Option<Draft>) -> bool {
        let Some(draft) = draft else { return false };
        let part = draft.seek(end);
        self.state().skip(part, end);
        self.grown.notify_waiters();
        true
    }

    /// Appends the last bytes, which are stored already.
    pub fn finish(&self, last: Bytes) {
        if !last.is_empty() {
            let memory = memory_of(last.len());
            self.state().append(last, memory);
        }
        self.close(Ok(()));
    }

    /// Notes the end: all bytes have arrived, or no more will.
    pub fn close(&self, how: Result<(), Broken>) {
        self.state().how = Some(how);
        self.grown.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // Closing it may take the disk a while.
            self.store.later(move |_| drop(file));
        }
    }
}

impl State {
    fn add(&mut self, at: Option<u64>, holder: &Arc<Holder>) -> u64 {
        let id = self.next_reader;
        self.next_reader += 1;
        self.readers.insert(id, Place { at, holder: holder.clone() });
        id
    }

    fn append(&mut self, bytes: Bytes, memory: usize) {
        self.speed.note(self.end);
        self.end += bytes.len() as u64;
        self.memory.add(memory);
        self.tail.push_back((bytes, memory));
    }

    /// Notes what `draft` has written. Returns whether another piece was hashed.
    fn note(&mut self, draft: &Draft) -> bool {
        let hashed = draft.listed(self.hashed);
        self.hashed += hashed.len();
        self.listed.extend_from_slice(hashed);
        let start = draft.start();
        if self.parts.last().is_none_or(|part| part.start != start) {
            self.parts.push(BodyPart { start, end: start, checksums: Vec::new() });
        }
        if let Some(part) = self.parts.last_mut() {
            part.checksums.extend_from_slice(draft.checksums(part.checksums.len()));
            part.end = start + (part.checksums.len() * BLOCK) as u64;
        }
        !hashed.is_empty()
    }

    /// Replaces what was noted of the finished `part`, and continues at `end`.
    fn skip(&mut self, part: Option<BodyPart>, end: u64) {
        if let Some(part) = part {
            self.parts.retain(|noted| noted.start != part.start);
            self.parts.push(part);
        }
        let dropped: usize = self.tail.drain(..).map(|(_, memory)| memory).sum();
        self.memory.remove(dropped);
        (self.end, self.tail_start) = (end, end);
    }

    /// The offset up to which the bytes from `at` on can be read from the file.
    fn in_file(&self, at: u64) -> u64 {
        self.parts.iter().find(|part| part.start <= at && at < part.end).map_or(at, |part| part.end)
    }

    /// Drops bytes that nobody needs in memory. False while more is in memory than allowed.
    fn trim(&mut self, is_stored: bool) -> bool {
        self.is_full |= !is_stored;
        let is_tight = self.memory.account().is_some_and(|account| account.is_tight());
        let most = if is_tight { 0 } else { TAIL };
        let slowest = self.readers.values().filter_map(|place| place.at).min().unwrap_or(self.end);
        while self.end - self.tail_start > most {
            let Some((first, memory)) = self.tail.front().map(|(first, memory)| (first.len(), *memory))
            else {
                return true;
            };
            let next = self.tail_start + first as u64;
            if self.in_file(self.tail_start) < next && (is_stored || next > slowest) {
                // Less than a block is still on its way to the file.
                return is_stored || self.end - self.tail_start <= TAIL;
            }
            self.tail.pop_front();
            self.memory.remove(memory);
            self.tail_start = next;
        }
        true
    }

    /// Drops the readers for which the writer waits.
    fn cut(&mut self) {
        let slowest = self.readers.values().filter_map(|place| place.at).min();
        self.readers.retain(|_, place| place.at.is_none() || place.at != slowest);
    }

    /// The bytes at `at` that are in memory, and the size of the whole buffer that they are in.
    fn in_memory(&self, at: u64) -> Option<(Bytes, usize)> {
        let mut start = self.tail_start;
        for (piece, _) in &self.tail {
            let end = start + piece.len() as u64;
            if (start..end).contains(&at) {
                let size = piece.len();
                return Some((piece.slice(usize::try_from(at - start).ok()?..), size));
            }
            start = end;
        }
        None
    }

    /// The blocks that one read takes from the file: at most `most`, beginning with the one that contains `at`.
    fn blocks(&self, at: u64, most: usize) -> Option<BodyPart> {
        let part = self.parts.iter().find(|part| part.start <= at && at < part.end)?;
        let first = usize::try_from((at - part.start) / BLOCK as u64).ok()?;
        let checksums: Vec<u32> = part.checksums.iter().skip(first).take(most).copied().collect();
        let start = part.start + (first * BLOCK) as u64;
        Some(BodyPart { start, end: part.end.min(start + (checksums.len() * BLOCK) as u64), checksums })
    }
}

/// A waiter for a body that could ask the server itself.
#[derive(Debug)]
pub struct Follower(Arc<Growing>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.state().followers -= 1;
    }
}

/// One reader.
#[derive(Debug)]
pub struct Reader {
    body: Arc<Growing>,
    id: u64,
    at: u64,
    end: u64,
    account: Arc<Account>,
}

/// Where the next bytes of a reader are.
enum Next {
    Here(Bytes, usize),
    File(BodyPart),
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
        let bytes = match self.place().await {
            Next::Here(mut bytes, size) => {
                bytes.truncate(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
                detached(bytes, size)
            }
            Next::Nowhere(end) => return end.map(|()| None),
            Next::File(blocks) => self.read(blocks).await.map_err(|error| {
                limited!(warn, NOBODY, %error, "what was just stored cannot be read");
                Broken
            })?,
        };
        self.at += bytes.len() as u64;
        if let Some(place) = self.body.state().readers.get_mut(&self.id) {
            place.at = Some(self.at);
        }
        self.body.read.notify_waiters();
        Ok(Some(bytes))
    }

    /// Reads these blocks from the file, from the reader's position on.
    async fn read(&self, blocks: BodyPart) -> io::Result<Bytes> {
        let file = self.body.file.get().cloned().ok_or(io::ErrorKind::NotFound)?;
        let (at, end, account) = (self.at, self.end.min(blocks.end), self.account.clone());
        let most = blocks.checksums.len() * BLOCK;
        let prepare = move || {
            let mut held = Tally::of(&account);
            held.set(memory_of(most));
            (PooledBuffer::take(most), held)
        };
        let read = move |_: &Arc<Store>, (mut buffer, held): (PooledBuffer, Tally)| {
            let range = read_into((&file, 0), &[blocks], (at, end), &mut buffer.room()[..most])?;
            Ok::<_, io::Error>((buffer, range, held))
        };
        // Once this returns, the caller counts these bytes.
        let (buffer, range, _held) =
            self.body.store.blocking_with(self.body.patience, prepare, read).await??;
        Ok(buffer.part(range))
    }

    async fn place(&self) -> Next {
        let most = if self.account.is_roomy() { BLOCKS } else { 1 };
        loop {
            let grown = self.body.grown.notified();
            {
                let state = self.body.state();
                if !state.readers.contains_key(&self.id) {
                    return Next::Nowhere(Err(Broken));
                }
                if let Some((bytes, size)) = state.in_memory(self.at) {
                    return Next::Here(bytes, size);
                }
                if self.at < state.end {
                    return state.blocks(self.at, most).map_or(Next::Nowhere(Err(Broken)), Next::File);
                }
                if let Some(how) = state.how {
                    return Next::Nowhere(how);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::tests::example;
    use laneway_limits::memory::Budget;

    fn open(directory: &tempfile::TempDir, limit: u64) -> (Arc<Store>, Option<Draft>) {
        let store = crate::store::tests::store(directory, limit);
        let draft = Draft::new(&store).unwrap();
        (store, Some(draft))
    }

    /// A body of which nothing has arrived, and its readers.
    fn begin(store: Arc<Store>, draft: &Option<Draft>) -> (Arc<Growing>, Arc<Account>) {
        let budget = Budget::new(1 << 30);
        let account = budget.account();
        let what = ((0, u64::MAX), 0);
        let body = Growing::new(store, draft.as_ref().unwrap(), (example(), None), what, &account);
        (body, account)
    }

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
        let (store, mut draft) = open(&directory, 1 << 30);
        let (body, own) = begin(store, &draft);
        let slow = body.reader(0, u64::MAX, &own).unwrap();
        let early = tokio::spawn(whole(body.reader(0, u64::MAX, &own).unwrap()));
        for number in 0..20 {
            body.push(piece(number), 100_000, &mut draft).await;
        }
        let late = tokio::spawn(whole(body.reader(150_000, 450_000, &own).unwrap()));
        body.close(Ok(()));
        assert_eq!(early.await.unwrap().unwrap(), all(20));
        assert_eq!(late.await.unwrap().unwrap(), all(20)[150_000..450_000]);
        assert_eq!(whole(slow).await.unwrap(), all(20));
        body.abandoned().await;
    }

    /// All threads of the store are occupied, so that the read waits for one.
    #[tokio::test]
    async fn what_a_reader_reads_from_the_file_is_counted_before_it_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let (store, mut draft) = open(&directory, 1 << 30);
        let (body, account) = begin(store.clone(), &draft);
        let mut reader = body.reader(0, u64::MAX, &account).unwrap();
        for number in 0..20 {
            body.push(piece(number), 100_000, &mut draft).await;
        }
        let before = account.held();
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let gate = Arc::new(std::sync::Mutex::new(gate));
        for _ in 0..8 {
            let gate = gate.clone();
            store.later(move |_| while gate.lock().unwrap().recv().is_ok() {});
        }
        let mut next = std::pin::pin!(reader.next());
        let mut once = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(next.as_mut().poll(&mut once).is_pending());
        assert_eq!(account.held() - before, memory_of(BLOCKS * BLOCK));
        drop(open);
        assert_eq!(next.await.unwrap().unwrap(), all(20)[..BLOCKS * BLOCK]);
        assert_eq!(account.held(), before, "whoever has it counts it");
    }

    #[tokio::test]
    async fn a_body_that_ends_too_early_is_broken_for_all_readers() {
        let directory = tempfile::tempdir().unwrap();
        let (store, mut draft) = open(&directory, 1 << 30);
        let (body, own) = begin(store, &draft);
        let mut reader = body.reader(0, u64::MAX, &own).unwrap();
        body.push(piece(0), 100_000, &mut draft).await;
        body.close(Err(Broken));
        assert_eq!(reader.next().await.unwrap().unwrap(), piece(0));
        assert_eq!(reader.next().await, Err(Broken));
    }

    #[tokio::test]
    async fn a_fetch_ends_early_only_for_the_readers_that_its_last_attempts_were_for_and_takes_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let (store, draft) = open(&directory, 1 << 30);
        let (body, own) = begin(store, &draft);
        let _first = body.reader(0, u64::MAX, &own).unwrap();
        let joined = body.joined();
        body.ended().await;
        let _second = body.reader(0, u64::MAX, &own).unwrap();
        assert!(!body.end_early(joined), "the second one has just come");
        assert!(body.end_early(body.joined()));
        assert!(body.reader(0, u64::MAX, &own).is_none());
        let mut ended = std::pin::pin!(body.ended());
        let mut once = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(ended.as_mut().poll(&mut once).is_pending());
        body.close(Err(Broken));
        ended.await;
    }

    /// A reader that came while an unread fetch was ending, as after a lost link, was cut off with it.
    #[tokio::test]
    async fn a_fetch_that_nobody_reads_ends_only_if_nobody_has_come_meanwhile_and_takes_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let (store, draft) = open(&directory, 1 << 30);
        let (body, own) = begin(store, &draft);
        drop(body.reader(0, u64::MAX, &own).unwrap());
        body.abandoned().await;
        let again = body.reader(0, u64::MAX, &own).unwrap();
        assert!(!body.end_unread());
        drop(again);
        assert!(body.end_unread() && body.reader(0, u64::MAX, &own).is_none());
    }

    #[tokio::test]
    async fn a_full_disk_makes_the_writer_wait_for_its_readers_and_takes_no_more_of_them() {
        let directory = tempfile::tempdir().unwrap();
        let (store, mut draft) = open(&directory, 250_000);
        let (body, own) = begin(store, &draft);
        // A reader that has not begun to read delays nobody.
        let held = body.hold(&own);
        let reader = tokio::spawn(whole(body.reader(0, u64::MAX, &own).unwrap()));
        for number in 0..20 {
            body.push(piece(number), 100_000, &mut draft).await;
        }
        assert!(draft.is_none() && body.reader(0, u64::MAX, &own).is_none());
        drop(held);
        body.close(Ok(()));
        assert_eq!(reader.await.unwrap().unwrap(), all(20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_too_slow_and_one_that_keeps_its_rate_or_has_ended_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (store, draft) = open(&directory, 1 << 30);
        let (body, _own) = begin(store, &draft);
        let second = Duration::from_secs(1);
        let grows = async |step: usize, times: u32| {
            for _ in 0..times {
                tokio::time::sleep(second).await;
                body.push(Bytes::from(vec![0; step]), step, &mut None).await;
            }
        };
        for (step, is_slow) in [(1, true), (60, false)] {
            let found = tokio::select! {
                biased;
                () = body.too_slow(3 * second, 100) => true,
                () = grows(step, 20) => false,
            };
            assert_eq!(found, is_slow, "{step} bytes a second");
        }
        body.close(Ok(()));
        assert!(timeout(60 * second, body.too_slow(3 * second, 100)).await.is_err());
    }

    #[tokio::test]
    async fn memory_is_given_back_while_it_is_tight_and_when_the_body_ends() {
        let directory = tempfile::tempdir().unwrap();
        let (store, mut draft) = open(&directory, 1 << 30);
        let budget = Budget::new(1_000_000);
        let account = budget.account();
        let what = ((0, u64::MAX), 0);
        let body = Growing::new(store, draft.as_ref().unwrap(), (example(), None), what, &account);
        let reader = body.reader(0, u64::MAX, &account).unwrap();
        for number in 0..8 {
            body.push(piece(number), 100_000, &mut draft).await;
        }
        let relaxed = account.held();
        assert!((400_000..=700_000).contains(&relaxed), "{relaxed}");
        account.charge(600_000);
        body.push(piece(8), 100_000, &mut draft).await;
        assert!(account.held() - 600_000 <= 200_000, "{}", account.held());
        account.release(600_000);
        body.close(Ok(()));
        assert_eq!(whole(reader).await.unwrap(), all(9));
        drop(body);
        assert_eq!(account.held(), 0);
    }

    #[tokio::test]
    async fn what_is_there_is_not_fetched_again_and_readers_go_on_behind_it() {
        let directory = tempfile::tempdir().unwrap();
        let (store, draft) = open(&directory, 1 << 30);
        let mut first = draft.unwrap();
        let (content, total) = (all(6), 600_000);
        let slice = |from: usize, to: usize| Bytes::copy_from_slice(&content[from..to]);
        first.append(&slice(0, 70_000)).unwrap();
        first.seek(200_000);
        first.append(&slice(200_000, 400_000)).unwrap();
        let (id, stored) = first.store(Stored { total, ..example() }).unwrap();
        assert_eq!(
            (stored.reach(0), stored.next_part(70_000), stored.reach(200_000)),
            (70_000, 200_000, 400_000)
        );

        let mut second = Draft::of(&store, id, &stored).unwrap();
        second.seek(70_000);
        let mut second = Some(second);
        let budget = Budget::new(1 << 30);
        let account = budget.account();
        let what = ((0, total), 70_000);
        let body = Growing::new(
            store.clone(),
            second.as_ref().unwrap(),
            (stored.clone(), Some(total)),
            what,
            &account,
        );
        assert!(body.reader(0, total + 1, &account).is_none());
        let reader = tokio::spawn(whole(body.reader(0, total, &account).unwrap()));
        let late = body.reader(0, total, &account).unwrap();
        body.push(slice(70_000, 200_000), 130_000, &mut second).await;
        assert!(body.skip(400_000, &mut second));
        body.push(slice(400_000, 600_000), 200_000, &mut second).await;
        let (_, stored) = second.take().unwrap().store(stored).unwrap();
        assert!(stored.is_complete(), "{:?}", stored.parts);
        body.close(Ok(()));
        assert_eq!(reader.await.unwrap().unwrap(), content);
        assert_eq!(whole(late).await.unwrap(), content);
        let file = store.body(id, &stored).unwrap();
        assert_eq!(file.read(69_000, 71_000, 4).unwrap(), slice(69_000, 70_000));
        assert_eq!(file.read(199_999, 600_000, 1).unwrap(), slice(199_999, 200_000));
        assert_eq!(store.size().bytes, 600_000 + 8192);
    }

    #[tokio::test]
    async fn what_is_changed_on_the_disk_meanwhile_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let (store, mut draft) = open(&directory, 1 << 30);
        let path = store.path_of_body(draft.as_ref().unwrap().id());
        let (body, own) = begin(store, &draft);
        let keeps_it = body.hold(&own);
        for number in 0..20 {
            body.push(piece(number), 100_000, &mut draft).await;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[10] ^= 1;
        // In place, because the body has the file open.
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        laneway_sys::files::write_all_at(&file, &bytes, 0).unwrap();
        body.close(Ok(()));
        assert_eq!(whole(body.reader(0, u64::MAX, &own).unwrap()).await, Err(Broken));
        let rest = whole(body.reader(150_000, u64::MAX, &own).unwrap()).await.unwrap();
        assert_eq!(rest, all(20)[150_000..]);
        drop(keeps_it);
    }
}
