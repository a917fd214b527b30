//! `laneway run`: a command with the variables that point it to the local proxy, or with `--all` on a network of its own whose
//! only way out is the node.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::env::{EVERYTHING, Selection, Variable, variables, warn_of_exceptions};
use crate::net;
use crate::outlet::{self, Refused};
use crate::problem::Problem;
use crate::redirect::{RedirectError, inside};
use crate::sys::namespace::{self, Control, EnterError, Inside, Sockets};
use crate::sys::process;

/// The exit code when no node serves the command (the one that programs which run a command have for their own failures).
const NO_NODE: u8 = 125;
/// What helps where a network of its own is impossible.
const INSTEAD: &str = "'laneway run -- CMD' without --all points software with proxy support to the node";

/// `laneway run`
#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    selection: Selection,
    /// Run the command on a network of its own, where all TCP, UDP and DNS leaves by the node and nothing else does, whether
    /// it knows of proxies or not (Linux; needs no root)
    #[arg(long, conflicts_with = "socks")]
    all: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// `laneway outlet`: the process that holds the sockets of a command's network.
#[derive(Debug, clap::Args)]
pub struct Outlet {
    /// The local proxy of the node
    #[arg(long, value_name = "ADDR:PORT")]
    node: SocketAddr,
    /// This is the process that stays
    #[arg(long)]
    stays: bool,
}

impl Run {
    /// Replaces this process with the command, which then receives the signals and sets the exit code. `state` is the directory
    /// that was named, if any.
    ///
    /// # Errors
    /// When it cannot be started, with a shell's exit code (POSIX 2.8.2): 127 when the program is not found, else 126; 125
    /// when no node answers, or the command cannot have a network of its own.
    pub fn run(self, state: Option<&Path>) -> Result<(), Problem> {
        let (program, arguments) = self.command.split_first().expect("the command line requires one");
        let mut command = Command::new(program);
        command.args(arguments);
        if self.all {
            if !namespace::IS_SUPPORTED {
                return Err(Problem::usage("--all needs Linux").hint(format!(
                    "{INSTEAD}; 'laneway env --system on' does so for browsers and most other software"
                )));
            }
            enter(self.node(state)?).map_err(|problem| problem.exiting(NO_NODE))?;
        } else {
            let address = self.node(state)?;
            self.selection.warn_of_login(address);
            warn_of_exceptions();
            let authority = self.selection.port.authority(address);
            for Variable { name, value, list } in variables(&authority, self.selection.socks) {
                let own = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
                match list.and_then(|other| own(name).or_else(|| own(other))) {
                    Some(entries) => command.env(name, with_entries(entries, &value)),
                    None => command.env(name, value),
                };
            }
        }
        let error = process::replace(&mut command);
        let code = if error.kind() == ErrorKind::NotFound { 127 } else { 126 };
        let problem = Problem::new(format!("'{}' cannot be run", program.to_string_lossy()));
        Err(problem.because(error).exiting(code))
    }

    /// The local proxy of the node that serves the command.
    fn node(&self, state: Option<&Path>) -> Result<SocketAddr, Problem> {
        let port = &self.selection.port;
        let address = port.address(state)?;
        if !self.selection.no_check {
            port.check(state, address).map_err(|unusable| unusable.problem().exiting(NO_NODE))?;
        }
        Ok(address)
    }
}

