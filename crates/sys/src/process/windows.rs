#![allow(unsafe_code, reason = "jobs and the console are known to the system's own interface only")]

use std::io;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::os::windows::process::CommandExt as _;
use std::process::Command;
use std::ptr::null;

use tokio::process::{Child, Command as AsyncCommand};
use windows_sys::Win32::System::Console::SetConsoleCtrlHandler;
use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, TerminateJobObject,
};

/// All system programs are in the `PATH` of every user.
pub(super) const SYSTEM_PROGRAMS: &[&str] = &[];
/// `CREATE_NEW_PROCESS_GROUP` of the system's header `winbase.h`.
const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;
/// The exit code of programs that are killed, as `taskkill` has it.
const KILLED: u32 = 1;

pub(super) fn replace(command: &mut Command) -> io::Error {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return error,
    };
    // Ctrl-C is for the command, which receives it too. After its start, because it would inherit this.
    // SAFETY: without a handler the call only sets a flag of this process.
    unsafe { SetConsoleCtrlHandler(None, 1) };
    match child.wait() {
        #[expect(clippy::exit, reason = "the command has taken the place of this process")]
        Ok(status) => std::process::exit(status.code().unwrap_or(1)),
        Err(error) => error,
    }
}

pub(super) fn in_own_group(command: &mut Command) {
    command.creation_flags(CREATE_NEW_PROCESS_GROUP);
}

pub(super) fn shell(line: &str) -> AsyncCommand {
    let mut shell = AsyncCommand::new("cmd");
    // With /S the shell removes the outer quotes and takes the rest as it is.
    shell.args(["/D", "/S", "/C"]).raw_arg(format!("\"{line}\""));
    shell
}

/// A job: what its programs start belongs to it too.
#[derive(Debug)]
pub(super) struct Family(OwnedHandle);

impl Family {
    pub(super) fn start(command: &mut AsyncCommand) -> io::Result<(Child, Self)> {
        // SAFETY: no security attributes and no name are given.
        let job = unsafe { CreateJobObjectW(null(), null()) };
        if job.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle is new and belongs to nobody else.
        let job = unsafe { OwnedHandle::from_raw_handle(job) };
        let child = command.spawn()?;
        if let Some(process) = child.raw_handle() {
            // SAFETY: both handles are open. What the program starts before this call is not in the job; a shell does not
            // start anything so soon.
            let assigned = unsafe { AssignProcessToJobObject(job.as_raw_handle(), process) };
            if assigned == 0 {
                tracing::debug!(error = %io::Error::last_os_error(), "the command has no job");
            }
        }
        Ok((child, Self(job)))
    }

    pub(super) fn kill(&self) -> io::Result<()> {
        // SAFETY: the handle is open.
        match unsafe { TerminateJobObject(self.0.as_raw_handle(), KILLED) } {
            0 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}
