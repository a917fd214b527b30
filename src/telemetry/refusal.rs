//! Why a request of an app is refused for what it is itself, in the same few words for all dialects. What became of its
//! destination is a [`Failure`](crate::failure::Failure).

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It breaks its protocol.
    Malformed,
    /// It is of another version of its protocol.
    Version,
    /// It asks for what is not done here.
    Unsupported,
    /// Its destination is of a kind that is not known here.
    AddressType,
    /// It names no destination.
    Destination,
    /// A part of it is longer than it may be.
    TooLong,
    /// It ended before it was whole.
    Unfinished,
    /// It was not whole in time.
    Late,
    /// It comes without the login that is asked for.
    NoLogin,
    /// Its login is wrong.
    WrongLogin,
    /// It would lead back to this node.
    Loop,
    /// There are too many at a time.
    TooMany,
}

impl Refusal {
    /// The word for it.
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
