//! The networks that this machine is connected to: the destinations of its routes that lead through no router.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

use ipnet::IpNet;

#[cfg(target_os = "linux")]
use self::linux as system;
#[cfg(not(target_os = "linux"))]
use self::other as system;

/// The networks that this machine reaches without a router, of both families. Empty where the system does not tell.
pub fn networks() -> Vec<IpNet> {
    system::networks()
}

/// Whether there is an interface of this name. `false` where the system has no transparent mode.
pub fn has_interface(name: &str) -> bool {
    system::has_interface(name)
}

/// Whether an IPv4 default route leads to the interface of this name.
pub fn has_default_route(interface: &str) -> bool {
    system::has_default_route(interface)
}
