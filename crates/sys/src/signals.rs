//! Requests of the user, the system or the service manager to stop or to reload.

mod request;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

pub use self::request::Request;
#[cfg(unix)]
pub use self::unix::Signals;
#[cfg(windows)]
pub use self::windows::Signals;
