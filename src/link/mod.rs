//! The link: one TCP connection between a client and a gateway, TLS 1.3, HTTP/2 (RFC 9113). A tunnel is one
//! CONNECT stream of it. May not know where gateways come from, nor what a tunnel carries.

pub mod alive;
mod buffer;
pub mod client;
mod connection;
pub mod datagrams;
mod flow;
pub mod gateway_info;
pub mod handshake;
pub mod incoming;
mod queue;
mod record;
pub mod relay;
pub mod request;
pub mod resolve;
pub mod secure;
pub mod server;
mod settings;
pub mod speed;
mod steps;
pub mod tls;
pub mod tunnel;
pub mod updates;

pub use laneway_h2 as http2;
pub use settings::CONNECTION_ID;
