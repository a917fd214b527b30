//! Why streams and connections end.

use std::fmt;
use std::io;
use std::sync::Arc;

/// An error code of HTTP/2 (RFC 9113 §7).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reason(pub u32);

impl Reason {
    /// An orderly end.
    pub const NO_ERROR: Self = Self(0x0);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    /// The peer sent more than its window allowed.
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    /// A frame arrived on a direction that had ended.
    pub const STREAM_CLOSED: Self = Self(0x5);
    /// A frame has a length that its type does not allow.
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    /// Nothing was done yet, so the request may be repeated.
    pub const REFUSED_STREAM: Self = Self(0x7);
    /// The stream is no longer needed.
    pub const CANCEL: Self = Self(0x8);
    /// A header block cannot be decoded.
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    /// The connection that a tunnel led to broke (RFC 9113 §8.5).
    pub const CONNECT_ERROR: Self = Self(0xa);
    /// The peer causes more work than it may.
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);

    /// The code as the wire carries it.
    pub fn code(self) -> u32 {
        self.0
    }

    fn description(self) -> &'static str {
        match self.0 {
            0x0 => "no error",
            0x1 => "protocol error",
            0x2 => "internal error",
            0x3 => "flow control error",
            0x4 => "settings timeout",
            0x5 => "frame on a closed stream",
            0x6 => "wrong frame size",
            0x7 => "refused before anything was done",
            0x8 => "cancelled",
            0x9 => "header fields cannot be decoded",
            0xa => "the connection to the server broke",
            0xb => "excessive load",
            _ => "unknown error code",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.description())
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reason({:#x}, {})", self.0, self.description())
    }
}

/// Why an operation on a stream or connection failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// This stream alone was reset, by either end.
    #[error("the stream was reset: {0}")]
    Reset(Reason),
    /// An end accepts no more streams, or has ended the connection.
    #[error("the connection was ended: {0}")]
    GoAway(Reason),
    /// The connection broke.
    #[error("{0}")]
    Io(Arc<io::Error>),
}

impl Error {
    /// The error code that was sent or received, if there is one.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Reset(reason) | Self::GoAway(reason) => Some(*reason),
            Self::Io(_) => None,
        }
    }

    /// The error of the operating system or of TLS.
    pub fn io(&self) -> Option<&io::Error> {
        if let Self::Io(error) = self { Some(error) } else { None }
    }

    /// True when the whole connection failed, not just one stream.
    pub fn is_of_connection(&self) -> bool {
        !matches!(self, Self::Reset(_))
    }
}

impl From<Reason> for Error {
    fn from(reason: Reason) -> Self {
        Self::Reset(reason)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}
