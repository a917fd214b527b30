//! The gateway: accepts links, checks each requested destination, resolves, dials and copies. Knows nothing of local apps.
//!
//! [`listener`] accepts connections and [`serve`] runs one link; both build on [`state`], what all links share. A
//! destination is reached through [`egress`], which has [`dialer`] connect, directly (`dial.rs`) or by a parent proxy
//! ([`upstream`]).

pub mod access;
pub mod bound;
pub mod cache;
pub mod clients;
mod diagnostics;
mod dial;
pub mod dialer;
pub mod dns;
pub mod egress;
mod enrolment;
mod follower;
mod handshake_slots;
pub mod listener;
pub mod options;
pub mod probe;
pub mod propagation;
mod requests;
mod resolve;
pub mod serve;
pub mod served;
pub mod sharer;
pub mod silence;
pub mod state;
mod strangers;
pub mod swarms;
pub mod tls;
mod udp;
pub mod uplink;
pub mod upstream;
mod way_out;
