//! Programs of the system, whose output tells what this machine does.

use std::process::Stdio;

use crate::sys::process::system_program;

/// The standard output of a program; `None` when it fails.
pub(super) fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = system_program(program);
    let output = command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
