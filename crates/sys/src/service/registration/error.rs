#[cfg(unix)]
use std::io;

/// Why the service cannot be installed or controlled: what failed, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct ServiceError {
    /// What failed.
    pub what: String,
    /// Why, in the words of the system.
    pub why: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl ServiceError {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), why: None, hint: None }
    }

    pub(super) fn because(self, why: impl ToString) -> Self {
        let why = why.to_string().trim().to_owned();
        Self { why: Some(why).filter(|why| !why.is_empty()), ..self }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// A command that needs the service, which is not there.
    pub(super) fn absent() -> Self {
        Self::new("there is no laneway service on this machine").hint("'laneway service install' installs it")
    }

    /// An operation on a file that failed.
    #[cfg(unix)]
    pub(super) fn file(action: &str, path: &std::path::Path, error: &io::Error) -> Self {
        let problem = Self::new(format!("cannot {action} {}", path.display())).because(error);
        match error.kind() {
            io::ErrorKind::PermissionDenied => problem.hint("run it as root: 'sudo laneway service …'"),
            io::ErrorKind::ReadOnlyFilesystem => {
                problem.hint("the file system is read-only: run 'laneway up' from what starts programs here")
            }
            _ => problem,
        }
    }

    /// A program that cannot be run.
    #[cfg(unix)]
    pub(super) fn program(name: &str, error: &io::Error) -> Self {
        Self::new(format!("'{name}' cannot be run")).because(error)
    }
}
