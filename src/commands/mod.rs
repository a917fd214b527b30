//! The commands other than `up`.

pub mod ask;
pub mod authority;
pub mod beside;
pub mod cache;
pub mod demo;
pub mod discover;
pub mod doctor;
pub mod drain;
pub mod env;
mod fronts;
mod gateways;
mod hung;
mod joining;
pub mod leave;
pub mod local_port;
pub mod manual;
pub mod members;
pub mod membership;
mod named_proxy;
pub mod origin;
pub(crate) mod progress;
mod removal;
pub mod run;
pub mod service;
pub mod sightings;
pub mod speedtest;
pub mod status;
pub mod system_proxy;
pub mod top;
pub mod transparent;

use std::io::{self, Write};
use std::sync::OnceLock;

use crate::problem::Problem;
use crate::redirect::{self, Leftover};
use crate::{lan, net, threads};

/// Runs a command on a new single-threaded runtime, on this thread.
///
/// # Errors
/// When the runtime cannot be created, or the system permits no thread for what blocks.
pub fn block_on<T>(command: impl Future<Output = T>) -> Result<T, Problem> {
    threads::check(1)?;
    let runtime = net::runtime().map_err(|error| Problem::new("the runtime cannot start").because(error))?;
    let result = runtime.block_on(command);
    // A blocking call that is still in progress, such as a name lookup, must not delay the exit.
    runtime.shutdown_background();
    Ok(result)
}

/// Fails when `--lan` names something that this machine does not have.
///
/// # Errors
/// A usage problem, with the interfaces that exist.
pub(crate) fn check_lan(named: &[String]) -> Result<(), Problem> {
    let failed = |error| Problem::new("the interfaces of this machine cannot be listed").because(error);
    let unknown = lan::unknown(named).map_err(failed)?;
    let Some(first) = unknown.first() else { return Ok(()) };
    let existing = lan::interfaces().map_err(failed)?;
    let near = crate::usage::nearest(first, existing.keys().map(String::as_str));
    let near = near.map(|near| format!("did you mean '{near}'? ")).unwrap_or_default();
    let shown = crate::failure::printable(&unknown.join(", "));
    Err(Problem::usage(format!("--lan does not take '{shown}'"))
        .after(Problem::usage("this machine has no such interface or address"))
        .hint(format!("{near}it has {}", lan::listed(&existing))))
}

/// Why something could not be printed, if anything could not.
static UNSAID: OnceLock<io::Error> = OnceLock::new();

/// Prints a line to standard output. Whether that worked, [`said`] tells at the end.
pub(crate) fn say(text: impl std::fmt::Display) {
    note(writeln!(io::stdout(), "{text}"));
}

/// Notes whether something was printed. Who closes a pipe has read enough.
pub fn note(printed: io::Result<()>) {
    if let Err(error) = printed
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        // The first one is the reason.
        let _ = UNSAID.set(error);
    }
}

/// Whether all that was printed has reached standard output.
///
/// # Errors
/// When it has not, as on a full disk.
pub fn said() -> Result<(), Problem> {
    note(io::stdout().flush());
    UNSAID.get().map_or(Ok(()), |error| {
        Err(Problem::new("standard output does not take what was printed")
            .because(io::Error::new(error.kind(), error.to_string()))
            .hint("let it go to a terminal, a pipe, or a file on a disk with free space"))
    })
}

/// Warns on standard error of rules that redirect this machine's connections to a node that does not run.
pub(crate) fn warn_of_leftover_rules() {
    if let Some(leftover @ Leftover::Rules(_)) = redirect::leftover() {
        let _ = writeln!(io::stderr(), "warning: {leftover}\nhint: {}", Leftover::HINT);
    }
}
