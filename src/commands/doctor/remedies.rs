//! What to do about faults that several layers meet.

use std::net::{IpAddr, SocketAddr};

use super::report::{Finding, Layer};
use crate::net;
use crate::sys::tools;

/// What to do on a machine that was removed from its group.
pub(super) const REMOVED: &str = "run 'laneway leave --yes', which deletes the old keys; then run 'laneway invite' on the machine with the \
     group's key, and the line that it prints here";

/// What to do where only machines of another group are heard.
pub(in crate::commands) const OTHER_GROUP: &str = "if this machine belongs to that group, run 'laneway leave --force --yes', and join with a code that \
     'laneway invite' prints there. Otherwise start a gateway of this group: 'laneway up --server HOST:PORT'";

/// What to do about a login that the proxy of `--upstream` does not accept.
pub(super) const LOGIN: &str = "correct USER and PASSWORD in --upstream http://USER:PASSWORD@HOST:PORT, with %40 for @, \
 %3A for : and %2F for /; it may be in laneway.toml, or in /etc/laneway/environment as LANEWAY_UPSTREAM. Then 'systemctl \
 reload laneway', or start the node again";

/// The finding about two machines with the keys of one.
pub(super) fn copied_keys(layer: Layer, name: &str, at: &str) -> Finding {
    Finding::wrong(layer, format!("two machines are '{name}', with the same keys: {at}"))
        .because(
            "a disk image or a state directory was copied: gateways and members take the two for one machine, and lose \
             connections of both",
        )
        .hint(
            "on the copy: stop laneway, remove its state directory, which the line 'group' of 'laneway doctor' names, and \
             join again with a line from 'laneway invite'. Not 'laneway leave': it takes the original out of the group as \
             well",
        )
}

/// How to make a machine a gateway, or keep others from taking it for one. `is_named`: --gateway names it.
pub(super) fn become_gateway(on: &str, is_named: bool) -> String {
    let otherwise = match is_named {
        true => "If it is to be none, take it out of --gateway here",
        false => {
            "If it is to be none, there is nothing to do: this machine remembers it, because it was one, or has admitted this machine"
        }
    };
    format!("on {on}: 'laneway status' shows whether a node runs, and {MAKE_GATEWAY}. {otherwise}")
}

/// What to do about packets that this machine's firewall does not let out.
pub(super) const SHOW_RULES: &str = "'nft list ruleset', as root, shows the rule that drops outgoing packets";

/// How a gateway is started again that ran on another machine. `servers` are those of the node here: all machines may have the
/// same.
pub(super) fn start_gateway(servers: &[String]) -> String {
    match servers {
        [] => "'laneway up' with the --server or --role gateway that it had".into(),
        some => format!("'laneway up --server {}'", some.join(",")),
    }
}

/// The two kinds of gateways, and how a machine becomes one.
const MAKE_GATEWAY: &str = "'laneway up --server HOST:PORT' makes it a gateway to that server, 'laneway up --role gateway' one to any \
                            destination";

/// What to do about an interface without carrier.
pub(super) fn connect_cable() -> String {
    format!("connect its cable: '{}' shows whether it has a carrier then", tools::ADDRESSES)
}

/// How [`uplink_up`] begins.
pub(super) const BRING_UP: &str = "bring the uplink up: ";

/// How an uplink is brought up that leads to `host`.
pub(super) fn uplink_up(host: &str) -> String {
    // The commands that show a route take no name.
    let route = match host.parse::<IpAddr>() {
        Ok(_) => tools::route(host, None),
        Err(_) => tools::ROUTES.to_owned(),
    };
    format!("{BRING_UP}'{}' shows the interfaces, '{route}' the route", tools::ADDRESSES)
}

/// An address as `ip` and `ping` take it: a link-local one with its interface.
pub(super) fn with_interface(address: SocketAddr) -> String {
    match interface_of(address) {
        Some(interface) => format!("{}%{interface}", address.ip()),
        None => address.ip().to_string(),
    }
}

/// The command that shows the route to an address, quoted.
pub(super) fn route_to(address: SocketAddr) -> String {
    format!("'{}'", tools::route(&address.ip().to_string(), interface_of(address).as_deref()))
}

/// The interface that an address needs.
fn interface_of(address: SocketAddr) -> Option<String> {
    let SocketAddr::V6(address) = address else { return None };
    net::interface_name(address.scope_id())
}
