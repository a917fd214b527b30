//! HTTP/2 (RFC 9113) as a link needs it: requests with bodies both ways over one connection, at both ends. It stands
//! where a library would, because of what moves most: the payload of a DATA frame is opened straight into a buffer that
//! is still in the processor's cache, and leaves from where it was read. No push, no priorities.
//!
//! `connection` reads and writes frames; `state` is what they mean, without I/O; `handle` is what the rest of the
//! link holds of a stream.

mod connection;
mod frame;
mod handle;
mod head;
mod state;
mod stream;

use std::fmt;
use std::io;
use std::sync::Arc;

pub(super) use connection::{Connection, Wire};
pub(super) use handle::{PingPong, RecvStream, Requests, ResponseFuture, SendResponse, SendStream};
pub(super) use head::Protocol;
pub(super) use state::Config;

/// Why a stream or the connection ended (RFC 9113 §7).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reason(u32);

impl Reason {
    /// Nothing is wrong.
    pub const NO_ERROR: Self = Self(0x0);
    /// What came breaks the protocol.
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    /// More came than there was window for.
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    /// Something came on a direction that had ended.
    pub const STREAM_CLOSED: Self = Self(0x5);
    /// A frame has a length that it cannot have.
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    /// Nothing was done yet: the request may be repeated.
    pub const REFUSED_STREAM: Self = Self(0x7);
    /// Nobody wants the rest.
    pub const CANCEL: Self = Self(0x8);
    /// The fields cannot be read.
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    /// The peer does too much of something.
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);

    fn description(self) -> &'static str {
        match self.0 {
            0x0 => "not an error",
            0x1 => "the protocol was broken",
            0x2 => "an internal error",
            0x3 => "flow control was broken",
            0x4 => "settings were not answered in time",
            0x5 => "a frame came after the end",
            0x6 => "a frame has a wrong length",
            0x7 => "refused before anything was done",
            0x8 => "not wanted any more",
            0x9 => "the fields cannot be read",
            0xb => "too much was asked for",
            _ => "an unknown reason",
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

/// Why something on a link failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// This stream alone was reset, by either end.
    #[error("the stream was reset: {0}")]
    Reset(Reason),
    /// An end takes no more streams, or has ended the connection.
    #[error("the connection was ended: {0}")]
    GoAway(Reason),
    /// The connection broke.
    #[error("{0}")]
    Io(Arc<io::Error>),
}

impl Error {
    /// The reason that was given, if one was.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Reset(reason) | Self::GoAway(reason) => Some(*reason),
            Self::Io(_) => None,
        }
    }

    /// What the system, or TLS, has to say.
    pub fn io(&self) -> Option<&io::Error> {
        if let Self::Io(error) = self { Some(error) } else { None }
    }

    /// True when the whole link is concerned, and not one stream alone.
    pub fn is_of_link(&self) -> bool {
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

#[cfg(test)]
mod tests;
