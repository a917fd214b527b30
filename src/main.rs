//! The `laneway` command.

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};
use laneway::cli::{self, Cli};
use laneway::{commands, usage};

// It asks for no huge pages (`no_thp`): clearing four of them would be most of the work of a start and most of the memory of an
// idle node, and carrying data is no faster with them. A system that gives them unasked still does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let parsed = Cli::command().try_get_matches();
    let parsed = parsed.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let result = match parsed {
        Ok((cli, matches)) => cli::run(cli, &matches).map(|()| 0),
        Err(error) if usage::is_help(&error) => {
            commands::note(error.print());
            Ok(u8::try_from(error.exit_code()).unwrap_or(u8::MAX))
        }
        Err(error) => {
            let arguments: Vec<_> = std::env::args_os().skip(1).collect();
            Err(usage::problem(&error, &Cli::command(), &arguments))
        }
    };
    match result.and_then(|code| commands::said().map(|()| code)) {
        Ok(code) => ExitCode::from(code),
        Err(problem) => {
            // Nobody to tell when standard error is closed; the exit code still does.
            let _ = writeln!(std::io::stderr(), "{problem}");
            ExitCode::from(problem.code())
        }
    }
}
