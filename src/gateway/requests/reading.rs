//! Reading stored bodies, with their memory counted from before it is taken.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::cache::store::{Body, Store};
use crate::cache::stored::BLOCK;
use crate::limits::buffer_pool::{PooledBuffer, memory_of};
use crate::memory::{Account, Tally};

/// How many bytes are read at a time while there is room; otherwise one block.
const AT_A_TIME: usize = 4 * BLOCK;

/// Reads the next bytes of a stored body; none at its end. The buffer comes from this thread, to which it returns once it is
/// sent; it counts for `account` from before it is taken until the tally is dropped.
pub(super) async fn read_stored(
    (store, account): (&Arc<Store>, &Arc<Account>),
    body: &Arc<Body>,
    (at, end): (u64, u64),
    patience: Duration,
) -> io::Result<(Bytes, Tally)> {
    if at >= end {
        return Ok((Bytes::new(), Tally::default()));
    }
    let most = if account.is_roomy() { AT_A_TIME } else { BLOCK };
    let (body, account) = (body.clone(), account.clone());
    let prepare = move || {
        let mut held = Tally::of(&account);
        held.set(memory_of(most));
        (PooledBuffer::take(most), held)
    };
    let read = store.blocking_with(patience, prepare, move |_, (mut buffer, held)| {
        let range = body.read_into((at, end), &mut buffer.room()[..most])?;
        Ok((buffer, range, held))
    });
    let (buffer, range, held) = read.await.and_then(|read| read)?;
    Ok((buffer.part(range), held))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Mutex;
    use std::sync::mpsc::channel;
    use std::task::{Context, Waker};
    use std::time::SystemTime;

    use super::*;
    use crate::cache::draft::Draft;
    use crate::cache::stored::Stored;
    use crate::memory::{Budget, Kind};

    const LIMIT: usize = 1 << 24;
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A store, and a body in it.
    fn lab(directory: &tempfile::TempDir, length: usize) -> (Arc<Store>, Arc<Body>) {
        let reserve = Budget::new(1 << 30).reserve();
        let store = Store::open(&directory.path().join("cache"), 1 << 30, 1 << 20, reserve).unwrap();
        let mut draft = Draft::new(&store).unwrap();
        draft.append(&vec![7; length]).unwrap();
        let stored = Stored::of_body("http://h/f".into(), length as u64, SystemTime::now());
        let (id, stored) = draft.store(stored).unwrap();
        let body = Arc::new(store.body(id, &stored).unwrap());
        (store, body)
    }

    /// Downloads were cut off, because buffers read before memory was tight stayed large.
    #[tokio::test]
    async fn reads_are_small_long_before_memory_is_tight() {
        let directory = tempfile::tempdir().unwrap();
        let (store, body) = lab(&directory, 2 * AT_A_TIME);
        let account = Budget::new(LIMIT as u64).holder().account(Kind::Tunnel);
        let mut others = Tally::of(&account);
        for (held, length) in [(0, AT_A_TIME), (LIMIT / 4 + 1, BLOCK), (0, AT_A_TIME)] {
            others.set(held);
            let end = 2 * AT_A_TIME as u64;
            let (bytes, counted) = read_stored((&store, &account), &body, (0, end), PATIENCE).await.unwrap();
            assert_eq!(bytes.len(), length, "with {held} bytes held");
            assert!(counted.bytes() >= length && account.held() >= held + length);
        }
    }

    /// The reads of streams that waited for the disk were not counted.
    #[tokio::test]
    async fn a_read_that_waits_for_the_disk_counts() {
        let directory = tempfile::tempdir().unwrap();
        let (store, body) = lab(&directory, AT_A_TIME);
        let (open, gate) = channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        // More than there can be threads.
        for _ in 0..16 {
            let gate = gate.clone();
            store.later(move |_| _ = gate.lock().unwrap().recv());
        }
        let account = Budget::new(LIMIT as u64).holder().account(Kind::Tunnel);
        {
            let range = (0, AT_A_TIME as u64);
            let mut read = pin!(read_stored((&store, &account), &body, range, PATIENCE));
            assert!(read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            assert!(account.held() >= AT_A_TIME, "{}", account.held());
            drop(open);
            assert_eq!(read.await.unwrap().0.len(), AT_A_TIME);
        }
        assert_eq!(account.held(), 0);
    }
}
