//! The interface that carries the default route of last resort: one end of a veth pair, through which no packet leaves.

use std::net::Ipv4Addr;

use super::error::RedirectError;
use super::program::run;
use crate::sys::connected;

/// Its name.
pub(super) const INTERFACE: &str = "laneway0";
const OTHER_END: &str = "laneway1";
/// The IPv6 source address of software on a machine that has no other. It is a unique local address (RFC 4193) and
/// never leaves the machine.
const ADDRESS: &str = "fd6c:616e:6577:6179::1/128";
/// The IPv4 source address of software on a machine that has no other: the dummy address (RFC 7600). With none, the
/// source would be 0.0.0.0, and what is sent to that never arrives.
pub const DUMMY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
/// Metric of the default route: any other default route is preferred.
const LAST: u32 = u32::MAX;

/// Whether the interface exists, possibly without its route.
pub(super) fn exists() -> bool {
    connected::has_interface(INTERFACE)
}

/// Whether somebody has removed the interface, or its IPv4 route.
pub(super) fn is_missing(v4: bool) -> bool {
    !exists() || v4 && !connected::has_default_route(INTERFACE)
}

/// Adds the interface, with a default route for each family that is redirected.
pub(super) fn add(v4: bool, v6: bool) -> Result<(), RedirectError> {
    remove()?;
    let mut links = format!("link add {INTERFACE} type veth peer name {OTHER_END}\n");
    for end in [INTERFACE, OTHER_END] {
        // Without multicast, software that looks for its peers on every interface leaves these two out.
        links += &format!("link set {end} multicast off addrgenmode none up\n");
    }
    if v4 {
        // Put on the interface with the route, this address would always be the preferred source. On the other end, the system
        // uses it only if no older interface has an address. The scope keeps it from being a source towards routers.
        links += &format!("address add {DUMMY}/32 dev {OTHER_END} scope site\n");
        links += &format!("route add default dev {INTERFACE} metric {LAST}\n");
    }
    run("ip", &["-batch", "-"], &links)?;
    if v6 {
        let routes = format!(
            "address add {ADDRESS} dev {INTERFACE} nodad\nroute add default dev {INTERFACE} metric {LAST}\n"
        );
        if let Err(error) = run("ip", &["-6", "-batch", "-"], &routes) {
            tracing::debug!(%error, "no IPv6 route of last resort");
        }
    }
    fail_at_once();
    Ok(())
}

/// Gives up the search for a neighbour on the interface after its first try, which lasts 10 ms: once the rules are gone
/// with a killed node, a connection that has no other route fails at once, as it does without the interface.
fn fail_at_once() {
    for cache in ["arp_cache", "ndisc_cache"] {
        let words =
            ["ntable", "change", "name", cache, "dev", INTERFACE, "mcast_probes", "1", "retrans", "1"];
        if let Err(error) = run("ip", &words, "") {
            tracing::debug!(%error, cache, "connections without a route fail late once the node is killed");
        }
    }
}

/// Removes the interface and its routes, if it exists.
pub(super) fn remove() -> Result<(), RedirectError> {
    match run("ip", &["link", "delete", INTERFACE], "") {
        Err(RedirectError::Refused { complaint, .. }) if complaint.contains("Cannot find device") => Ok(()),
        // Without the program, the interface cannot have been created.
        Err(RedirectError::Missing(_)) => Ok(()),
        removed => removed.map(drop),
    }
}
