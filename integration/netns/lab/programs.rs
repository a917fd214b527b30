//! The paths of the programs that the lab runs.

use std::env;
use std::path::{Path, PathBuf};

/// `PATH` with the directories of system programs, which an ordinary user's lacks.
pub(crate) fn path() -> String {
    format!("{}:/usr/local/sbin:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default())
}

/// The file that would run as `program`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    path().split(':').map(|directory| Path::new(directory).join(program)).find(|file| file.is_file())
}

/// The Python that has the packages of the trials: where `.ci/run` installs them, else the machine's own.
pub(crate) fn python() -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python");
    if ours.is_file() { ours } else { find("python3").unwrap_or_else(|| "python3".into()) }
}
