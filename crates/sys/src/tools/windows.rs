pub(super) const ADDRESSES: &str = "ipconfig";
pub(super) const PORTS: &str = "netstat -abno";
pub(super) const RELOAD: &str = "sc control laneway paramchange";

pub(super) fn route(host: &str, interface: Option<&str>) -> String {
    match interface {
        Some(interface) => format!("tracert -d {host}%{interface}"),
        None => format!("tracert -d {host}"),
    }
}
