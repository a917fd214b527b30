//! The `laneway` command.

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};
use laneway::cli::{self, Cli};

// It asks for no huge pages (`no_thp`): to have four of them cleared is most of the work of a start, and of the memory
// of an idle node, and nothing that passes is faster for them. A system that gives them unasked still does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match cli::run(cli, &matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // Nobody to tell when standard error is closed; the exit code still does.
            let _ = writeln!(std::io::stderr(), "{problem}");
            ExitCode::from(problem.code())
        }
    }
}
