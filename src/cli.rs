//! The command line.

use std::path::{Path, PathBuf};

use clap::{ArgMatches, CommandFactory, Parser, Subcommand};

use crate::commands::{
    authority, beside, cache, demo, discover, doctor, drain, env, leave, manual, members, membership, origin,
    run, service, speedtest, status, top, transparent,
};
use crate::config::{self, Config};
use crate::live::Reread;
use crate::problem::Problem;
use crate::sys::paths;
use crate::sys::state::StateDir;
use crate::telemetry::log;
use crate::{app, commands, usage};

/// The way out of an isolated LAN: any machine that reaches the server becomes the gateway for the others.
#[derive(Debug, Parser)]
#[command(name = "laneway", version, max_term_width = 110, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[arg(long, global = true, env = "LANEWAY_STATE", value_name = "DIR", display_order = 900)]
    #[arg(help = format!("The directory of this machine's keys and group state [default: {}]", paths::STATES))]
    state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run this node: the local proxy, and the gateway for others while it can be one
    Up {
        /// The configuration file [default: ~/.config/laneway/laneway.toml, else /etc/laneway/laneway.toml]
        #[arg(long, env = "LANEWAY_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        options: Box<Config>,
    },
    /// Show the status of the node on this machine: gateways, links, connections
    Status(status::Status),
    /// Show the status live in this terminal
    Top(top::Top),
    /// Print the variables that point software to the local proxy, for a shell to evaluate
    Env(env::Env),
    /// Run a command with the variables of 'laneway env', or with --all on a network of its own whose only way out is the node
    Run(run::Run),
    /// Print the proxy for apt, as its Acquire::http::Proxy-Auto-Detect program
    AptProxy(env::AptProxy),
    /// Create a group on this machine, and print the command that joins it
    Init(membership::Init),
    /// Print another join command (on the machine that created the group)
    Invite(membership::Invite),
    /// Join a group, with a code of 'laneway init' or 'laneway invite'
    Join(membership::Join),
    /// List the members, when each was seen last, and its version (on the machine that created the group)
    Members(members::Members),
    /// Leave the group: stop the node, tell the group, and remove this machine's keys
    Leave(leave::Leave),
    /// Remove a member from the group: its links are closed, and it cannot make new ones
    Revoke(authority::Revoke),
    /// Replace the discovery key, by which machines find each other, in case someone outside the group knows it; the old one is
    /// accepted for 24 hours more
    Rotate,
    /// Back up the group's key, or copy or move it to another machine
    #[command(subcommand)]
    Ca(authority::Ca),
    /// Take this machine's gateway out of service for maintenance, losing no connection; --undo brings it back
    Drain(drain::Drain),
    /// Run the node as a service of the system: systemd, Windows, launchd
    #[command(subcommand)]
    Service(service::Service),
    /// Show, remove or check the responses that this machine's gateway stores
    #[command(subcommand)]
    Cache(cache::Cache),
    /// Redirect software without proxy support to the node (Linux, nftables)
    #[command(subcommand)]
    Transparent(transparent::Transparent),
    /// Query the LAN once, and show every gateway that answers
    Discover(discover::Discover),
    /// Check the setup layer by layer, and say how to fix what is wrong
    Doctor(doctor::Doctor),
    /// Measure the link to each gateway: round trip, download, upload
    Speedtest(speedtest::Speedtest),
    /// Demonstrate the whole system on this machine: two gateways, one client, one server
    Demo(demo::Demo),
    /// Print the completion script for a shell
    Completions(manual::Completions),
    /// Print a manual page, or write all of them
    Man(manual::Man),
    /// A small web server with generated files: what the demo and the tests download from
    #[command(hide = true)]
    Origin(origin::Origin),
    /// The way out of the network of 'laneway run --all', which starts it
    #[command(hide = true)]
    Outlet(run::Outlet),
}

