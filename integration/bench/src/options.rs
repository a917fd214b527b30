//! The command line.

use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;

/// Measures laneway beside its peers, interleaved, in one run.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench.sh", max_term_width = 110)]
pub(crate) struct Options {
    /// A short run: direct, the ceiling and laneway only, the measures that take little time, shorter windows
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only these measures (see --list), comma-separated
    #[arg(long, value_name = "MEASURES", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Only these peers (see --list), comma-separated; the ceiling is what the others are compared with
    #[arg(long, value_name = "PEERS", value_delimiter = ',')]
    pub(crate) peers: Vec<String>,
    /// Number of rounds; each measure is taken once per peer and round, and the medians are reported
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=99))]
    pub(crate) rounds: u8,
    /// The laneway binary
    #[arg(long, value_name = "FILE", default_value = "target/release/laneway")]
    pub(crate) laneway: PathBuf,
    /// One more laneway binary to compare, as a peer of this name; repeatable
    #[arg(long, value_name = "NAME=FILE", value_parser = named_file)]
    pub(crate) also: Vec<(String, PathBuf)>,
    /// Where the results are written, with every round
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    pub(crate) json: PathBuf,
    /// Directory where --install has put what is not in the distribution's packages
    #[arg(long, value_name = "DIR", default_value = "/nonexistent", hide_default_value = true)]
    pub(crate) cache: PathBuf,
    /// Time limit of the whole run in minutes
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    pub(crate) minutes: u64,
    /// List the measures and the peers, with what is missing, and exit
    #[arg(long)]
    pub(crate) list: bool,
    /// Leave the peers' configurations, throw-away keys and logs in this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Set by the bench itself: this process is in the namespaces already
    #[arg(long, hide = true)]
    pub(crate) inside: bool,
}

impl Options {
    /// How long the whole run may take.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(self.minutes * 60)
    }

    /// How long one window of a measure lasts.
    pub(crate) fn window(&self) -> Duration {
        Duration::from_millis(if self.quick { 700 } else { 1000 })
    }
}

fn named_file(typed: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = typed.split_once('=').ok_or("it is not NAME=FILE")?;
    Ok((name.to_owned(), PathBuf::from(file)))
}
