//! What the allocator keeps of the memory that was freed.

use std::hint::black_box;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// Interval between two large allocations.
const INTERVAL: Duration = Duration::from_secs(2);
/// A block of at least this many bytes gets pages of its own.
const BLOCK: usize = 1024 * 1024;

/// Until it is dropped, has the allocator return to the system what has been free for a second. mimalloc looks for such memory
/// only when it frees a large block or a thread ends, not while it is idle: what a flood had taken stayed.
pub async fn return_spare() {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        // Nothing is written to it, so it costs no memory.
        drop(black_box(Vec::<u8>::with_capacity(BLOCK)));
    }
}
