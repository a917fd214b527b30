/// Whose program listens at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// This user's.
    Own,
    /// That of root, or of the user of the machine's node.
    Machine,
    /// That of another user of this machine, with this name.
    Other(String),
    /// That of a user who has no number in this container.
    Unmapped,
    /// Nobody's: no program of this machine listens there, as far as this network namespace shows.
    Nobody,
    /// The address is not one of this machine.
    Elsewhere,
    /// The system does not tell.
    Untold,
}
