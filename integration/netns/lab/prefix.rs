//! How a host runs a Windows program by Wine: variables and paths.

use std::path::{Path, PathBuf};

/// The variables of every program of a host's Wine.
pub(super) fn variables(directory: &Path) -> [(&'static str, String); 4] {
    let path = |path: PathBuf| path.to_str().expect("the lab's paths are ASCII").to_owned();
    [
        // Where Debian's Wine has its sockets, which it does not remove.
        ("TMPDIR", path(directory.to_owned())),
        ("WINEPREFIX", path(prefix(directory))),
        ("WINEDEBUG", "-all".into()),
        // No window, and nothing of Mono or a browser.
        ("WINEDLLOVERRIDES", "mscoree,mshtml,winemenubuilder.exe=".into()),
    ]
}

/// A path as the Windows program knows it: the root is the drive Z.
pub(super) fn path(argument: &str) -> String {
    if argument.starts_with('/') { format!("Z:{argument}") } else { argument.to_owned() }
}

/// The prefix of a host, which has this directory.
pub(super) fn prefix(directory: &Path) -> PathBuf {
    directory.join("wine")
}
