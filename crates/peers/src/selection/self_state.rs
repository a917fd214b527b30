//! What a candidate tells the selection about itself.

use laneway_wire::datagram::Reach;

/// The state of this candidate, as it knows it itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfState {
    /// Whether it can serve: it reaches a server, or there is none to reach.
    pub able: bool,
    /// The result of the probes.
    pub reach: Reach,
    /// Whether its uplink is up, for a candidate that must bring it up first.
    pub prepared: Prepared,
    /// Whether it is about to stop.
    pub draining: bool,
    /// Whether it is not to serve, although it could.
    pub in_maintenance: bool,
    /// Its load, in permille of its capacity.
    pub load: u16,
    /// Its measured capacity, in Mbit/s.
    pub capacity: u32,
    /// Its open tunnels.
    pub tunnels: u32,
}

/// Whether a candidate's uplink is up, if it must bring it up before it can serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prepared {
    /// Not up.
    #[default]
    No,
    /// Up.
    Yes,
    /// It could not be brought up. Stays so while the uplink is wanted.
    Failed,
}
