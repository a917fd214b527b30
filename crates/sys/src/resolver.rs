//! How this machine resolves host names: what resolv.conf(5), hosts(5) and nsswitch.conf(5) say. On systems that keep
//! this elsewhere it is given in the same syntax.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use self::unix as system;
#[cfg(windows)]
use self::windows as system;

/// A version of the configuration. It changes when the configuration may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(system::Version);

/// The version of the configuration now.
pub fn version() -> Version {
    Version(system::version())
}

/// The name servers and search domains, in the syntax of resolv.conf(5). Empty when they cannot be read.
pub fn name_servers() -> Vec<u8> {
    system::name_servers()
}

/// The host names of this machine's own file, in the syntax of hosts(5). Empty when it cannot be read.
pub fn hosts() -> Vec<u8> {
    system::hosts()
}

/// The sources of host names, in the syntax of nsswitch.conf(5). Empty where the system has no such choice.
pub fn switch() -> Vec<u8> {
    system::switch()
}
