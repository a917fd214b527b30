//! What a connection is set up with.

/// What one end of a connection announces and allows.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The largest frame that may be received or sent, in bytes; at most [`laneway_limits::buffer_pool::LARGEST`].
    pub max_frame_size: u32,
    /// The receive window of a stream, in bytes, until another one is announced.
    pub stream_window: u32,
    /// The receive window of the connection, in bytes.
    pub connection_window: u32,
    /// How much one stream may have queued for sending, in bytes.
    pub send_buffer: usize,
    /// The size of the longest header list that is accepted, counted as RFC 9113 §6.5.2 does.
    pub max_header_list_size: u32,
    /// How many streams may be open at a time.
    pub max_concurrent_streams: u32,
    /// How many streams the peer may reset before they were accepted (CVE-2023-44487).
    pub max_pending_resets: usize,
}

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It opens streams.
    Client,
    /// It accepts them.
    Server,
}
