//! Where this system keeps what belongs to the node.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::path::PathBuf;

#[cfg(unix)]
use self::unix as system;
#[cfg(windows)]
use self::windows as system;

/// The default state directories ([`state`]), in words.
pub const STATES: &str = system::STATES;

/// The places of the configuration file, the preferred one first: the user's, then the machine's.
pub fn configuration_files() -> Vec<PathBuf> {
    system::configuration_files(|name| std::env::var_os(name).map(PathBuf::from))
}

/// The default state directory: for an administrator that of the machine, otherwise that of the user. `None` when a user
/// has no home directory.
///
/// | system | machine | user |
/// | --- | --- | --- |
/// | Linux | `/var/lib/laneway` | `$XDG_STATE_HOME/laneway` or `~/.local/state/laneway` |
/// | macOS | `/Library/Application Support/laneway` | `$XDG_STATE_HOME/laneway` or `~/Library/Application Support/laneway` |
/// | Windows | `%ProgramData%\\laneway` | `%LOCALAPPDATA%\\laneway` |
pub fn state() -> Option<PathBuf> {
    system::state(system::is_administrator(), |name| std::env::var_os(name).map(PathBuf::from))
}

/// The state directory of the machine, whoever asks: see [`state`].
pub fn machine_state() -> Option<PathBuf> {
    system::state(true, |name| std::env::var_os(name).map(PathBuf::from))
}

/// Whether this process runs as root, or with an administrator's rights.
pub fn is_administrator() -> bool {
    system::is_administrator()
}
