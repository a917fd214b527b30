//! The networks that this machine is connected to: the destinations of its routes that lead through no router.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

#[cfg(target_os = "linux")]
use self::linux as system;
#[cfg(not(target_os = "linux"))]
use self::other as system;
use crate::net;

/// Addresses that only a default route leads to: those of documentation (RFC 5737, RFC 3849).
const REST_OF_THE_WORLD: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// The networks that this machine reaches without a router, of both families. Empty where the system does not tell.
pub fn networks() -> Vec<IpNet> {
    system::networks()
}

/// The interface of this machine's only network, if no route leads on from it: then no machine beyond that network is reached.
/// `None` with other networks or routes, without any network, and where the system does not tell.
pub fn only_interface() -> Option<String> {
    if reaches_the_world() { None } else { system::only_interface() }
}

/// Whether this machine has a default route, in any of its routing tables.
pub fn reaches_the_world() -> bool {
    REST_OF_THE_WORLD.into_iter().any(|ip| net::own_address_to((ip, 9).into()).is_some())
}

/// Whether there is an interface of this name. `false` where the system has no transparent mode.
pub fn has_interface(name: &str) -> bool {
    system::has_interface(name)
}

/// Whether an IPv4 default route leads to the interface of this name.
pub fn has_default_route(interface: &str) -> bool {
    system::has_default_route(interface)
}
