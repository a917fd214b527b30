use std::io;

use ipnet::IpNet;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::{InterfaceFlags, if_nametoindex};

use crate::address::ip_of;
use crate::interface::Interface;

/// How the names of interfaces that macOS uses for itself begin: AirDrop and its like, and tunnels.
#[cfg(target_vendor = "apple")]
const INTERNAL: &[&str] = &["anpi", "awdl", "ipsec", "llw", "utun"];
#[cfg(not(target_vendor = "apple"))]
const INTERNAL: &[&str] = &[];

pub(crate) fn all() -> io::Result<Vec<Interface>> {
    Ok(getifaddrs().map_err(io::Error::from)?.filter_map(interface).collect())
}

/// The names of all interfaces, also of those without an IP address. One may occur several times.
pub(crate) fn names() -> io::Result<Vec<String>> {
    Ok(getifaddrs().map_err(io::Error::from)?.map(|entry| entry.interface_name).collect())
}

/// The names of the interfaces that are switched on and connected, loopback excluded, also without an IP address. One
/// may occur several times.
pub(crate) fn connected() -> io::Result<Vec<String>> {
    let (up, loopback) = (InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING, InterfaceFlags::IFF_LOOPBACK);
    let connected = |entry: &InterfaceAddress| entry.flags.contains(up) && !entry.flags.intersects(loopback);
    let entries = getifaddrs().map_err(io::Error::from)?;
    Ok(entries.filter(connected).map(|entry| entry.interface_name).collect())
}

pub(crate) fn index_of(name: &str) -> Option<u32> {
    if_nametoindex(name).ok()
}

fn interface(entry: InterfaceAddress) -> Option<Interface> {
    let (ip, scope) = ip_of(entry.address.as_ref()?)?;
    let mask = entry.netmask.as_ref().and_then(ip_of).map(|(mask, _)| mask);
    let has = |flags| entry.flags.contains(flags);
    Some(Interface {
        scope,
        net: mask.and_then(|mask| IpNet::with_netmask(ip, mask).ok()).unwrap_or_else(|| ip.into()),
        is_up: has(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING),
        is_on: has(InterfaceFlags::IFF_UP),
        is_loopback: has(InterfaceFlags::IFF_LOOPBACK),
        broadcasts: has(InterfaceFlags::IFF_BROADCAST),
        multicasts: has(InterfaceFlags::IFF_MULTICAST),
        is_internal: INTERNAL.iter().any(|prefix| entry.interface_name.starts_with(prefix)),
        name: entry.interface_name,
    })
}
