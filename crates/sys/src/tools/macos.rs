pub(super) const ADDRESSES: &str = "ifconfig";
pub(super) const PORTS: &str = "lsof -nP -i";
pub(super) const RELOAD: &str = "killall -HUP laneway";

pub(super) fn route(host: &str, interface: Option<&str>) -> String {
    match interface {
        Some(interface) => format!("route -n get -inet6 {host}%{interface}"),
        None => format!("route -n get {host}"),
    }
}
