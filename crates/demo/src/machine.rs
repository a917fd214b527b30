//! One "machine" of the demo: a process of the program, and what it logs.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::error::Error;
use crate::network::Network;

/// Maximum number of log lines that wait to be read.
const MAX_UNREAD: usize = 1024;

/// Where all machines of one demo live.
pub(crate) struct Sandbox {
    directory: TempDir,
    executable: PathBuf,
    pub(crate) network: Network,
}

/// A running process; killed when it is dropped.
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    /// Where its links are accepted.
    pub(crate) address: Option<SocketAddr>,
    process: Child,
    lines: mpsc::Receiver<String>,
}

/// One log event of a machine.
pub(crate) struct Event(Value);

impl Event {
    /// What happened.
    pub(crate) fn message(&self) -> &str {
        self.0["message"].as_str().unwrap_or_default()
    }

    /// One fact of it.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }

    /// One fact of it that is a number.
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or_default()
    }

    /// The address that it is about.
    pub(crate) fn address(&self) -> Result<SocketAddr, Error> {
        let text = self.field("address");
        text.parse().map_err(|error| Error::new(format!("no address in the log: '{text}'")).because(error))
    }
}

impl Sandbox {
    /// An empty one for machines that run `executable`.
    pub(crate) async fn new(executable: &Path) -> Result<Self, Error> {
        let failed = |error: io::Error| Error::new("the demo cannot start").because(error);
        let directory = tempfile::Builder::new().prefix("laneway-demo-").tempdir().map_err(failed)?;
        let network = Network::find().await.map_err(failed)?;
        Ok(Self { directory, executable: executable.to_owned(), network })
    }

    /// Starts the program with `arguments`, with a state directory of its own.
    pub(crate) fn start(&self, name: &'static str, arguments: &[&str]) -> Result<Machine, Error> {
        let failed = |error: io::Error| Error::new(format!("{name} cannot start")).because(error);
        let mut command = self.command(name).map_err(failed)?;
        command.args(arguments).env("LANEWAY_LOG_FORMAT", "json").stderr(Stdio::piped());
        let mut process = command.spawn().map_err(failed)?;
        let output = process.stderr.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        let (sender, lines) = mpsc::channel(MAX_UNREAD);
        tokio::spawn(async move {
            let mut output = BufReader::new(output).lines();
            while let Ok(Some(line)) = output.next_line().await {
                // The pipe is always read, or the machine would block; lines beyond the limit are dropped.
                let _ = sender.try_send(line);
            }
        });
        Ok(Machine { name, address: None, process, lines })
    }

    /// Starts a node of the group on this loopback address.
    pub(crate) fn start_node(
        &self,
        name: &'static str,
        role: &str,
        address: Ipv4Addr,
        own: &[String],
    ) -> Result<Machine, Error> {
        let all =
            [&["up".into(), "--role".into(), role.into()], &self.discovery(name, address)?[..], own].concat();
        self.start(name, &all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn discovery(&self, name: &str, address: Ipv4Addr) -> Result<[String; 4], Error> {
        let options = self.network.options(address);
        options.map_err(|error| Error::new(format!("{name} cannot use {address}")).because(error))
    }

    /// Makes the group; returns the code for joining it.
    pub(crate) async fn make_group(&self, name: &'static str) -> Result<String, Error> {
        let output = self.run(name, &["init", "--name", name, "--group", "demo"]).await?;
        let code = output.split_whitespace().find(|word| word.starts_with("lw1."));
        code.map(str::to_owned).ok_or_else(|| Error::new("'laneway init' printed no code"))
    }

    /// Lets a machine join the group over the LAN, or where `gateway` has its links.
    pub(crate) async fn join_group(
        &self,
        name: &'static str,
        address: Ipv4Addr,
        code: &str,
        gateway: Option<SocketAddr>,
    ) -> Result<(), Error> {
        let discovery = self.discovery(name, address)?;
        let gateway = gateway.map(|gateway| format!("--gateway={gateway}"));
        let mut arguments = vec!["join", code, "--name", name];
        arguments.extend(discovery.iter().chain(&gateway).map(String::as_str));
        self.run(name, &arguments).await.map(drop)
    }

    /// Makes a machine forget which gateways it knows.
    pub(crate) fn forget_gateways(&self, name: &str) -> Result<(), Error> {
        match std::fs::remove_file(self.state(name).join("gateways.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::new("the demo's state cannot be changed").because(error))
            }
            _ => Ok(()),
        }
    }

    /// Runs the program to its end; returns what it printed.
    async fn run(&self, name: &'static str, arguments: &[&str]) -> Result<String, Error> {
        let failed = |error: io::Error| Error::new(format!("{name} cannot start")).because(error);
        let output = self.command(name).map_err(failed)?.args(arguments).output().await.map_err(failed)?;
        if !output.status.success() {
            let printed = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::new(format!("'laneway {}' failed on {name}", arguments[0])).because(printed));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The program, shielded from the user's own configuration.
    fn command(&self, name: &str) -> io::Result<Command> {
        let empty = self.directory.path().join("empty.toml");
        std::fs::write(&empty, "")?;
        let mut command = Command::new(&self.executable);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("LANEWAY_") {
                command.env_remove(variable);
            }
        }
        command
            .env("LANEWAY_STATE", self.state(name))
            .env("LANEWAY_CONFIG", empty)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        Ok(command)
    }

    fn state(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Machine {
    /// The next event.
    pub(crate) async fn next(&mut self, limit: Duration) -> Result<Event, Error> {
        let deadline = Instant::now() + limit;
        let mut last = String::new();
        loop {
            match timeout_at(deadline, self.lines.recv()).await {
                Ok(Some(line)) => match serde_json::from_str(&line) {
                    Ok(event) => return Ok(Event(event)),
                    // Text that is not an event is the program's last error.
                    Err(_) => last = line,
                },
                Ok(None) => return Err(Error::new(format!("{} ended: {last}", self.name))),
                Err(_) => return Err(Error::new(format!("{} is silent for too long", self.name))),
            }
        }
    }

    /// Waits for the event with this message.
    pub(crate) async fn wait(&mut self, message: &str, limit: Duration) -> Result<Event, Error> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.next(left).await.map_err(|error| {
                Error::new(format!("{} did not get to '{message}'", self.name)).because(error)
            })?;
            if event.message() == message {
                return Ok(event);
            }
        }
    }

    /// The events that have not been read yet.
    pub(crate) fn unread(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.lines.try_recv().ok())
            .filter_map(|line| serde_json::from_str(&line).ok().map(Event))
            .collect()
    }

    /// Ends it like a power failure: it cannot say goodbye to its peers.
    pub(crate) async fn kill(&mut self) -> Result<(), Error> {
        let failed = |error| Error::new(format!("{} cannot be killed", self.name)).because(error);
        self.process.kill().await.map_err(failed)
    }
}
