use std::path::PathBuf;

use crate::security::is_elevated;

pub(super) const STATES: &str = r"%ProgramData%\laneway for an administrator, else %LOCALAPPDATA%\laneway";

pub(super) fn configuration_files(env: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let bases = ["APPDATA", "ProgramData"].into_iter().filter_map(env);
    bases.filter(|base| base.is_absolute()).map(|base| base.join("laneway").join("laneway.toml")).collect()
}

pub(super) fn is_administrator() -> bool {
    is_elevated()
}

pub(super) fn state(is_elevated: bool, env: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let base = env(if is_elevated { "ProgramData" } else { "LOCALAPPDATA" })?;
    base.is_absolute().then(|| base.join("laneway"))
}
