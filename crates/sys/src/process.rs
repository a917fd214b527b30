//! Other programs.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::io;
use std::path::PathBuf;
use std::process::Command;

use tokio::process::{Child, Command as AsyncCommand};

#[cfg(unix)]
use self::unix as system;
#[cfg(windows)]
use self::windows as system;

/// Whether users of this system have a shell that knows POSIX syntax.
pub const HAS_POSIX_SHELL: bool = cfg!(unix);

/// Replaces this process by the command. Returns only on failure. Where the system cannot replace a process, this one
/// waits for the command and exits with its code.
pub fn replace(command: &mut Command) -> io::Error {
    system::replace(command)
}

/// A command for a program of the system that changes or shows its networks: the one in `PATH`, else the one in the
/// directories of system programs, which the `PATH` of an ordinary user lacks on many systems.
pub fn system_program(name: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = system::SYSTEM_PROGRAMS.iter().map(PathBuf::from);
    let mut files = std::env::split_paths(&path).chain(beside).map(|directory| directory.join(name));
    // A program in none of them is left to the system, which looks in its own ways, or says that it is missing.
    Command::new(files.find(|file| file.is_file()).unwrap_or_else(|| name.into()))
}

/// A command for the system's shell: `sh -c`, or `cmd /C`.
pub fn shell(line: &str) -> AsyncCommand {
    system::shell(line)
}

/// A program and the programs that it has started. They are killed together.
#[derive(Debug)]
pub struct Family(system::Family);

impl Family {
    /// Starts a program as the head of a family. The program itself is killed when the child is dropped.
    ///
    /// # Errors
    /// The operating system's error.
    pub fn start(command: &mut AsyncCommand) -> io::Result<(Child, Self)> {
        let (child, family) = system::Family::start(command.kill_on_drop(true))?;
        Ok((child, Self(family)))
    }

    /// Kills all of them.
    ///
    /// # Errors
    /// The operating system's error, also when they are gone already.
    pub fn kill(&self) -> io::Result<()> {
        self.0.kill()
    }
}

/// Makes the command run in a process group of its own: a terminal's Ctrl-C for this process does not reach it.
pub fn in_own_group(command: &mut Command) {
    system::in_own_group(command);
}

/// Whether a process with this id runs and its program's name is `name` (Linux, proc(5)).
pub fn is_running(id: u32, name: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|running| running.trim_end() == name)
}

/// How many files and connections a process has open, and how many the system permits it (Linux, proc(5)). `None` where only an
/// administrator could tell.
pub fn open_files(id: &str) -> Option<(usize, usize)> {
    let limits = std::fs::read_to_string(format!("/proc/{id}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let limit = line.split_whitespace().next()?.parse().ok()?;
    Some((std::fs::read_dir(format!("/proc/{id}/fd")).ok()?.count(), limit))
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn the_open_files_of_a_process_are_counted() {
        let (open, limit) = open_files("self").unwrap();
        assert!(open > 2 && limit >= open, "{open} of {limit}");
        assert_eq!(open_files("0"), None);
    }
}
