pub(super) use super::posix::{KILL, ask_for, files_of, space_of, stop};

pub(super) const ADDRESSES: &str = "ifconfig";
pub(super) const PORTS: &str = "lsof -nP -i";
pub(super) const ROUTES: &str = "netstat -rn";
pub(super) const NAME_SERVERS: &str = "'networksetup -setdnsservers SERVICE ADDRESS' sets one";
pub(super) const RELOAD: &str = "killall -HUP laneway";
pub(super) const RESTART: &str = "laneway service stop; laneway service start";

pub(super) fn route(host: &str, interface: Option<&str>) -> String {
    match interface {
        Some(interface) => format!("route -n get -inet6 {host}%{interface}"),
        None => format!("route -n get {host}"),
    }
}

pub(super) fn neighbour(address: &str) -> String {
    if address.contains(':') { "ndp -an".into() } else { format!("arp -n {address}") }
}

pub(super) fn switch_on(interface: &str) -> String {
    format!("ifconfig {interface} up")
}
