//! The link: one TCP connection between a client and a gateway, TLS 1.3, HTTP/2 (RFC 9113). A tunnel is one
//! CONNECT stream of it. May not know where gateways come from, nor what a tunnel carries.

pub mod about;
pub mod alive;
mod buffer;
pub mod client;
mod connection;
pub mod datagrams;
mod flow;
pub mod handshake;
pub mod http2;
pub mod names;
pub mod news;
mod queue;
mod record;
pub mod relay;
pub mod secure;
pub mod server;
pub mod speed;
mod steps;
pub mod stream;
pub mod tls;

use std::time::Duration;

/// What a tunnel stands for at the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A TCP connection: CONNECT (RFC 9113 §8.5).
    Tcp,
    /// A UDP socket: CONNECT-UDP (RFC 9298), an extended CONNECT (RFC 8441). The stream carries capsules.
    Udp,
}

/// The connection window must never be what stops a link: unread tunnels would eat it up and stop all the
/// others for good. Memory is bounded tunnel by tunnel.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// What one tunnel may have queued for sending, in bytes.
const SEND_BUFFER: usize = 256 * 1024;
/// Tunnels of one link.
const MOST_STREAMS: u32 = 16_384;
/// The bound on a CONNECT's header fields, in bytes.
const HEADER_LIST: u32 = 16 * 1024;
/// How many streams the peer may reset before this side has accepted them.
const PENDING_RESETS: usize = 1024;
/// The deadline of TCP connect, of the TLS handshake and of the HTTP/2 preface, each.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How both ends want the connection to be.
const fn config() -> http2::Config {
    http2::Config {
        max_frame_size: steps::LARGE,
        stream_window: flow::ALONE,
        connection_window: CONNECTION_WINDOW,
        send_buffer: SEND_BUFFER,
        max_header_list_size: HEADER_LIST,
        max_concurrent_streams: MOST_STREAMS,
        max_pending_resets: PENDING_RESETS,
    }
}

/// The field that carries the client's connection id, so that both ends' logs can be joined.
pub const CONNECTION_ID: &str = "laneway-conn";

/// The field that says that a stream carries capsules (RFC 9297 §3.4).
const CAPSULE_PROTOCOL: &str = "capsule-protocol";
