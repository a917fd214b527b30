//! `laneway drain`: takes this machine's gateway out of service for maintenance, and back.

use std::path::Path;
use std::time::{Duration, Instant};

use super::ask;
use super::local_port::LocalPort;
use super::{beside, hung, say};
use crate::control;
use crate::problem::Problem;
use crate::size::{TimeError, within};
use crate::sys::state::StateDir;
use crate::telemetry::snapshot::Snapshot;

/// How long a running node may take to follow.
const NOTICE: Duration = Duration::from_secs(10);
/// Interval between two looks at its status.
const INTERVAL: Duration = Duration::from_millis(100);

/// `laneway drain`
#[derive(Debug, clap::Args)]
pub struct Drain {
    /// Serve again
    #[arg(long, conflicts_with = "wait")]
    undo: bool,
    /// Wait until the last connection of a client has ended, at most this long [default: return as soon as the node
    /// takes no new ones]
    #[arg(long, value_name = "TIME", value_parser = wait)]
    wait: Option<Duration>,
    #[command(flatten)]
    port: LocalPort,
}

fn wait(text: &str) -> Result<Duration, TimeError> {
    within(text, Duration::from_secs(1), Duration::ZERO, Duration::from_secs(7 * 86_400))
}

impl Drain {
    /// Asks the node, and waits until it has done so.
    ///
    /// # Errors
    /// When this machine is in no group, the request cannot be saved, or the node does not follow it in time.
    pub fn run(self, state: &StateDir) -> Result<(), Problem> {
        let group = beside::group(state)?;
        let wanted = !self.undo;
        let was = control::is_in_maintenance(state);
        control::set_maintenance(state, wanted)?;
        let follows = control::is_running(state)? && control::follows(state, NOTICE)?;
        if !follows && control::is_running(state)? {
            let saved = ". What was asked is saved: it follows when it goes on, or when it starts again";
            return Err(hung::with(state, NOTICE, saved));
        }
        if !follows {
            say(match wanted {
                true => "No node runs here. The next one serves no clients until 'laneway drain --undo'.",
                false => "No node runs here. The next one may be a gateway again.",
            });
            return Ok(());
        }
        let directory = Some(state.path());
        let seen = self.follow(directory, &group.node.id.short(), wanted)?;
        if let Some(seen) = seen.as_ref().filter(|seen| seen.node.state.is_none()) {
            say(match wanted {
                true => {
                    "This machine is not a gateway now, so nothing changes: it goes on as a client. It will not become a gateway \
                         either, until 'laneway drain --undo'."
                }
                false => "This machine is not a gateway now. It may become one again.",
            });
            return self.wait.map_or(Ok(()), |_| self.finish(directory, seen.clone()));
        }
        if self.undo {
            say(match was {
                true => "This node may be a gateway again.",
                false => "This node was not in maintenance.",
            });
            return Ok(());
        }
        let rest = "Its own apps keep working. This lasts through restarts, until 'laneway drain --undo'.";
        let open = seen.as_ref().map_or(0, |seen| seen.served.open);
        say(match &seen {
            None => format!("The node takes no new clients from now on. {rest}"),
            Some(_) if open == 0 => format!("This node serves no clients any more. {rest}"),
            Some(_) => {
                let are = if open == 1 { "is" } else { "are" };
                format!("This node takes no new clients; {open} of their connections {are} open. {rest}")
            }
        });
        let Some(seen) = seen else { return self.cannot_wait() };
        warn_of_the_last_gateway(&seen);
        self.finish(directory, seen)
    }

    /// Waits until the node has followed. `None` when its local port cannot be asked.
    fn follow(&self, state: Option<&Path>, id: &str, wanted: bool) -> Result<Option<Snapshot>, Problem> {
        let Some(address) = self.port.address_silently(state) else { return Ok(None) };
        let deadline = Instant::now() + NOTICE;
        loop {
            let Ok(seen) = ask::snapshot(address) else { return Ok(None) };
            if seen.node.id != id {
                return Ok(None);
            }
            // A gateway announces that only afterwards, and the drain of its links does not wait for it.
            if seen.node.in_maintenance == wanted && (!wanted || seen.node.state.as_deref() != Some("active"))
            {
                return Ok(Some(seen));
            }
            if Instant::now() >= deadline {
                return Err(Problem::new("the node does not follow")
                    .hint("its log says why; 'laneway status' shows its state"));
            }
            std::thread::sleep(INTERVAL);
        }
    }

    fn cannot_wait(&self) -> Result<(), Problem> {
        match self.wait {
            None => Ok(()),
            Some(_) => Err(Problem::new("cannot wait for the connections to end")
                .after(Problem::new("the node does not answer on its local port"))
                .hint("name the port with --proxy ADDR:PORT")),
        }
    }

    /// Waits until the last connection of a client has ended, if that is wanted.
    fn finish(&self, state: Option<&Path>, mut seen: Snapshot) -> Result<(), Problem> {
        let Some(wait) = self.wait else { return Ok(()) };
        let (address, deadline) = (self.port.address(state)?, Instant::now() + wait);
        while seen.served.open > 0 {
            if Instant::now() >= deadline {
                let open = seen.served.open;
                return Err(Problem::new(match open {
                    1 => "1 connection of a client is still open".to_owned(),
                    open => format!("{open} connections of clients are still open"),
                })
                .hint("wait longer with --wait, or stop the node, which ends them after its --drain time"));
            }
            std::thread::sleep(INTERVAL);
            seen = ask::snapshot(address)?;
        }
        say("The last connection of a client has ended.");
        Ok(())
    }
}

/// Warns if no gateway but the node shown could serve.
pub(super) fn warn_of_the_last_gateway(seen: &Snapshot) {
    if !seen.gateways.iter().any(|gateway| could_serve(&gateway.state)) {
        let warning = b"warning: no other gateway is ready to serve: clients have no way out until one is\n";
        let _ = std::io::Write::write_all(&mut std::io::stderr(), warning);
    }
}

/// Whether a gateway in this state serves clients, or would.
pub(super) fn could_serve(state: &str) -> bool {
    matches!(state, "active" | "standby")
}
