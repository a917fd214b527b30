//! A machine for the binary to run on: a directory of its own and an empty environment.

use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a node may take to do what is waited for. Reached only by a test that fails.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Machine(tempfile::TempDir);

/// What a command that has ended left.
pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A running node, killed when it is dropped.
pub(crate) struct Node {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Machine {
    /// A machine without a group.
    pub(crate) fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        // The user's file hides /etc/laneway/laneway.toml of the machine that runs the tests.
        machine.configure("");
        machine
    }

    /// A machine that has made a group.
    pub(crate) fn with_group() -> (Self, String) {
        let machine = Self::new();
        let code = machine.laneway(["init", "--name", "first"]).success().code();
        (machine, code)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Writes the configuration file that is found without being named.
    pub(crate) fn configure(&self, text: &str) -> PathBuf {
        let path = self.path("config/laneway/laneway.toml");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_laneway"));
        command.args(arguments).arg("--state").arg(self.state());
        let home = self.0.path();
        command
            .env_clear()
            .env("HOME", home)
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("NO_COLOR", "1")
            // A gateway for any destination would ask this machine's name servers.
            .env("LANEWAY_PROBE", "none");
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn laneway<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        Output::of(&mut self.command(arguments))
    }

    /// `laneway up` on a loopback address that serves as the LAN, with ports that are free.
    pub(crate) fn up(&self, address: &str, options: &[&str]) -> Command {
        let mut command = self.command(["up", "--lan", address, "--link", &format!("{address}:0")]);
        command.args(["--discovery-port", &free_udp_port(address).to_string()]).args(options);
        command
    }

    /// As `up`, under a limit on open files: `-S` for one that may be raised, nothing for a hard one.
    pub(crate) fn up_limited(&self, address: &str, kind: &str, files: u32) -> Command {
        let inner = self.up(address, &["--proxy", &format!("{address}:0")]);
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit {kind} -n {files} && exec \"$0\" \"$@\""));
        command.arg(inner.get_program()).args(inner.get_args()).env_clear().stdin(Stdio::null());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    /// Starts `laneway up`, with the proxy on the same address, and waits until it is ready.
    pub(crate) fn start(&self, address: &str, options: &[&str]) -> Node {
        let mut command = self.up(address, options);
        command.args(["--proxy", &format!("{address}:0")]);
        Node::start(&mut command)
    }
}

impl Output {
    pub(crate) fn of(command: &mut Command) -> Self {
        Self::ended(command.output().unwrap())
    }

    pub(crate) fn ended(output: std::process::Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{self}");
        self
    }

    /// Fails unless the command ended with this code, and printed a line that begins with each of these.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, lines: &[&str]) {
        assert_eq!(self.code, Some(code), "{self}");
        assert_eq!(self.stdout, "", "{self}");
        for line in lines {
            assert!(self.stderr.lines().any(|printed| printed.starts_with(line)), "no {line:?} in: {self}");
        }
    }

    /// The join code that was printed.
    #[track_caller]
    pub(crate) fn code(&self) -> String {
        let word = self.stdout.split_whitespace().find(|word| word.starts_with("lw1."));
        word.unwrap_or_else(|| panic!("no code in: {self}")).to_owned()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {:?}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr)
    }
}

impl Node {
    /// Starts the command and waits until it says that it is ready.
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let mut node = Self { child, lines, seen: Vec::new() };
        node.wait_for(" ready node=");
        node
    }

    /// The first line with these words; those before it are kept for later.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, words: &str) -> String {
        if let Some(line) = self.seen.iter().find(|line| line.contains(words)) {
            return line.clone();
        }
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("no {words:?} in: {:#?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => panic!("ended without {words:?}: {:#?}", self.seen),
            }
            if let Some(line) = self.seen.last().filter(|line| line.contains(words)) {
                return line.clone();
            }
        }
    }

    /// The address in the line that says what listens.
    #[track_caller]
    pub(crate) fn address(&mut self, what: &str) -> String {
        let line = self.wait_for(&format!("listening: {what}"));
        let address = line.split_once("address=").unwrap_or_else(|| panic!("no address in {line:?}")).1;
        address.split_whitespace().next().unwrap().to_owned()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How many lines with these words there have been.
    pub(crate) fn count(&mut self, words: &str) -> usize {
        self.seen.extend(self.lines.try_iter());
        self.seen.iter().filter(|line| line.contains(words)).count()
    }

    /// How many descriptors it has open.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits until it has ended; its output ends with it.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("still running: {:#?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn free_udp_port(address: &str) -> u16 {
    UdpSocket::bind((address, 0)).unwrap().local_addr().unwrap().port()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
