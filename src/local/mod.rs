//! The local port: where an app's connection arrives and is understood, and from where it leaves over a link
//! (or directly, on a node that is a gateway itself). May not know how a gateway dials.

pub mod associate;
pub mod endpoint;
pub mod handshakes;
pub mod http;
pub mod links;
pub mod listener;
pub mod logins;
pub mod names;
pub mod page;
mod pauses;
pub mod port;
pub mod session;
pub mod socks;
pub mod socks4;
pub mod transparent;
pub mod upstream;
