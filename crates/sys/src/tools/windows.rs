pub(super) const ADDRESSES: &str = "ipconfig";
pub(super) const PORTS: &str = "netstat -abno";
pub(super) const ROUTES: &str = "route print";
pub(super) const NAME_SERVERS: &str = "'netsh interface ip set dnsservers INTERFACE static ADDRESS' sets one";
pub(super) const RELOAD: &str = "sc control laneway paramchange";
pub(super) const RESTART: &str = "laneway service stop & laneway service start";
pub(super) const KILL: &str = "taskkill /F /PID";

/// Without /F, taskkill asks windows to close, and a program in a terminal has none.
pub(super) fn stop(_process: &str) -> Option<String> {
    None
}

pub(super) fn space_of(directory: &str) -> String {
    format!("dir {directory}")
}

pub(super) fn files_of(directory: &str) -> String {
    format!("dir {directory}")
}

pub(super) fn ask_for(name: &str, server: &str) -> String {
    format!("nslookup {name} {server}")
}

pub(super) fn route(host: &str, interface: Option<&str>) -> String {
    match interface {
        Some(interface) => format!("tracert -d {host}%{interface}"),
        None => format!("tracert -d {host}"),
    }
}

pub(super) fn neighbour(address: &str) -> String {
    if address.contains(':') {
        "netsh interface ipv6 show neighbors".into()
    } else {
        format!("arp -a {address}")
    }
}

pub(super) fn switch_on(interface: &str) -> String {
    format!("netsh interface set interface \"{interface}\" enabled")
}
