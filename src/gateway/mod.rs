//! The gateway: takes tunnels off links, judges them, resolves, dials, copies. May not know of local apps.

pub mod access;
pub mod clients;
pub mod courier;
pub mod dns;
pub mod egress;
pub mod guests;
pub mod listener;
mod measured;
mod names;
pub mod probe;
pub mod proxy;
pub mod serve;
mod udp;
