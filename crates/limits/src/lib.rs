//! Limits of a node: the memory of its tunnels and its buffers, the byte rate of one client, and how often one source may make
//! it do something or write to the log.

pub mod allocator;
mod bucket;
pub mod buffer_pool;
pub mod lines;
pub mod memory;
pub mod pace;
pub mod rate;
pub mod size;

pub use bucket::Bucket;
