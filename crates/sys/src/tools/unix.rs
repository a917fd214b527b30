pub(super) use super::posix::{KILL, ask_for, files_of, space_of, stop};

pub(super) const ADDRESSES: &str = "ip -brief address";
pub(super) const PORTS: &str = "ss -lntup";
pub(super) const ROUTES: &str = "ip route";
pub(super) const NAME_SERVERS: &str = "a line 'nameserver ADDRESS' in /etc/resolv.conf sets one";
pub(super) const RELOAD: &str = "systemctl reload laneway";
pub(super) const RESTART: &str = "systemctl restart laneway";

pub(super) fn route(host: &str, interface: Option<&str>) -> String {
    match interface {
        Some(interface) => format!("ip -6 route get {host} dev {interface}"),
        None => format!("ip route get {host}"),
    }
}

pub(super) fn neighbour(address: &str) -> String {
    match address.split_once('%') {
        Some((address, interface)) => format!("ip neigh show to {address} dev {interface}"),
        None => format!("ip neigh show to {address}"),
    }
}

pub(super) fn switch_on(interface: &str) -> String {
    format!("ip link set dev {interface} up")
}
