//! Limits of a node: the memory that its tunnels hold and its buffers, the rate of bytes of one client, how often one source may make it
//! do something, and how many lines it may cause in the log.

pub mod allocator;
mod bucket;
pub mod buffer_pool;
pub mod lines;
pub mod memory;
pub mod pace;
pub mod rate;
pub mod size;

pub use bucket::Bucket;
