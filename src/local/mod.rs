//! The local port: accepts the connections of apps, learns where they go, and sends them over a link (or directly, on a
//! node that is a gateway itself). Must not know how a gateway dials.

mod answer;
mod asking;
pub mod associate;
mod attempts;
mod beside;
pub mod bound;
mod clock_jumps;
pub mod context;
mod dialing;
pub mod dns;
pub mod endpoint;
pub mod handshakes;
pub mod http;
pub mod links;
pub mod listener;
pub mod logins;
pub mod members;
pub mod options;
mod outcomes;
pub mod page;
mod pauses;
pub mod pieces;
pub mod port;
pub mod routes;
pub mod server_connection;
pub mod session;
pub mod socks;
pub mod socks4;
pub mod transparent;
