//! Reading stored bodies, with their memory counted from before it is taken.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::cache::store::{Body, Store};
use crate::cache::stored::BLOCK;
use crate::limits::buffer_pool::{PooledBuffer, memory_of};
use crate::memory::{Account, Tally};

/// How many bytes are read at a time, while there is room: so many blocks, and one otherwise.
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
    Ok((buffer.fill(range.end).slice(range), held))
}
