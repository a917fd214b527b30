//! A peer's process and all that it starts.

use crate::accounting;
use crate::isolate;
use crate::network::Namespace;
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running process; killed with its descendants, and reaped, when it is dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a process in `namespace`, with an environment without the user's settings.
    pub(crate) fn start(
        mut command: Command,
        namespace: &Namespace,
        directory: &Path,
        name: &str,
    ) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log)?;
        let own: Vec<_> =
            command.get_envs().filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned()))).collect();
        command
            .env_clear()
            .env("PATH", isolate::path())
            .env("HOME", directory)
            .env("LC_ALL", "C.UTF-8")
            .envs(own)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let program = command.get_program().to_owned();
        let child = namespace.inside(move || command.spawn());
        let child = child.with_context(|| format!("{} cannot start", program.display()))?;
        Ok(Self { child, log })
    }

    /// The process and its descendants.
    pub(crate) fn tree(&self) -> Vec<u32> {
        accounting::tree(self.child.id())
    }

    /// Whether the process has ended, which a peer should not do.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// The last lines of its output.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<_> = log.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for id in self.tree() {
            // It may have ended already.
            let _ = kill(Pid::from_raw(id.cast_signed()), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}
