//! `laneway origin`: the small web server that the demo and the tests download from.

use std::net::SocketAddr;
use std::path::PathBuf;

use laneway_demo::origin::{self, Generated};

use crate::problem::Problem;
use crate::telemetry::log::Format;

/// `laneway origin`
#[derive(Debug, clap::Args)]
pub struct Origin {
    /// Where to listen
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// The size of the file, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 64 * 1024 * 1024)]
    size: u64,
    /// The seed of the file's pseudo-random bytes
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Serve the files of this directory, and no generated one
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How a log line looks
    #[arg(long, env = "LANEWAY_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: Format,
}

impl Origin {
    /// Serves until it is killed.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn run(self) -> Result<(), Problem> {
        let file = Generated { size: self.size, seed: self.seed };
        let origin = origin::Origin { listen: self.listen, file, directory: self.dir };
        match origin.run().await? {}
    }
}
