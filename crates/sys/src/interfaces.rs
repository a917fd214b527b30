//! The addresses of all network interfaces of this machine.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
pub(crate) mod windows;

#[cfg(unix)]
pub(crate) use self::unix::{all, connected, index_of, names};
#[cfg(windows)]
pub(crate) use self::windows::{all, connected, index_of, names};
