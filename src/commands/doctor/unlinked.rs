//! Why there is no link to a gateway, and what to do about it.

use std::io;
use std::net::SocketAddr;

use super::filtering::Filter;
use super::firewall::open_commands_elsewhere;
use super::neighbours::{Astray, Neighbour};
use super::remedies::{REMOVED, SHOW_RULES, become_gateway, route_to, with_interface};
use super::report::{Finding, Layer};
use crate::link::client::DialError;
use crate::net;
use crate::sys::neighbour;
use crate::wire::id::NodeId;

/// How a gateway is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It announces itself.
    Announced(NodeId),
    /// --gateway names it.
    Named,
    /// This machine has used it before.
    Remembered,
}

/// Where a gateway should be.
pub(super) struct At<'a> {
    pub(super) address: SocketAddr,
    pub(super) origin: Origin,
    /// Its name, if that is known.
    pub(super) name: Option<&'a str>,
    /// What the system knows of the machine there, after it was dialled.
    pub(super) neighbour: Option<Neighbour>,
    /// Why packets to it do not get on its network.
    pub(super) astray: Option<Astray>,
}

/// Explains why no link to this address can be made.
pub(super) fn explain(at: &At<'_>, error: &DialError, filter: Option<&Filter<'_>>) -> Finding {
    let At { address, origin, name, .. } = *at;
    let port = address.port();
    let on = name.map_or_else(|| address.ip().to_string(), str::to_owned);
    let whom = name.map_or_else(|| address.to_string(), |name| format!("{name} at {address}"));
    let finding = Finding::wrong(Layer::Link, format!("no link to {whom}")).because(error.to_string());
    match error {
        DialError::Late(_) => finding
            .because("it accepts connections but does not answer: laneway hangs there")
            .hint(format!("on {on}: restart laneway")),
        DialError::Connect(_, error) => not_connected(finding, at, error, filter),
        DialError::Cut(..) => finding
            .because("a node that is just starting or stopping does that, and so does a program other than laneway")
            .hint(format!(
                "run this again. If it stays so, on {on}: 'ss -lntp' shows to root what listens on port {port}, and \
                 'laneway status' whether the node runs"
            )),
        // It may have been one, or have admitted this machine.
        DialError::NotAGateway(..) if origin == Origin::Remembered => {
            Finding::skipped(Layer::Link, format!("{whom}, which this machine remembers, is no gateway now"))
        }
        DialError::NotAGateway(..) => finding.hint(become_gateway(&on, origin == Origin::Named)),
        DialError::Removed(..) => finding.hint(REMOVED),
        DialError::Unproved(..) => finding.hint(format!(
            "'laneway members' on a machine with the group's key says whether this one was removed; if it was not, {on} is lying, and 'laneway \
             revoke' there removes it"
        )),
        DialError::Left(..) => finding.hint(format!("use another gateway, or join the group again on {on}")),
        // Nobody says that this group has a gateway there now.
        DialError::Trust(..) | DialError::Certificate(..) if origin == Origin::Remembered => {
            let what = format!("at {address}, where a gateway of this group was, is a machine of another group now");
            Finding::skipped(Layer::Link, what)
        }
        DialError::Trust(..) | DialError::Certificate(..) | DialError::Refused(..) => finding.hint(format!(
            "on {on}: the first line of 'laneway status' names its group. If that is another one, run 'laneway leave \
             --force --yes' here, and join it with a code from 'laneway invite'"
        )),
        DialError::Protocol(..) => finding.hint(format!(
            "on {on}: check that the program that listens on port {port} is laneway, and of the same version"
        )),
    }
}

