//! One address of one network interface.

use ipnet::IpNet;

/// One address of one of this machine's interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its name, as the system's own tools show it.
    pub(crate) name: String,
    /// Its index where the address is link-local, otherwise 0.
    pub(crate) scope: u32,
    /// The address, with the prefix length of the network.
    pub(crate) net: IpNet,
    /// It is switched on and connected.
    pub(crate) is_up: bool,
    /// It is switched on, connected or not.
    pub(crate) is_on: bool,
    /// Only this machine is behind it.
    pub(crate) is_loopback: bool,
    /// It can send broadcasts by IPv4.
    pub(crate) broadcasts: bool,
    /// It can send multicasts.
    pub(crate) multicasts: bool,
    /// The system has it for purposes of its own, so it is not a LAN unless the user names it.
    pub(crate) is_internal: bool,
}
