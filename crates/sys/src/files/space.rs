//! What a disk can take.

/// What the file system of a directory can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Tells one file system from another.
    pub device: u64,
    /// The bytes that a user without privileges may still write.
    pub free: u64,
    /// The number of files that may still be created; `None` where nothing but the space limits it.
    pub files: Option<u64>,
    /// Whether it takes nothing at all.
    pub is_read_only: bool,
}
