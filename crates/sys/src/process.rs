//! Other programs.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Replaces this process by the command. Returns only on failure.
pub fn replace(command: &mut Command) -> io::Error {
    command.exec()
}
