//! The library in one process, on loopback and on ports that the system picks.
//!
//! [`link`] is a real link between a client and a gateway, [`trust`] what group updates do to it, [`local`], [`http`],
//! [`socks`], [`socks4`], [`udp`], [`names`] and [`logins`] what an app gets at the local port, [`refusals`] what it is told
//! there. [`speed`] measures a link. [`limits`], [`memory`] and [`flood`] are what members get that ask for too much;
//! [`pressure`] does that to the real binary, whose memory is seen from outside. [`cache`] is what the gateway answers itself,
//! [`fronts`] are registries at the local port. [`strangers`] is what machines get that are no members, [`rogue`] what clients
//! do about a gateway that carries nothing. [`lab`] builds the parts, [`peer`] is an app or a server that follows a script,
//! [`raw`] a member that obeys no rule, [`conformance`] what it gets for that, [`clock`] time that passes when a test says so.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod breaks;
mod cache;
mod clock;
mod conformance;
mod flood;
mod fronts;
mod http;
mod lab;
mod limits;
mod link;
mod local;
mod logins;
mod memory;
mod names;
mod page;
mod peer;
mod pressure;
mod raw;
mod refusals;
mod resume;
mod rogue;
mod socks;
mod socks4;
mod speed;
mod strangers;
mod trust;
mod udp;
