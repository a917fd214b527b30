//! The commands other than `up`.

pub mod ask;
pub mod authority;
pub mod demo;
pub mod discover;
pub mod doctor;
pub mod env;
pub mod manual;
pub mod membership;
pub mod origin;
pub(crate) mod progress;
pub mod speedtest;
pub mod status;
pub mod top;
pub mod transparent;

use std::io::Write;

use crate::net;
use crate::problem::Problem;

/// Runs a command on a new single-threaded runtime, on this thread.
///
/// # Errors
/// When the runtime cannot be created.
pub fn block_on<T>(command: impl Future<Output = T>) -> Result<T, Problem> {
    let runtime = net::runtime().map_err(|error| Problem::new("the runtime cannot start").because(error))?;
    let result = runtime.block_on(command);
    // A blocking call that is still in progress, such as a name lookup, must not delay the exit.
    runtime.shutdown_background();
    Ok(result)
}

/// Prints a line to standard output. A closed pipe is ignored.
pub(crate) fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
