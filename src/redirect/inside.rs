//! The network of a command that has one of its own (`laneway run --all`): everything that would leave it is given to the
//! sockets of [`crate::sys::namespace`] instead. It has no way out.

use super::error::RedirectError;
use super::program::run;
use crate::mark::OWN;
use crate::sys::namespace::PORT;

/// The interface with the default route. Nothing is at its other end; software that looks for an interface finds one.
const INTERFACE: &str = "laneway";
const OTHER_END: &str = "laneway-end";
/// The source address of everything that leaves. No machine has it (RFC 7335).
const V4: &str = "192.0.0.2/32";
/// The IPv6 one, a unique local address (RFC 4193): software that finds names with addresses of both families prefers IPv4
/// (RFC 6724), since most gateways have no other.
const V6: &str = "fd6c:616e:6577:6179::1/128";
/// The routing table that leads to the sockets.
const TABLE: u8 = 1;
/// What belongs to one network only, and is refused.
const LOCAL: [&str; 2] = ["169.254.0.0/16, 224.0.0.0/4, 255.255.255.255", "fe80::/10, ff00::/8"];

/// Sets up such a network for this process. Returns whether it has IPv6.
///
/// # Errors
/// [`RedirectError`].
pub fn install() -> Result<bool, RedirectError> {
    let mut links = format!("link set lo up\nlink add {INTERFACE} type veth peer name {OTHER_END}\n");
    for end in [INTERFACE, OTHER_END] {
        // The largest segments that there are: nothing is ever sent.
        links += &format!("link set {end} multicast off addrgenmode none mtu 65535 up\n");
    }
    run("ip", &["-batch", "-"], &(links + &routes(V4)))?;
    let with_v6 = run("ip", &["-6", "-batch", "-"], &routes(&format!("{V6} nodad"))).is_ok();
    run("nft", &["-f", "-"], &rules())?;
    Ok(with_v6)
}

/// An address, the default route, and the route of what is marked.
fn routes(address: &str) -> String {
    format!(
        "address add dev {INTERFACE} {address}\nroute add default dev {INTERFACE}\nrule add fwmark {OWN:#x} table {TABLE}\n\
         route add local default dev lo table {TABLE}\n"
    )
}

/// What would leave is marked, which routes it to the loopback interface, where it is given to the sockets.
fn rules() -> String {
    let [v4, v6] = LOCAL;
    format!(
        "table inet laneway {{\n\
         chain output {{ type route hook output priority -150; policy accept;\n\
         oifname != \"{INTERFACE}\" return\nip daddr {{ {v4} }} return\nip6 daddr {{ {v6} }} return\n\
         meta l4proto {{ tcp, udp }} meta mark set {OWN:#x}\n}}\n\
         chain prerouting {{ type filter hook prerouting priority -150; policy accept;\n\
         meta mark != {OWN:#x} return\n\
         meta nfproto ipv4 meta l4proto {{ tcp, udp }} tproxy ip to 127.0.0.1:{PORT} accept\n\
         meta nfproto ipv6 meta l4proto {{ tcp, udp }} tproxy ip6 to [::1]:{PORT} accept\n}}\n\
         chain last {{ type filter hook output priority 0; policy accept;\n\
         meta mark {OWN:#x} accept\noifname \"{INTERFACE}\" reject with icmpx no-route\n}}\n}}\n"
    )
}
