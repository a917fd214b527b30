//! The options of the node as a whole.

use std::time::Duration;

use clap::ValueEnum;

use crate::failure::printable;
use crate::peers::options::changed;
use crate::problem::Problem;
use crate::size::{Size, seconds};
use crate::sys::machine::share_of_memory;
use crate::telemetry::log::{self, Format};

/// The minimum memory that a node can work with, in bytes: a few tunnels, and a full window for one of them.
const MIN_MEMORY: Size = Size(4 << 20);

/// What this node may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RoleSetting {
    /// A gateway while it reaches a configured server, else a client.
    #[default]
    Auto,
    /// Never a gateway.
    Client,
    /// A gateway; for any destination if no server is configured.
    Gateway,
}

impl RoleSetting {
    /// The word for it on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Client => "client",
            Self::Gateway => "gateway",
        }
    }
}

/// The options of the node as a whole.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Node")]
#[group(skip)]
pub struct NodeOptions {
    /// What this node may be [default: auto, a gateway while it reaches a --server]
    #[arg(long, env = "LANEWAY_ROLE", value_enum, default_value = "auto", hide_default_value = true)]
    pub role: RoleSetting,
    /// How long open connections have to finish after a request to stop, in seconds
    #[arg(long, env = "LANEWAY_DRAIN", value_name = "SECS", value_parser = seconds, default_value = "30")]
    pub drain: Duration,
    /// Maximum memory that connections may hold, like 512M [default: a quarter of the memory of the machine or
    /// control group]
    #[arg(long, env = "LANEWAY_MEMORY_LIMIT", value_name = "BYTES", value_parser = memory)]
    pub memory_limit: Option<Size>,
    /// Number of threads that serve links [default: one per core]
    #[arg(long, env = "LANEWAY_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// What to log: error, warn, info, debug, trace, or tracing directives
    #[arg(long, env = "LANEWAY_LOG", value_name = "LEVEL", default_value = "info")]
    pub log: String,
    /// Format of log lines
    #[arg(long, env = "LANEWAY_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: Format,
}

impl NodeOptions {
    /// The maximum number of bytes that connections may hold in memory.
    pub fn memory_limit(&self) -> u64 {
        self.memory_limit.map_or_else(share_of_memory, |limit| limit.0)
    }

    /// The number of threads that serve links.
    pub fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        self.threads.map_or_else(cores, usize::from)
    }

    /// Checks the log filter, which is used at the next start only.
    ///
    /// # Errors
    /// A usage problem.
    pub(super) fn check(&self) -> Result<(), Problem> {
        log::check(&self.log).map_err(|error| {
            Problem::usage(format!("'{}' is not a log level: {error}", printable(&self.log)))
                .hint("use error, warn, info, debug or trace")
        })
    }

    /// The drain timeout of `new`, which a running node takes, and the options that differ and take effect at the next
    /// start only.
    pub(super) fn reload(&self, new: &Self) -> (Duration, Vec<&'static str>) {
        let Self { role, drain, memory_limit, threads, log, log_format } = new;
        let later = changed([
            ("role", self.role != *role),
            ("memory-limit", self.memory_limit != *memory_limit),
            ("threads", self.threads != *threads),
            ("log", self.log != *log),
            ("log-format", self.log_format != *log_format),
        ]);
        (*drain, later)
    }
}

fn memory(text: &str) -> Result<Size, String> {
    match text.parse::<Size>() {
        Ok(size) if size >= MIN_MEMORY => Ok(size),
        Ok(_) => Err(format!("less than {MIN_MEMORY}")),
        Err(error) => Err(error.to_string()),
    }
}