/// The finding that no connection is made.
fn not_connected(finding: Finding, at: &At<'_>, error: &io::Error, filter: Option<&Filter<'_>>) -> Finding {
    let At { address, origin, name, neighbour, ref astray } = *at;
    let (ip, port) = (address.ip(), address.port());
    let on = name.map_or_else(|| ip.to_string(), str::to_owned);
    let open = || open_commands_elsewhere(port, "tcp");
    // It runs there and says so.
    let is_up = matches!(origin, Origin::Announced(_));
    let is_silent = error.kind() == io::ErrorKind::TimedOut;
    let is_unreachable = error.kind() == io::ErrorKind::HostUnreachable;
    if let Some(own) = filter.and_then(|filter| filter.of_link(address)) {
        // Where it rejects packets, its answers look like those of the gateway.
        return own.explain(if is_unreachable { finding } else { finding.because(error.to_string()) });
    }
    if let Some(astray) = astray {
        return astray.explain(finding);
    }
    if is_silent || is_unreachable {
        // The reason in place of the system's words for it.
        if let Some(absent) = neighbour.and_then(|neighbour| neighbour.explain(&finding)) {
            return absent;
        }
    }
    // The machine is there, so that it is not the network that says so.
    if is_unreachable && neighbour.is_some_and(|neighbour| neighbour.is_the_destination()) {
        return finding
            .because(format!("a firewall on {on}, or between it and this machine, rejects TCP port {port}"))
            .hint(format!("on {on}: {}", open()));
    }
    let finding = finding.because(error.to_string());
    match error.kind() {
        io::ErrorKind::ConnectionRefused if is_up => finding
            .because(format!(
                "a firewall on {on} rejects TCP port {port}, its --link names another address than {ip}, or another machine has that \
                 address, too"
            ))
            .hint(format!("on {on}: {}; or start the node there without --link", open())),
        io::ErrorKind::ConnectionRefused => finding
            .because(format!(
                "no node runs there, it is not a gateway, or it accepts links on another port than {port}"
            ))
            .hint(become_gateway(&on, origin == Origin::Named)),
        _ if is_silent && let Some(firewall) = filter.and_then(|filter| filter.doubted(address)) => finding
            .because(format!("the firewall of this machine, {}, may block it", firewall.name()))
            .hint(firewall.open_command(port, "tcp")),
        // No other machine says so.
        io::ErrorKind::PermissionDenied => finding
            .because("this machine itself does not permit it: a route that prohibits it, or a rule of its firewall")
            .hint(format!("{} shows the route; {SHOW_RULES}", route_to(address))),
        _ if is_silent && is_up => finding
            .because(format!("a firewall on {on}, or between it and this machine, drops TCP port {port}"))
            .hint(format!("on {on}: {}", open())),
        _ if is_silent => finding
            .because(format!(
                "that machine is off, or a firewall on {on}, or between it and this machine, drops TCP port {port}"
            ))
            .hint(format!("if it is on, on {on}: {}", open())),
        _ => finding.hint(format!(
            "{} and 'ping {}' show whether there is a route",
            route_to(address),
            with_interface(address)
        )),
    }
}

/// The finding about a link to the gateway `name` that works with small packets only.
pub(super) fn narrow(name: &str, address: SocketAddr) -> Finding {
    let host = with_interface(address);
    let interface = neighbour::next_hop(address).and_then(|hop| net::interface_name(hop.interface));
    let interface = interface.unwrap_or_else(|| "INTERFACE".into());
    Finding::wrong(
        Layer::Link,
        format!("large packets do not pass between this machine and {name}: only links with small ones come about"),
    )
    .because("something on the way takes no packets as large as the interface of this machine sends (MTU), and tells nobody")
    .hint(format!(
        "'ping -M do -s 1472 {host}' and smaller numbers show the largest one that passes: give both ends that number plus 28, like 'ip \
         link set dev {interface} mtu 1400', or correct the switch, bridge or tunnel in between"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: io::ErrorKind, origin: Origin, is_here: bool) -> Finding {
        let address = "10.77.0.21:7420".parse().unwrap();
        let neighbour = is_here.then(|| Neighbour::here(address));
        let at = At { address, origin, name: Some("g1"), neighbour, astray: None };
        explain(&at, &DialError::Connect(address, kind.into()), None)
    }

    #[test]
    fn silence_of_a_gateway_that_does_not_announce_itself_may_be_that_of_a_machine_that_is_off() {
        let finding = said(io::ErrorKind::TimedOut, Origin::Announced(NodeId([1; 16])), true);
        assert!(finding.why[2].starts_with("a firewall on g1, or between it"), "{finding:?}");
        for origin in [Origin::Named, Origin::Remembered] {
            let finding = said(io::ErrorKind::TimedOut, origin, false);
            assert!(finding.why[2].starts_with("that machine is off, or a firewall on g1"), "{finding:?}");
        }
    }

    #[test]
    fn what_the_system_calls_no_route_is_a_firewall_where_the_machine_is_there() {
        let finding = said(io::ErrorKind::HostUnreachable, Origin::Named, true);
        assert!(finding.why[1].ends_with("rejects TCP port 7420"), "{finding:?}");
        assert!(finding.hint.unwrap().contains("firewall-cmd"));
        let finding = said(io::ErrorKind::HostUnreachable, Origin::Named, false);
        assert!(finding.hint.unwrap().contains("whether there is a route"));
        let finding = said(io::ErrorKind::PermissionDenied, Origin::Named, false);
        assert!(finding.why[2].starts_with("this machine itself"), "{finding:?}");
    }
}
