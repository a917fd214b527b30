use std::path::PathBuf;

use nix::unistd::Uid;

/// The state of the machine, and the directory for state in a user's home.
#[cfg(not(target_vendor = "apple"))]
const STATE: (&str, &str) = ("/var/lib/laneway", ".local/state");
/// As the File System Programming Guide of macOS has it.
#[cfg(target_vendor = "apple")]
const STATE: (&str, &str) = ("/Library/Application Support/laneway", "Library/Application Support");

#[cfg(not(target_vendor = "apple"))]
pub(super) const STATES: &str = "/var/lib/laneway for root, else ~/.local/state/laneway";
#[cfg(target_vendor = "apple")]
pub(super) const STATES: &str =
    "/Library/Application Support/laneway for root, else ~/Library/Application Support/laneway";

pub(super) fn configuration_files(env: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    // An empty or relative path is ignored (XDG Base Directory Specification): a file in the working directory could
    // name shell commands.
    let absolute = |name| env(name).filter(|path| path.is_absolute());
    let home = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    let user = home.map(|home| home.join("laneway/laneway.toml"));
    user.into_iter().chain([PathBuf::from("/etc/laneway/laneway.toml")]).collect()
}

pub(super) fn is_administrator() -> bool {
    Uid::effective().is_root()
}

pub(super) fn state(is_root: bool, env: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let (machine, user) = STATE;
    if is_root {
        return Some(PathBuf::from(machine));
    }
    // The XDG Base Directory Specification says that relative paths are to be ignored.
    let absolute = |name| env(name).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(user)))
        .map(|base| base.join("laneway"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_default_follows_the_user_and_xdg() {
        let env = |state: &'static str, home: &'static str| {
            move |name: &str| Some(PathBuf::from(if name == "HOME" { home } else { state }))
        };
        let (machine, user) = STATE;
        assert_eq!(state(true, env("/s", "/h")).unwrap(), Path::new(machine));
        assert_eq!(state(false, env("/s", "/h")).unwrap(), Path::new("/s/laneway"));
        assert_eq!(state(false, env("s", "/h")).unwrap(), Path::new("/h").join(user).join("laneway"));
        assert_eq!(state(false, |_| None), None);
    }
}
