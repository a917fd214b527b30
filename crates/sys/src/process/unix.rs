use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command as AsyncCommand};

/// The directories of system programs (Filesystem Hierarchy Standard 3.0, sections 3.16, 4.10 and 4.9.1).
pub(super) const SYSTEM_PROGRAMS: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin"];

pub(super) fn replace(command: &mut Command) -> io::Error {
    command.exec()
}

pub(super) fn in_own_group(command: &mut Command) {
    command.process_group(0);
}

pub(super) fn shell(line: &str) -> AsyncCommand {
    let mut shell = AsyncCommand::new("sh");
    shell.arg("-c").arg(line);
    shell
}

/// A process group.
#[derive(Debug)]
pub(super) struct Family(Option<Pid>);

impl Family {
    pub(super) fn start(command: &mut AsyncCommand) -> io::Result<(Child, Self)> {
        let child = command.process_group(0).spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok((child, Self(group)))
    }

    pub(super) fn kill(&self) -> io::Result<()> {
        match self.0 {
            Some(group) => Ok(killpg(group, Signal::SIGKILL)?),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}
