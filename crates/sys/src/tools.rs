//! The commands of this system that hints name.

#[cfg(target_os = "macos")]
#[path = "tools/macos.rs"]
mod system;
#[cfg(not(any(target_os = "macos", windows)))]
#[path = "tools/unix.rs"]
mod system;
#[cfg(windows)]
#[path = "tools/windows.rs"]
mod system;

/// Shows the interfaces with their addresses.
pub const ADDRESSES: &str = system::ADDRESSES;
/// Shows the programs that use ports, to root or an administrator those of all users.
pub const PORTS: &str = system::PORTS;
/// Has the service read its configuration again.
pub const RELOAD: &str = system::RELOAD;

/// Shows the route to a host. `interface` is the one that a link-local address needs.
pub fn route(host: &str, interface: Option<&str>) -> String {
    system::route(host, interface)
}
