//! Why an app's request is refused whatever its destination, in the same words for all dialects. A destination that
//! cannot be reached is a [`Failure`](laneway_wire::failure::Failure).

/// The reason for a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusalReason {
    /// It breaks its protocol.
    Malformed,
    /// Its protocol version is not supported.
    Version,
    /// Its command or method is not supported.
    Unsupported,
    /// The type of its destination's address is unknown.
    AddressType,
    /// It names no valid destination.
    Destination,
    /// One of its parts exceeds the limit.
    TooLong,
    /// It ended before it was complete.
    Unfinished,
    /// It was not complete in time.
    Late,
    /// It has no login, and the local port requires one.
    NoLogin,
    /// Its login is wrong.
    WrongLogin,
    /// It would lead back to this node.
    Loop,
    /// There are too many requests at the same time.
    TooMany,
}

impl RefusalReason {
    /// The word for it in metrics and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::Unsupported => "unsupported",
            Self::AddressType => "address-type",
            Self::Destination => "destination",
            Self::TooLong => "too-long",
            Self::Unfinished => "unfinished",
            Self::Late => "late",
            Self::NoLogin => "no-login",
            Self::WrongLogin => "wrong-login",
            Self::Loop => "loop",
            Self::TooMany => "too-many",
        }
    }
}
