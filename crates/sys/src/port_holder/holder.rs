//! What uses a port.

/// The protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A listening socket.
    Tcp,
    /// Any socket.
    Udp,
}

/// A program that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name, as it is: it may contain anything.
    pub name: String,
    /// The number of its process.
    pub process: String,
    /// It was stopped, as by Ctrl-Z in its terminal. False where the system does not tell.
    pub is_stopped: bool,
}
