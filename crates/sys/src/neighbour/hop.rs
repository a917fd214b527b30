//! A machine on a network of this one.

use std::net::IpAddr;

/// Where packets go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The address of a machine on a network of this one: the destination itself, or a router.
    pub address: IpAddr,
    /// The index of the interface that leads to it.
    pub interface: u32,
}

/// What the system knows of a machine on a network of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It answers for its address.
    Here,
    /// Nobody answers for the address.
    Absent,
    /// The system has asked who has the address, and nobody has answered so far.
    Unanswered,
    /// It was there. The system is finding out whether it still is, which takes some seconds.
    Doubted,
}
