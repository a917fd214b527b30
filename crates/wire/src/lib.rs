//! Bytes to types and back. Synchronous, without I/O, allocation-bounded; every parser here takes
//! arbitrary bytes and never panics.

pub mod capsule;
pub mod datagram;
pub mod dns;
pub mod failure;
pub mod first;
pub mod hello;
pub mod http;
pub mod id;
pub mod masque;
pub mod packet;
pub mod replay;
pub mod resume;
pub mod sharing;
pub mod socks4;
pub mod socks_udp;
pub mod target;
