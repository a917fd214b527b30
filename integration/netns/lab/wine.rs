//! The Windows program on a host, run by Wine.
//!
//! Each host has a Wine of its own: Wine's server makes the sockets of all programs that it serves, on the network where it
//! was started. `scripts/windows-test.sh` builds the program and makes the prefix that the hosts copy.

use super::prefix::{prefix, variables};
use super::{Host, programs};
use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The variable with the path of the Windows program.
const PROGRAM: &str = "LANEWAY_WINDOWS_PROGRAM";
/// The variable with the path of a Wine prefix to copy.
const PREFIX: &str = "LANEWAY_WINE_PREFIX";

/// Interval between two checks of whether Wine has ended.
const POLL: Duration = Duration::from_millis(20);
/// How long Wine may take to end its programs.
const END: Duration = Duration::from_secs(10);

/// Wine on a host. Dropping it ends all programs that it runs.
pub(crate) struct Wine {
    /// Ends all programs of this prefix, and no others.
    kill: Command,
}

impl Drop for Wine {
    /// Without this, Wine's server, its services and what a trial has started with them outlive the trial.
    fn drop(&mut self) {
        let Ok(mut kill) = self.kill.stdin(Stdio::null()).spawn() else { return };
        let until = Instant::now() + END;
        while Instant::now() < until && matches!(kill.try_wait(), Ok(None)) {
            thread::sleep(POLL);
        }
        // It has ended already, or ends now.
        let _ = kill.kill();
        let _ = kill.wait();
    }
}

/// What the trials with Windows need and is missing.
pub(crate) fn lacking() -> Option<String> {
    let unset = [PROGRAM, PREFIX].into_iter().find(|name| env::var_os(name).is_none());
    let wine = programs::find("wine").is_none().then_some("`wine`");
    unset.or(wine).map(|what| format!("{what} is missing: scripts/windows-test.sh runs these trials"))
}

/// Makes a host one that runs Windows: its `laneway` is the Windows program from now on.
pub(crate) fn install(host: &Host) -> Wine {
    let variable = |name: &str| PathBuf::from(env::var_os(name).unwrap());
    let prefix = prefix(host.directory());
    // The files of Windows are links; what Wine writes, its registry, is a copy.
    let copy = r#"mkdir -p "$2/dosdevices" && cp -as "$1/drive_c" "$2/" && cp "$1"/*.reg "$2/" &&
        ln -s ../drive_c "$2/dosdevices/c:" && ln -s / "$2/dosdevices/z:" && cp "$1/.update-timestamp" "$2/""#;
    let mut shell = host.command("sh");
    shell.args(["-c", copy, "copy"]).arg(variable(PREFIX)).arg(&prefix);
    host.output(shell).success();

    let server = |option| {
        let mut server = host.command("wineserver");
        server.arg(option).envs(variables(host.directory()));
        server
    };
    let wine = Wine { kill: server("--kill") };
    // Returns once it listens. A program that finds no server starts one, which ends when no user's program runs, and the
    // services with it.
    host.output(server("--persistent")).success();
    host.run_windows(variable(PROGRAM));
    // The first program of a Wine also starts its services, which takes seconds.
    host.output(host.laneway(&["--version"])).success();
    wine
}

/// A command of Wine on a host that runs Windows, such as `reg`.
pub(crate) fn command(host: &Host, arguments: &[&str]) -> Command {
    let mut command = host.command("wine");
    command.args(arguments).envs(variables(host.directory()));
    command
}
