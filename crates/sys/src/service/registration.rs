//! Installs the node as a service of the operating system, and controls it.
//!
//! | system | for an administrator | for a user |
//! | --- | --- | --- |
//! | Linux | the systemd unit of the package, in `/etc/systemd/system` | a unit of the user's own systemd |
//! | Windows | a service with an account of its own | refused: only administrators install services |
//! | macOS | a launchd daemon | a launchd agent |

pub(crate) mod definition;
mod error;
#[cfg(any(target_os = "macos", test))]
mod plist;
#[cfg(any(windows, test))]
mod registered;
#[cfg(any(target_os = "linux", test))]
mod unit;

#[cfg(target_os = "macos")]
#[path = "registration/launchd.rs"]
mod system;
#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
#[path = "registration/other.rs"]
mod system;
#[cfg(windows)]
#[path = "registration/scm.rs"]
mod system;
#[cfg(target_os = "linux")]
#[path = "registration/systemd.rs"]
mod system;

pub use self::definition::{Installed, NAME, Service, Status};
pub use self::error::ServiceError;

/// Installs the service, and has the system start it from the next boot on, for a user from the next login on. Does not
/// start it now. Installing it again with the same settings changes nothing.
///
/// # Errors
/// [`ServiceError`], also when another service has the name.
pub fn install(service: &Service) -> Result<Installed, ServiceError> {
    system::install(service)
}

/// Stops the service, which drains, and removes it. Returns what was removed.
///
/// # Errors
/// [`ServiceError`], also when it is not installed.
pub fn remove() -> Result<String, ServiceError> {
    system::remove()
}

/// Starts the service, and waits until it runs.
///
/// # Errors
/// [`ServiceError`], also when it ends again.
pub fn start() -> Result<(), ServiceError> {
    system::start()
}

/// Stops the service, and waits until its connections have drained.
///
/// # Errors
/// [`ServiceError`].
pub fn stop() -> Result<(), ServiceError> {
    system::stop()
}

/// The state of the service.
///
/// # Errors
/// [`ServiceError`] when the service manager does not answer.
pub fn status() -> Result<Status, ServiceError> {
    system::status()
}

/// Where to look when the service fails: the command that shows what it has logged, or that the service of another program has
/// the name.
pub fn where_to_look() -> String {
    system::where_to_look()
}
