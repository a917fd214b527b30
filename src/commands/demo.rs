//! `laneway demo`.
use crate::problem::Problem;

/// `laneway demo`
#[derive(Debug, clap::Args)]
pub struct Demo {}

impl Demo {
    /// Runs it.
    ///
    /// # Errors
    /// When a step fails.
    #[allow(clippy::unused_async)]
    pub async fn run(self) -> Result<(), Problem> {
        Ok(())
    }
}
