//! Errors as the user sees them when a command fails: what failed, why, and what to do.

use std::error::Error;
use std::fmt;

use crate::sys::state::StateError;
use crate::trust::code::CodeError;
use crate::trust::group::GroupError;
use crate::trust::join::JoinError;

/// Exit code of a failure at run time.
const FAILED: u8 = 1;
/// Exit code of an invalid command line or configuration.
const USAGE: u8 = 2;

/// A failed command.
#[derive(Debug)]
pub struct Problem {
    what: String,
    why: Vec<String>,
    hint: Option<String>,
    code: u8,
}

impl Problem {
    /// A failure at run time: exit code 1.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), why: Vec::new(), hint: None, code: FAILED }
    }

    /// An invalid command line or configuration: exit code 2.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(what).exiting(USAGE)
    }

    /// Sets another exit code.
    #[must_use]
    pub fn exiting(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Adds an error and all its sources as reasons.
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

    /// Adds another problem as the reason, and its hint if this one has none.
    #[must_use]
    pub fn after(mut self, other: Self) -> Self {
        self.why.push(other.what);
        self.why.extend(other.why);
        self.hint = self.hint.or(other.hint);
        self
    }

    /// Adds what to do, preferably a command.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds something else to do to the hint.
    #[must_use]
    pub fn also(mut self, other: &str) -> Self {
        let hint = self.hint.map_or_else(|| other.to_owned(), |hint| format!("{hint}; {other}"));
        self.hint = Some(hint);
        self
    }

    /// The message, the reasons, and the hint.
    pub fn parts(self) -> (String, Vec<String>, Option<String>) {
        (self.what, self.why, self.hint)
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
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

/// The text without the characters that change how a terminal shows others, which the name of a file or a user may have.
pub fn harmless(text: &str) -> String {
    let is_harmful = |c: char| (c.is_control() && !matches!(c, '\n' | '\t')) || turns_text(c);
    text.chars().map(|c| if is_harmful(c) { '?' } else { c }).collect()
}

/// Whether a character changes the direction of those around it or ends a line unseen (Unicode, UAX #9 and UAX #14).
fn turns_text(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Formats the problem as lines that start with `error:`, `caused by:` and `hint:`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", harmless(&self.what))?;
        for why in &self.why {
            write!(f, "\ncaused by: {}", harmless(why.trim_end()))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {}", harmless(hint))?;
        }
        Ok(())
    }
}

impl From<StateError> for Problem {
    fn from(error: StateError) -> Self {
        let code = if matches!(error, StateError::Io { .. }) { FAILED } else { USAGE };
        let hint = error.hint();
        Self::of(error, hint).exiting(code)
    }
}

impl From<GroupError> for Problem {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::State(error) => error.into(),
            error => {
                let is_usage = matches!(
                    error,
                    GroupError::AlreadyMember { .. }
                        | GroupError::Missing { .. }
                        | GroupError::Damaged { .. }
                        | GroupError::Leftover { .. }
                        | GroupError::Refused(_)
                        | GroupError::Revoke(_)
                        | GroupError::Transfer(_)
                );
                let (code, hint) = (if is_usage { USAGE } else { FAILED }, error.hint());
                Self::of(error, hint).exiting(code)
            }
        }
    }
}

impl From<CodeError> for Problem {
    fn from(error: CodeError) -> Self {
        let hint = error.hint();
        Self::of(error, hint).exiting(USAGE)
    }
}

impl From<JoinError> for Problem {
    fn from(error: JoinError) -> Self {
        let hint = error.hint();
        Self::of(error, hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_problem_turns_the_text_around_it() {
        let shown = Problem::new("a\u{202e}b\u{1b}[2J").hint("c\u{2066}d\u{2028}e é").to_string();
        assert_eq!(shown, "error: a?b?[2J\nhint: c?d?e é");
    }
}
