//! The options of `laneway up`: the sources of their values, and the checks that span several options.
//!
//! Each part of the node declares its own options once, with their types, bounds and defaults; the flags and the
//! `LANEWAY_*` variables are derived from that. Values in the configuration file become flags of those options that
//! neither a flag nor a variable sets (see `config/file.rs`). A flag overrides a variable, a variable overrides the file, and
//! the file overrides the default.

mod file;
mod location;
mod node;
pub mod proxies;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, CommandFactory as _, Parser};

pub use self::location::file_to_change;
use self::location::read;
pub use self::node::{NodeOptions, RoleSetting};
use crate::problem::Problem;
use crate::sys::state::{StateDir, quoted};
use crate::{gateway, local, peers, transparent, usage};

/// The default port of the local proxy.
pub const PROXY_PORT: u16 = 1080;

/// The options of `laneway up`, by the part of the node that they are for.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// The configuration file, if there is one.
    #[arg(skip)]
    file: Option<PathBuf>,
    /// The node as a whole.
    #[command(flatten)]
    pub node: NodeOptions,
    /// The local port.
    #[command(flatten)]
    pub local: local::options::Options,
    /// Transparent mode.
    #[command(flatten)]
    pub transparent: transparent::Options,
    /// The local name server.
    #[command(flatten)]
    pub dns: local::dns::options::Options,
    /// Discovery and selection.
    #[command(flatten)]
    pub peers: peers::options::Options,
    /// The gateway.
    #[command(flatten)]
    pub gateway: gateway::options::Options,
}

/// What a running node takes from new options.
pub struct Live {
    /// How long open connections may finish after a request to stop.
    pub drain: Duration,
    /// What changes at the local port.
    pub local: local::options::Live,
    /// What changes in transparent mode.
    pub transparent: transparent::Live,
    /// What changes at the local name server.
    pub dns: local::dns::options::Live,
    /// What changes at the gateway.
    pub gateway: gateway::options::Live,
    /// What changes in the selection and at the uplink.
    pub peers: peers::options::Live,
}

/// The same options without the rest of the command line.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Standalone {
    #[command(flatten)]
    config: Config,
}

impl Config {
    /// The options from the command line and the environment, completed by the configuration file: the given one,
    /// otherwise the user's or the system's if it exists.
    ///
    /// # Errors
    /// A usage problem, with the file, line and column where they are known.
    pub fn load(typed: &ArgMatches, file: Option<&Path>) -> Result<Self, Problem> {
        let Some((path, text)) = read(file)? else { return Self::of(typed, "", Path::new("")) };
        Self::of(typed, &text, &path)
    }

    /// The options from these flags, the environment, and the configuration file.
    ///
    /// # Errors
    /// A usage problem.
    pub fn of_flags(flags: &[OsString], file: Option<&Path>) -> Result<Self, Problem> {
        Self::load(&matches(flags)?, file)
    }

    /// The options from these flags and the environment alone.
    ///
    /// # Errors
    /// A usage problem.
    pub fn without_file(flags: &[OsString]) -> Result<Self, Problem> {
        Self::of(&matches(flags)?, "", Path::new("laneway.toml"))
    }

    /// The options from a configuration file with this content and from the environment.
    ///
    /// # Errors
    /// A usage problem.
    pub fn of_text(text: &str) -> Result<Self, Problem> {
        Self::of(&matches(&[])?, text, Path::new("laneway.toml"))
    }

    fn of(typed: &ArgMatches, text: &str, path: &Path) -> Result<Self, Problem> {
        let command = Standalone::command();
        let mut flags = Vec::new();
        for arg in command.get_arguments() {
            if is_set(typed, arg) {
                flags.extend(flags_of(typed, arg));
            }
        }
        let from_file = file::settings(text, &command).map_err(|fault| {
            let hint = fault.hint();
            Problem::usage(format!("the configuration {} is not valid", quoted(path)))
                .after(Problem::usage(fault.to_string()))
                .hint(hint)
        })?;
        for (id, more) in from_file {
            let arg = command.get_arguments().find(|arg| arg.get_id() == id.as_str());
            if arg.is_some_and(|arg| !is_set(typed, arg)) {
                flags.extend(more);
            }
        }
        let parsed = Standalone::try_parse_from(&flags);
        let mut config = parsed.map_err(|error| usage(&error, &flags))?.config;
        config.file = Some(path.to_owned()).filter(|path| !path.as_os_str().is_empty());
        config.local.read_logins()?;
        config.check()?;
        Ok(config)
    }