/// Runs the command.
///
/// # Errors
/// What went wrong, ready to be shown.
pub fn run(cli: Cli, matches: &ArgMatches) -> Result<(), Problem> {
    let unknown = usage::unknown_variables(&Cli::command())?;
    if uses_network(&cli.command) {
        commands::warn_of_leftover_rules();
    }
    let state = || beside::state_directory(cli.state.as_deref());
    match cli.command {
        Command::Up { options: _, config } => up(matches, config, cli.state.as_deref(), &unknown),
        Command::Status(status) => status.run(cli.state.as_deref()),
        Command::Top(top) => top.run(cli.state.as_deref()),
        Command::Env(env) => env.run(cli.state.as_deref()),
        Command::Run(run) => run.run(cli.state.as_deref()),
        Command::Outlet(outlet) => outlet.run(),
        Command::AptProxy(apt) => {
            apt.run(cli.state.as_deref());
            Ok(())
        }
        Command::Completions(completions) => completions.run(Cli::command()),
        Command::Man(man) => man.run(Cli::command()),
        Command::Init(init) => {
            beside::refuse_second_node(cli.state.as_deref())?;
            init.run(&config::state_directory(cli.state.as_deref())?)
        }
        Command::Invite(invite) => commands::block_on(invite.run(&state()?))?,
        Command::Join(join) => {
            start_log("warn", log::Format::Text)?;
            beside::refuse_second_node(cli.state.as_deref())?;
            let state = config::state_directory(cli.state.as_deref())?;
            commands::block_on(join.run(state))?
        }
        Command::Members(members) => {
            start_log("error", log::Format::Text)?;
            let state = state()?;
            commands::block_on(members.run(state))?
        }
        Command::Leave(leave) => {
            start_log("error", log::Format::Text)?;
            let state = state()?;
            commands::block_on(leave.run(state))?
        }
        Command::Revoke(revoke) => commands::block_on(revoke.run(&state()?))?,
        Command::Rotate => commands::block_on(authority::rotate(&state()?))?,
        Command::Drain(drain) => drain.run(&state()?),
        Command::Cache(cache) => cache.run(&state()?),
        Command::Ca(ca) => {
            let state = state()?;
            if ca.may_join() && !beside::holds_group(state.path()) {
                beside::refuse_second_node(cli.state.as_deref())?;
            }
            ca.run(state)
        }
        Command::Service(service) => {
            service.run(cli.state.as_deref(), move |file, state| hosted(file, &state, &unknown))
        }
        Command::Transparent(transparent) => {
            start_log("warn", log::Format::Text)?;
            transparent.run()
        }
        Command::Discover(discover) => {
            start_log("warn", log::Format::Text)?;
            let state = state()?;
            commands::block_on(discover.run(state))?
        }
        Command::Doctor(doctor) => {
            start_log("error", log::Format::Text)?;
            commands::block_on(doctor.run(cli.state))?
        }
        Command::Speedtest(speedtest) => {
            start_log("warn", log::Format::Text)?;
            let state = state()?;
            commands::block_on(speedtest.run(state))?
        }
        Command::Demo(demo) => commands::block_on(demo.run())?,
        Command::Origin(origin) => {
            start_log("info", origin.log_format)?;
            commands::block_on(origin.run())?
        }
    }
}

/// Runs the node. `matches` are what the command line has set: the file may set the rest. `unknown` are variables that look like
/// options and are none.
fn up(
    matches: &ArgMatches,
    file: Option<PathBuf>,
    state: Option<&Path>,
    unknown: &[String],
) -> Result<(), Problem> {
    let typed = matches.subcommand_matches("up").cloned().unwrap_or_default();
    let reread = move || Config::load(&typed, file.as_deref());
    let config = reread()?;
    start_log(&config.node.log, config.node.log_format)?;
    node(config, config::state_directory(state)?, Box::new(reread), unknown)
}

/// Runs the node as a service whose service manager keeps no log; returns its exit code. The log file is in the state
/// directory.
fn hosted(file: Option<PathBuf>, state: &StateDir, unknown: &[String]) -> u8 {
    let log = state.file(service::LOG);
    log::write_panics_to(&log);
    let run = || {
        let typed = Cli::command().try_get_matches_from(["laneway", "up"]);
        let typed = typed.map_err(|error| Problem::new("the command line is not valid").because(error))?;
        let typed = typed.subcommand_matches("up").cloned().unwrap_or_default();
        let reread = move || Config::load(&typed, file.as_deref());
        let config = reread()?;
        let started = log::start_in_file(&config.node.log, config.node.log_format, &log);
        started.map_err(|error| Problem::new("the log cannot be written").because(error))?;
        node(config, state.clone(), Box::new(reread), unknown)
    };
    match run() {
        Ok(()) => 0,
        Err(problem) => {
            let _ = log::append(&log, &problem.to_string());
            problem.code()
        }
    }
}

fn node(config: Config, state: StateDir, reread: Box<Reread>, unknown: &[String]) -> Result<(), Problem> {
    if !unknown.is_empty() {
        tracing::warn!(names = unknown.join(", "), "these variables set no option and are ignored");
    }
    beside::refuse_beside_node(&state)?;
    // The group is read again; this tells who has one when this directory has none.
    beside::group(&state)?;
    commands::block_on(app::up(config, state, reread))?
}

/// Whether the command depends on connections of this machine, and does not look at the rules of transparent mode itself.
fn uses_network(command: &Command) -> bool {
    matches!(
        command,
        Command::Status(_)
            | Command::Top(_)
            | Command::Run(_)
            | Command::Join(_)
            | Command::Discover(_)
            | Command::Speedtest(_)
    )
}

fn start_log(filter: &str, format: log::Format) -> Result<(), Problem> {
    log::start(filter, format).map_err(|error| {
        Problem::usage(format!("'{filter}' is not a log level: {error}"))
            .hint("use error, warn, info, debug or trace")
    })
}
