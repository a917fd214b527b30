//! The commands that bring this node's uplink up when it is promoted and down when it is demoted.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::activity::Activity;
use super::selection::Prepared;
use laneway_limits::limited;
use laneway_limits::lines::NOBODY;
use laneway_sys::process::{Family, shell};
use laneway_wire::datagram::{Reach, State};
use laneway_wire::failure::with_causes;

/// How long a promoted node may take to reach a server after its command.
const REACH_DEADLINE: Duration = Duration::from_secs(10);
/// Interval between two checks of whether the last tunnel has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The commands, and what they are told.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The shell command that brings the uplink up.
    pub on_promote: Option<String>,
    /// The shell command that brings it down.
    pub on_demote: Option<String>,
    /// This node's name, for the commands.
    pub node: String,
    /// Whether there are servers: then this node must reach one of them after its command.
    pub needs_server: bool,
}

/// The settings that a reload changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The deadline of one command.
    pub command_timeout: Duration,
    /// How long open tunnels delay bringing the uplink down.
    pub drain: Duration,
    /// The servers, separated by commas, for the commands.
    pub server: String,
}

/// This node's uplink, which commands may bring up and down.
#[derive(Debug)]
pub struct Uplink {
    options: Options,
    terms: watch::Sender<Terms>,
    wanted: watch::Sender<(bool, State)>,
    prepared: watch::Sender<Prepared>,
    is_up: AtomicBool,
    /// Held while the uplink is brought down.
    demotion: tokio::sync::Mutex<()>,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("it could not be run")]
    Run(#[source] std::io::Error),
    #[error("it ended with {0}")]
    Status(std::process::ExitStatus),
    #[error("it was killed after {0:?}")]
    TimedOut(Duration),
}

impl Uplink {
    /// An uplink that is down.
    pub fn new(options: Options, terms: Terms) -> Arc<Self> {
        let wanted = watch::Sender::new((false, State::Standby));
        let prepared = watch::Sender::new(Prepared::No);
        let terms = watch::Sender::new(terms);
        Arc::new(Self {
            options,
            terms,
            wanted,
            prepared,
            is_up: AtomicBool::new(false),
            demotion: tokio::sync::Mutex::default(),
        })
    }

    /// Changes the terms. They apply to commands that start later, and to tunnels that are being waited for.
    pub fn change(&self, terms: Terms) {
        self.terms.send_replace(terms);
    }

    /// Whether this node must bring its uplink up before it can serve.
    pub fn prepares(&self) -> bool {
        self.options.on_promote.is_some()
    }

    /// Sets whether the uplink should be up, and the state that commands are told.
    pub fn want(&self, wanted: bool, state: State) {
        self.wanted.send_if_modified(|now| std::mem::replace(now, (wanted, state)).0 != wanted);
    }

    /// Whether the uplink is up.
    pub fn prepared(&self) -> watch::Receiver<Prepared> {
        self.prepared.subscribe()
    }

    /// Brings the uplink up and down as wanted. It stays up for open tunnels, unless it no longer reaches the servers.
    /// Never returns.
    pub async fn run(self: Arc<Self>, mut reach: watch::Receiver<Reach>, activity: Arc<Activity>) {
        let mut wanted = self.wanted.subscribe();
        loop {
            if wanted.wait_for(|(wanted, _)| *wanted).await.is_err() {
                return;
            }
            if !self.is_up.load(Relaxed) {
                self.is_up.store(true, Relaxed);
                let ready = match &self.options.on_promote {
                    None => true,
                    Some(command) => {
                        self.command("on-promote", command, State::Active).await
                            && self.reaches(&mut reach).await
                    }
                };
                self.prepared.send_replace(if ready { Prepared::Yes } else { Prepared::Failed });
            }
            if wanted.wait_for(|(wanted, _)| !*wanted).await.is_err() {
                return;
            }
            let stays_up = *self.prepared.borrow() == Prepared::Yes && *reach.borrow() != Reach::Unreachable;
            if stays_up {
                tokio::select! {
                    () = self.idle(&activity) => {}
                    Ok(_) = wanted.wait_for(|(wanted, _)| *wanted) => continue,
                }
            }
            self.prepared.send_replace(Prepared::No);
            self.demote().await;
        }
    }

    /// Brings the uplink down if it is up, and waits for a command that is doing so already. A node does this last.
    pub async fn demote(&self) {
        let _alone = self.demotion.lock().await;
        if self.is_up.swap(false, Relaxed)
            && let Some(command) = &self.options.on_demote
        {
            let state = self.wanted.borrow().1;
            self.command("on-demote", command, state).await;
        }
    }

    /// Waits until a server is reached.
    async fn reaches(&self, reach: &mut watch::Receiver<Reach>) -> bool {
        if !self.options.needs_server {
            return true;
        }
        let reached = timeout(REACH_DEADLINE, reach.wait_for(|reach| *reach == Reach::Reachable)).await;
        let reached = matches!(reached, Ok(Ok(_)));
        if !reached {
            let seconds = REACH_DEADLINE.as_secs();
            limited!(warn, NOBODY, seconds, "promoted, but no server was reached in time");
        }
        reached
    }

