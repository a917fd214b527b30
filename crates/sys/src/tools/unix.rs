pub(super) const ADDRESSES: &str = "ip -brief address";
pub(super) const PORTS: &str = "ss -lntup";
pub(super) const RELOAD: &str = "systemctl reload laneway";

pub(super) fn route(host: &str, interface: Option<&str>) -> String {
    match interface {
        Some(interface) => format!("ip -6 route get {host} dev {interface}"),
        None => format!("ip route get {host}"),
    }
}
