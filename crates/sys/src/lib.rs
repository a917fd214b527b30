//! Everything that differs between operating systems: sockets and their options, the LAN interfaces, routing marks,
//! the service manager, signals, other processes, and the private files of the state directory. No code outside this
//! crate depends on which system it runs on.
//!
//! A module has the functions that other crates call. What only one system has is in its submodules: `linux`, `unix`
//! (Linux, macOS and the BSDs), `windows` and `other` (all systems that lack what the module is about).

#[cfg(windows)]
mod adapters;
#[cfg(unix)]
mod address;
pub mod blocking;
pub mod broken;
pub mod closed;
pub mod connected;
pub mod files;
#[cfg(target_os = "linux")]
mod inet_diag;
mod interface;
mod interfaces;
pub mod lan;
pub mod machine;
pub mod mark;
pub mod namespace;
pub mod neighbour;
pub mod net;
#[cfg(target_os = "linux")]
mod netlink;
pub mod paths;
pub mod port_holder;
pub mod process;
pub mod resolver;
#[cfg(any(windows, test))]
mod sddl;
#[cfg(windows)]
mod security;
pub mod service;
pub mod signals;
#[cfg(target_os = "linux")]
mod socket_tables;
pub mod state;
pub mod system_proxy;
pub mod tools;
pub mod unix_socket;
pub mod users;
