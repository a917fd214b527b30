//! What the user is told when a command cannot do what was asked: what, why, and what to do.

use std::error::Error;
use std::fmt;

use crate::local::logins::FileError;
use crate::trust::code::CodeError;
use crate::trust::group::GroupError;
use crate::trust::join::JoinError;
use crate::trust::state::StateError;

/// A failed command.
#[derive(Debug)]
pub struct Problem {
    what: String,
    why: Vec<String>,
    hint: Option<String>,
    usage: bool,
}

impl Problem {
    /// Something went wrong at run time: exit code 1.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), why: Vec::new(), hint: None, usage: false }
    }

    /// The command or the configuration is at fault: exit code 2.
    pub fn usage(what: impl Into<String>) -> Self {
        Self { usage: true, ..Self::new(what) }
    }

    /// Adds an error and all its sources as the reason.
    #[must_use]
    pub fn because(mut self, error: impl Error) -> Self {
        let mut next: Option<&dyn Error> = Some(&error);
        while let Some(error) = next {
            let text = error.to_string();
            if self.why.last() != Some(&text) {
                self.why.push(text);
            }
            next = error.source();
        }
        self
    }

    /// Adds another problem as the reason.
    #[must_use]
    pub fn after(mut self, other: Self) -> Self {
        self.why.push(other.what);
        self.why.extend(other.why);
        self.hint = self.hint.or(other.hint);
        self
    }

    /// Adds what to do: a command, best.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What, why, and what to do.
    pub fn parts(self) -> (String, Vec<String>, Option<String>) {
        (self.what, self.why, self.hint)
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        if self.usage { 2 } else { 1 }
    }

    fn of(error: impl Error, hint: Option<String>) -> Self {
        let what = error.to_string();
        let problem = match error.source() {
            Some(source) => Self::new(what).because(source),
            None => Self::new(what),
        };
        Self { hint, ..problem }
    }
}

/// `error:`, `caused by:` and `hint:` lines.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        for why in &self.why {
            write!(f, "\ncaused by: {}", why.trim_end())?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl From<StateError> for Problem {
    fn from(error: StateError) -> Self {
        let usage = !matches!(error, StateError::Io { .. });
        let hint = error.hint();
        Self { usage, ..Self::of(error, hint) }
    }
}

impl From<FileError> for Problem {
    fn from(error: FileError) -> Self {
        let what = "the logins of --proxy-logins cannot be used";
        match error {
            FileError::State(error) => {
                let hint = error.hint();
                Self { hint, ..Self::usage(what).because(error) }
            }
            error => Self::usage(what).because(error),
        }
    }
}

impl From<GroupError> for Problem {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::State(error) => error.into(),
            error => {
                let usage = matches!(
                    error,
                    GroupError::AlreadyMember { .. }
                        | GroupError::Leftover { .. }
                        | GroupError::Kept(_)
                        | GroupError::Moved(_)
                );
                let hint = error.hint();
                Self { usage, ..Self::of(error, hint) }
            }
        }
    }
}

impl From<CodeError> for Problem {
    fn from(error: CodeError) -> Self {
        Self { usage: true, ..Self::of(error, error.hint()) }
    }
}

impl From<JoinError> for Problem {
    fn from(error: JoinError) -> Self {
        let hint = error.hint();
        Self::of(error, hint)
    }
}
