//! Moves this process to new namespaces, where it is root of an empty network.

use super::programs::find;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{env, fmt, fs};

/// The directory for all files of a run: on a tmpfs that only this process and its children see, so that the kernel
/// removes it when the last of them ends.
pub(crate) const WORK: &str = "/run/laneway-lab";

/// Programs that the lab needs.
const TOOLS: [&str; 7] = ["ip", "nsenter", "unshare", "setpriv", "curl", "ss", "nft"];

/// Why the lab cannot run on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Unavailable {
    reason: String,
    /// True where the lab has to work: for a root in continuous integration.
    pub(crate) fails: bool,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// Unshares the user (unless root already may do the rest), network and mount namespaces, and puts an empty /run there.
///
/// Must be called while the process has one thread.
pub(crate) fn enter() -> Result<(), Unavailable> {
    let must_work = must_work();
    try_enter().map_err(|reason| Unavailable { reason, fails: must_work })
}

/// Whether a missing requirement is a failure: for root in continuous integration. The first call must precede
/// [`enter`], which makes any user root.
pub(crate) fn must_work() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| nix::unistd::getuid().is_root() && env::var("CI").is_ok_and(|ci| ci == "true"))
}

fn try_enter() -> Result<(), String> {
    if let Some(tool) = TOOLS.iter().find(|tool| find(tool).is_none()) {
        return Err(format!("`{tool}` is not installed"));
    }
    unshare_namespaces()?;

    // Hosts mount their own files over these two, which on many machines are links into the /run that is about to be hidden.
    let links = ["/etc/hosts", "/etc/resolv.conf"].map(fs::canonicalize);
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .map_err(|e| format!("cannot make the mounts private: {e}"))?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755,size=75%"))
        .map_err(|e| format!("cannot mount a tmpfs over /run: {e}"))?;
    for target in links.into_iter().flatten().filter(|target| target.starts_with("/run")) {
        fs::create_dir_all(target.parent().unwrap()).and_then(|()| fs::write(&target, "")).unwrap();
    }
    fs::create_dir_all(WORK).unwrap();

    let probe = Command::new(find("ip").unwrap())
        .args(["netns", "add", "probe"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if !probe.status.success() {
        return Err(format!(
            "cannot add a network namespace: {}",
            String::from_utf8_lossy(&probe.stderr).trim()
        ));
    }
    Ok(())
}

fn unshare_namespaces() -> Result<(), String> {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    let network_and_mounts = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    // Root without CAP_SYS_ADMIN, as in many containers, is treated like any other user.
    if uid.is_root() && unshare(network_and_mounts).is_ok() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWUSER | network_and_mounts)
        .map_err(|e| format!("cannot unshare the user, network and mount namespaces: {e}"))?;
    fs::write("/proc/self/setgroups", "deny")
        .and_then(|()| fs::write("/proc/self/uid_map", format!("0 {uid} 1")))
        .and_then(|()| fs::write("/proc/self/gid_map", format!("0 {gid} 1")))
        .map_err(|e| format!("cannot become root of a user namespace: {e}"))
}
