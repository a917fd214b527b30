//! What is known of the other end of a connection.

/// What is known of the other socket of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OtherEnd {
    /// A process holds it, and may read from it.
    Open,
    /// It was closed, or no longer reads.
    Closed,
    /// It is not of this machine, or the system cannot tell.
    Unknown,
}
