//! `laneway service`: the node as a service of the operating system.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::doctor::ports_in_use;
use super::{beside, say};
use crate::commands;
use crate::config::{self, Config};
use crate::failure::printable;
use crate::problem::Problem;
use crate::sys::service::host;
use crate::sys::service::registration::{self, NAME, ServiceError, Status};
use crate::sys::state::StateDir;
use crate::{control, shared};

/// The log of a service whose service manager keeps none, in the state directory.
pub const LOG: &str = "laneway.log";

/// `laneway service`
#[derive(Debug, Subcommand)]
pub enum Service {
    /// Install the service, so that it starts with the system, and start it now if this machine is in a group. Root or an
    /// administrator installs the machine's service, any other user (not on Windows) a service of their own
    Install(Install),
    /// Stop the service, and remove it. The group and its keys stay
    Remove,
    /// Start the service, and wait until it runs
    Start,
    /// Stop the service, and wait until its open connections have finished
    Stop,
    /// Show whether the service is installed and runs
    Status,
    /// What the service manager of Windows starts
    #[command(hide = true)]
    Run(Run),
}

/// `laneway service install`
#[derive(Debug, clap::Args)]
pub struct Install {
    /// The configuration file of the service [default: the machine's, else the user's]
    #[arg(long, env = "LANEWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Do not start it now
    #[arg(long)]
    no_start: bool,
}

/// `laneway service run`
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Service {
    /// Runs the command. `state` is the directory that was named, if any; `node` runs a node with a configuration file and a
    /// log file.
    ///
    /// # Errors
    /// When the service manager refuses, with what to do.
    pub fn run(
        self,
        state: Option<&Path>,
        node: impl FnOnce(Option<PathBuf>, StateDir) -> u8 + Send + 'static,
    ) -> Result<(), Problem> {
        match self {
            Self::Install(install) => install.run(state),
            Self::Remove => {
                say(registration::remove()?);
                Ok(())
            }
            Self::Start => {
                let state = config::state_directory(state)?;
                start(&state, None)
            }
            Self::Stop => {
                registration::stop()?;
                say("the service is stopped");
                Ok(())
            }
            Self::Status => status(),
            Self::Run(run) => {
                let state = config::state_directory(state)?;
                host::run(move || node(run.config, state)).map_err(|error| {
                    Problem::usage("the service manager has not started this process")
                        .because(error)
                        .hint("'laneway up' runs a node here; 'laneway service start' starts the service")
                })
            }
        }
    }
}

impl Install {
    fn run(self, state: Option<&Path>) -> Result<(), Problem> {
        let absolute = |path: PathBuf| {
            std::path::absolute(&path).map_err(|error| {
                Problem::new(format!("{} is not a usable path", path.display())).because(error)
            })
        };
        let state = config::state_directory(state)?;
        let configuration = self.config.map(absolute).transpose()?;
        // A service with a wrong configuration would be installed, and end at each start.
        Config::of_flags(&[], configuration.as_deref())?;
        let program = std::env::current_exe()
            .map_err(|error| Problem::new("laneway cannot find its own program").because(error))?;
        let service = registration::Service {
            program,
            state: absolute(state.path().to_owned())?,
            configuration: configuration.clone(),
        };
        let installed = registration::install(&service)?;
        say(installed.what);
        for note in installed.notes {
            say(format_args!("note: {note}"));
        }
        match shared::group(&state) {
            Ok(_) if self.no_start => say("'laneway service start' starts it"),
            Ok(_) => start(&state, configuration.as_deref())?,
            Err(_) => say(
                "this machine is in no group yet: 'laneway init' makes one, 'laneway join CODE' joins one; then \
                 'laneway service start'",
            ),
        }
        Ok(())
    }
}

/// Starts the service, unless something else would keep it from running.
fn start(state: &StateDir, configuration: Option<&Path>) -> Result<(), Problem> {
    match registration::status()? {
        Status::Running { process } => {
            say(format_args!("the service runs already{}", number(process)));
            return Ok(());
        }
        Status::Absent => return Err(registration::start().err().map_or_else(absent, Problem::from)),
        Status::Stopped { .. } | Status::Changing => {}
    }
    beside::group(state)?;
    if control::is_running(state)? {
        return Err(Problem::new("a node runs here already, and it is not the service")
            .hint("stop it, with Ctrl-C in its terminal; then 'laneway service start'"));
    }
    // An invalid configuration is the service's own to report.
    if let Ok(config) = Config::of_flags(&[], configuration)
        && let Some(problem) = commands::block_on(async { ports_in_use(&config) })?
    {
        return Err(problem);
    }
    registration::start()?;
    say("the service runs; 'laneway status' shows its node");
    Ok(())
}

fn absent() -> Problem {
    Problem::new("there is no laneway service on this machine").hint("'laneway service install' installs it")
}

fn status() -> Result<(), Problem> {
    match registration::status()? {
        Status::Absent => Err(absent()),
        Status::Stopped { failure: None } => {
            say("the service is installed, but does not run: 'laneway service start' starts it");
            Ok(())
        }
        Status::Stopped { failure: Some(failure) } => {
            let failure = printable(&failure);
            Err(Problem::new("the service has failed")
                .after(Problem::new(failure))
                .hint(registration::where_to_look()))
        }
        Status::Changing => {
            say("the service starts or stops");
            Ok(())
        }
        Status::Running { process } => {
            say(format_args!(
                "the service '{NAME}' runs{}; 'laneway status' shows its node",
                number(process)
            ));
            Ok(())
        }
    }
}

fn number(process: Option<u32>) -> String {
    process.map(|process| format!(" (process {process})")).unwrap_or_default()
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        let problem = Self::new(error.what);
        let problem = match error.why {
            Some(why) => problem.after(Self::new(why)),
            None => problem,
        };
        match error.hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}
