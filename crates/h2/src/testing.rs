//! What the tests of the engine share.

use super::Config;

/// Settings like those of a link.
pub(super) fn config() -> Config {
    Config {
        max_frame_size: 256 * 1024,
        stream_window: 1024 * 1024,
        connection_window: (1 << 31) - 1,
        send_buffer: 256 * 1024,
        max_header_list_size: 16 * 1024,
        max_concurrent_streams: 16_384,
        max_pending_resets: 1024,
    }
}
