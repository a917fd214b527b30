//! The measures, one file for each topic.

mod beside;
mod bulk;
mod cache;
pub(crate) mod distance;
pub(crate) mod measure;
mod memory;
mod requests;
mod settle;
mod start;

use measure::Measure;

/// All measures on loopback.
pub(crate) const ALL: &[Measure] = &[
    bulk::DOWN,
    bulk::UP,
    requests::NEW,
    requests::KEPT,
    cache::CACHE,
    beside::DOWNLOAD,
    beside::STALLED,
    memory::IDLE,
    start::FIRST_BYTE,
];
