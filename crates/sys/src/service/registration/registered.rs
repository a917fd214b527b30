//! What a registered service runs, read from its command line.

use std::path::{Path, PathBuf};

/// A command line of Windows, whose words with blanks are quoted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Registered {
    words: Vec<String>,
}

impl Registered {
    pub(super) fn read(line: &str) -> Self {
        let (mut words, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
        for c in line.chars() {
            match c {
                '"' => is_quoted = !is_quoted,
                ' ' if !is_quoted => {
                    words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()))
                }
                c => word.push(c),
            }
        }
        words.extend(Some(word).filter(|word| !word.is_empty()));
        Self { words }
    }

    /// Whether it is a node that this program has installed: `laneway service run`.
    pub(super) fn is_node(&self) -> bool {
        matches!(self.words.as_slice(), [_, service, run, ..] if service == "service" && run == "run")
    }

    /// The state directory of the node.
    pub(super) fn state(&self) -> Option<&Path> {
        let at = self.words.iter().position(|word| word == "--state")?;
        self.words.get(at + 1).map(Path::new)
    }

    /// Where the node logs to. `default` is its state directory if the command line names none.
    pub(super) fn log(&self, default: Option<PathBuf>) -> PathBuf {
        self.state().map(Path::to_owned).or(default).unwrap_or_default().join("laneway.log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_in_the_state_directory_of_the_command_line() {
        let line =
            r#""C:\Program Files\laneway\laneway.exe" service run --state "D:\a b" --config C:\c.toml"#;
        let node = Registered::read(line);
        assert!(node.is_node());
        assert_eq!(node.log(Some("C:\\x".into())), Path::new(r"D:\a b").join("laneway.log"));
        let node = Registered::read(r"C:\laneway.exe service run");
        assert_eq!(node.log(Some("C:\\x".into())), Path::new("C:\\x").join("laneway.log"));
    }

    #[test]
    fn a_service_of_another_program_is_none_of_ours() {
        for line in [r"C:\Windows\svchost.exe -k netsvcs", r#""C:\My Apps\laneway.exe" run service"#, ""] {
            assert!(!Registered::read(line).is_node(), "{line}");
        }
    }
}