    /// Waits until no tunnel is open, or the drain timeout has passed.
    async fn idle(&self, activity: &Activity) {
        let start = Instant::now();
        while activity.tunnels.load(Relaxed) > 0 && start.elapsed() < self.terms.borrow().drain {
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Runs a command and logs the result. Returns whether it succeeded.
    async fn command(&self, what: &'static str, command: &str, state: State) -> bool {
        limited!(info, what, what, state = state.word(), "command starts");
        match self.execute(command, state).await {
            Ok(()) => {
                limited!(info, what, what, "command done");
                true
            }
            Err(error) => {
                let reason = with_causes(&error);
                limited!(warn, what, what, reason, "command failed");
                false
            }
        }
    }

    async fn execute(&self, command: &str, state: State) -> Result<(), CommandError> {
        let mut shell = shell(command);
        shell.stdin(Stdio::null());
        shell.env("LANEWAY_NODE", &self.options.node);
        // Not LANEWAY_STATE: that names the state directory of a laneway that the command runs.
        shell.env("LANEWAY_UPLINK_STATE", state.word());
        // The command must not see passwords.
        shell.env_remove("LANEWAY_PROXY_LOGIN").env_remove("LANEWAY_UPSTREAM");
        let limit = {
            let terms = self.terms.borrow();
            shell.env("LANEWAY_SERVER", &terms.server);
            terms.command_timeout
        };
        // A family of its own, so that its children can be killed with it.
        let (mut child, family) = Family::start(&mut shell).map_err(CommandError::Run)?;
        let Ok(ended) = timeout(limit, child.wait()).await else {
            if let Err(error) = family.kill() {
                tracing::debug!(%error, "the command's processes are gone already");
            }
            child.wait().await.map_err(CommandError::Run)?;
            return Err(CommandError::TimedOut(limit));
        };
        let status = ended.map_err(CommandError::Run)?;
        if status.success() { Ok(()) } else { Err(CommandError::Status(status)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uplink(on_promote: &str, on_demote: &str) -> Arc<Uplink> {
        let options = Options {
            on_promote: Some(on_promote.into()),
            on_demote: Some(on_demote.into()),
            node: "attic".into(),
            needs_server: true,
        };
        Uplink::new(options, terms(10, 10))
    }

    fn terms(command_timeout: u64, drain: u64) -> Terms {
        Terms {
            command_timeout: Duration::from_secs(command_timeout),
            drain: Duration::from_secs(drain),
            server: "10.0.0.5:80".into(),
        }
    }

    #[tokio::test]
    async fn a_shorter_drain_ends_the_wait_for_tunnels_that_has_begun() {
        let uplink = uplink("true", "true");
        uplink.change(terms(10, 86_400));
        let (_reach, reached) = watch::channel(Reach::Reachable);
        let activity = Arc::new(Activity::default());
        activity.tunnels.store(1, Relaxed);
        let run = tokio::spawn(uplink.clone().run(reached, activity.clone()));
        let mut prepared = uplink.prepared();
        uplink.want(true, State::Active);
        prepared.wait_for(|prepared| *prepared == Prepared::Yes).await.unwrap();
        uplink.want(false, State::Standby);
        uplink.change(terms(10, 0));
        let ended = prepared.wait_for(|prepared| *prepared == Prepared::No);
        timeout(Duration::from_secs(10), ended).await.expect("it still waits").unwrap();
        run.abort();
    }

    #[tokio::test]
    async fn it_comes_up_when_wanted_and_goes_down_after_the_last_tunnel() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let note = format!("echo $LANEWAY_NODE $LANEWAY_UPLINK_STATE $LANEWAY_SERVER >> {}", log.display());
        let uplink = uplink(&note, &note);
        let (reach, reached) = watch::channel(Reach::Unreachable);
        let activity = Arc::new(Activity::default());
        activity.tunnels.store(1, Relaxed);
        let run = tokio::spawn(uplink.clone().run(reached, activity.clone()));
        let mut prepared = uplink.prepared();

        uplink.want(true, State::Standby);
        assert!(!prepared.has_changed().unwrap(), "ready before the server is reached");
        reach.send_replace(Reach::Reachable);
        prepared.wait_for(|prepared| *prepared == Prepared::Yes).await.unwrap();
        uplink.want(false, State::Standby);
        // Wanted again while a tunnel is open: nothing was brought down.
        uplink.want(true, State::Active);
        uplink.want(false, State::Standby);
        assert!(log.exists());
        activity.tunnels.store(0, Relaxed);
        prepared.wait_for(|prepared| *prepared == Prepared::No).await.unwrap();
        run.abort();
        assert!(run.await.is_err());
        uplink.demote().await;
        let lines = std::fs::read_to_string(&log).unwrap();
        assert!(lines.starts_with("attic active 10.0.0.5:80\n"), "{lines}");
    }

    #[tokio::test]
    async fn a_command_that_fails_or_hangs_is_not_ready_and_leaves_nothing_running() {
        let hanging = uplink("", "");
        hanging.change(Terms { command_timeout: Duration::from_millis(50), ..terms(0, 10) });
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let command = format!("sleep 600 & echo $! > {}; wait", pid.display());
        // The limit may be over before the shell has begun: then there is nothing to leave behind either.
        assert!(matches!(hanging.execute(&command, State::Active).await, Err(CommandError::TimedOut(_))));
        if let Ok(pid) = std::fs::read_to_string(&pid).unwrap_or_default().trim().parse::<i32>() {
            // Killed with the shell: soon it is gone, or left for init to collect.
            let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat"));
            let runs = || stat().is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "));
            let gone = async {
                while runs() {
                    tokio::task::yield_now().await;
                }
            };
            timeout(Duration::from_secs(10), gone).await.expect("it still runs");
        }
        assert!(matches!(hanging.execute("exit 3", State::Active).await, Err(CommandError::Status(_))));

        let failing = uplink("exit 1", "true");
        let (_reach, reached) = watch::channel(Reach::Reachable);
        let run = tokio::spawn(failing.clone().run(reached, Arc::default()));
        failing.want(true, State::Standby);
        failing.prepared().wait_for(|prepared| *prepared == Prepared::Failed).await.unwrap();
        run.abort();
    }
}
