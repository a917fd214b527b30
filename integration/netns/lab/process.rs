//! A program that runs on a host: what it prints, how it is stopped, and that it never outlives its trial.

use super::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Interval between two checks of a program's output or end.
const POLL: Duration = Duration::from_millis(5);

/// The number of log lines that a failing trial shows.
const SHOWN_LINES: usize = 100;

/// A running program. Dropping it kills and reaps it; when its trial is failing, its output is shown first.
pub(crate) struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// The result of a program that has ended.
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Process {
    /// Starts `command`, whose output goes to files that begin with `log`.
    pub(super) fn start(mut command: Command, host: &str, log: &Path) -> Process {
        let (stdout, stderr) = (log.with_extension("out"), log.with_extension("err"));
        let create = |path| File::create(path).unwrap();
        command.stdin(Stdio::null()).stdout(create(&stdout)).stderr(create(&stderr));
        // The words before the program's name are the steps to its host.
        let words: Vec<_> =
            command.get_args().skip(7).map(|word| word.to_string_lossy().into_owned()).collect();
        let child = command.spawn().unwrap();
        Process { name: format!("{host}: {}", words.join(" ")), child, stdout, stderr }
    }

    /// The program's own process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal. After SIGSTOP, the process has stopped when this returns.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id().try_into().unwrap()), signal).unwrap();
        if signal == Signal::SIGSTOP {
            // Its first thread, and then the others (proc(5)).
            let stopped =
                |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
            let threads = || fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
            wait_until("the process to stop", || {
                threads()
                    .all(|thread| fs::read_to_string(thread.unwrap().path().join("stat")).is_ok_and(stopped))
            });
        }
    }

    /// Its standard output so far, followed by its standard error.
    pub(crate) fn log(&self) -> String {
        [&self.stdout, &self.stderr]
            .map(|file| String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned())
            .concat()
    }

    /// Waits for the first line that contains `pattern`, and returns it.
    ///
    /// # Panics
    /// When the program ends, or `deadline` passes, without such a line.
    pub(crate) fn wait_for_line(&mut self, pattern: &str, deadline: Duration) -> String {
        let start = Instant::now();
        loop {
            // Checked before the log, so that everything printed before its end is read.
            let ended = self.child.try_wait().unwrap();
            if let Some(line) = self.log().lines().find(|line| line.contains(pattern)) {
                return line.to_owned();
            }
            assert!(ended.is_none(), "`{}` ended without a line {pattern:?}: {}", self.name, ended.unwrap());
            assert!(start.elapsed() < deadline, "`{}` has no line {pattern:?} in {deadline:?}", self.name);
            thread::sleep(POLL);
        }
    }

    /// How many bytes it has printed on standard output.
    pub(crate) fn printed(&self) -> u64 {
        fs::metadata(&self.stdout).unwrap().len()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs after `deadline`.
    pub(crate) fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < deadline, "`{}` still runs after {deadline:?}", self.name);
            thread::sleep(POLL);
        }
    }

    /// Waits for its end and returns what it left.
    pub(crate) fn finish(mut self, deadline: Duration) -> Output {
        let status = self.wait(deadline);
        let stderr = String::from_utf8_lossy(&fs::read(&self.stderr).unwrap()).into_owned();
        let output = Output { status, stdout: fs::read(&self.stdout).unwrap(), stderr };
        // A download may be large, and /run is memory.
        fs::remove_file(&self.stdout).unwrap();
        fs::write(&self.stdout, "").unwrap();
        output
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let skipped = log.lines().count().saturating_sub(SHOWN_LINES);
            let shown: String = log.lines().skip(skipped).map(|line| format!("    {line}\n")).collect();
            eprintln!("--- {} ({skipped} lines, then)\n{shown}", self.name);
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Output {
    /// The exit code; -1 when a signal ended it.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Fails the trial unless the program succeeded.
    #[track_caller]
    pub(crate) fn success(self) -> Output {
        assert!(self.status.success(), "{self}");
        self
    }
}

/// The exit status and the beginning of what was printed.
impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let beginning = String::from_utf8_lossy(&self.stdout[..self.stdout.len().min(2000)]);
        write!(f, "{}\nstdout: {beginning}\nstderr: {}", self.status, self.stderr)
    }
}
