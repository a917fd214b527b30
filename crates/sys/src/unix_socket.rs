//! Listening unix sockets, and the sockets that the service manager passes to this process.

mod inherited;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

pub use self::inherited::Inherited;
#[cfg(unix)]
pub use self::unix::{IS_SUPPORTED, LONGEST_PATH, UnixSocket, inherited};
#[cfg(windows)]
pub use self::windows::{IS_SUPPORTED, LONGEST_PATH, UnixSocket, inherited};
