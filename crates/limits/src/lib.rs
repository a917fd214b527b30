//! Limits of a node: the memory that its tunnels hold, the rate of bytes of one client, and how often one source may make it
//! do something.

mod bucket;
pub mod memory;
pub mod pace;
pub mod rate;
pub mod size;

pub use bucket::Bucket;
