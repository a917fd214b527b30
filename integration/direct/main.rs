//! The library in one process, on loopback and on ports that the system picks.
//!
//! [`link`] is a real link between a client and a gateway, [`trust`] what the group's news do to it, [`http`] and
//! [`socks`] what an app gets at the local port. [`lab`] builds the parts, [`peer`] is an app or a server that follows
//! a script.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod http;
mod lab;
mod link;
mod peer;
mod socks;
mod trust;
