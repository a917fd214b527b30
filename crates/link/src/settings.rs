//! What both ends of a link agree on.

use laneway_wire::failure::printable;
use std::time::Duration;

use laneway_h2 as http2;

use super::{flow, steps};

/// The receive window of the connection, in bytes: the largest there is. It must never be what stops a link, because tunnels
/// that nobody reads would use it up and stop all others for good. Memory is bounded for each tunnel instead.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// What one tunnel may have queued for sending, in bytes.
const SEND_BUFFER: usize = 256 * 1024;
/// How many tunnels one link carries at a time.
const MAX_TUNNELS: u32 = 16_384;
/// The size of the longest header list of a request, in bytes.
const MAX_HEADER_LIST: u32 = 16 * 1024;
/// How many streams the peer may reset before this end has accepted them.
const MAX_PENDING_RESETS: usize = 1024;
/// How long TCP connect, the TLS handshake and the HTTP/2 preface may take, each.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The HTTP/2 settings of both ends.
pub(super) const fn config() -> http2::Config {
    http2::Config {
        max_frame_size: steps::LARGE,
        stream_window: flow::ALONE,
        connection_window: CONNECTION_WINDOW,
        send_buffer: SEND_BUFFER,
        max_header_list_size: MAX_HEADER_LIST,
        max_concurrent_streams: MAX_TUNNELS,
        max_pending_resets: MAX_PENDING_RESETS,
    }
}

/// The header field with the client's connection id, by which the logs of both ends can be joined.
pub const CONNECTION_ID: &str = "laneway-conn";

/// The header field that says what a tunnel carries (RFC 7639), and its value for plain HTTP/1.1.
pub(super) const ALPN: &str = "alpn";
pub(super) const HTTP_1_1: &str = "http%2F1.1";

/// The header field that tells the gateway to send those requests to the server over TLS of its own, and its value. Without it
/// they are sent unencrypted.
pub(super) const SCHEME: &str = "laneway-scheme";
pub(super) const HTTPS: &str = "https";

/// The header field and its value by which a client says that it sends nothing before it hears that there is a connection
/// (RFC 9110 §10.1.1).
pub(super) const EXPECT: &str = "expect";
pub(super) const CONTINUE: &str = "100-continue";

/// The header field that says that a stream carries capsules (RFC 9297 §3.4).
pub(super) const CAPSULE_PROTOCOL: &str = "capsule-protocol";

/// What a node calls its program before the version (RFC 9110 §10.1.5), in requests for group updates.
pub(super) const PRODUCT: &str = "laneway/";
/// The name with the version.
pub(super) const AGENT: &str = concat!("laneway/", env!("CARGO_PKG_VERSION"));

/// The field that carries the authority's permit.
pub(super) const PERMIT: &str = "laneway-permit";
/// The longest version that is shown, in bytes.
const MAX_VERSION: usize = 32;

/// A version that a peer has sent, printable and bounded.
pub(super) fn shown(version: &str) -> String {
    let mut text = printable(version);
    text.truncate(text.floor_char_boundary(MAX_VERSION));
    text
}
