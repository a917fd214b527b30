//! Bytes to types and back. Synchronous, without I/O, allocation-bounded; every parser here takes
//! arbitrary bytes and never panics.

pub mod datagram;
pub mod dns;
pub mod http;
pub mod id;
pub mod replay;
pub mod resume;
pub mod target;
