//! Runs the node as a service where the service manager demands more than a process: on Windows, whose service control
//! manager connects to the process and sends it its requests.

#[cfg(not(windows))]
#[path = "host/other.rs"]
mod system;
#[cfg(windows)]
#[path = "host/windows.rs"]
mod system;

#[cfg(windows)]
pub(super) use system::{Connection, connection};
#[cfg(windows)]
pub(crate) use system::{plain, requests};

use std::io;

/// Connects to the service manager, runs the service on a thread that the manager starts, and tells the manager the exit
/// code: 0 is success. Returns when the service has ended.
///
/// # Errors
/// When the service manager has not started this process, or the system has no such manager.
pub fn run(service: impl FnOnce() -> u8 + Send + 'static) -> io::Result<()> {
    system::run(Box::new(service))
}
