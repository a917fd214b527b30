//! Membership of the group, and how a machine obtains it.
//!
//! A group is a small certificate authority. [`authority`] holds its key, and [`group`] is what every member holds. [`code`] is
//! the line that a person carries to a new machine, and [`join`] the protocol between the two machines. An [`update`] is group
//! state that the authority signed: revocations and the discovery key. A [`statement`] vouches for one member in discovery. A
//! running node keeps the current one in its [`membership`]. A member leaves by [`leaving`], [`departures`] are those that left
//! and are not removed yet, [`removal`] is the proof of a removal, and a [`permit`] lets the authority ask who was seen. All
//! files are in the state directory. Nothing here opens a socket.

pub mod authority;
pub(crate) mod base64;
pub mod certificate;
pub mod clock;
pub mod code;
pub mod departures;
pub mod error;
mod files;
pub mod group;
pub mod join;
pub mod leaving;
pub mod membership;
pub mod name;
pub mod permit;
pub mod random;
pub mod removal;
pub mod statement;
pub mod update;
mod weak_key;
