//! What the allocator keeps of the memory that was freed.

use std::hint::black_box;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// How often there is a look.
const INTERVAL: Duration = Duration::from_secs(2);
/// A block of at least this many bytes gets pages of its own.
const BLOCK: usize = 1024 * 1024;

/// Has the allocator return to the system what has been free for a second, until it is dropped. mimalloc looks for that when it
/// frees such a block, or a thread ends, and not while nothing is asked of it: what a flood had taken stayed.
pub async fn return_spare() {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        // Nothing is written to it, so it costs no memory.
        drop(black_box(Vec::<u8>::with_capacity(BLOCK)));
    }
}
