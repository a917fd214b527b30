//! laneway: access from an isolated LAN to the outside.
//!
//! Start reading at [`local`], where an app's connection arrives, follow it through [`link`], and end at [`gateway`],
//! where the server is dialled.

pub mod app;
pub mod cli;
pub mod commands;
pub mod config;
pub mod control;
pub mod descriptors;
pub mod dns;
pub mod fronts;
pub mod gateway;
pub mod live;
pub mod local;
pub mod outlet;
pub mod own_addresses;
pub mod own_network;
pub mod peering;
pub mod problem;
pub mod redirect;
pub mod secret;
pub mod shared;
pub mod sharing;
pub mod threads;
pub mod transparent;
pub mod usage;
pub mod view;

pub use laneway_cache as cache;
pub use laneway_h2 as h2;
pub use laneway_limits as limits;
pub use laneway_limits::limited;
pub use laneway_limits::{memory, pace, size};
pub use laneway_link as link;
pub use laneway_link::copy;
pub use laneway_peers as peers;
pub use laneway_sys as sys;
pub use laneway_sys::{lan, mark, net, service};
pub use laneway_telemetry as telemetry;
pub use laneway_trust as trust;
pub use laneway_wire as wire;
pub use laneway_wire::failure;
