//! Namespaces of its own for the whole run: network, mounts and processes.
//!
//! The bench is the first process of its process namespace: when it ends, however it ends, the kernel kills everything that
//! it has started. Files are on a tmpfs that vanishes with it.

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{getgid, getuid};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// Where keys, configurations and logs of a run are.
pub(crate) const WORK: &str = "/run/laneway-bench";

/// Descriptors: one process of the bench has both ends of 10,000 tunnels, and so has a relay.
const DESCRIPTORS: u64 = 65_536;

/// Runs this program again, with the same arguments, in new namespaces, and waits for its end; Ctrl-C, SIGTERM and the time
/// limit kill it and all that it has started.
///
/// Must be called while the process has one thread.
pub(crate) fn run_inside(limit: Duration) -> Result<ExitCode> {
    unshare_all()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut child = Command::new(env::current_exe()?)
            .args(env::args_os().skip(1))
            .arg("--inside")
            .kill_on_drop(true)
            .spawn()
            .context("the bench cannot start itself")?;
        let mut terminate = signal(SignalKind::terminate())?;
        let status = tokio::select! {
            status = child.wait() => status?,
            _ = tokio::signal::ctrl_c() => bail!("interrupted: everything that was started is being killed"),
            _ = terminate.recv() => bail!("terminated: everything that was started is being killed"),
            () = tokio::time::sleep(limit) => bail!("not done within {} min: see --minutes", limit.as_secs() / 60),
        };
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

fn unshare_all() -> Result<()> {
    let (uid, gid) = (getuid(), getgid());
    let all = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    if uid.is_root() && unshare(all).is_ok() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWUSER | all).context(
        "network, mount and process namespaces are needed: run it as root, or permit user namespaces",
    )?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    Ok(())
}

/// Sets up the new namespaces; with `keep`, files are put there instead of on the tmpfs.
///
/// Must be called while the process has one thread.
pub(crate) fn settle(keep: Option<&Path>) -> Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).context("private mounts")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), nothing).context("mounting /proc")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .context("mounting a tmpfs over /run")?;
    fs::create_dir_all(WORK)?;
    if let Some(keep) = keep {
        fs::create_dir_all(keep)?;
        mount(Some(keep), WORK, nothing, MsFlags::MS_BIND, nothing)
            .with_context(|| keep.display().to_string())?;
    }
    // sshd wants this one.
    fs::create_dir_all("/run/sshd")?;

    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, hard.max(DESCRIPTORS)).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

/// `PATH` with the directories of system programs, which an ordinary user's lacks.
pub(crate) fn path() -> String {
    format!("{}:/usr/local/sbin:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default())
}

/// The file that would run as `program`.
pub(crate) fn find(program: &str) -> Option<std::path::PathBuf> {
    path().split(':').map(|directory| Path::new(directory).join(program)).find(|file| file.is_file())
}
