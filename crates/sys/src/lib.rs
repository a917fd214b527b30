//! Everything that differs between operating systems: sockets and their options, the LAN interfaces, routing marks,
//! the service manager, and the private files of the state directory. No code outside this crate depends on which
//! system it runs on.

pub mod closed;
#[cfg(target_os = "linux")]
mod inet_diag;
pub mod lan;
pub mod mark;
pub mod net;
pub mod process;
pub mod service;
pub mod state;
pub mod users;
