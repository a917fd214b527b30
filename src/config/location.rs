//! Which configuration file there is, and its content.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::problem::Problem;
use crate::sys::paths;
use crate::sys::state::{quoted, read_regular};

/// Maximum size of the configuration file in bytes.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// The configuration file and its content: the named one, otherwise the user's or the system's if it exists.
///
/// # Errors
/// When it cannot be read.
pub(super) fn read(named: Option<&Path>) -> Result<Option<(PathBuf, String)>, Problem> {
    let found = || paths::configuration_files().into_iter().find(|path| is_there(path));
    let Some(path) = named.map(Path::to_owned).or_else(found) else { return Ok(None) };
    let bytes = read_regular(&path, MAX_FILE).map_err(|error| {
        Problem::usage(format!("cannot read the configuration {}", quoted(&path)))
            .because(error)
            .hint("--config FILE, or LANEWAY_CONFIG, names another file")
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.split(|byte| *byte == b'\n').count();
        Problem::usage(format!("the configuration {} is not valid", quoted(&path)))
            .after(Problem::usage(format!("line {line}: a character there is not in UTF-8")))
            .hint("save the file as UTF-8")
    })?;
    Ok(Some((path, text)))
}

/// The configuration file of this user: the one that `LANEWAY_CONFIG` names, else the one that exists, else the one to create.
pub fn file_to_change() -> PathBuf {
    let named = std::env::var_os("LANEWAY_CONFIG").filter(|name| !name.is_empty()).map(PathBuf::from);
    let files = paths::configuration_files();
    let found = || files.iter().find(|path| is_there(path));
    let preferred = || if paths::is_administrator() { files.last() } else { files.first() };
    let file = named.or_else(|| found().or_else(preferred).cloned());
    file.unwrap_or_else(|| PathBuf::from("laneway.toml"))
}

/// Whether there is a file, as far as this user can tell. A home directory that the user may not search has none for that user:
/// services and apt run with the HOME of whoever started them. A file that is found but cannot be read is an error.
fn is_there(path: &Path) -> bool {
    const NONE: [ErrorKind; 3] = [ErrorKind::NotFound, ErrorKind::NotADirectory, ErrorKind::PermissionDenied];
    path.symlink_metadata().map_or_else(|error| !NONE.contains(&error.kind()), |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_that_is_no_directory_has_no_configuration() {
        assert!(!is_there(Path::new("/dev/null/.config/laneway/laneway.toml")));
        assert!(is_there(Path::new("/dev/null")));
    }
}
