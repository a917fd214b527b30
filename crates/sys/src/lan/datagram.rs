//! A received datagram, as the system reports it.

use std::net::SocketAddr;

/// A received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Datagram {
    /// Size in bytes.
    pub(super) size: usize,
    /// The sender's address.
    pub(super) from: SocketAddr,
    /// The TTL or hop limit with which it arrived. `None` where the system does not tell it.
    pub(super) ttl: Option<i32>,
}
