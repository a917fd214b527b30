//! Why the state directory cannot be used, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::users;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Other users of the machine have access.
    #[error("{} is open to other users ({access})", quoted(path))]
    TooOpen {
        /// The directory or file.
        path: PathBuf,
        /// Who has access, in the system's own words.
        access: String,
        /// The command that takes it from them.
        fix: String,
    },
    /// The path is not a directory.
    #[error("{} is not a directory", quoted(path))]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// A file or directory is a symbolic link that another user may have made.
    #[error("{} is a symbolic link, which is not followed", quoted(path))]
    Link {
        /// The file or directory.
        path: PathBuf,
    },
    /// A file of the state directory is a directory, a device or the like.
    #[error("{} is not a regular file", quoted(path))]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Root found a file in another user's directory that does not belong to that user.
    #[error("{} does not belong to the owner of its directory", quoted(path))]
    OtherOwner {
        /// The file.
        path: PathBuf,
        /// Its directory.
        directory: PathBuf,
    },
    /// There is no home directory to keep it in.
    #[error("neither XDG_STATE_HOME nor HOME names an absolute path to keep state in")]
    NoHome,
    /// An operation failed.
    #[error("cannot {action} {}", quoted(path))]
    Io {
        /// The operation.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl StateError {
    /// A hint for the user on how to fix it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TooOpen { fix, .. } => Some(fix.clone()),
            Self::NotADirectory { .. } => Some("name another directory with --state DIR".into()),
            Self::Link { path } | Self::NotAFile { path } => Some(format!(
                "put what belongs there at {} itself, or name another directory with --state DIR",
                quoted(path)
            )),
            Self::OtherOwner { path, directory } => {
                let owner = users::owner_of(directory).map_or_else(|| "USER".into(), users::name_of);
                Some(format!(
                    "chown {owner} {}, or run this as the directory's owner: sudo -u {owner} laneway …",
                    quoted(path)
                ))
            }
            Self::NoHome => Some(OTHER_HOME.into()),
            Self::Io { action, source, path } if cannot_be_there(action, source, path) => {
                Some(OTHER_HOME.into())
            }
            Self::Io { source, path, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some(format!(
                    "run this as the directory's owner, who may have to give it permission to write first, 'chmod u+rwx {}', or name another \
                 directory with --state DIR",
                    quoted(path.parent().unwrap_or(path))
                ))
            }
            Self::Io { source, path, .. } if source.kind() == io::ErrorKind::StorageFull => Some(format!(
                "free some space: 'df -h {}' shows the disk",
                quoted(path.parent().unwrap_or(path))
            )),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                Some("make the disk writable, or name a directory on another one with --state DIR".into())
            }
            Self::Io { source, path, .. } if source.kind() == io::ErrorKind::QuotaExceeded => Some(format!(
                "free some space: the quota of this user on the disk of {} is used up",
                quoted(path.parent().unwrap_or(path))
            )),
            Self::Io { path, .. } => file_above(path)
                .map(|file| format!("{} is a file: name another directory with --state DIR", quoted(file))),
        }
    }
}

/// What to do where a user has no home directory, or somebody else's.
const OTHER_HOME: &str =
    "set HOME or XDG_STATE_HOME to a directory of this user, or name a directory with --state DIR";

/// Whether a directory is missing because its place belongs to another user, or is on a file system that takes none.
fn cannot_be_there(action: &str, source: &io::Error, path: &Path) -> bool {
    let above = path.ancestors().skip(1).find(|above| above.symlink_metadata().is_ok());
    let is_of_another = || above.and_then(users::owner_of).is_some_and(|owner| Some(owner) != users::own());
    match source.kind() {
        _ if path.symlink_metadata().is_ok() => false,
        io::ErrorKind::PermissionDenied => is_of_another(),
        io::ErrorKind::NotFound => action == "create" && above.is_some_and(Path::is_dir),
        _ => false,
    }
}

/// The part of a path that is not a directory, and therefore has nothing below it.
fn file_above(path: &Path) -> Option<&Path> {
    let existing = path.ancestors().skip(1).find(|above| above.symlink_metadata().is_ok())?;
    (!existing.is_dir()).then_some(existing)
}

/// A path, quoted as one word of a command where necessary: for a POSIX shell, on Windows for cmd.exe and PowerShell.
pub fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    if path.contains(is_unsafe) && !cfg!(windows) {
        return escaped(&path);
    }
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%,".contains(c) || cfg!(windows) && c == '\\';
    match path.chars().all(plain) {
        true => path,
        // A path of Windows has no quotation marks.
        false if cfg!(windows) => format!("\"{path}\""),
        false => format!("'{}'", path.replace('\'', r"'\''")),
    }
}

/// Whether a character would do something to a terminal, or to the order in which it shows others.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text with such characters, as shells read it (ANSI-C quoting, which POSIX.1-2024 has as dollar-single-quotes).
fn escaped(text: &str) -> String {
    let mut all = String::from("$'");
    for c in text.chars() {
        match c {
            '\n' => all.push_str("\\n"),
            '\'' | '\\' => all.extend(['\\', c]),
            c if is_unsafe(c) => {
                c.to_string().bytes().for_each(|byte| all.push_str(&format!("\\{byte:03o}")))
            }
            c => all.push(c),
        }
    }
    all.push('\'');
    all
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_as_shells_read_it_and_does_nothing_to_a_terminal() {
        for (path, shown) in [
            ("/var/lib/laneway", "/var/lib/laneway"),
            ("/a b/it's", r"'/a b/it'\''s'"),
            ("/a\u{1b}[31m\nb'\\", r"$'/a\033[31m\nb\'\\'"),
            ("/a\u{202e}b", r"$'/a\342\200\256b'"),
        ] {
            assert_eq!(quoted(Path::new(path)), shown);
        }
    }

    #[test]
    fn a_home_in_which_nothing_can_be_made_is_to_be_replaced() {
        // Whoever runs this test, the kernel creates nothing there.
        let error =
            io_error("create", Path::new("/proc/.local/state/laneway"))(io::ErrorKind::NotFound.into());
        if Path::new("/proc").is_dir() {
            assert_eq!(error.hint().as_deref(), Some(OTHER_HOME));
        }
        // A directory that was removed meanwhile is no such place.
        let directory = tempfile::tempdir().unwrap();
        let gone = crate::state::StateDir::existing(directory.path().join("gone")).unwrap();
        assert_eq!(gone.read("group.json").unwrap(), None);
        assert!(!gone.path().exists(), "reading makes nothing");
        assert_eq!(gone.write("a", b"").unwrap_err().hint(), None);
    }

    #[test]
    fn a_directory_below_a_file_is_said_to_be_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("a"), file.join("a").join("b")] {
            let error = crate::state::StateDir::open(&path).unwrap_err();
            assert!(error.hint().unwrap().contains("name another directory with --state DIR"), "{error}");
        }
        // As Windows says it.
        let error = io_error("create", &file.join("a"))(io::ErrorKind::NotFound.into());
        let hint = format!("{} is a file: name another directory with --state DIR", quoted(&file));
        assert_eq!(error.hint(), Some(hint));
    }
}
