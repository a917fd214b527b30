//! A link: one TCP connection between a client and a gateway with TLS 1.3 and HTTP/2 (RFC 9113). A tunnel is one CONNECT
//! stream of it. This crate knows neither where gateways come from nor what a tunnel carries.
//!
//! # What throttles a sender
//!
//! Seven mechanisms decide when a sender has to wait. All of them cause backpressure, because a relay that waits stops reading
//! its socket.
//!
//! - Windows (`flow.rs`, bytes): what one tunnel may have in flight, set by the receiver: twice the bandwidth-delay product,
//!   1 MiB to 32 MiB; all tunnels of a link together 1 GiB.
//! - Turns (`queue.rs`, bytes): what a link has queued and not sealed: two large steps or one small one. Reads of up to 16 KiB
//!   need no turn.
//! - Steps (`steps.rs`, bytes): one read and one DATA frame: 256 KiB on a link that moves 128 bytes per microsecond or more,
//!   otherwise, and for 100 ms after a small request, 64 KiB.
//! - Memory (`memory` of laneway-limits, bytes): what all tunnels of a node hold. Above half of `--memory-limit` windows shrink to
//!   64 KiB, above three quarters whoever has more than a fair share gets no new tunnels, and above the limit itself tunnels of
//!   whoever holds most are reset.
//! - Pace (`pace` of laneway-limits, bytes per second): what one client moves (`--client-rate`); a client that was idle may run
//!   250 ms ahead.
//! - Record batching (`secure.rs`, bytes): what is sealed and waits for the socket: 64 KiB while steps are small, otherwise 384 KiB.
//! - Not-sent mark (`net` of laneway-sys, bytes): what the kernel's socket buffer holds unsent (`TCP_NOTSENT_LOWAT`): 128 KiB.

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
