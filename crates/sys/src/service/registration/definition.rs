//! What is registered with the service manager, and what it says.

use std::path::PathBuf;

/// The name of the service.
pub const NAME: &str = "laneway";

/// What the service runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The program, an absolute path.
    pub program: PathBuf,
    /// The state directory, an absolute path.
    pub state: PathBuf,
    /// The configuration file, an absolute path. `None` lets the node find it.
    pub configuration: Option<PathBuf>,
}

/// What [`super::install`] has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// What is registered, and where: one line.
    pub what: String,
    /// What the user should know or do besides, one line each.
    pub notes: Vec<String>,
}

/// The state of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is not installed.
    Absent,
    /// It is installed and does not run.
    Stopped {
        /// Why it ended, if it failed.
        failure: Option<String>,
    },
    /// It starts or stops.
    Changing,
    /// It runs.
    Running {
        /// The number of its process.
        process: Option<u32>,
    },
}
