//! `laneway completions` and `laneway man`: files that packages install beside the program, generated from the command
//! line's definition.

mod sections;

use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
use clap::builder::PossibleValue;
use clap_complete::Shell;

use super::say;
use crate::problem::Problem;

/// `laneway completions`
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// `laneway man`
#[derive(Debug, clap::Args)]
pub struct Man {
    /// The command to describe [default: laneway itself]
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
    /// Write the pages of all commands into this directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    out: Option<PathBuf>,
}

impl Completions {
    /// Prints the script for the command line that `command` describes.
    ///
    /// # Errors
    /// None at present.
    pub fn run(self, command: Command) -> Result<(), Problem> {
        let mut command = with_short_values(command);
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "laneway", &mut script);
        print(&script);
        Ok(())
    }
}

impl Man {
    /// Prints a manual page, or writes all, for the command line that `command` describes.
    ///
    /// # Errors
    /// When there is no such command, or the directory cannot be written.
    pub fn run(self, mut command: Command) -> Result<(), Problem> {
        if let Some(directory) = self.out {
            let mut command = command.disable_help_subcommand(true);
            command.build();
            let written =
                std::fs::create_dir_all(&directory).and_then(|()| write_pages(&command, &directory));
            return written.map_err(|error| {
                Problem::new(format!("cannot write manual pages to {}", directory.display())).because(error)
            });
        }
        command.build();
        let page = match &self.command {
            None => command,
            Some(name) => {
                let found = command.find_subcommand(name).cloned();
                let named = |found: Command| found.display_name(format!("laneway-{name}"));
                found
                    .map(named)
                    .ok_or_else(|| crate::usage::no_command(name, &command, "'laneway help' lists them"))?
            }
        };
        let text = page_of(page);
        print(&text.map_err(|error| Problem::new("the manual page cannot be made").because(error))?);
        Ok(())
    }
}

/// Leaves out the code in the descriptions of values, as in "sh, bash: `eval …`". The scripts have these descriptions between
/// double quotes, and those for fish and zsh do not escape all that a shell evaluates there: fish ran the code when it loaded the
/// script.
fn with_short_values(command: Command) -> Command {
    let short = |value: &PossibleValue| match value.get_help().map(ToString::to_string) {
        Some(help) => value
            .clone()
            .help(help.split('`').next().unwrap_or_default().trim_end_matches([':', ' ']).to_owned()),
        None => value.clone(),
    };
    command.mut_subcommands(with_short_values).mut_args(|argument| {
        let values: Vec<_> = argument.get_possible_values().iter().map(short).collect();
        if values.is_empty() { argument } else { argument.value_parser(values) }
    })
}

/// Writes the page of a command, and those of its subcommands.
fn write_pages(command: &Command, directory: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        write_pages(subcommand, directory)?;
    }
    let file = directory.join(clap_mangen::Man::new(command.clone()).get_filename());
    std::fs::write(file, page_of(command.clone())?)
}

/// A page, with its examples and files.
fn page_of(command: Command) -> io::Result<Vec<u8>> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut text = Vec::new();
    // An empty date is left out, and the source then takes its place. A subcommand has no version of its own.
    let page =
        clap_mangen::Man::new(command).date(" ").source(concat!("laneway ", env!("CARGO_PKG_VERSION")));
    page.render(&mut text)?;
    text.extend_from_slice(sections::of(&name).as_bytes());
    Ok(text)
}

/// Prints text as it is.
fn print(text: &[u8]) {
    say(String::from_utf8_lossy(text).trim_end());
}
