//! What one operating system has, and another one does differently: sockets and their options, the interfaces of the LAN,
//! routing marks, the service manager, and the private files of the state directory. Nothing outside this crate asks
//! which system it runs on.

pub mod lan;
pub mod mark;
pub mod net;
pub mod service;
pub mod state;
