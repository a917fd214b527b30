//! A link: one TCP connection between a client and a gateway with TLS 1.3 and HTTP/2 (RFC 9113). A tunnel is one CONNECT
//! stream of it. This crate knows neither where gateways come from nor what a tunnel carries.
//!
//! Several mechanisms here decide when a sender has to wait: windows (`flow.rs`), turns (`queue.rs`), steps (`steps.rs`) and the
//! batching of records (`secure.rs`). "What throttles a sender" in ARCHITECTURE.md has all of them, with their values.

pub mod alive;
mod buffer;
pub mod client;
mod connection;
pub mod copy;
pub mod datagrams;
mod flow;
#[doc(hidden)]
pub mod fuzz;
pub mod gateway_info;
pub mod handshake;
pub mod incoming;
pub mod piece;
pub mod pipe;
mod queue;
mod receiving;
mod record;
pub mod relay;
pub mod removal;
pub mod request;
pub mod resolve;
pub mod roster;
pub mod secure;
pub mod server;
mod settings;
pub mod speed;
mod steps;
pub mod tls;
pub mod tunnel;
pub mod unanswered;
pub mod updates;

pub use laneway_h2 as http2;
pub use settings::CONNECTION_ID;
