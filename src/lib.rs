//! laneway: the way out of an isolated LAN.
//!
//! Start at [`local`] (where a connection of an app arrives), follow it through [`link`] and end in
//! [`gateway`] (where it is dialled).

pub mod app;
pub mod cli;
pub mod commands;
pub mod config;
pub mod copy;
pub mod dns;
pub mod failure;
pub mod gateway;
pub mod lan;
pub mod link;
pub mod live;
pub mod local;
pub mod mark;
pub mod net;
pub mod own;
pub mod peers;
pub mod problem;
pub mod redirect;
pub mod service;
pub mod size;
pub mod telemetry;
pub mod transparent;
pub mod trust;
pub mod view;
pub mod wire;

pub use laneway_h2 as h2;
pub use laneway_limits as limits;
pub use laneway_limits::{memory, pace};