    /// The file in which an option is changed for good.
    pub fn file_to_change(&self) -> PathBuf {
        self.file.clone().unwrap_or_else(file_to_change)
    }

    /// Checks that involve more than one option.
    ///
    /// # Errors
    /// A usage problem.
    pub fn check(&self) -> Result<(), Problem> {
        self.local.check()?;
        self.transparent.check(self.local.proxy_open_to_lan)?;
        self.dns.check()?;
        self.node.check()?;
        self.gateway.check()?;
        for command in [&self.peers.on_promote, &self.peers.on_demote].into_iter().flatten() {
            if command.contains('\0') {
                return Err(Problem::usage("--on-promote and --on-demote cannot contain a NUL character"));
            }
        }
        Ok(())
    }

    /// What is wrong with files of a gateway that it can start without.
    pub fn unusable_files(&self) -> Vec<Problem> {
        let is_gateway = match self.node.role {
            RoleSetting::Client => false,
            RoleSetting::Gateway => true,
            RoleSetting::Auto => !self.gateway.server.is_empty(),
        };
        let files = self.gateway.front_ca.iter().filter(|_| is_gateway);
        files.filter_map(|file| gateway::tls::roots(file).err()).collect()
    }

    /// What a running node takes from `new`, and the options that differ and take effect at the next start only.
    pub fn reload(&self, new: &Self) -> (Live, Vec<&'static str>) {
        let Self { file: _, node, local, transparent, dns, peers, gateway } = self;
        let (drain, node) = node.reload(&new.node);
        let (local, local_later) = local.reload(&new.local);
        let (peers, peers_later) = peers.reload(&new.peers);
        let (gateway, gateway_later) = gateway.reload(&new.gateway);
        let (transparent, transparent_later) = transparent.reload(&new.transparent);
        let (dns, dns_later) = dns.reload(&new.dns);
        let later = [node, local_later, transparent_later, dns_later, peers_later, gateway_later].concat();
        (Live { drain, local, transparent, dns, gateway, peers }, later)
    }
}

fn matches(flags: &[OsString]) -> Result<ArgMatches, Problem> {
    Standalone::command().try_get_matches_from(flags).map_err(|error| usage(&error, flags))
}

fn usage(error: &clap::Error, flags: &[OsString]) -> Problem {
    usage::problem(error, &Standalone::command(), flags)
}

/// Whether a flag or a variable sets this option.
fn is_set(typed: &ArgMatches, arg: &Arg) -> bool {
    let source = typed.value_source(arg.get_id().as_str());
    matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

/// The flags that set this option to its current values.
fn flags_of(typed: &ArgMatches, arg: &Arg) -> Vec<OsString> {
    let (id, long) = (arg.get_id().as_str(), arg.get_long().unwrap_or_default());
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return if typed.get_flag(id) { vec![format!("--{long}").into()] } else { Vec::new() };
    }
    let values = typed.get_raw(id).into_iter().flatten();
    values.map(|value| flag(long, value)).collect()
}

fn flag(long: &str, value: &OsStr) -> OsString {
    let mut flag = OsString::from(format!("--{long}="));
    flag.push(value);
    flag
}

/// The given state directory, or the default one.
///
/// # Errors
/// When it cannot be used.
pub fn state_directory(named: Option<&Path>) -> Result<StateDir, Problem> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => StateDir::default_path()?,
    };
    Ok(StateDir::open(path)?)
}

#[cfg(test)]
mod tests;
