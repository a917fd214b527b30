//! The commands that are not the daemon.

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

/// Runs a command on a runtime of its own, on this thread.
///
/// # Errors
/// When the system gives no runtime.
pub fn block_on<T>(command: impl Future<Output = T>) -> Result<T, Problem> {
    let runtime = net::runtime().map_err(|error| Problem::new("the runtime cannot start").because(error))?;
    let result = runtime.block_on(command);
    // What still blocks (a name lookup) must not hold up the end.
    runtime.shutdown_background();
    Ok(result)
}

/// Prints for the user. A closed pipe is the reader's choice.
pub(crate) fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
