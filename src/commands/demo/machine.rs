//! One "machine" of the demo: a process of this binary, and what it logs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::problem::Problem;

/// How many log lines wait for somebody who reads them.
const UNREAD: usize = 1024;

/// A running process; killed when it is dropped.
pub(super) struct Machine {
    pub(super) name: &'static str,
    /// Where its links are accepted.
    pub(super) address: Option<SocketAddr>,
    process: Child,
    lines: mpsc::Receiver<String>,
}

/// One log event of a machine.
pub(super) struct Event(Value);

impl Event {
    /// What happened.
    pub(super) fn message(&self) -> &str {
        self.0["message"].as_str().unwrap_or_default()
    }

    /// One fact of it.
    pub(super) fn field(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }

    /// One fact of it that is a number.
    pub(super) fn number(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or_default()
    }

    /// The address that it is about.
    pub(super) fn address(&self) -> Result<SocketAddr, Problem> {
        let text = self.field("address");
        text.parse().map_err(|error| Problem::new(format!("no address in the log: '{text}'")).because(error))
    }
}

impl Machine {
    /// Starts this binary with `arguments`, with a state directory of its own.
    pub(super) fn start(
        directory: &TempDir,
        name: &'static str,
        arguments: &[&str],
    ) -> Result<Self, Problem> {
        let failed = |error: std::io::Error| Problem::new(format!("{name} cannot start")).because(error);
        let mut command = command(directory, name).map_err(failed)?;
        command.args(arguments).env("LANEWAY_LOG_FORMAT", "json").stderr(Stdio::piped());
        let mut process = command.spawn().map_err(failed)?;
        let output = process.stderr.take().ok_or_else(|| failed(std::io::ErrorKind::BrokenPipe.into()))?;
        let (told, lines) = mpsc::channel(UNREAD);
        tokio::spawn(async move {
            let mut output = BufReader::new(output).lines();
            while let Ok(Some(line)) = output.next_line().await {
                // Always read, or the machine would wait for its reader; what nobody wants is dropped.
                let _ = told.try_send(line);
            }
        });
        Ok(Self { name, address: None, process, lines })
    }

    /// The next event.
    pub(super) async fn next(&mut self, patience: Duration) -> Result<Event, Problem> {
        let deadline = Instant::now() + patience;
        let mut last = String::new();
        loop {
            match timeout_at(deadline, self.lines.recv()).await {
                Ok(Some(line)) => match serde_json::from_str(&line) {
                    Ok(event) => return Ok(Event(event)),
                    // What is no event is what it says before it ends.
                    Err(_) => last = line,
                },
                Ok(None) => return Err(Problem::new(format!("{} ended: {last}", self.name))),
                Err(_) => return Err(Problem::new(format!("{} is silent for too long", self.name))),
            }
        }
    }

    /// Waits for the event with this message.
    pub(super) async fn wait(&mut self, message: &str, patience: Duration) -> Result<Event, Problem> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.next(left).await.map_err(|problem| {
                Problem::new(format!("{} did not come to '{message}'", self.name)).after(problem)
            })?;
            if event.message() == message {
                return Ok(event);
            }
        }
    }

    /// The events so far that nobody has looked at.
    pub(super) fn heard(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.lines.try_recv().ok())
            .filter_map(|line| serde_json::from_str(&line).ok().map(Event))
            .collect()
    }

    /// Ends it like a power failure: no farewell.
    pub(super) async fn kill(&mut self) -> Result<(), Problem> {
        let failed = |error| Problem::new(format!("{} cannot be killed", self.name)).because(error);
        self.process.kill().await.map_err(failed)
    }
}

/// Makes the group; gives the code.
pub(super) async fn make_group(directory: &TempDir, name: &'static str) -> Result<String, Problem> {
    let output = run(directory, name, &["init", "--name", name, "--group", "demo"]).await?;
    let code = output.split_whitespace().find(|word| word.starts_with("lw1."));
    code.map(str::to_owned).ok_or_else(|| Problem::new("'laneway init' printed no code"))
}

/// Lets a machine join the group over the LAN.
pub(super) async fn join_group(
    directory: &TempDir,
    name: &'static str,
    lan: &str,
    port: &str,
    code: &str,
) -> Result<(), Problem> {
    let arguments = ["join", code, "--name", name, "--lan", lan, "--discovery-port", port];
    run(directory, name, &arguments).await.map(drop)
}

/// Makes a machine forget which gateways it knows.
pub(super) fn forget_gateways(directory: &TempDir, name: &str) -> Result<(), Problem> {
    match std::fs::remove_file(state(directory, name).join("gateways.json")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Problem::new("the demo's state cannot be changed").because(error))
        }
        _ => Ok(()),
    }
}

async fn run(directory: &TempDir, name: &'static str, arguments: &[&str]) -> Result<String, Problem> {
    let failed = |error: std::io::Error| Problem::new(format!("{name} cannot start")).because(error);
    let output = command(directory, name).map_err(failed)?.args(arguments).output().await.map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let what = format!("'laneway {}' failed on {name}", arguments[0]);
        return Err(Problem::new(what).because(std::io::Error::other(said)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// This binary, shielded from the user's own configuration.
fn command(directory: &TempDir, name: &str) -> std::io::Result<Command> {
    let nothing = directory.path().join("empty.toml");
    std::fs::write(&nothing, "")?;
    let mut command = Command::new(std::env::current_exe()?);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("LANEWAY_") {
            command.env_remove(variable);
        }
    }
    command
        .env("LANEWAY_STATE", state(directory, name))
        .env("LANEWAY_CONFIG", nothing)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    Ok(command)
}

fn state(directory: &TempDir, name: &str) -> PathBuf {
    directory.path().join(name)
}
