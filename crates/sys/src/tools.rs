//! The commands of this system that hints name.

#[cfg(unix)]
mod posix;
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
/// Shows the routes.
pub const ROUTES: &str = system::ROUTES;
/// Where the name servers of this machine are set, as a sentence without its full stop.
pub const NAME_SERVERS: &str = system::NAME_SERVERS;
/// Has the service read its configuration again.
pub const RELOAD: &str = system::RELOAD;
/// Stops the service and starts it again.
pub const RESTART: &str = system::RESTART;
/// Ends a process that answers to nothing, with its number behind it.
pub const KILL: &str = system::KILL;

/// Tells a process to stop, which a node does in good order. `None` where no command does.
pub fn stop(process: &str) -> Option<String> {
    system::stop(process)
}

/// Shows the free space of the disk of this directory.
pub fn space_of(directory: &str) -> String {
    system::space_of(directory)
}

/// Shows how many files the disk of this directory can still take.
pub fn files_of(directory: &str) -> String {
    system::files_of(directory)
}

/// Asks one name server for a name. A link-local address of the server has its interface after `%`.
pub fn ask_for(name: &str, server: &str) -> String {
    system::ask_for(name, server)
}

/// Switches an interface on.
pub fn switch_on(interface: &str) -> String {
    system::switch_on(interface)
}

/// Shows whether a machine on a network of this one answers for its address. A link-local address has its interface after `%`.
pub fn neighbour(address: &str) -> String {
    system::neighbour(address)
}

/// Shows the route to an address. `interface` is the one that a link-local address needs.
pub fn route(address: &str, interface: Option<&str>) -> String {
    system::route(address, interface)
}
