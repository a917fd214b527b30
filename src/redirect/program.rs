//! Runs the system's programs that change rules and routes.

use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};

use super::error::RedirectError;
use crate::sys::process::system_program;

/// Runs a program with this input and returns its output.
pub(super) fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<String, RedirectError> {
    let failed = |error| RedirectError::Io(program, error);
    let mut command = command(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| not_started(program, error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // If the program does not read its input, its error output says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let Output { status, stdout, stderr } = child.wait_with_output().map_err(failed)?;
    match status.success() {
        true => Ok(String::from_utf8_lossy(&stdout).into_owned()),
        false => Err(complaint(program, &String::from_utf8_lossy(&stderr))),
    }
}

/// A command for a program whose messages are in English.
pub(super) fn command(program: &str) -> Command {
    let mut command = system_program(program);
    command.env("LC_ALL", "C");
    command
}

/// Why a program did not start.
pub(super) fn not_started(program: &'static str, error: io::Error) -> RedirectError {
    match error.kind() {
        io::ErrorKind::NotFound => RedirectError::Missing(program),
        _ => RedirectError::Io(program, error),
    }
}

/// The error that a program has printed.
pub(super) fn complaint(program: &'static str, errors: &str) -> RedirectError {
    let complaint = errors.lines().next().unwrap_or("failed").trim().to_owned();
    let forbidden = ["Operation not permitted", "must be root", "Permission denied"];
    match forbidden.iter().any(|words| complaint.contains(words)) {
        true => RedirectError::Forbidden(format!("{program}: {complaint}")),
        false => RedirectError::Refused { program, complaint },
    }
}