/// Puts this process on a network of its own, whose outlet is another process that leads to `node`.
fn enter(node: SocketAddr) -> Result<(), Problem> {
    outlet::greet(node).map_err(|refused| {
        let hint = match refused {
            Refused::Login => {
                "'laneway run' without --all passes a login on: --proxy http://NAME:PASSWORD@ADDR:PORT; with --all the node \
                 must have neither --proxy-login nor --proxy-logins"
            }
            _ => "name the port of the node with --proxy ADDR:PORT",
        };
        Problem::new(format!("the node on {node} does not serve the command")).because(refused).hint(hint)
    })?;
    // Before this process leaves the network of the node.
    let failed = |error: io::Error| Problem::new("the command gets no way out").because(error);
    let (control, mut starter) = Control::start(&["outlet", "--node", &node.to_string()]).map_err(failed)?;
    starter.wait().map_err(failed)?;

    let inside = namespace::enter().map_err(forbidden)?;
    connect(&inside, &control, node).map_err(|problem| match namespace::refused_afterwards() {
        Some(error) => forbidden(error).after(problem),
        None => problem,
    })?;
    inside.give_up().map_err(failed)
}

/// Makes the network inside, and gives its sockets away.
fn connect(inside: &Inside, control: &Control, node: SocketAddr) -> Result<(), Problem> {
    const WHAT: &str = "the command cannot have a network of its own";
    let failed = |error: io::Error| Problem::new(WHAT).because(error).hint(INSTEAD);
    let with_v6 = inside::install().map_err(|error| match error {
        RedirectError::Missing(_) => error.problem(WHAT),
        error => Problem::new(WHAT)
            .because(error)
            .hint(format!("the kernel may lack veth or nft_tproxy; {INSTEAD}")),
    })?;
    let sockets = Sockets::bind(with_v6, node).map_err(failed)?;
    control.give(&sockets).map_err(failed)?;
    inside.use_own_name_server().map_err(failed)
}

/// Why there are no namespaces, and what allows them.
fn forbidden(error: EnterError) -> Problem {
    let hint = match &error {
        EnterError::Setting(name) => Some(format!("'sudo sysctl -w {name}=1' allows it; {INSTEAD}")),
        EnterError::Exhausted => {
            Some(format!("'sudo sysctl -w user.max_user_namespaces=10000' allows it; {INSTEAD}"))
        }
        EnterError::AppArmor => Some(format!(
            "docs/clients.md has a profile that permits laneway, and 'sudo sysctl -w \
             kernel.apparmor_restrict_unprivileged_userns=0' permits every program; {INSTEAD}"
        )),
        EnterError::Forbidden(_) => Some(format!(
            "start the container with '--security-opt seccomp=unconfined', or run laneway outside of it and the container \
             with 'laneway env --docker'; {INSTEAD}"
        )),
        EnterError::Failed(..) => None,
    };
    let problem = Problem::new("the command cannot have a network of its own").because(error);
    problem.hint(hint.unwrap_or_else(|| INSTEAD.into()))
}

impl Outlet {
    /// Starts the process that stays, or is that one: it serves the network of a command until nothing is on it.
    ///
    /// # Errors
    /// When it was started by hand, or a socket cannot be used.
    pub fn run(self) -> Result<(), Problem> {
        let failed = |error| Problem::new("only 'laneway run --all' starts this").because(error);
        if !self.stays {
            // Nobody has to wait for it: a command may wait for all its children.
            let node = self.node.to_string();
            let mut again = namespace::again(&["outlet", "--stays", "--node", &node]);
            return again.spawn().map(drop).map_err(failed);
        }
        namespace::leave_terminal().map_err(failed)?;
        net::raise_open_files();
        let control = Control::inherited().map_err(failed)?;
        let Some(given) = control.take().map_err(failed)? else { return Ok(()) };
        control.confirm().map_err(failed)?;
        super::block_on(outlet::serve(self.node, given))?.map_err(failed)
    }
}

/// The entries of a user's list, followed by those of `more` that are not in it. `*` stays alone: with others it means nothing to
/// much software.
fn with_entries(mut entries: OsString, more: &str) -> OsString {
    if entries == EVERYTHING {
        return entries;
    }
    let known = entries.to_string_lossy().into_owned();
    let known: Vec<_> = known.split([',', ' ']).collect();
    for entry in more.split(',').filter(|entry| !known.contains(entry)) {
        entries.push(",");
        entries.push(entry);
    }
    entries
}
