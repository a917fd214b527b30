//! `laneway status`: prints what this machine's node sees, once.

use std::path::Path;

use super::local_port::LocalPort;
use super::{ask, say};
use crate::problem::Problem;
use crate::telemetry::report;

/// `laneway status`
#[derive(Debug, clap::Args)]
pub struct Status {
    #[command(flatten)]
    port: LocalPort,
    /// Print all of it as one line of JSON, the same as http://127.0.0.1:1080/status.json
    #[arg(long)]
    json: bool,
}

impl Status {
    /// Asks and prints. `state` is the directory that was named, if any.
    ///
    /// # Errors
    /// When no node runs here.
    pub fn run(self, state: Option<&Path>) -> Result<(), Problem> {
        let proxy = self.port.address(state)?;
        if self.json {
            say(ask::status(proxy)?);
        } else {
            say(report::text(&ask::snapshot(proxy)?).trim_end());
        }
        Ok(())
    }
}
